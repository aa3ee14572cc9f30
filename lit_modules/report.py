"""Reports of ``test`` and ``fit``: tables, predictions, confusion matrices, comparison with published results."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from rich.console import Console
from rich.table import Table

import zoo
from lit_modules.base import VideoClassifier
from lit_modules.checkpoints import Best
from lit_modules.class_results import (
    HEADER,
    MULTI_LABEL_HEADER,
    class_results,
    confusion_matrix,
    multi_label_results,
    results_table,
)
from lit_modules.class_table import class_table
from lit_modules.console import print_line
from lit_modules.environment import describe_environment
from lit_modules.interfaces import VideoData, video_data
from lit_modules.metric_table import ACCURACIES, interval_text, metric_table
from lit_modules.mistakes import PATH_ERRORS, PREDICTIONS, SEPARATOR, mistake_sources
from lit_modules.probe_file import probe_line, probe_of_run
from lit_modules.run_file_names import TEST_FILE, table_file
from lit_modules.scores import Scores, majority_key, predicted_scores, references, true_labels
from lit_modules.sharded import full_weights
from zoo.errors import ConfigError
from zoo.models import VideoNetwork
from zoo.protocol import Protocol
from zoo.provenance import fingerprint, provenance_now
from zoo.text import pluralize
from zoo.weights.disk import atomic_path
from zoo.wrappers import state_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEST_FIELDS = ("num_frames", "sampling", "interval", "mean", "std", "resize", "crop", "antialias", "pixels", "clips",
               "crops", "average")  # fmt: skip
Head = tuple[str, list[str], slice]  # name ("" for a single classifier), class names, outputs


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """Write a CSV file; an error leaves no partial file."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors=PATH_ERRORS) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def confusion_figure(confusion: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix ``(classes, classes)``, whose rows are true classes.

    Up to 60 classes are labeled; the cells of up to 30 classes show counts.
    """
    from matplotlib.figure import Figure  # unlike pyplot, needs no window system and has no global state

    classes = len(names)
    side = min(4 + 0.3 * classes, 30)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if classes <= 60:
        axes.set_xticks(range(classes), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(classes), names, fontsize=8, parse_math=False)
    if classes <= 30:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=8, color=color)
    return figure


def draw_confusion(path: Path, confusion: np.ndarray, names: Sequence[str]) -> None:
    """Draw a confusion matrix as a PNG file, see ``confusion_figure``."""
    figure = confusion_figure(confusion, names)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def list_heads(network: VideoNetwork) -> list[Head]:
    """List the classifiers of a network, usually one. Classes without names are numbered."""
    classes = network.spec.num_classes
    names = list(network.labels or map(str, range(classes)))
    heads, start = [], 0
    for name, count in network.protocol.heads or (("", classes),):
        heads.append((name, names[start : start + count], slice(start, start + count)))
        start += count
    return heads


def top_classes(scores: torch.Tensor, names: Sequence[str], count: int) -> list[str]:
    """Return [label, score, label, score, ...] of the ``count`` classes with the highest scores."""
    top = scores.topk(min(count, len(scores)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [text for number, score in pairs for text in (names[number], f"{score:.6f}")]


def top_columns(head: Head, count: int = 5) -> list[str]:
    """Return the column names of ``top_classes``."""
    prefix = f"{head[0]}_" if head[0] else ""
    numbers = range(1, min(count, len(head[1])) + 1)
    return [f"{prefix}{column}{k}" for k in numbers for column in ("prediction", "score")]


def classifier(module: L.LightningModule) -> VideoClassifier:
    """Return a module that is a VideoClassifier.

    Raises:
        ConfigError: it is another LightningModule.
    """
    if not isinstance(module, VideoClassifier):
        raise ConfigError(f"The reports need a VideoClassifier; the module is a {type(module).__name__}.")
    return module


def published(network: VideoNetwork, protocol: Protocol) -> dict[str, Any] | None:
    """Return the published results of a network whose weights are those of an index entry, unchanged; else None.

    Args:
        network: that was tested.
        protocol: of the test.

    Returns:
        Accuracies in percent, with their views, crop size and source. ``differing`` maps the fields in which the
        published protocol differs from that of the test to the published values.
    """
    provenance = provenance_now(network)
    if network.report.published is False:  # the results belong to another file
        return None
    if "entry" not in provenance or "fine_tuned_from" in provenance:
        return None
    entry = zoo.info(provenance["entry"])
    results = entry.reported
    if results.top1 is None or entry.init:
        return None
    fields = {name: getattr(entry.protocol, name) for name in TEST_FIELDS}
    differing = {name: value for name, value in fields.items() if value != getattr(protocol, name)}
    return {"entry": entry.name, "dataset": entry.dataset, "top1": results.top1, "top5": results.top5,
            "views": results.views, "size": results.size, "source": results.source,
            "differing": differing}  # fmt: skip


class TestReport(Callback):
    """Reports a test; on by default in ``tempozoo test``.

    Writes ``predictions.csv`` (video, true label, five highest scores with their classes), ``classes.csv`` (precision,
    recall with its 95 % interval and F1 of each class), ``confusion.csv``, ``confusion.png`` and ``test.json`` (metrics
    with 95 % intervals and the majority-class baseline, published results, protocol, numbers of videos, unreadable
    videos). With several heads, predictions have columns for each head, and each has its confusion matrix and table of
    classes.

    Args:
        folder: where to write; None for the folder of the run.
    """

    __test__ = False  # pytest collects classes whose name begins with "Test"

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the files and print the table."""
        with full_weights(trainer):
            if trainer.is_global_zero:
                self._report(trainer, classifier(pl_module))

    def _report(self, trainer: L.Trainer, module: VideoClassifier) -> None:
        folder = self.folder or Path(trainer.log_dir or trainer.default_root_dir)
        write_test_report(trainer, module, _test_metrics(trainer), folder)


def write_test_report(trainer: L.Trainer, module: VideoClassifier, metrics: dict[str, float], folder: Path) -> None:
    """Print the table of a test and write its files, see ``TestReport``.

    Args:
        trainer: of the test.
        module: that was tested, with its scores.
        metrics: by their names without "test_".
        folder: where to write.
    """
    scores = module.scores
    summary = summarize_test(trainer, module, metrics)
    heads = list_heads(module.network)
    tables = [metric_table(metrics, scores, module.heads, sum(module.head_sizes), summary["published"])]
    if module.multi_label:
        results = multi_label_results(true_labels(scores), predicted_scores(scores), heads[0][1]) if scores else []
        tables.append(results_table(results))
    elif len(heads) == 1:
        tables.append(results_table(class_results(_confusion(scores, heads[0], 0), heads[0][1])))
    _print_summary(summary, tables, folder)  # before the files, in case the disk is full
    _write_summary(folder, summary)
    write_score_files(folder, module)
    sources = mistake_sources(folder, video_data(trainer), "test", module.multi_label)
    if sources != {}:
        _write_summary(folder, summary | {"sources": sources})


def _write_summary(folder: Path, summary: dict[str, Any]) -> None:
    with atomic_path(folder / TEST_FILE) as temporary:
        text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors=PATH_ERRORS)


def write_score_files(folder: Path, module: VideoClassifier, draw: bool = True) -> None:
    """Write ``predictions.csv``, ``classes.csv`` and ``confusion.csv`` of a module's scores, see ``TestReport``.

    Args:
        folder: where to write.
        module: with the scores.
        draw: also write ``confusion.png``.
    """
    heads = list_heads(module.network)
    if module.multi_label:
        _write_multi_label(folder, module.scores, heads[0])
    else:
        write_predictions(folder, module.scores, heads, draw)


def labels_of_head(labels: np.ndarray, number: int, multi_label: bool) -> np.ndarray:
    """Return the class numbers of a head's videos; of several labels per video, one number for each label.

    Args:
        labels: ``(N,)``, ``(N, heads)`` or, for several labels per video, 0 or 1 ``(N, classes)``.
        number: position of the head.
        multi_label: whether videos have several labels.
    """
    if multi_label:
        return np.nonzero(labels)[1]
    return labels.reshape(len(labels), -1)[:, number]


def _test_metrics(trainer: L.Trainer) -> dict[str, float]:
    """Return the metrics of a test by their names without "test_"."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test_")}
    return {name.removeprefix("test_"): value for name, value in metrics.items()}


def summarize_test(trainer: L.Trainer, module: VideoClassifier, metrics: dict[str, float]) -> dict[str, Any]:
    """Return the content of ``test.json``.

    Args:
        trainer: of the test.
        module: that was tested, with its scores.
        metrics: by their names without "test_".
    """
    network: VideoNetwork = module.network
    scored = len(module.scores)
    counts: dict[str, Any] = {"videos": scored, "listed": scored, "skipped": {}, "untested": 0}
    protocol, data_class = network.protocol, None
    data: VideoData | None = video_data(trainer)
    if data is not None:
        skipped = dict(data.skipped.get("test", {}))  # of all processes
        split = data.datasets["test"]
        untested = len(split.records) - scored - len(skipped)
        counts = {"videos": scored, "listed": split.records.listed, "skipped": skipped, "untested": untested}
        protocol, data_class = split.protocol, type(data).__name__
    loaded = str(network.report) if trainer.ckpt_path is None else f"weights from {trainer.ckpt_path}."
    return {
        "network": trainer.ckpt_path or network.report.name,
        "weights": fingerprint(state_of(network)),
        "loaded": loaded,
        "data": data_class,
        "metrics": {f"test_{name}": value for name, value in metrics.items()},
        **reference_values(metrics, module.scores, module.heads),
        "published": published(network, protocol),
        "probe": probe_of_run(trainer.ckpt_path or network.report.source, module.scores),
        **counts,
        "protocol": protocol.to_dict(),
        "environment": describe_environment(trainer),
    }


def write_predictions(folder: Path, scores: Scores, heads: list[Head], draw: bool = True) -> None:
    """Write ``predictions.csv``, and for each head the results of its classes and the confusion matrix."""
    header, rows = ["path"], [[path] for path in sorted(scores)]
    for number, head in enumerate(heads):
        name, names, outputs = head
        header += [f"{name}_label" if name else "label", *top_columns(head)]
        for row in rows:
            labels, values = scores[row[0]]
            row += [names[int(labels.reshape(-1)[number])], *top_classes(values[outputs], names, 5)]
        confusion = _confusion(scores, head, number)
        matrix_path = folder / table_file("confusion", name)
        write_csv(
            folder / table_file("classes", name), HEADER, [result.row() for result in class_results(confusion, names)]
        )
        counts = [[label, *map(int, line)] for label, line in zip(names, confusion, strict=True)]
        write_csv(matrix_path, ["true / predicted", *names], counts)
        if draw:
            draw_confusion(matrix_path.with_suffix(".png"), confusion, names)
    write_csv(folder / PREDICTIONS, header, rows)


def _write_multi_label(folder: Path, scores: Scores, head: Head) -> None:
    """Write ``predictions.csv`` and ``classes.csv`` of videos with several labels, which are joined by ``|``."""
    _, names, _ = head
    rows: list[list[Any]] = []
    for path in sorted(scores):
        labels, values = scores[path]
        true = SEPARATOR.join(names[number] for number in labels.nonzero()[:, 0].tolist())
        rows.append([path, true, *top_classes(values, names, 5)])
    write_csv(folder / PREDICTIONS, ["path", "label", *top_columns(head)], rows)
    if scores:
        results = multi_label_results(true_labels(scores), predicted_scores(scores), names)
        write_csv(
            folder / "classes.csv",
            MULTI_LABEL_HEADER,
            [[*result.row(), result.average_precision] for result in results],
        )


def _confusion(scores: Scores, head: Head, number: int) -> np.ndarray:
    """Return the confusion matrix of a head, whose position among the heads is ``number``."""
    _, names, outputs = head
    if not scores:
        return np.zeros((len(names), len(names)), dtype=np.int64)
    labels = true_labels(scores)
    return confusion_matrix(labels.reshape(len(labels), -1)[:, number], predicted_scores(scores)[:, outputs])


def reference_values(metrics: dict[str, float], scores: Scores, heads: dict[str, int] | None) -> dict[str, Any]:
    """Return ``top1_interval`` (95 %), ``majority_class`` (baseline) and so on for each accuracy."""
    if not scores:
        return {}
    values = references(metrics, true_labels(scores), heads)
    intervals = {f"{key}_interval": [reference.low, reference.high] for key, reference in values.items()}
    return intervals | {majority_key(key): reference.majority for key, reference in values.items()}


def _print_summary(summary: dict[str, Any], tables: Sequence[Table], folder: Path) -> None:
    results, untested = summary["published"], summary["untested"]
    missing = summary["listed"] - summary["videos"] - len(summary["skipped"]) - untested
    print_line(f"{summary['network']}: {summary['videos']} of {summary['listed']} videos")
    for table in tables:
        Console().print(table)
    protocol = Protocol.from_dict(summary["protocol"])
    print_line(f"Loaded: {summary['loaded']}")
    print_line(f"Protocol: {protocol}")
    if results is not None:
        views = f"{results['views']} views at {results['size']}"
        print_line(f"Published: {results['dataset']}, {views} ({results['source']})")
        for name, value in results["differing"].items():
            print_line(f"The published results use {name} {value}, this test {getattr(protocol, name)}.")
    if summary["probe"] is not None:
        print_line(probe_line(summary["probe"]))
    if untested:
        print_line(f"INCOMPLETE: {untested} videos were not tested because of the Trainer's limits.")
    if missing:
        print_line(f"{missing} listed videos are missing or excluded.")
    for reason in summary["skipped"].values():  # the reason contains the file name
        print_line(f"Unreadable: {reason}")
    print_line(f"Predictions, classes, confusion matrix, summary: {folder}")


class FitReport(Callback):
    """Reports the data and weights of a run at its start, and its best checkpoint at its end.

    On by default in ``tempozoo fit``.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the number of videos, a table of classes by part, the weights and how ``best.ckpt`` is chosen."""
        if not trainer.is_global_zero:
            return
        network: VideoNetwork = classifier(pl_module).network
        data = video_data(trainer)
        labels = {} if data is None else data.part_labels
        if data is not None:
            counts = [f"{len(videos)} {split}" for split, videos in data.datasets.items()]
            print_line(f"{type(data).__name__}: {', '.join(counts)} videos, {network.spec.num_classes} classes")
            if data.group_counts:
                groups = [
                    f"{count} in {part} ({len(labels[part])} videos)" for part, count in data.group_counts.items()
                ]
                print_line(f"Groups: {', '.join(groups)}")
        for number, (name, names, _) in enumerate(list_heads(network) if labels else []):
            multi_label = network.protocol.multi_label
            column = {part: labels_of_head(values, number, multi_label) for part, values in labels.items()}
            Console().print(class_table(column, names, title=name or None))
        print_line(f"Resuming {trainer.ckpt_path}" if trainer.ckpt_path else f"Starting from {network.report}")
        probe = classifier(pl_module).probe
        if probe is not None and pl_module.hparams["head_init"] == "probe":
            print_line(f"Classifier: logistic regression of {probe.videos} training videos, C {probe.strength:g}")
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Best):
                metric = _describe_monitor(callback.monitor, labels.get("val"), network)
                print_line(f"best.ckpt is the epoch with the best {metric}")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the score of the best checkpoint and its path."""
        if not trainer.is_global_zero:
            return
        module = classifier(pl_module)
        for callback in trainer.checkpoint_callbacks:
            if not isinstance(callback, ModelCheckpoint) or callback.best_model_score is None:
                continue
            key, score = str(callback.monitor).removeprefix("val_"), float(callback.best_model_score)
            if key == "map":
                print_line(f"Best validation mAP {100 * score:.2f} %: {callback.best_model_path}")
            if key not in ACCURACIES:
                continue
            line = f"Best validation {ACCURACIES[key]} {100 * score:.2f} %"
            if module.scores:
                (reference,) = references({key: score}, true_labels(module.scores), module.heads).values()
                line += f" (95 % interval {interval_text((reference.low, reference.high))}, "
                line += f"majority class {100 * reference.majority:.2f} %)"
            print_line(f"{line}: {callback.best_model_path}")


def _describe_monitor(monitor: str | None, labels: np.ndarray | None, network: VideoNetwork) -> str:
    """Describe the metric that selects the best checkpoint, with the reason for its choice."""
    if monitor == "val_map":
        return "validation mean average precision (mAP)"
    if monitor == "val_top1" and network.protocol.heads:
        return "validation top-1 of actions"
    if monitor == "val_top1":
        return "validation top-1, the metric that the run began with"
    if labels is None or not len(labels):
        return "validation mean class accuracy"
    counts = np.unique(labels, return_counts=True)[1]
    if counts.min() == counts.max():
        videos = pluralize(counts[0], "validation video")
        return f"validation mean class accuracy, which equals top-1 as each class has {videos}"
    return (
        f"validation mean class accuracy: classes have {counts.min()} to {counts.max()} validation videos, and top-1 "
        "would favor the larger ones"
    )
