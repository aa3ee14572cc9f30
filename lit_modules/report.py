"""What a test leaves behind: a table, per-video predictions, a confusion matrix (CSV and PNG), the left-out videos."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torchmetrics.functional.classification import multiclass_accuracy

from zoo.hub.files import atomic_path
from zoo.provenance import fingerprint


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """A CSV file, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def draw_confusion(path: Path, confusion: np.ndarray, names: list[str]) -> None:
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
        axes.set_xticks(range(classes), names, rotation=90, fontsize=8)
        axes.set_yticks(range(classes), names, fontsize=8)
    if classes <= 30:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, int(confusion[row, column]), ha="center", va="center", fontsize=8, color=colour)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _best(scores: torch.Tensor, names: Sequence[str] | None, count: int) -> list[str]:
    """label, score, label, score, ... of the ``count`` best classes; numbers where classes have no names."""
    top = scores.topk(min(count, len(scores)))
    numbers = top.indices.tolist()
    labels = [names[n] if names else str(n) for n in numbers]
    return [text for label, score in zip(labels, top.values.tolist(), strict=True) for text in (label, f"{score:.6f}")]


def _best_columns(count: int) -> list[str]:
    return [f"{what}{k + 1}" for k in range(count) for what in ("prediction", "score")]


def measured(scores: Mapping[str, tuple[int, torch.Tensor]], classes: int) -> dict[str, float]:
    """The test's metrics from the label and the scores ``(classes,)`` of each video; none without videos."""
    if not scores:
        return {}
    labels = torch.tensor([label for label, _ in scores.values()])
    values = torch.stack([found for _, found in scores.values()])
    accuracy = functools.partial(multiclass_accuracy, values, labels, classes)
    found = {
        "test_top1": accuracy(average="micro"),
        "test_top5": accuracy(average="micro", top_k=min(5, classes)),
        "test_mean_class": accuracy(average="macro"),
        "test_loss": F.nll_loss(values.clamp_min(1e-12).log(), labels),
    }
    return {key: float(value) for key, value in found.items()}


class TestReport(Callback):
    """Collects the scores of a test and reports them; on by default in ``tempozoo test``.

    Writes into ``folder`` (default: the run's folder): ``predictions.csv`` (path, true label, five best with their
    scores), ``confusion.csv`` and ``confusion.png``, ``test.json`` (metrics, protocol, counts, skipped videos).
    """

    __test__ = False  # not a test case, whatever its name begins with

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._scores: dict[str, tuple[int, torch.Tensor]] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier test."""
        self._scores.clear()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores of a batch by video, so that a video seen twice counts once."""
        if outputs is not None:
            for path, label, scores in zip(batch["path"], batch["label"].tolist(), outputs.cpu(), strict=True):
                self._scores[path] = (label, scores)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the files and print the table."""
        data: Any = getattr(trainer, "datamodule", None)
        mine = (self._scores, getattr(data, "skipped", {}).get("test", {}))
        gathered = [mine]
        if trainer.world_size > 1:
            gathered = [({}, {})] * trainer.world_size
            torch.distributed.all_gather_object(gathered, mine)
        if not trainer.is_global_zero:
            return
        scores = {path: found for part, _ in gathered for path, found in part.items()}
        skipped = {path: reason for _, part in gathered for path, reason in part.items()}
        network: Any = pl_module.network
        classes = network.config["options"]["num_classes"]
        names = list(network.labels or map(str, range(classes)))
        folder = self.folder or Path(trainer.log_dir or trainer.default_root_dir)

        best = min(5, classes)
        rows = []
        confusion = np.zeros((classes, classes), dtype=np.int64)
        for path, (label, values) in sorted(scores.items()):
            confusion[label, int(values.argmax())] += 1
            rows.append([path, names[label], *_best(values, names, best)])
        write_csv(folder / "predictions.csv", ["path", "label", *_best_columns(best)], rows)
        write_csv(
            folder / "confusion.csv",
            ["true / predicted", *names],
            [[n, *map(int, r)] for n, r in zip(names, confusion, strict=True)],
        )
        draw_confusion(folder / "confusion.png", confusion, names)

        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("test_")}
        metrics |= measured(scores, classes)  # what the ranks log counts videos twice that fill up their shares
        protocol = data.datasets["test"].protocol if data is not None else network.protocol
        listed = len(rows) + len(skipped) if data is None else len(data.datasets["test"])
        summary = {
            "network": network.report.name,
            "weights": fingerprint(network.state_dict()),
            "data": None if data is None else type(data).__name__,
            "metrics": metrics,
            "videos": len(rows),
            "listed": listed,
            "skipped": skipped,
            "protocol": protocol.to_dict(),
        }
        with atomic_path(folder / "test.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

        table = Table()
        table.add_column("metric")
        table.add_column("value", justify="right")
        for key, text in (("top1", "top-1"), ("top5", f"top-{best}"), ("mean_class", "mean class accuracy")):
            if f"test_{key}" in metrics:
                table.add_row(text, f"{100 * metrics[f'test_{key}']:.2f} %")
        if "test_loss" in metrics:
            table.add_row("loss", f"{metrics['test_loss']:.4f}")
        table.add_row("chance", f"{100 / classes:.2f} %")
        console = Console()
        console.print(f"{network.report.name}: {len(rows)} of {listed} videos", highlight=False, soft_wrap=True)
        console.print(table)
        console.print(f"Protocol: {protocol}", highlight=False, soft_wrap=True)
        for reason in skipped.values():  # which name their file
            console.print(f"Left out: {reason}", highlight=False, markup=False, soft_wrap=True)
        console.print(f"Predictions, confusion matrix, summary: {folder}", highlight=False, soft_wrap=True)


class PredictionReport(Callback):
    """Prints the best labels of each video with their scores, and writes ``predictions.csv`` into ``folder``."""

    def __init__(self, folder: str | Path, top: int = 5) -> None:
        self.folder, self.top = Path(folder), top
        self._rows: list[list[Any]] = []

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's predictions."""
        network: Any = pl_module.network
        for path, scores in zip(outputs["path"], outputs["scores"].cpu(), strict=True):
            self._rows.append([path, *_best(scores, network.labels, self.top)])

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print and write."""
        console = Console()
        for path, *best in self._rows:
            console.print(f"[bold]{path}[/bold]", highlight=False, soft_wrap=True)
            for label, score in zip(best[::2], best[1::2], strict=True):
                console.print(f"  {100 * float(score):6.2f} %  {label}", highlight=False)
        data: Any = getattr(trainer, "datamodule", None)
        for reason in getattr(data, "skipped", {}).get("predict", {}).values():
            console.print(f"Left out: {reason}", highlight=False, markup=False, soft_wrap=True)
        if self._rows:
            count = max(len(row) for row in self._rows) // 2
            write_csv(self.folder / "predictions.csv", ["path", *_best_columns(count)], self._rows)
            console.print(f"Written to {self.folder / 'predictions.csv'}", highlight=False, soft_wrap=True)
