"""``tempozoo calibrate``: the temperature of a network's scores, fitted to validation videos.

The temperature divides the logits of each view before the softmax (Guo et al., "On calibration of modern neural
networks", ICML 2017). It changes scores, but not the order of the classes of a view.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize_scalar
from torch import Tensor

from lit_modules.base import VideoClassifier
from lit_modules.class_results import detailed_metrics
from lit_modules.console import print_line
from lit_modules.fit_probe import to_scores
from lit_modules.frozen_features import check_trainer, compute_samples
from lit_modules.interfaces import SplitData
from lit_modules.linear_probe import VideoSamples
from lit_modules.network import check_trained
from lit_modules.run_folder import CHECKPOINTS
from zoo.errors import ConfigError
from zoo.inference.predictor import parse_views
from zoo.inference.scores import average_views, split_heads
from zoo.loading import export
from zoo.protocol import TEMPERATURES, Protocol
from zoo.text import pluralize
from zoo.weights.model_folder import write_model

GRID = 41  # temperatures from the lowest to the highest; the search is then refined around the best one
SMALLEST_SCORE = 1e-12  # lower scores count as this one in the loss
METRICS = {"loss": "loss", "calibration_error": "calibration error (ECE)"}
Metrics = dict[str, float]


def run_calibrate(trainer: L.Trainer, module: VideoClassifier, data: Any, views: str, folder: Path) -> None:
    """Fit the temperature of a network to the validation videos, and write the network with it.

    Args:
        trainer: determines device and precision.
        module: module with the network.
        data: data module.
        views: views per video: "published", or CLIPSxCROPS such as "4x3".
        folder: receives ``config.json`` and ``model.safetensors`` of the network.

    Raises:
        ConfigError: the Trainer has several processes, the network is untrained, the validation videos are also test
            videos, the loss has no minimum, or the folder contains a training run.
        DataError: the videos cannot be read, or some of them are also training or test videos.
    """
    _check(trainer, module, data, folder)
    network = module.to(trainer.strategy.root_device).network
    data.trainer, data.protocol = trainer, network.protocol
    trainer.datamodule = data  # type: ignore[attr-defined]
    data.setup("calibrate")
    protocol = parse_views(views, network.protocol)
    print_line(f"Features of {pluralize(len(data.datasets['val']), 'validation video')}, {protocol.view_counts}")
    samples = compute_samples(trainer, module, data, "val", (protocol.clips, protocol.crops))
    with torch.no_grad():
        logits = copy.deepcopy(network.get_classifier()).cpu().float()(samples.features)
    temperature = fit_temperature(logits, torch.from_numpy(samples.labels), protocol)
    before = _measure(samples, logits, protocol)
    after = _measure(samples, logits, replace(protocol, temperature=temperature))
    used_views = f"{protocol.clips}x{protocol.crops}"
    tensors, spec = export(network, "save")
    calibration = {
        "data": {"class": type(data).__name__, "videos": {"val": len(samples.names)}},
        "views": used_views,
        "before": before,
        "after": after,
    }
    spec = replace(
        spec,
        protocol=replace(spec.protocol, temperature=temperature),
        provenance={**spec.provenance, "calibration": calibration},
    )
    write_model(folder, tensors, spec.to_config())
    videos = pluralize(len(samples.names), "validation video")
    print_line(f"Temperature {temperature:.4g}, fitted to {videos} ({used_views} views):")
    Console().print(_table(before, after))
    print_line("The values after calibration are those of the same videos; `test` measures them on test videos.")
    print_line(f"Calibrated network: {folder}")


def _check(trainer: L.Trainer, module: VideoClassifier, data: Any, folder: Path) -> None:
    check_trainer("calibrate", trainer)
    if not isinstance(data, SplitData):
        raise ConfigError(f"calibrate needs a data module of this package; {type(data).__name__} is another one.")
    if "test" not in data.parts and not data.allow_overlap:
        raise ConfigError(
            f"This {type(data).__name__} has no test videos of its own, so `test` would score the videos that the "
            "temperature is fitted to. Use data with separate validation and test videos, or set --data.allow_overlap "
            "true if you test on other data."
        )
    if (folder / CHECKPOINTS).exists():
        raise ConfigError(f"{folder} contains a training run; choose another --out.")
    if module.untrained:
        check_trained(module.network, module.hparams["name"], module.head_change, module.allow_untrained)


def fit_temperature(logits: Tensor, labels: Tensor, protocol: Protocol) -> float:
    """Return the temperature with the lowest negative log-likelihood of the videos' averaged scores.

    Args:
        logits: of the views of each video, ``(N, V, classes)``.
        labels: ``(N,)``, ``(N, heads)`` or, for several labels per video, ``(N, classes)``.
        protocol: determines how views are averaged; its temperature is ignored.

    Raises:
        ConfigError: the loss has no minimum, for example because all videos are classified correctly.
    """

    def loss(log_temperature: float) -> float:
        scores = average_views(logits, replace(protocol, temperature=math.exp(log_temperature)))
        return negative_log_likelihood(scores, labels, protocol)

    low, high = TEMPERATURES
    grid = np.linspace(math.log(low), math.log(high), GRID)
    best = int(np.argmin([loss(value) for value in grid]))
    if best in (0, GRID - 1):
        reason = "scores no better than chance" if best else "no or hardly any wrong predictions"
        raise ConfigError(
            f"The best temperature is {'above' if best else 'below'} {TEMPERATURES[bool(best)]:g}, because the "
            f"{len(labels)} validation videos have {reason}. Use more or other validation videos."
        )
    result = minimize_scalar(loss, bounds=(grid[best - 1], grid[best + 1]), method="bounded")
    return float(f"{math.exp(result.x):.4g}")


def negative_log_likelihood(scores: Tensor, labels: Tensor, protocol: Protocol) -> float:
    """Return the mean negative log-likelihood of scored videos; that of several classifiers is added.

    Args:
        scores: probabilities ``(N, classes)``.
        labels: see ``fit_temperature``.
        protocol: has the classifiers.
    """
    scores = scores.double().clamp(SMALLEST_SCORE, 1)
    if protocol.multi_label:
        return float(F.binary_cross_entropy(scores, labels.double()))
    parts = split_heads(scores, [size for _, size in protocol.heads] or [scores.shape[-1]])
    columns = labels.reshape(len(labels), -1).unbind(1)
    return sum(float(F.nll_loss(part.log(), column)) for part, column in zip(parts, columns, strict=True))


def _measure(samples: VideoSamples, logits: Tensor, protocol: Protocol) -> Metrics:
    """Return loss and, for a single classifier, calibration error of the scores with the protocol's temperature."""
    scores = average_views(logits, protocol)
    values = {"loss": negative_log_likelihood(scores, torch.from_numpy(samples.labels), protocol)}
    if not protocol.heads:
        values |= detailed_metrics(to_scores(samples, scores), protocol.multi_label)
    return {name: round(values[name], 4) for name in METRICS if name in values}


def _table(before: Metrics, after: Metrics) -> Table:
    table = Table()
    table.add_column("validation")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    for name, title in METRICS.items():
        if name in before:
            table.add_row(title, *(_format(name, values[name]) for values in (before, after)))
    return table


def _format(name: str, value: float) -> str:
    return f"{value:.4f}" if name == "loss" else f"{100 * value:.2f} %"
