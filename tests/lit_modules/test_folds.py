"""Cross-validation with ``fit --folds``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from runs import (
    NO_SANITY_CHECK,
    ON_CPU,
    QUIET,
    assert_same_last_weights,
    flags,
    last_metrics,
    model,
    read_rows,
    video_folder,
)

from cli import main


def fold_arguments(root: Path, out: Path, *extra: str, epochs: int = 2) -> list[str]:
    """Arguments of a short training without the number of folds."""
    return [
        "fit",
        *model("VideoClassifier", "tadaconvnextv2_tiny"),
        *video_folder(root),
        *QUIET,
        *ON_CPU,
        *NO_SANITY_CHECK,
        *flags("trainer", max_epochs=epochs),
        *("--out", str(out)),
        *extra,
    ]


@pytest.fixture(scope="module")
def cross_validation(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished cross-validation with two folds of two epochs."""
    out = tmp_path_factory.mktemp("folds") / "run"
    assert main(fold_arguments(motion_folder, out, "--folds", "2")) == 0
    return out


def test_summary_has_the_metrics_of_each_fold_with_mean_and_deviation(cross_validation: Path) -> None:
    rows = {(row["fold"], row["at"]): row for row in read_rows(cross_validation / "folds.csv")}
    assert list(rows) == [(fold, at) for at in ("best", "last") for fold in ("1", "2", "mean", "std")]
    folds = [last_metrics(cross_validation / f"fold{fold}") for fold in (1, 2)]
    for name in ("val_top1", "val_mean_class", "val_loss"):
        values = [metrics[name] for metrics in folds]
        assert [float(rows[fold, "last"][name]) for fold in "12"] == pytest.approx(values)
        assert float(rows["mean", "last"][name]) == pytest.approx(statistics.mean(values))
        assert float(rows["std", "last"][name]) == pytest.approx(statistics.stdev(values))
    for fold in "12":
        accuracies = [
            float(row["val_mean_class"])
            for row in read_rows(cross_validation / f"fold{fold}/metrics.csv")
            if row["val_top1"]
        ]
        assert float(rows[fold, "best"]["val_mean_class"]) == max(accuracies)
    summary = json.loads((cross_validation / "folds.json").read_text())
    assert summary["folds"] == 2
    assert summary["last"]["val_top1"]["mean"] == pytest.approx(float(rows["mean", "last"]["val_top1"]))


def test_repeated_command_skips_finished_folds(
    cross_validation: Path, motion_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    files = [cross_validation / f"fold{fold}/checkpoints/last.ckpt" for fold in (1, 2)]
    times = [file.stat().st_mtime_ns for file in files]
    table = (cross_validation / "folds.csv").read_text()
    assert main(fold_arguments(motion_folder, cross_validation, "--folds", "2")) == 0
    output = capsys.readouterr().out
    assert "Fold 1 of 2 is finished" in output
    assert "mean class accuracy, best epoch" in output
    assert [file.stat().st_mtime_ns for file in files] == times
    assert (cross_validation / "folds.csv").read_text() == table


def test_interrupted_fold_is_resumed(cross_validation: Path, motion_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stop = ["--trainer.callbacks+", "watch.Watch", *flags("trainer.callbacks", folder=tmp_path, stop="1 1")]
    with pytest.raises(RuntimeError, match="stopped"):
        main(fold_arguments(motion_folder, out / "fold2", *stop, *flags("data", folds=2, fold=2)))
    assert main(fold_arguments(motion_folder, out, "--folds", "2")) == 0
    for fold in ("fold1", "fold2"):
        assert_same_last_weights(out / fold, cross_validation / fold)
        epochs = [row["epoch"] for row in read_rows(out / fold / "metrics.csv") if row["val_top1"]]
        assert epochs == ["0", "1"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--folds", "1"), "--folds is 1; give the number of folds, at least 2"),
        (("--folds", "2", "--data.fold", "1"), "--folds sets --data.fold; leave it out"),
        (("--folds", "2", "--ckpt_path", "x.ckpt"), "repeat its command without --ckpt_path"),
        (("--folds", "2", "--trainer.devices", "2"), "--folds trains on one device"),
        (("--folds", "2", "--data", "HMDB51"), "HMDB51 has its own splits"),
        (("--folds", "40"), "too few to split into fold 1, fold 2"),
    ],
)
def test_unsupported_options_are_errors_and_leave_no_folder(
    extra: tuple[str, ...], message: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(fold_arguments(motion_folder, tmp_path / "run", *extra)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_options_in_the_same_folder_are_an_error(
    cross_validation: Path, motion_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(fold_arguments(motion_folder, cross_validation, "--folds", "3")) == 1
    assert "contains the cross-validation of another command" in capsys.readouterr().err


def test_folds_of_another_command_are_an_error(motion_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["test", "--from", "tanet_r18.motionclips8", "--folds", "2", str(motion_folder)]) == 1
    assert "--folds is for fit, not for test" in capsys.readouterr().err


def test_fit_prints_groups_and_videos_of_each_split(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    group = ("--data.group", r"(train|val|test)/")
    assert main(fold_arguments(motion_folder, tmp_path / "run", *group, epochs=1)) == 0
    assert "Groups: 1 in train (32 videos), 1 in val (12 videos), 1 in test (12 videos)" in capsys.readouterr().out
