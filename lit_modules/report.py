"""What a test leaves behind: a table beside the published figures, predictions by video, confusion matrices, counts."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

import zoo
from lit_modules.checkpoints import Best
from lit_modules.class_table import class_table
from lit_modules.metric_table import ACCURACIES, interval_text, metric_table
from lit_modules.scores import Scores, majority_key, references, true_labels
from lit_modules.sharded import full_weights
from zoo.protocol import Protocol
from zoo.provenance import fingerprint, provenance_now
from zoo.weights.files import atomic_path

ODD = "surrogateescape"  # file names may be of any bytes
IN_TESTS = ("num_frames", "sampling", "interval", "mean", "std", "resize", "crop", "antialias", "pixels", "clips",
            "crops", "average")  # fmt: skip
Head = tuple[str, list[str], slice]  # name ("" of the only one), class names, its outputs


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """A CSV file, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors=ODD) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def draw_confusion(path: Path, confusion: np.ndarray, names: Sequence[str]) -> None:
    """Confusion matrix ``(classes, classes)``, rows are true classes, as a PNG; counts are printed when they fit."""
    from matplotlib.figure import Figure  # the object interface: no window system, no global state

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
            axes.text(column, row, int(confusion[row, column]), ha="center", va="center", fontsize=8, color=color)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def heads_of(network: Any) -> list[Head]:
    """The classifiers of a network, of which there usually is one; classes without names are numbers."""
    classes = network.spec.num_classes
    names = list(network.labels or map(str, range(classes)))
    found, start = [], 0
    for name, count in network.protocol.heads or (("", classes),):
        found.append((name, names[start : start + count], slice(start, start + count)))
        start += count
    return found


def _best(scores: torch.Tensor, names: Sequence[str], count: int) -> list[str]:
    """label, score, label, score, ... of the ``count`` best classes."""
    top = scores.topk(min(count, len(scores)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [text for number, score in pairs for text in (names[number], f"{score:.6f}")]


def _best_columns(head: Head, count: int = 5) -> list[str]:
    prefix = f"{head[0]}_" if head[0] else ""
    numbers = range(1, min(count, len(head[1])) + 1)
    return [f"{prefix}{what}{k}" for k in numbers for what in ("prediction", "score")]


def published(network: Any, protocol: Protocol) -> dict[str, Any] | None:
    """What was published for these weights, where they are those of an index entry, untouched: percent and views.

    ``differing`` names what of the published protocol is not that of this test.
    """
    origin = provenance_now(network)
    if network.report.published is False:  # a file of the same tensors, but not the one that the figures are of
        return None
    if "entry" not in origin or "fine_tuned_from" in origin:
        return None
    entry = zoo.info(origin["entry"])
    if entry.reported.top1 is None or entry.init:
        return None
    said = entry.reported
    differing = {name: getattr(entry.protocol, name) for name in IN_TESTS
                 if getattr(entry.protocol, name) != getattr(protocol, name)}  # fmt: skip
    return {"entry": entry.name, "dataset": entry.dataset, "top1": said.top1, "top5": said.top5, "views": said.views,
            "size": said.size, "source": said.source, "differing": differing}  # fmt: skip


class TestReport(Callback):
    """Reports a test; on by default in ``tempozoo test``.

    Writes into ``folder`` (default: the run's folder): ``predictions.csv`` (video, true label, five best with their
    scores), ``confusion.csv`` and ``confusion.png``, ``test.json`` (metrics with their 95 % intervals and the
    majority-class baseline, published figures, protocol, counts, skipped videos). With several heads, predictions have
    the columns of each, and there is a matrix of each.
    """

    __test__ = False  # not a test case, whatever its name begins with

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the files and print the table."""
        with full_weights(trainer):
            if trainer.is_global_zero:
                self._report(trainer, pl_module)

    def _report(self, trainer: L.Trainer, module: Any) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        skipped = getattr(data, "skipped", {}).get("test", {})  # of all processes by now
        network, scores = module.network, module.scores
        folder = self.folder or Path(trainer.log_dir or trainer.default_root_dir)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("test_")}
        records = data.datasets["test"].records if data is not None else None
        protocol = network.protocol if data is None else data.datasets["test"].protocol
        summary = {
            "network": trainer.ckpt_path or network.report.name,
            "weights": fingerprint(network.state_dict()),
            "loaded": str(network.report) if trainer.ckpt_path is None else f"weights from {trainer.ckpt_path}.",
            "data": None if data is None else type(data).__name__,
            "metrics": metrics,
            **_references(metrics, scores, module.heads),
            "published": published(network, protocol),
            "videos": len(scores),
            "listed": len(scores) + len(skipped) if records is None else records.listed,
            "skipped": skipped,
            "untested": 0 if records is None else len(records) - len(scores) - len(skipped),
            "protocol": protocol.to_dict(),
        }
        values = {name.removeprefix("test_"): value for name, value in metrics.items()}
        table = metric_table(values, scores, module.heads, sum(module.head_sizes), summary["published"])
        _print_summary(summary, table, folder)  # first: the disk may be full
        with atomic_path(folder / "test.json") as temporary:
            text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
            temporary.write_text(text, encoding="utf-8", errors=ODD)
        self._write_predictions(folder, scores, heads_of(network))

    def _write_predictions(self, folder: Path, scores: Any, heads: list[Head]) -> None:
        header, rows = ["path"], [[path] for path in sorted(scores)]
        for number, head in enumerate(heads):
            name, names, outputs = head
            header += [f"{name}_label" if name else "label", *_best_columns(head)]
            confusion = np.zeros((len(names), len(names)), dtype=np.int64)
            for row in rows:
                labels, values = scores[row[0]]
                true = int(labels.reshape(-1)[number])
                confusion[true, int(values[outputs].argmax())] += 1
                row += [names[true], *_best(values[outputs], names, 5)]
            file = f"confusion_{name}" if name else "confusion"
            counts = [[label, *map(int, line)] for label, line in zip(names, confusion, strict=True)]
            write_csv(folder / f"{file}.csv", ["true / predicted", *names], counts)
            draw_confusion(folder / f"{file}.png", confusion, names)
        write_csv(folder / "predictions.csv", header, rows)


def _references(metrics: dict[str, float], scores: Scores, heads: dict[str, int] | None) -> dict[str, Any]:
    """``top1_interval``, ..., the 95 % interval of each accuracy, and ``majority_class``, ..., its baseline."""
    if not scores:
        return {}
    values = {name.removeprefix("test_"): value for name, value in metrics.items()}
    known = references(values, true_labels(scores), heads)
    intervals = {f"{key}_interval": [reference.low, reference.high] for key, reference in known.items()}
    return intervals | {majority_key(key): reference.majority for key, reference in known.items()}


def _print_summary(summary: dict[str, Any], table: Table, folder: Path) -> None:
    said, untested = summary["published"] or {}, summary["untested"]
    missing = summary["listed"] - summary["videos"] - len(summary["skipped"]) - untested
    console = Console()

    def say(line: str) -> None:
        console.print(_printable(line), highlight=False, markup=False, soft_wrap=True)

    say(f"{summary['network']}: {summary['videos']} of {summary['listed']} videos")
    console.print(table)
    protocol = Protocol.from_dict(summary["protocol"])
    say(f"Loaded: {summary['loaded']}")
    say(f"Protocol: {protocol}")
    if said:
        say(f"Published: {said['dataset']}, {said['views']} views at {said['size']} ({said['source']})")
        for name, theirs in said["differing"].items():
            say(f"The published figures are of {name} {theirs}, these of {getattr(protocol, name)}.")
    if untested:
        say(f"ONLY A PART: {untested} videos were not tested, as the Trainer's limits say.")
    if missing:
        say(f"{missing} listed videos are not there or excluded.")
    for reason in summary["skipped"].values():  # which name their file
        say(f"Left out: {reason}")
    say(f"Predictions, confusion matrix, summary: {folder}")


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class FitReport(Callback):
    """Reports the data and weights of a run at its start, and its best checkpoint at its end; on by default in
    ``tempozoo fit``.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the number of videos, a table of classes by part, the weights and how ``best.ckpt`` is chosen."""
        if not trainer.is_global_zero:
            return
        data: Any = getattr(trainer, "datamodule", None)
        network: Any = pl_module.network
        counts = [f"{len(videos)} {split}" for split, videos in getattr(data, "datasets", {}).items()]
        classes = network.spec.num_classes
        console = Console()

        def say(line: str) -> None:
            console.print(_printable(line), highlight=False, markup=False, soft_wrap=True)

        labels = getattr(data, "part_labels", {})
        if counts:
            say(f"{type(data).__name__}: {', '.join(counts)} videos, {classes} classes")
        for number, (name, names, _) in enumerate(heads_of(network) if labels else []):
            column = {part: values.reshape(len(values), -1)[:, number] for part, values in labels.items()}
            console.print(class_table(column, names, title=name or None))
        say(f"Goes on from {trainer.ckpt_path}" if trainer.ckpt_path else f"Starts from {network.report}")
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Best):
                say(f"best.ckpt is the epoch with the best {_reason(callback.monitor, labels.get('val'), network)}")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the score of the best checkpoint and its path."""
        if not trainer.is_global_zero:
            return
        module: Any = pl_module
        for callback in trainer.checkpoint_callbacks:
            key = str(getattr(callback, "monitor", None)).removeprefix("val_")
            score = getattr(callback, "best_model_score", None)
            if key not in ACCURACIES or score is None:
                continue
            line = f"Best validation {ACCURACIES[key]} {100 * float(score):.2f} %"
            if module.scores:
                labels = true_labels(module.scores)
                (known,) = references({key: float(score)}, labels, module.heads).values()
                line += f" (95 % interval {interval_text((known.low, known.high))}, "
                line += f"majority class {100 * known.majority:.2f} %)"
            line += f": {callback.best_model_path}"  # type: ignore[attr-defined]
            Console().print(_printable(line), highlight=False, markup=False, soft_wrap=True)


def _reason(monitor: str | None, labels: np.ndarray | None, network: Any) -> str:
    """The metric that a best checkpoint is chosen by, and why."""
    if monitor == "val_top1":
        return "validation top-1 of actions" if network.protocol.heads else "validation top-1, as the run began with it"
    if labels is None or not len(labels):
        return "validation mean class accuracy"
    counts = np.unique(labels, return_counts=True)[1]
    if counts.min() == counts.max():
        return f"validation mean class accuracy, which equals top-1 as each class has {counts[0]} validation videos"
    return (
        f"validation mean class accuracy: classes have {counts.min()} to {counts.max()} validation videos, and top-1 "
        "would favor the larger ones"
    )
