"""Confidence intervals, majority-class baselines and class counts of accuracies; the choice of the best epoch."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from runs import NO_SANITY_CHECK, QUIET, flags, model, read_checkpoint, read_rows, resume, video_folder

import lit_modules.base
from cli import main
from lit_modules.class_table import class_table
from lit_modules.scores import Scores, compute_metrics, references, true_labels, wilson_interval

MODEL = [*model("VideoClassifier", "c2d_r18", pretrained=False), *QUIET]


def make_scores(labels_and_predictions: list[tuple[int, int]], classes: int) -> Scores:
    """Return scores of videos with these labels and predicted classes."""
    return {
        str(number): (torch.tensor(label), torch.eye(classes)[prediction])
        for number, (label, prediction) in enumerate(labels_and_predictions)
    }


@pytest.fixture(scope="module")
def uneven_folder(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set with eight videos of one class and six of another, without split folders."""
    root = tmp_path_factory.mktemp("uneven")
    for name, count in (("meets", 8), ("parts", 6)):
        (root / name).mkdir()
        for file in sorted((motion_folder / "train" / name).iterdir())[:count]:
            (root / name / file.name).symlink_to(file)
    return root


# metrics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [  # R: prop.test(correct, count, correct = FALSE)$conf.int
        (0, 10, 0.0, 0.2775328),
        (5, 10, 0.2365931, 0.7634069),
        (10, 10, 0.7224672, 1.0),
        (81, 263, 0.2552811, 0.3662054),  # Newcombe 1998, table I
        (1, 29, 0.0061069, 0.1717551),  # the same
    ],
)
def test_wilson_interval_matches_published_values(correct: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(correct / count, count) == pytest.approx((low, high), abs=6e-5)


def test_wilson_interval_ends_where_a_score_test_rejects() -> None:
    for correct, count in ((3, 8), (70, 100), (999, 1000)):
        for bound in wilson_interval(correct / count, count):
            standard_error = (bound * (1 - bound) / count) ** 0.5  # of the bound, not of the estimate
            assert abs(correct / count - bound) == pytest.approx(1.959964 * standard_error)


def test_baselines_predict_the_most_frequent_classes() -> None:
    counts = [40, 20, 10, 10, 10, 5, 5]
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    scores = make_scores([(label, 0) for label in labels], 7)
    metrics = compute_metrics(scores)
    baselines = references(metrics, true_labels(scores))
    assert metrics["top1"] == metrics["majority_class"] == baselines["top1"].majority == 0.4
    assert baselines["top5"].majority == 0.9
    assert metrics["mean_class"] == baselines["mean_class"].majority == pytest.approx(1 / 7)
    assert (metrics["top1_low"], metrics["top1_high"]) == wilson_interval(0.4, 100)
    assert baselines["top5"].low < metrics["top5"] < baselines["top5"].high
    effective_count = 49 / sum(1 / count for count in counts)  # of a mean of seven classes with equal weights
    bounds = pytest.approx(wilson_interval(metrics["mean_class"], effective_count))
    assert (baselines["mean_class"].low, baselines["mean_class"].high) == bounds


def test_top1_equals_mean_class_accuracy_if_classes_are_even() -> None:
    generator = np.random.default_rng(0)
    pairs = [(label, int(generator.integers(8))) for label in range(8) for _ in range(9)]
    scores = make_scores(pairs, 8)
    metrics = compute_metrics(scores)
    baselines = references(metrics, true_labels(scores))
    assert metrics["mean_class"] == pytest.approx(metrics["top1"], abs=1e-12)
    assert baselines["mean_class"] == pytest.approx(baselines["top1"], abs=1e-12)


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_top5_is_omitted_for_five_classes_or_fewer(classes: int) -> None:
    metrics = compute_metrics(make_scores([(label, 0) for label in range(classes)], classes))
    assert ("top5" in metrics) is (classes > 5)
    train_metrics = lit_modules.base.accuracies(classes, "train_")
    assert ("top5" in train_metrics.keys(keep_base=True)) is (classes > 5)


def test_baseline_of_actions_is_the_most_frequent_pair() -> None:
    labels = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1], [1, 1], [1, 1], [2, 1]])
    metrics = {"verb_top1": 0.5, "noun_top1": 0.5, "action_top1": 0.5, "top1": 0.5, "loss": 1.0}
    baselines = references(metrics, labels, {"verb": 3, "noun": 2})
    assert {key: baseline.majority for key, baseline in baselines.items()} == pytest.approx(
        {"verb_top1": 3 / 7, "noun_top1": 5 / 7, "action_top1": 3 / 7, "top1": 3 / 7}
    )


# class table --------------------------------------------------------------------------------------------


def cells(table: Any) -> list[list[str]]:
    """Return the text of a table, row by row."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    lines = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in console.export_text().splitlines()]
    return [line for line in lines if line]


def test_few_classes_are_listed_with_their_counts() -> None:
    labels = {"train": np.array([0, 0, 1, 2]), "val": np.array([1]), "test": np.array([2, 2])}
    assert cells(class_table(labels, ["a", "[b]", "\udcff"])) == [
        ["class", "train", "val", "test"],
        ["a", "2", "0", "0"],
        ["[b]", "1", "1", "0"],
        ["?", "1", "0", "2"],
        ["all", "4", "1", "2"],
    ]


def test_many_classes_are_summarized() -> None:
    labels = {"train": np.repeat(np.arange(30), np.arange(30)), "val": np.repeat(np.arange(30), 2)}
    assert cells(class_table(labels, [f"c{number}" for number in range(30)])) == [
        ["part", "videos", "min", "median", "max", "rarest classes"],
        ["train", "435", "0", "14.5", "29", "c0 (0), c1 (1), c2 (2), c3 (3), c4 (4)"],
        ["val", "60", "2", "2", "2", "c0 (2), c1 (2), c2 (2), c3 (2), c4 (2)"],
    ]


# commands ----------------------------------------------------------------------------------


def set_accuracies(monkeypatch: pytest.MonkeyPatch, accuracies: list[tuple[float, float]]) -> None:
    """Replace the validation accuracies of each epoch by these: (top-1, mean class accuracy)."""
    values = iter(accuracies)

    def compute_replaced_metrics(*args: Any) -> dict[str, float]:
        top1, mean_class = next(values)
        return compute_metrics(*args) | {"top1": top1, "mean_class": mean_class}

    monkeypatch.setattr(lit_modules.base, "compute_metrics", compute_replaced_metrics)


def epoch_of(checkpoint: Path) -> int:
    return int(read_checkpoint(checkpoint)["epoch"])


def test_best_epoch_of_uneven_classes_has_the_best_mean_class_accuracy(
    uneven_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    set_accuracies(monkeypatch, [(0.6, 0.55), (0.55, 0.6), (0.7, 0.5)])
    data = video_folder(uneven_folder, val_fraction=0.4)
    trainer = [*NO_SANITY_CHECK, *flags("trainer", max_epochs=3)]
    assert main(["fit", *MODEL, *data, *trainer, "--out", str(tmp_path / "run")]) == 0
    best = tmp_path / "run/checkpoints/best.ckpt"
    assert epoch_of(best) == 1
    printed = capsys.readouterr().out
    assert re.search(r"meets +│ +4 +│ +3 +│ +1 +│\n│ parts +│ +3 +│ +2 +│ +1 +│", printed)
    assert "validation mean class accuracy: classes have 2 to 3 validation videos, and top-1 would favor" in printed
    low, high = wilson_interval(0.6, 4 / (1 / 3 + 1 / 2))
    interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f} %, majority class 50.00 %"
    assert f"Best validation mean class accuracy 60.00 % ({interval}): {best}" in printed
    rows = [row for row in read_rows(tmp_path / "run/metrics.csv") if row["val_top1"]]
    assert [float(row["val_majority_class"]) for row in rows] == pytest.approx([0.6] * 3)


def test_resumed_run_keeps_the_metric_of_its_best_epoch(
    uneven_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    set_accuracies(monkeypatch, [(0.6, 0.6), (0.55, 0.7), (0.65, 0.5)])
    arguments = ["fit", *MODEL, *video_folder(uneven_folder), *NO_SANITY_CHECK, "--out", str(tmp_path / "run")]
    assert main([*arguments, *flags("trainer", max_epochs=1)]) == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    content = read_checkpoint(last)
    key = ("Best{'monitor': 'val_top1', 'mode': 'max', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
           "'train_time_interval': None}")  # fmt: skip
    content["callbacks"][key]["monitor"] = "val_top1"  # as earlier versions did; both accuracies are 0.6
    torch.save(content, last)
    assert main([*arguments, *flags("trainer", max_epochs=3), *resume(last)]) == 0
    best = tmp_path / "run/checkpoints/best.ckpt"
    assert epoch_of(best) == 2
    printed = capsys.readouterr().out
    assert "best.ckpt is the epoch with the best validation top-1, the metric that the run began with" in printed
    assert "Best validation top-1 65.00 % (95 % interval" in printed
    assert read_checkpoint(last)["callbacks"][key]["best_model_score"] == pytest.approx(0.65)


def test_fit_explains_why_top1_equals_mean_class_accuracy(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["fit", *MODEL, *video_folder(motion_folder), *flags("trainer", max_steps=1)]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "mean class accuracy, which equals top-1 as each class has 3 validation videos" in printed
    assert re.search(r"all +│ +32 +│ +12 +│ +12 +│", printed)


def test_validate_and_test_print_every_accuracy_with_its_baseline(
    uneven_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    arguments = ["fit", *MODEL, *video_folder(uneven_folder), *flags("trainer", max_steps=1), "--out", str(run)]
    assert main(arguments) == 0
    data = video_folder(uneven_folder, test_fraction=0.4)
    network_and_data = ["--from", str(run / "checkpoints/last.ckpt"), *data, *QUIET]
    capsys.readouterr()
    assert main(["validate", *network_and_data, "--out", str(tmp_path / "validate")]) == 0
    printed = capsys.readouterr().out
    for title in ("top-1", "mean class accuracy"):
        assert re.search(rf"{title} +│ +\d+\.\d\d % │ .* to .* % │ +\d+\.\d\d % │", printed)
    assert "top-5" not in printed
    assert main(["test", *network_and_data, "--out", str(tmp_path / "test")]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "test/test.json").read_text())
    top1, count = summary["metrics"]["test_top1"], summary["videos"]
    assert summary["top1_interval"] == pytest.approx(wilson_interval(top1, count), abs=1e-6)
    assert summary["majority_class"] == pytest.approx(3 / 5) and count == 5
    low, high = summary["top1_interval"]
    row = rf"top-1 +│ +{100 * top1:.2f} % │ {100 * low:.2f} to {100 * high:.2f} % │ +60.00 % │"
    assert re.search(row, printed)
    assert re.search(r"mean class accuracy +│ +\d+\.\d\d % │ .* to .* % │ +50.00 % │", printed)
    assert "top-5" not in printed and "top-2" not in printed and "top5" not in json.dumps(summary)


def test_num_classes_that_contradicts_the_data_is_refused(
    uneven_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["fit", *MODEL, *flags("model", num_classes=5), *video_folder(uneven_folder)]
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    assert (
        "num_classes is 5, but the data has 2 classes (meets, parts). Leave num_classes out" in capsys.readouterr().err
    )
