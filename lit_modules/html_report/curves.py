"""Learning curves of one or several runs from ``metrics.csv``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from lit_modules.html_report.charts import Line, line_chart
from lit_modules.html_report.run_files import RunFiles

Metrics = Sequence[Mapping[str, float]]
RATE = "lr-"  # prefix of the columns of LearningRateMonitor
ACCURACY_COLUMNS = {  # -> label; the first that exist are drawn
    "train_top1": "training top-1",
    "val_top1": "validation top-1",
    "val_mean_class": "validation mean class accuracy",
    "val_map": "validation mAP",
}
HEAD_SUFFIX = "_top1"
MARGIN = 5.0  # percentage points above and below a constant accuracy


def steps_per_epoch(metrics: Metrics) -> float | None:
    """Return the number of steps per epoch; None if no epoch is complete."""
    for row in metrics:
        if "train_loss_epoch" in row and "epoch" in row and "step" in row:
            return (row["step"] + 1) / (row["epoch"] + 1)
    return None


def curve(metrics: Metrics, column: str, scale: float = 1.0) -> list[tuple[float, float]]:
    """Return the points of a column: epochs (steps if no epoch is complete), and values times ``scale``."""
    steps = steps_per_epoch(metrics) or 1.0
    return [((row["step"] + 1) / steps, scale * row[column]) for row in metrics if column in row and "step" in row]


def learning_curves(runs: Sequence[RunFiles]) -> list[Markup]:
    """Return charts of loss, accuracy and learning rate. Several runs have one color each."""
    trained = [(number, run) for number, run in enumerate(runs) if run.metrics]
    if not trained:
        return []
    unit = "epoch" if all(steps_per_epoch(run.metrics) for _, run in trained) else "step"
    if len(runs) == 1:
        loss, accuracy, rates = _lines_of_run(trained[0][1].metrics)
    else:
        loss, accuracy, rates = _lines_of_runs(trained)
    is_map = any("val_map" in row for _, run in trained for row in run.metrics)
    title, y_label = ("Mean average precision", "mAP, %") if is_map else ("Accuracy", "accuracy, %")
    charts = (
        line_chart("Loss", unit, "loss", loss),
        line_chart(title, unit, y_label, accuracy, y_range=_percent_range(accuracy)),
        line_chart("Learning rate", unit, "learning rate", rates),
    )
    return [chart for chart in charts if chart is not None]


def _lines_of_run(metrics: Metrics) -> tuple[list[Line], list[Line], list[Line]]:
    loss = [
        Line("training, batches", curve(metrics, "train_loss_step"), 0, "faint"),
        Line("training, epochs", curve(metrics, "train_loss_epoch"), 0, "points"),
        Line("validation", curve(metrics, "val_loss"), 1, "points"),
    ]
    columns = dict(ACCURACY_COLUMNS)
    names = dict.fromkeys(name for row in metrics for name in row)
    heads = [name for name in names if name.startswith("val_") and name.endswith(HEAD_SUFFIX) and name.count("_") > 1]
    columns |= {name: f"validation {name[4:].removesuffix(HEAD_SUFFIX)} top-1" for name in heads}
    if heads:
        columns.pop("val_top1")  # that of actions, which has its own column
    elif curve(metrics, "val_mean_class") == curve(metrics, "val_top1"):  # one line would hide the other
        columns.pop("val_mean_class")
        columns["val_top1"] += " and mean class accuracy"
    lines = [(label, curve(metrics, column, 100)) for column, label in columns.items()]
    accuracy = [Line(label, points, number, "points") for number, (label, points) in enumerate(lines) if points]
    rates = _distinct_rates(metrics)
    return _present(loss), accuracy, [Line(name, points, number) for number, (name, points) in enumerate(rates.items())]


def _lines_of_runs(trained: Sequence[tuple[int, RunFiles]]) -> tuple[list[Line], list[Line], list[Line]]:
    loss, accuracy, rates = [], [], []
    for number, run in trained:
        metrics = run.metrics
        loss.append(Line(f"{run.name}, training", curve(metrics, "train_loss_epoch"), number, "dashed"))
        loss.append(Line(f"{run.name}, validation", curve(metrics, "val_loss"), number, "points"))
        column = "val_map" if any("val_map" in row for row in metrics) else "val_top1"
        accuracy.append(Line(f"{run.name}, validation", curve(metrics, column, 100), number, "points"))
        highest = max(_distinct_rates(metrics).values(), key=lambda points: max(y for _, y in points), default=[])
        rates.append(Line(run.name, highest, number))
    return _present(loss), _present(accuracy), _present(rates)


def _percent_range(lines: Sequence[Line]) -> tuple[float, float] | None:
    """Return the range of the points, wider if they are constant but within 0 to 100; None without points."""
    values = [y for line in lines for _, y in line.points if math.isfinite(y)]
    if not values:
        return None
    low, high = min(values), max(values)
    return (low, high) if high > low else (max(0.0, low - MARGIN), min(100.0, high + MARGIN))


def _present(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line.points]


def _distinct_rates(metrics: Metrics) -> dict[str, list[tuple[float, float]]]:
    """Return the learning rates of parameter groups by their multiple of the base rate; equal rates are merged."""
    distinct: dict[str, list[tuple[float, float]]] = {}
    for column in dict.fromkeys(name for row in metrics for name in row if name.startswith(RATE)):
        points = curve(metrics, column)
        if points and points not in distinct.values():
            distinct[_rate_label(column)] = points
    return distinct


def _rate_label(column: str) -> str:
    """Return the label of a learning rate. The column "lr-AdamW/x10 decay 0.01" is of ``optim.parameter_groups``."""
    match = re.search(r"/x(\S+) decay ", column)
    if match is None:  # of another optimizer
        return column.removeprefix(RATE)
    return "base rate" if match[1] == "1" else f"base rate x {match[1]}"
