"""Macro F1, calibration error and results of each class, compared with torchmetrics and with counts by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import QUIET
from torchmetrics.classification import (
    MulticlassCalibrationError,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from cli import main
from lit_modules.class_results import class_results, confusion_matrix, detailed_metrics, results_table
from lit_modules.scores import wilson_interval


def random_scores(videos: int, classes: int, absent: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and probabilities; the last ``absent`` classes have no videos."""
    labels = torch.randint(classes - absent, (videos,))
    return labels, (torch.randn(videos, classes) + 2 * torch.eye(classes)[labels]).softmax(1)


def test_metrics_equal_torchmetrics() -> None:
    labels, values = random_scores(200, 6)
    scores = {str(n): (label, value) for n, (label, value) in enumerate(zip(labels, values, strict=True))}
    metrics = detailed_metrics(scores)
    assert metrics["macro_f1"] == pytest.approx(float(MulticlassF1Score(6, average="macro")(values, labels)))
    expected = MulticlassCalibrationError(6, n_bins=15)(values, labels)
    assert metrics["calibration_error"] == pytest.approx(float(expected))
    assert detailed_metrics({}) == {}


def test_class_results_equal_torchmetrics() -> None:
    labels, values = random_scores(200, 6)
    results = class_results(confusion_matrix(labels, values), list("abcdef"))
    precision = MulticlassPrecision(6, average="none")(values, labels)
    recall = MulticlassRecall(6, average="none")(values, labels)
    assert [result.precision for result in results] == pytest.approx(precision.tolist())
    assert [result.recall for result in results] == pytest.approx(recall.tolist())
    assert [result.videos for result in results] == labels.bincount(minlength=6).tolist()


def test_undefined_values_are_empty() -> None:
    predicted, never = class_results(np.array([[0, 0], [2, 0]]), ["a", "b"])
    assert (predicted.precision, predicted.recall, predicted.recall_interval, predicted.f1) == (0, None, None, 0)
    assert (never.precision, never.recall, never.f1) == (None, 0, 0)
    assert class_results(np.zeros((1, 1), np.int64), ["a"])[0].row() == ["a", 0, 0, 0, None, None, None, None, None]


def test_table_of_many_classes_has_the_lowest_f1() -> None:
    results = class_results(np.diag(np.arange(30)) + np.eye(30, k=1, dtype=np.int64), [f"class {n}" for n in range(30)])
    table = results_table(results)
    assert table.row_count == 20
    assert "20 of 30 classes" in str(table.title)


def test_test_command_writes_and_prints_the_results_of_each_class(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--from", "tanet_r18.motionclips8", "--out", str(tmp_path / "out"), *QUIET, "--data.num_workers", "0"]
    assert main(["test", *arguments, "--allow_untrained", str(motion_folder)]) == 0
    output = capsys.readouterr().out
    assert "macro F1" in output
    assert "calibration error (ECE)" in output
    with (tmp_path / "out" / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    matrix = np.loadtxt(tmp_path / "out" / "confusion.csv", dtype=int, delimiter=",", skiprows=1, usecols=range(1, 5))
    assert [int(row["videos"]) for row in rows] == matrix.sum(1).tolist() == [3] * 4
    assert [int(row["correct"]) for row in rows] == matrix.diagonal().tolist()
    low, high = wilson_interval(int(rows[0]["correct"]) / 3, 3)
    assert (float(rows[0]["recall_low"]), float(rows[0]["recall_high"])) == pytest.approx((low, high))
