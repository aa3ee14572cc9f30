"""Results of runs as text and rows: the title, accuracies beside their baselines, classes, confusion, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from lit_modules.class_results import UNCALIBRATED, ClassResult
from lit_modules.html_report.charts import Line, line_chart
from lit_modules.html_report.film_strips import heatmap_url
from lit_modules.html_report.run_files import HeadResult, Result, RunFiles
from lit_modules.metric_table import ACCURACIES, DETAILS
from lit_modules.mistakes import answer_of, heads_of
from lit_modules.run_record import FAILED, FINISHED, STOPPED
from lit_modules.scores import majority_key, wilson_interval
from zoo.text import pluralize

MISSING = "-"
SPACE = "\N{NO-BREAK SPACE}"
MAX_CELLS = 40  # classes of a confusion matrix with a cell for each pair; more classes are drawn as an image
MAX_PAIRS = 8  # listed pairs of confused classes
BINS = 10  # of the reliability diagram
HEATMAP_COLOR = (0, 114, 178)
PROBES = {  # key in probe.json -> label
    "logistic_regression": "a logistic regression of frozen features",
    "nearest_neighbors": "nearest neighbors of frozen features",
}
LIGHT_TEXT, MIDDLE = 0.92, 0.61  # shares above which the text of a cell changes its color, in light and in dark mode


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as text in percent."""
    return MISSING if value is None else f"{100 * value:.{digits}f}{SPACE}%"


def percent_range(interval: tuple[float, float] | None) -> str:
    """Return the text of an interval in percent."""
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}{SPACE}%"


# names and the sentence of a run ------------------------------------------------------------------------------------


def network_name(run: RunFiles) -> str:
    """Return the name of the network of a run, without the folders of a path."""
    tested = run.results[0].summary.get("network") if run.results else None
    name = str(run.record.get("network") or run.config.get("model.name") or tested or "a network")
    is_path = "/" in name and not name.startswith("hf-hub:")
    return Path(name).name if is_path else name


def describe_status(run: RunFiles) -> str:
    """Return a sentence if the training is incomplete; else ""."""
    status = run.record.get("status")
    if status in (None, FINISHED):
        return ""
    length = run.record.get("max_epochs")
    total = f" of {length}" if isinstance(length, int) and length > 0 else ""
    epochs = f"after {run.record.get('epochs', 0)}{total} complete epochs"
    if status == STOPPED:
        best = " The validation results are those of the best epoch so far." if run.record.get("validation") else ""
        return f"The training was interrupted {epochs}.{best}"
    if status == FAILED:
        return f"The training failed {epochs}: {run.record.get('reason')}"
    return f"The training has not ended: it is running, or was killed {epochs}."


def title_sentence(run: RunFiles) -> str:
    """Return one sentence with the main result of a run, its interval and its baselines."""
    if not run.results:
        return f"{network_name(run)} has no results yet."
    result = run.results[0]
    name, metric = network_name(run), result.main_metric
    videos = run.record.get("data") or {}
    count = (videos.get("videos") or {}).get("train")
    if run.training is not None:
        name += f", trained on {pluralize(count, 'video')}," if count else ", after training,"
    if run.is_probe:
        name = f"A logistic regression of the frozen features of {name}"
    metric_text = "mean average precision" if result.multi_label else "top-1 accuracy"
    if len(result.heads) > 1:
        metric_text += f" of {' and '.join(head.head for head in result.heads)} together"
    text = f"{name} reaches {percent(result.metrics.get(metric))} {metric_text}"
    if interval := result.interval(metric):
        text += f" (95 % interval {percent_range(interval)})"
    data = result.summary.get("data") or videos.get("class")
    text += f" on {pluralize(result.summary.get('videos', 0), f'{result.split} video')}"
    text += f" of {data}" if data else ""
    references = [f"{percent(row.value)} for {row.label}" for row in baselines(run, result)]
    return text + (f", compared with {_join(references)}." if references else ".")


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def metric_title(runs: Sequence[RunFiles]) -> str:
    """Return the name of the metric of the first result."""
    results = [result for run in runs for result in run.results]
    return "mAP" if results and results[0].multi_label else "top-1"


# table of accuracies ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Row of the table of accuracies.

    Attributes:
        label: what was measured.
        value: accuracy or mean average precision, from 0 to 1.
        interval: 95 % interval, or None.
        videos: number of videos, or None.
        more: other metrics: title -> text.
        baseline: whether the row is a baseline.
        series: number of the color of the run.
    """

    label: str
    value: float
    interval: tuple[float, float] | None = None
    videos: int | None = None
    more: Mapping[str, str] | None = None
    baseline: bool = False
    series: int = 0


def baselines(run: RunFiles, result: Result) -> list[Row]:
    """Return the baselines of the same videos: classifiers of frozen features, majority class, chance."""
    if result.multi_label:
        chance = result.metrics.get("map_chance")
        return [] if chance is None else [Row("random scores", chance, baseline=True)]
    rows = []
    probe = probe_of(run, result)
    for key, label in PROBES.items():
        values = probe.get(key)
        if isinstance(values, dict) and not (run.is_probe and key == "logistic_regression"):
            low, high = values.get("top1_low"), values.get("top1_high")
            interval = None if low is None or high is None else (float(low), float(high))
            rows.append(Row(label, float(values["top1"]), interval, baseline=True))
    majority = result.summary.get("majority_class")
    if majority is not None:
        rows.append(Row("the majority class", float(majority), baseline=True))
    if len(result.heads) == 1 and result.heads[0].classes:
        rows.append(Row("chance", 1 / len(result.heads[0].classes), baseline=True))
    return rows


def probe_of(run: RunFiles, result: Result) -> Mapping[str, Any]:
    """Return the content of ``probe.json`` if it is for the videos of a result; else an empty mapping."""
    if result.split == "test":
        probe = run.probe if run.probe.get("split") == "test" else result.summary.get("probe")
    else:
        probe = run.probe if run.probe.get("split") == "val" else None
    return probe if isinstance(probe, dict) else {}


def accuracy_rows(runs: Sequence[RunFiles]) -> list[Row]:
    """Return a row for each result, then the baselines. Equal baselines of several runs are listed once."""
    rows: list[Row] = []
    references: dict[tuple[str, str, float], Row] = {}
    for number, run in enumerate(runs):
        for result in run.results:
            prefix = f"{run.name}: " if len(runs) > 1 else ""
            suffix = f", epoch {result.summary['epoch']}" if "epoch" in result.summary else ""
            rows += _result_rows(result, f"{prefix}{result.split}{suffix}", number)
            for row in baselines(run, result):
                key = (row.label, result.split, round(row.value, 6))
                references.setdefault(key, replace(row, label=f"{row.label}, {result.split}"))
    return [*rows, *sorted(references.values(), key=lambda row: -row.value)]


def _result_rows(result: Result, label: str, series: int) -> list[Row]:
    metrics, main = result.metrics, result.main_metric
    if main not in metrics:
        return []
    titles = {**ACCURACIES, **DETAILS}
    others = {titles[key]: percent(metrics[key]) for key in titles if key in metrics and key != main}
    if "loss" in metrics:
        others["loss"] = f"{metrics['loss']:.4f}"
    videos = result.summary.get("videos")
    rows = [Row(label, metrics[main], result.interval(main), videos, others, series=series)]
    for head in result.heads if len(result.heads) > 1 else []:
        key = f"{head.head}_top1"
        if key in metrics:
            top5 = metrics.get(f"{head.head}_top5")
            more = {} if top5 is None else {"top-5": percent(top5)}
            rows.append(Row(f"{label}, {head.head}", metrics[key], result.interval(key), videos, more, series=series))
            if (majority := result.summary.get(majority_key(key))) is not None:
                rows.append(Row(f"the majority {head.head}, {result.split}", float(majority), baseline=True))
    return rows


# classes ------------------------------------------------------------------------------------------------------------


def class_rows(classes: Sequence[ClassResult]) -> list[dict[str, Any]]:
    """Return the values of the table of classes. Intervals are Wilson's."""
    rows = []
    for result in classes:
        precision = result.precision
        interval = None if precision is None else wilson_interval(precision, result.predicted)
        rows.append({
            "name": result.name, "videos": result.videos, "precision": precision, "precision_interval": interval,
            "recall": result.recall, "recall_interval": result.recall_interval, "f1": result.f1,
            "average_precision": result.average_precision,
        })  # fmt: skip
    return rows


def compare_classes(runs: Sequence[RunFiles]) -> dict[str, Any] | None:
    """Return the F1 of each class in the first result of several runs; None if their classes differ."""
    chosen = [(run.name, run.results[0]) for run in runs if run.results]
    if len(chosen) < 2 or any(len(result.heads) != 1 for _, result in chosen):
        return None
    names = [[part.name for part in result.heads[0].classes] for _, result in chosen]
    if not names[0] or any(other != names[0] for other in names):
        return None
    columns = [result.heads[0].classes for _, result in chosen]
    rows = []
    for number, name in enumerate(names[0]):
        values = [column[number].f1 for column in columns]
        best = max((value for value in values if value is not None), default=None)
        rows.append({"name": name, "cells": [(value, value is not None and value == best) for value in values]})
    return {"columns": [f"{name}, {result.split}" for name, result in chosen], "rows": rows}


def confusion_view(head: HeadResult) -> dict[str, Any] | None:
    """Return the cells or the image of a confusion matrix, and the most frequent confusions; None without a matrix."""
    matrix = head.confusion
    if matrix is None or not matrix.sum():
        return None
    names = [result.name for result in head.classes]
    totals = matrix.sum(1)
    shares = matrix / np.maximum(totals[:, None], 1)
    view: dict[str, Any] = {"names": names, "pairs": _confused_pairs(matrix, names)}
    if len(names) > MAX_CELLS:
        return view | {"image": heatmap_url(shares, HEATMAP_COLOR)}
    rows = []
    for number, name in enumerate(names):
        cells = []
        for column, share in enumerate(shares[number].tolist()):
            classes = "light" * (share > LIGHT_TEXT) or "middle" * (share > MIDDLE)
            cells.append({"count": int(matrix[number, column]), "share": f"{share:.3f}", "classes": classes})
        rows.append({"name": name, "cells": cells, "total": int(totals[number])})
    return view | {"rows": rows}


def _confused_pairs(matrix: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = [divmod(int(number), len(names)) for number in order]
    totals = matrix.sum(1)
    return [
        {"true": names[a], "predicted": names[b], "count": int(wrong[a, b]), "total": int(totals[a])}
        for a, b in pairs
        if wrong[a, b]
    ]


# calibration --------------------------------------------------------------------------------------------------------


def calibration_view(result: Result) -> dict[str, Any] | None:
    """Return the calibration errors, and a diagram of the accuracy by score; None for several labels per video."""
    error = result.metrics.get("calibration_error")
    if result.multi_label or not result.predictions:
        return None
    lines = []
    for number, head in enumerate(heads_of(result.predictions[0])):
        answers = [answer_of(row, head) for row in result.predictions]
        points = _reliability(np.array([a.score for a in answers]), np.array([a.correct for a in answers]))
        lines.append(Line(head or "accuracy of the videos with this score", points, number, "points"))
    lines.append(Line("perfect calibration", [], 0, "diagonal"))
    title = "Accuracy by score of the predicted class"
    chart = line_chart(title, "score, %", "accuracy, %", lines, x_range=(0, 100), y_range=(0, 100), diagonal=True)
    uncalibrated = result.metrics.get(UNCALIBRATED)
    return {"error": error, "uncalibrated": uncalibrated, "chart": chart or Markup("")}


def _reliability(scores: np.ndarray, correct: np.ndarray) -> list[tuple[float, float]]:
    """Return mean score and accuracy, in percent, of the videos in each bin of scores."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    members = [bins == number for number in range(BINS)]
    return [(100 * float(scores[m].mean()), 100 * float(correct[m].mean())) for m in members if m.any()]
