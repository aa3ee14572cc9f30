"""``tempozoo probe``: classifiers of frozen features as baselines, and the network with one of them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console

from lit_modules.base import VideoClassifier
from lit_modules.class_results import detailed_metrics
from lit_modules.console import print_line
from lit_modules.fit_probe import describe_probe, probe_scores, to_scores
from lit_modules.frozen_features import check_trainer, compute_samples
from lit_modules.head_init import set_classifier
from lit_modules.interfaces import EvaluationData
from lit_modules.linear_probe import LinearProbe, VideoSamples, fit_logistic_regression, fit_nearest_neighbors
from lit_modules.metric_table import metric_table
from lit_modules.probe_file import describe_result, write_probe
from lit_modules.report import list_heads, write_predictions, write_test_report
from lit_modules.run_folder import CHECKPOINTS
from lit_modules.scores import Scores, compute_metrics
from zoo.errors import ConfigError
from zoo.inference.predictor import parse_views
from zoo.loading import export
from zoo.text import pluralize
from zoo.training_state import describe_untrained, has_random_backbone, is_untrained, untrained_error
from zoo.weights.model_folder import write_model

FEATURES, NEIGHBORS = "features", "nearest_neighbors"  # sub-folders of --out


def run_probe(trainer: L.Trainer, module: VideoClassifier, data: Any, views: str, folder: Path) -> None:
    """Fit classifiers to the features of the training videos, test them, and write the network with the first one.

    Args:
        trainer: determines device and precision.
        module: module with the network.
        data: data module.
        views: views of the training videos, such as "1x1".
        folder: receives ``config.json`` and ``model.safetensors`` of the network with the logistic regression, the
            files of ``test`` for it, those of the nearest neighbors in a sub-folder, ``probe.json``, and the features.

    Raises:
        ConfigError: the Trainer has several processes, the network or the data have several classifiers, the weights
            are random, or the folder contains a training run or features of another network.
        DataError: the videos cannot be read, or have one class.
    """
    _check(trainer, module, data, folder)
    start = time.perf_counter()
    network = module.to(trainer.strategy.root_device).network
    data.trainer, data.protocol = trainer, network.protocol
    trainer.datamodule = data  # type: ignore[attr-defined]  # reports read it
    data.setup("fit")
    data.setup("test")
    train = _features(trainer, module, data, "train", folder, views)
    test = _features(trainer, module, data, "test", folder)
    probe = fit_logistic_regression(train, sum(module.head_sizes))
    neighbors = fit_nearest_neighbors(train, sum(module.head_sizes))
    set_classifier(network, probe)
    module.untrained = is_untrained(network)
    module.scores = probe_scores(probe, test, network.protocol)
    neighbor_scores = to_scores(test, neighbors.scores(test))
    _save(module, probe, train, test, views, type(data).__name__, folder)
    protocol = data.datasets["test"].protocol
    result = describe_result("test", module.scores, sum(module.head_sizes), f"{protocol.clips}x{protocol.crops}")
    result |= {
        "logistic_regression": describe_probe(probe, module.scores),
        NEIGHBORS: {"k": neighbors.neighbors, **compute_metrics(neighbor_scores)},
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_probe(folder, result)
    _report(trainer, module, probe, neighbors.neighbors, neighbor_scores, folder)
    print_line(f"Network with the logistic regression as its classifier: {folder} ({result['seconds']:.0f} s)")
    if module.untrained:
        print_line(f"{describe_untrained(network, str(folder))} `test` and `predict` need --allow_untrained.")


def _check(trainer: L.Trainer, module: VideoClassifier, data: Any, folder: Path) -> None:
    check_trainer("probe", trainer)
    if not isinstance(data, EvaluationData):
        raise ConfigError(f"probe needs a data module of this package; {type(data).__name__} is another one.")
    if module.heads or data.multi_label:
        raise ConfigError("probe needs data with one label per video; this data set has several.")
    if (folder / CHECKPOINTS).exists():
        raise ConfigError(f"{folder} contains a training run; choose another --out.")
    if has_random_backbone(module.network) and not module.allow_untrained:
        raise untrained_error(module.network, module.hparams["name"])


def _features(
    trainer: L.Trainer,
    module: VideoClassifier,
    data: EvaluationData,
    split: str,
    folder: Path,
    views: str | None = None,
) -> VideoSamples:
    """Compute the features of a split, or read those of an earlier command, and print a line."""
    start = time.perf_counter()
    counts = None
    if views is not None:
        protocol = parse_views(views, module.network.protocol)
        counts = protocol.clips, protocol.crops
    cache = folder / FEATURES / split
    before = len(list(cache.glob("*.safetensors")))
    print_line(f"Features of {len(data.datasets[split])} {split} videos" + f" ({before} are in {cache})" * bool(before))
    samples = compute_samples(trainer, module, data, split, counts, cache)
    views_each = pluralize(samples.features.shape[1], "view")
    print_line(f"  {pluralize(len(samples.names), 'video')}, {views_each} each: {time.perf_counter() - start:.0f} s")
    return samples


def _save(
    module: VideoClassifier,
    probe: LinearProbe,
    train: VideoSamples,
    test: VideoSamples,
    views: str,
    data_class: str,
    folder: Path,
) -> None:
    """Write the network with its provenance."""
    tensors, spec = export(module.network, "save")
    metrics = {f"test_{name}": round(value, 4) for name, value in compute_metrics(module.scores).items()}
    provenance = dict(spec.provenance) | {
        "recipe": {"class": "LogisticRegression", "C": probe.strength, "train_views": views},
        "data": {"class": data_class, "videos": {"train": len(train.names), "test": len(test.names)}},
        "metrics": metrics,
    }
    write_model(folder, tensors, replace(spec, provenance=provenance).to_config())


def _report(
    trainer: L.Trainer, module: VideoClassifier, probe: LinearProbe, k: int, neighbor_scores: Scores, folder: Path
) -> None:
    """Print a table of each classifier, and write the files of ``test``."""
    print_line(f"Logistic regression (C {probe.strength:g}, chosen in {probe.folds} folds):")
    # in single precision, as Lightning logs the metrics of `test`
    values = compute_metrics(module.scores) | detailed_metrics(module.scores)
    metrics = {name: float(torch.tensor(value)) for name, value in values.items()}
    write_test_report(trainer, module, metrics, folder)
    print_line(f"Nearest neighbors (k {k}, cosine distance): {folder / NEIGHBORS}")
    Console().print(metric_table(compute_metrics(neighbor_scores), neighbor_scores, None, sum(module.head_sizes)))
    (folder / NEIGHBORS).mkdir(exist_ok=True)
    write_predictions(folder / NEIGHBORS, neighbor_scores, list_heads(module.network))
