"""Results of each class in a test: precision, recall, F1; their mean, and the calibration of the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from lit_modules.mistakes import THRESHOLD
from lit_modules.scores import Scores, average_precisions, predicted_scores, true_labels, wilson_interval
from zoo.text import printable

CALIBRATION_BINS = 15
UNCALIBRATED = "calibration_error_uncalibrated"  # metric: the calibration error without the network's temperature
MAX_ROWS = 20  # classes in the printed table; of more, those with the lowest F1 are printed
HEADER = ["class", "videos", "predicted", "correct", "precision", "recall", "recall_low", "recall_high", "f1"]
MULTI_LABEL_HEADER = [*HEADER, "average_precision"]


@dataclass(frozen=True)
class ClassResult:
    """Result of one class.

    Attributes:
        name: name of the class.
        videos: number of its videos.
        predicted: number of videos that are assigned to the class.
        correct: number of its videos that are assigned to it.
        average_precision: of videos with several labels, if the class has videos.
    """

    name: str
    videos: int
    predicted: int
    correct: int
    average_precision: float | None = None

    @property
    def precision(self) -> float | None:
        """Share of the videos assigned to the class that belong to it; None if there are none."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Share of the videos of the class that are assigned to it; None if there are none."""
        return self.correct / self.videos if self.videos else None

    @property
    def recall_interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the recall; None if the class has no videos."""
        return wilson_interval(self.correct / self.videos, self.videos) if self.videos else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None if the class has no videos and is never predicted."""
        total = self.videos + self.predicted
        return 2 * self.correct / total if total else None

    def row(self) -> list[str | int | float | None]:
        """Values of the columns ``HEADER``; None for undefined ones."""
        low, high = self.recall_interval or (None, None)
        return [self.name, self.videos, self.predicted, self.correct, self.precision, self.recall, low, high, self.f1]


def class_results(confusion: np.ndarray, names: Sequence[str]) -> list[ClassResult]:
    """Return the result of each class.

    Args:
        confusion: numbers of videos, ``(classes, classes)``; rows are true classes, columns predicted ones.
        names: class names.
    """
    columns = zip(
        names, confusion.sum(1).tolist(), confusion.sum(0).tolist(), confusion.diagonal().tolist(), strict=True
    )
    return [ClassResult(*values) for values in columns]


def confusion_matrix(labels: Tensor, scores: Tensor) -> np.ndarray:
    """Return numbers of videos ``(classes, classes)``, by true (rows) and predicted class.

    Args:
        labels: int64 ``(N,)``.
        scores: ``(N, classes)``.
    """
    matrix = np.zeros((scores.shape[1], scores.shape[1]), dtype=np.int64)
    np.add.at(matrix, (labels.numpy(), scores.argmax(1).numpy()), 1)
    return matrix


def multi_label_results(labels: Tensor, scores: Tensor, names: Sequence[str]) -> list[ClassResult]:
    """Return the result of each class of videos with several labels; classes with a score above 0.5 are predicted.

    Args:
        labels: 0 or 1, ``(N, classes)``.
        scores: probabilities ``(N, classes)``.
        names: class names.
    """
    positive = scores > THRESHOLD
    counts = zip(
        labels.sum(0).tolist(), positive.sum(0).tolist(), (positive & (labels > 0)).sum(0).tolist(), strict=True
    )
    precisions = average_precisions(labels, scores)
    return [
        ClassResult(name, *count, precision) for name, count, precision in zip(names, counts, precisions, strict=True)
    ]


def detailed_metrics(scores: Scores, multi_label: bool = False) -> dict[str, float]:
    """Return ``macro_f1`` and ``calibration_error`` of the scored videos of a single classifier; empty without videos.

    The macro F1 is the mean over the classes that have videos or are predicted. The calibration error is the expected
    calibration error: the mean difference between score and accuracy in 15 bins of the highest score. For videos with
    several labels, it is not defined.
    """
    if not scores:
        return {}
    labels, values = true_labels(scores), predicted_scores(scores)
    names = [""] * values.shape[1]
    if multi_label:
        results = multi_label_results(labels, values, names)
    else:
        results = class_results(confusion_matrix(labels, values), names)
    f1 = [result.f1 for result in results if result.f1 is not None]
    macro_f1 = float(np.mean(f1)) if f1 else 0.0
    if multi_label:
        return {"macro_f1": macro_f1}
    error = multiclass_calibration_error(values.clamp(0, 1), labels, values.shape[1], n_bins=CALIBRATION_BINS)
    return {"macro_f1": macro_f1, "calibration_error": float(error)}


def results_table(results: Sequence[ClassResult]) -> Table:
    """Build the table of the classes; of more than ``MAX_ROWS``, of those with the lowest F1."""
    title = None
    if len(results) > MAX_ROWS:
        title = f"{MAX_ROWS} of {len(results)} classes with the lowest F1 (all are in classes.csv)"
        defined = [result for result in results if result.f1 is not None]
        results = sorted(defined, key=lambda result: result.f1 or 0.0)[:MAX_ROWS]
    table = Table(title=title)
    table.add_column("class", overflow="fold")
    for column in ("videos", "precision", "recall", "95 % interval", "F1"):
        table.add_column(column, justify="right")
    for result in results:
        interval = result.recall_interval
        text = "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
        cells = [_percent(result.precision), _percent(result.recall), text, _percent(result.f1)]
        table.add_row(escape(printable(result.name)), str(result.videos), *cells)
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
