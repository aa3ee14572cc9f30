"""Explanations of mistakes: the frames and pixels that a prediction is based on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch

import zoo
from lit_modules.html_report.run_files import RunFiles
from lit_modules.run_folder import CHECKPOINTS
from zoo.errors import ZooError
from zoo.index import load_index
from zoo.models import VideoNetwork
from zoo.video.source import Source
from zoo.weights.locations import CHECKPOINT_SUFFIX, WEIGHTS_FILE, find_weights

FRAMES = 8


class Explainer:
    """Explains predictions of a network with ``zoo.explain``.

    Args:
        network: the network that made the predictions.
        seconds: time limit of all explanations; none starts after it.
    """

    def __init__(self, network: VideoNetwork, seconds: float) -> None:
        self.network = network.to("cuda" if torch.cuda.is_available() else "cpu")
        self._remaining = seconds

    def __call__(self, source: Source, label: str) -> np.ndarray | None:
        """Return a film strip with the relevance of pixels and frames for a label; None after the time limit.

        Args:
            source: a video file or a segment of one.
            label: predicted class.

        Raises:
            ZooError: the video cannot be read, or the network cannot be explained.
        """
        if self._remaining <= 0 or source.byte_span is not None or os.path.isdir(source.path):
            return None
        start = time.perf_counter()
        explanation = zoo.explain(self.network, source.path, label=label, span=source.span)
        self._remaining -= time.perf_counter() - start
        return explanation.strip(FRAMES)


def load_explainer(run: RunFiles, seconds: float) -> Explainer | None:
    """Load the network that made the predictions of a run; None if its weights are not on this machine.

    Args:
        run: files of the run.
        seconds: time limit of all explanations.
    """
    weights = _weights(run)
    if weights is None:
        return None
    try:
        return Explainer(zoo.load(weights), seconds)
    except (ZooError, OSError) as error:
        run.notes.append(f"The mistakes have no explanations: {weights} cannot be loaded ({error}).")
        return None


def _weights(run: RunFiles) -> str | None:
    """Return the argument of ``zoo.load`` for the network of the first result; None if it needs a download."""
    result = run.results[0]
    if result.split == "validation":
        candidates = [run.training / CHECKPOINTS / "best.ckpt"] if run.training else []
    else:
        name = str(result.summary.get("network"))
        if run.is_probe:
            name = str(run.folder)
        elif name in load_index().entries:
            return name if find_weights(load_index()[name]) else None
        candidates = [Path(name), Path(run.environment.get("working folder", ""), name)]
    usable = (path for path in candidates if path.suffix == CHECKPOINT_SUFFIX or (path / WEIGHTS_FILE).is_file())
    return next((str(path) for path in usable if path.exists()), None)
