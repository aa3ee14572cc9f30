"""The table that ``test`` and ``validate`` print: each accuracy with its confidence interval and baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lit_modules.class_results import UNCALIBRATED
from lit_modules.scores import Reference, Scores, references, true_labels

ACCURACIES = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class accuracy"}

DETAILS = {  # of a test, without intervals
    "macro_f1": "macro F1",
    "calibration_error": "calibration error (ECE)",
    UNCALIBRATED: "ECE without the temperature",
}


def metric_table(
    metrics: Mapping[str, float],
    scores: Scores,
    heads: Mapping[str, int] | None,
    num_classes: int,
    published: Mapping[str, Any] | None = None,
) -> Table:
    """Build the table.

    Args:
        metrics: values by name ("top1", "loss", ...); accuracies as fractions.
        scores: scores of the videos.
        heads: names and class counts, if there are several classifiers.
        num_classes: number of classes, of all classifiers.
        published: published accuracies in percent, by the same names.
    """
    table = Table()
    table.add_column("metric")
    for column in ("measured", "95 % interval", "majority class", *(("published", "difference") if published else ())):
        table.add_column(column, justify="right")
    titles = ACCURACIES
    if heads:
        titles = {
            f"{head}_{key}": f"{head} {ACCURACIES[key]}" for head in ("action", *heads) for key in ("top1", "top5")
        }
    baselines = references(metrics, true_labels(scores), heads) if scores else {}
    for key, title in titles.items():
        if key in baselines:
            table.add_row(title, *_cells(metrics[key], baselines[key], (published or {}).get(key)))
    if "map" in metrics:
        table.add_row("mAP", f"{100 * metrics['map']:.2f} %")
    for key, title in DETAILS.items():
        if key in metrics:
            table.add_row(title, f"{100 * metrics[key]:.2f} %")
    if "loss" in metrics:
        table.add_row("loss", f"{metrics['loss']:.4f}")
    if "map_chance" in metrics:
        table.add_row("mAP of random scores", f"{100 * metrics['map_chance']:.2f} %")
    elif not heads:
        table.add_row("chance", f"{100 / num_classes:.2f} %")
    return table


def _cells(value: float, baseline: Reference, published: float | None) -> list[str]:
    """Return the text of a row: accuracy, interval, baseline and, if published, the published value."""
    cells = [f"{100 * value:.2f} %", interval_text((baseline.low, baseline.high)), f"{100 * baseline.majority:.2f} %"]
    if published is not None:
        cells += [f"{published:.2f} %", f"{100 * value - published:+.2f}"]
    return cells


def interval_text(interval: Sequence[float]) -> str:
    """Return the text of a 95 % interval, in percent."""
    low, high = interval
    return f"{100 * low:.2f} to {100 * high:.2f} %"
