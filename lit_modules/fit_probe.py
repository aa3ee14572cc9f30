"""The baseline of ``tempozoo fit``: a logistic regression of the features of the starting weights."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from lit_modules.base import VideoClassifier
from lit_modules.console import print_line
from lit_modules.frozen_features import compute_samples
from lit_modules.head_init import fit_probe, is_resumed, reason_without_probe
from lit_modules.interfaces import evaluation_data
from lit_modules.linear_probe import LinearProbe, VideoSamples
from lit_modules.probe_file import describe_result, probe_line, read_probe, write_probe
from lit_modules.report import classifier
from lit_modules.scores import Scores, compute_metrics
from zoo.errors import ConfigError
from zoo.inference.scores import average_views
from zoo.protocol import Protocol
from zoo.text import pluralize

log = logging.getLogger("lit_modules")
MAX_VIDEOS = 5000  # more training videos would take long, so the baseline must be requested


class FitProbe(Callback):
    """Measures the baseline at the start of a run and prints it at the end; on by default in ``tempozoo fit``.

    A logistic regression is fitted to the features of the training videos, one center view of each, and scored on the
    validation videos. ``probe.json`` in the folder of the run has its accuracy. A resumed run prints that of its start.

    Args:
        folder: folder of the run.
        enabled: False turns it off; None turns it on for pretrained networks with one classifier and up to 5000
            training videos.
    """

    def __init__(self, folder: Path, enabled: bool | None = None) -> None:
        self.folder, self.enabled = folder, enabled

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit and score the logistic regression.

        Raises:
            ConfigError: it was requested, but is not possible.
        """
        if self.enabled is False or is_resumed(trainer) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        module = classifier(pl_module)
        reason = reason_without_probe(trainer, module) or self._reason_to_skip(trainer)
        if reason is None:
            self._measure(trainer, module)
        elif self.enabled:
            raise ConfigError(f"--probe true is not possible: {reason}. Set it to false.")
        else:
            rank_zero_only(log.info)("no logistic regression as a baseline: %s", reason)

    def _reason_to_skip(self, trainer: L.Trainer) -> str | None:
        data = evaluation_data(trainer)
        assert data is not None
        if trainer.limit_val_batches == 0 or not len(data.datasets["val"]):
            return "the run has no validation videos"
        if self.enabled is None and len(data.datasets["train"]) > MAX_VIDEOS:
            return f"the data has more than {MAX_VIDEOS} training videos (--probe true measures it)"
        return None

    def _measure(self, trainer: L.Trainer, module: VideoClassifier) -> None:
        start = time.perf_counter()
        data = evaluation_data(trainer)
        assert data is not None
        if trainer.is_global_zero and module.probe is None:
            videos = len(data.datasets["train"]) + len(data.datasets["val"])
            print_line(f"Baselines: features of {pluralize(videos, 'video')}")
        probe = fit_probe(trainer, module)
        samples = compute_samples(trainer, module, data, "val")
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - start
        scores = probe_scores(probe, samples, module.network.protocol)
        result = describe_result("val", scores, sum(module.head_sizes), "1x1")
        result |= {"logistic_regression": describe_probe(probe, scores), "seconds": round(seconds, 1)}
        write_probe(self.folder, result)
        print_line(f"{probe_line(result)} ({seconds:.0f} s; --probe false skips this)")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the accuracy beside that of the run."""
        result = read_probe(self.folder) if trainer.is_global_zero and self.enabled is not False else None
        if result is not None:
            print_line(probe_line(result))


def probe_scores(probe: LinearProbe, samples: VideoSamples, protocol: Protocol) -> Scores:
    """Score videos with a logistic regression of each view; the protocol determines how views are averaged."""
    return to_scores(samples, average_views(probe.logits(samples.features), replace(protocol, temperature=1.0)))


def to_scores(samples: VideoSamples, probabilities: Tensor) -> Scores:
    """Return the labels and the probabilities ``(N, classes)`` of videos by name."""
    pairs = zip(torch.from_numpy(samples.labels), probabilities, strict=True)
    return dict(zip(samples.names, pairs, strict=True))


def describe_probe(probe: LinearProbe, scores: Scores) -> dict[str, Any]:
    """Return the settings and metrics of a logistic regression for ``probe.json``."""
    settings = {"C": probe.strength, "folds": probe.folds, "train_videos": probe.videos}
    return settings | compute_metrics(scores)
