"""Intervals, majority-class baselines and class counts beside accuracies; how the best epoch is chosen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from test_cli import QUIET, TINY, data_options, rows_of

import lit_modules.base
from cli import main
from lit_modules.class_table import class_table
from lit_modules.scores import Scores, compute_metrics, references, true_labels, wilson_interval

MODEL = ["--model", "VideoClassifier", "--model.name", "c2d_r18", "--model.pretrained", "false", *TINY, *QUIET]


def scored(pairs: list[tuple[int, int]], classes: int) -> Scores:
    """Videos with a label and the class that scores best."""
    return {str(n): (torch.tensor(label), torch.eye(classes)[best]) for n, (label, best) in enumerate(pairs)}


@pytest.fixture(scope="module")
def uneven(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of one class and six of another, without split folders."""
    root = tmp_path_factory.mktemp("uneven")
    for name, count in (("meets", 8), ("parts", 6)):
        (root / name).mkdir()
        for file in sorted((motion_folder / "train" / name).iterdir())[:count]:
            (root / name / file.name).symlink_to(file)
    return root


# the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [  # R: prop.test(right, count, correct = FALSE)$conf.int
        (0, 10, 0.0, 0.2775328),
        (5, 10, 0.2365931, 0.7634069),
        (10, 10, 0.7224672, 1.0),
        (81, 263, 0.2552811, 0.3662054),  # Newcombe 1998, table I
        (1, 29, 0.0061069, 0.1717551),  # the same
    ],
)
def test_intervals_are_those_of_the_literature(right: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(right / count, count) == pytest.approx((low, high), abs=6e-5)


def test_the_ends_of_an_interval_are_one_standard_error_test_away() -> None:
    for right, count in ((3, 8), (70, 100), (999, 1000)):
        for bound in wilson_interval(right / count, count):
            error = (bound * (1 - bound) / count) ** 0.5  # of the bound, not of the estimate: that is Wilson's idea
            assert abs(right / count - bound) == pytest.approx(1.959964 * error)


def test_accuracies_have_the_baseline_of_the_most_frequent_classes() -> None:
    counts = [40, 20, 10, 10, 10, 5, 5]
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    scores = scored([(label, 0) for label in labels], 7)
    found = compute_metrics(scores)
    baselines = references(found, true_labels(scores))
    assert found["top1"] == found["majority_class"] == baselines["top1"].majority == 0.4
    assert baselines["top5"].majority == 0.9
    assert found["mean_class"] == baselines["mean_class"].majority == pytest.approx(1 / 7)
    assert (found["top1_low"], found["top1_high"]) == wilson_interval(0.4, 100)
    assert baselines["top5"].low < found["top5"] < baselines["top5"].high
    # classes of equal weight: 49 / sum of 1 / n
    effective = 49 / sum(1 / count for count in counts)
    bounds = pytest.approx(wilson_interval(found["mean_class"], effective))
    assert (baselines["mean_class"].low, baselines["mean_class"].high) == bounds


def test_top1_and_mean_class_agree_where_classes_are_even() -> None:
    generator = np.random.default_rng(0)
    pairs = [(label, int(generator.integers(8))) for label in range(8) for _ in range(9)]
    scores = scored(pairs, 8)
    found = compute_metrics(scores)
    baselines = references(found, true_labels(scores))
    assert found["mean_class"] == pytest.approx(found["top1"], abs=1e-12)
    assert baselines["mean_class"] == pytest.approx(baselines["top1"], abs=1e-12)


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_top5_is_left_out_where_it_is_always_right(classes: int) -> None:
    found = compute_metrics(scored([(label, 0) for label in range(classes)], classes))
    assert ("top5" in found) is (classes > 5)
    metrics = lit_modules.base.accuracies(classes, "train_")
    assert ("top5" in metrics.keys(keep_base=True)) is (classes > 5)


def test_the_majority_of_actions_is_the_most_frequent_pair() -> None:
    labels = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1], [1, 1], [1, 1], [2, 1]])
    metrics = {"verb_top1": 0.5, "noun_top1": 0.5, "action_top1": 0.5, "top1": 0.5, "loss": 1.0}
    found = references(metrics, labels, {"verb": 3, "noun": 2})
    assert {key: value.majority for key, value in found.items()} == pytest.approx(
        {"verb_top1": 3 / 7, "noun_top1": 5 / 7, "action_top1": 3 / 7, "top1": 3 / 7}
    )


# the table of classes --------------------------------------------------------------------------------------------


def text_of(table: Any) -> list[list[str]]:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    lines = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in console.export_text().splitlines()]
    return [line for line in lines if line]


def test_few_classes_are_listed_with_their_counts() -> None:
    labels = {"train": np.array([0, 0, 1, 2]), "val": np.array([1]), "test": np.array([2, 2])}
    assert text_of(class_table(labels, ["a", "[b]", "\udcff"])) == [
        ["class", "train", "val", "test"],
        ["a", "2", "0", "0"],
        ["[b]", "1", "1", "0"],
        ["?", "1", "0", "2"],
        ["all", "4", "1", "2"],
    ]


def test_many_classes_are_summarized() -> None:
    labels = {"train": np.repeat(np.arange(30), np.arange(30)), "val": np.repeat(np.arange(30), 2)}
    assert text_of(class_table(labels, [f"c{number}" for number in range(30)])) == [
        ["part", "videos", "min", "median", "max", "rarest classes"],
        ["train", "435", "0", "14.5", "29", "c0 (0), c1 (1), c2 (2), c3 (3), c4 (4)"],
        ["val", "60", "2", "2", "2", "c0 (2), c1 (2), c2 (2), c3 (2), c4 (2)"],
    ]


# what commands print and choose ----------------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, epochs: list[tuple[float, float]]) -> None:
    """Validation results by epoch, (top-1, mean class accuracy), instead of the network's."""
    values: Iterator[tuple[float, float]] = iter(epochs)
    original = compute_metrics

    def replaced(*args: Any) -> dict[str, float]:
        top1, mean_class = next(values)
        return original(*args) | {"top1": top1, "mean_class": mean_class}

    monkeypatch.setattr(lit_modules.base, "compute_metrics", replaced)


NO_CHECK = ["--trainer.num_sanity_val_steps", "0"]


def epoch_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["epoch"])


def test_the_best_epoch_of_uneven_classes_is_not_that_of_the_largest(
    uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    scripted(monkeypatch, [(0.6, 0.55), (0.55, 0.6), (0.7, 0.5)])
    fit = ["fit", *MODEL, *data_options(uneven), *NO_CHECK, "--trainer.max_epochs", "3", "--out", str(tmp_path / "run")]
    assert main([*fit, "--data.val_fraction", "0.4"]) == 0
    best = tmp_path / "run/checkpoints/best.ckpt"
    assert epoch_of(best) == 1
    printed = capsys.readouterr().out
    assert re.search(r"meets +│ +4 +│ +3 +│ +1 +│\n│ parts +│ +3 +│ +2 +│ +1 +│", printed)
    assert "validation mean class accuracy: classes have 2 to 3 validation videos, and top-1 would favor" in printed
    low, high = wilson_interval(0.6, 4 / (1 / 3 + 1 / 2))
    interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f} %, majority class 50.00 %"
    assert f"Best validation mean class accuracy 60.00 % ({interval}): {best}" in printed
    rows = [row for row in rows_of(tmp_path / "run/metrics.csv") if row["val_top1"]]
    assert [float(row["val_majority_class"]) for row in rows] == pytest.approx([0.6] * 3)


def test_a_run_that_began_with_top1_goes_on_with_it(
    uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    scripted(monkeypatch, [(0.6, 0.6), (0.55, 0.7), (0.65, 0.5)])
    fit = ["fit", *MODEL, *data_options(uneven), *NO_CHECK, "--out", str(tmp_path / "run")]
    assert main([*fit, "--trainer.max_epochs", "1"]) == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    key = ("Best{'monitor': 'val_top1', 'mode': 'max', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
           "'train_time_interval': None}")  # fmt: skip
    content["callbacks"][key]["monitor"] = "val_top1"  # of an earlier version; both scores are 0.6
    torch.save(content, last)
    assert main([*fit, "--trainer.max_epochs", "3", "--ckpt_path", str(last)]) == 0
    best = tmp_path / "run/checkpoints/best.ckpt"
    assert epoch_of(best) == 2
    printed = capsys.readouterr().out
    assert "best.ckpt is the epoch with the best validation top-1, the metric that the run began with" in printed
    assert "Best validation top-1 65.00 % (95 % interval" in printed
    assert torch.load(last, weights_only=True)["callbacks"][key]["best_model_score"] == pytest.approx(0.65)


def test_even_classes_are_named_as_the_reason(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["fit", *MODEL, *data_options(motion_folder), "--trainer.max_steps", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "mean class accuracy, which equals top-1 as each class has 3 validation videos" in printed
    assert re.search(r"all +│ +32 +│ +12 +│ +12 +│", printed)


def test_validate_and_test_print_every_accuracy_with_its_baseline(
    uneven: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fit = ["fit", *MODEL, *data_options(uneven), "--trainer.max_steps", "1", "--out", str(tmp_path / "run")]
    assert main(fit) == 0
    start = ["--from", str(tmp_path / "run/checkpoints/last.ckpt"), *data_options(uneven), *QUIET]
    start += ["--data.test_fraction", "0.4"]
    capsys.readouterr()
    assert main(["validate", *start, "--out", str(tmp_path / "validate")]) == 0
    printed = capsys.readouterr().out
    for title in ("top-1", "mean class accuracy"):
        assert re.search(rf"{title} +│ +\d+\.\d\d % │ .* to .* % │ +\d+\.\d\d % │", printed)
    assert "top-5" not in printed
    assert main(["test", *start, "--out", str(tmp_path / "test")]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "test/test.json").read_text())
    top1, count = summary["metrics"]["test_top1"], summary["videos"]
    assert summary["top1_interval"] == pytest.approx(wilson_interval(top1, count), abs=1e-6)
    assert summary["majority_class"] == pytest.approx(3 / 5) and count == 5
    low, high = summary["top1_interval"]
    row = rf"top-1 +│ +{100 * top1:.2f} % │ {100 * low:.2f} to {100 * high:.2f} % │ +60.00 % │"
    assert re.search(row, printed)
    assert re.search(r"mean class accuracy │ +\d+\.\d\d % │ .* to .* % │ +50.00 % │", printed)
    assert "top-5" not in printed and "top-2" not in printed and "top5" not in json.dumps(summary)


def test_a_class_count_that_contradicts_the_data_is_refused(
    uneven: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fit = ["fit", *MODEL, "--model.num_classes", "5", *data_options(uneven), "--out", str(tmp_path)]
    assert main(fit) == 1
    assert (
        "num_classes is 5, but the data has 2 classes (meets, parts). Leave num_classes out" in capsys.readouterr().err
    )
