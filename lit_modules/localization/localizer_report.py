"""Reports of the training, validation and test of a localizer."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Column, Table

from lit_modules.console import print_line
from lit_modules.interfaces import SegmentData, segment_data
from lit_modules.localization.localizer import TIOU, ActionLocalizer
from lit_modules.localization.metrics import THRESHOLDS, DetectionMetrics
from zoo.weights.disk import atomic_path

RESULTS, SEGMENTS = "localization.json", "segments.csv"
PROPOSALS = (1, 5, 10, 50, 100)  # average numbers of segments per video of AR@AN


class LocalizerFitReport(Callback):
    """Prints the data and the size of a localizer at the start of ``fit``, and its best checkpoint at the end."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print videos, segments and parameters."""
        if not trainer.is_global_zero or not isinstance(pl_module, ActionLocalizer):
            return
        for split, dataset in segment_data(trainer).datasets.items():
            segments = sum(len(video.truth) for video in dataset.videos)
            hours = sum(video.duration for video in dataset.videos) / 3600
            print_line(f"{split}: {len(dataset.videos)} videos, {segments} segments, {hours:.2f} hours")
        spec = pl_module.spec
        count = sum(parameter.numel() for parameter in pl_module.network.parameters())
        source = f"{spec.features.network}, windows of {spec.features.window:g} s every {spec.features.stride:g} s"
        print_line(f"Localizer: {count / 1e6:.2f} M parameters, {len(spec.labels)} classes; features of {source}")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the score of the best checkpoint and its path."""
        thresholds = THRESHOLDS[segment_data(trainer).benchmarks[0]]
        bounds = f"tIoU {thresholds[0]:g} to {thresholds[-1]:g}"
        for callback in trainer.checkpoint_callbacks if trainer.is_global_zero else ():
            score = getattr(callback, "best_model_score", None)
            if getattr(callback, "monitor", None) == ActionLocalizer.selection_metric and score is not None:
                path = callback.best_model_path  # type: ignore[attr-defined]
                print_line(f"Best validation average mAP ({bounds}) {100 * float(score):.2f} %: {path}")


class LocalizerReport(Callback):
    """Prints the mAP of each threshold after ``validate`` or ``test``; ``test`` also writes files.

    ``localization.json`` has the metrics, ``segments.csv`` the predicted segments.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table of ``validate``."""
        if trainer.state.fn == "validate" and trainer.is_global_zero and isinstance(pl_module, ActionLocalizer):
            print_metrics(pl_module, segment_data(trainer))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table and write the files."""
        if not trainer.is_global_zero or not isinstance(pl_module, ActionLocalizer):
            return
        metrics = print_metrics(pl_module, segment_data(trainer))
        with atomic_path(self.folder / RESULTS) as temporary:
            temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        with (
            atomic_path(self.folder / SEGMENTS) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(("path", "start", "end", "label", "score"))
            for video, segments in sorted(pl_module.predictions.items()):
                writer.writerows(
                    (video, f"{one.start:.3f}", f"{one.end:.3f}", one.label, f"{one.score:.6f}") for one in segments
                )
        print_line(f"Metrics and segments: {self.folder}")


def benchmark_metrics(module: ActionLocalizer, data: SegmentData) -> dict[str, tuple[str, DetectionMetrics]]:
    """Return the metrics of the last validation or test for the benchmarks of the data.

    Returns:
        By name: the thresholds, as in tables, and the average precision. The name is that of the thresholds, or for
        EPIC-KITCHENS-100 "verb", "noun" and "action", or only the target of the data if that is "verb" or "noun".
    """
    results: dict[str, tuple[str, DetectionMetrics]] = {}
    for benchmark in data.benchmarks:
        tiou = TIOU[benchmark]
        if benchmark == "epic" and data.target == "action":
            results |= {name: (tiou, metrics) for name, metrics in module.epic_detections().items()}
        else:
            name = data.target if benchmark == "epic" else tiou
            results[name] = tiou, module.detections(THRESHOLDS[benchmark])
    return results


def print_metrics(module: ActionLocalizer, data: SegmentData) -> dict[str, object]:
    """Print the mAP at the thresholds of the data's benchmarks, their averages, and the average recall; return them.

    AR@N is the recall of the best segments, N per video on average, over ActivityNet's thresholds. Labels are not used.
    """
    videos, segments = len(module.truth), sum(map(len, module.truth.values()))
    print_line(f"{videos} videos, {segments} segments")
    result: dict[str, object] = {"videos": videos, "segments": segments}
    table = Table("metric", "tIoU", Column("%", justify="right"))
    for name, (tiou, metrics) in benchmark_metrics(module, data).items():
        scores = zip(metrics.thresholds, metrics.by_threshold, strict=True)
        by_threshold = {f"{threshold:.3g}": score for threshold, score in scores}
        title = "mAP" if name == tiou else f"{name} mAP"
        for threshold, score in by_threshold.items():
            table.add_row(title, threshold, f"{100 * score:.2f}")
        table.add_row(f"average {title}", tiou, f"{100 * metrics.average:.2f}", end_section=True)
        result[name] = {"average": metrics.average, **by_threshold}
    proposals = module.proposals()
    for number in PROPOSALS:
        table.add_row(f"AR@{number}", "0.5:0.05:0.95", f"{100 * proposals.at(number):.2f}")
    result["recall"] = {**{f"AR@{number}": proposals.at(number) for number in PROPOSALS}, "AUC": proposals.auc}
    Console().print(table)
    return result
