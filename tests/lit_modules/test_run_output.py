"""What a run shows: epochs counted from 1, the parameters that are trained, a rounded table of a validation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_cli import TINY, data_options
from test_resume import fit

import zoo
from cli import main
from lit_modules.metric_table import metric_table


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("output") / "run"
    assert main(fit(motion_folder, out, epochs=1)) == 0
    return out


def test_epochs_are_counted_from_one(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = ["--trainer.enable_progress_bar", "true", "--trainer.max_epochs", "3"]
    assert main([*fit(motion_folder, tmp_path), *shown]) == 0
    printed = capsys.readouterr().out
    assert "Epoch 3/3" in printed
    assert "Epoch 2/2" not in printed and "Epoch 0" not in printed


def test_a_progress_bar_of_the_user_replaces_the_default(motion_folder: Path, tmp_path: Path) -> None:
    bar = ["--trainer.enable_progress_bar", "true", "--trainer.callbacks+", "TQDMProgressBar"]
    assert main([*fit(motion_folder, tmp_path, epochs=1), *bar]) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "{total}, {total} trained"),
        (["--model.freeze_backbone", "true"], "{total}, {head} trained (the classifier)"),
        (
            ["--model.head_warmup_epochs", "2"],
            "{total}, {head} trained (the classifier), all of them from epoch 3 on",
        ),
    ],
)
def test_the_trained_parameters_are_counted(
    options: list[str], says: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["fit", "--model", "VideoClassifier", "--model.name", "c2d_r18", "--model.pretrained", "false", *TINY,
                 *data_options(motion_folder), "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1",
                 "--trainer.enable_progress_bar", "false", *options]  # fmt: skip
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    network = zoo.create("c2d_r18", width=8, num_classes=4, num_frames=4)
    total = f"{sum(p.numel() for p in network.parameters()) / 1000:.3g} k"
    head = str(sum(p.numel() for name, p in network.named_parameters() if name.startswith("fc.")))
    printed = capsys.readouterr().out
    assert f"Parameters: {says.format(total=total, head=head)}\n" in printed
    assert "FLOPs" not in printed


def test_a_summary_that_is_switched_off_is_not_printed(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(fit(motion_folder, tmp_path, epochs=1)) == 0  # with enable_model_summary false
    assert "Parameters:" not in capsys.readouterr().out


def test_validate_prints_a_rounded_table(run: Path, capsys: pytest.CaptureFixture) -> None:
    best = run / "checkpoints" / "best.ckpt"
    assert main(["validate", "--from", str(best), "--config", str(run / "config.yaml")]) == 0
    printed = capsys.readouterr().out
    assert f"{best}: 12 validation videos" in printed
    for row in ("top-1", "mean class accuracy", "loss", "chance"):
        assert row in printed
    assert " 25.00 %" in printed
    assert "val_top1" not in printed


def test_rows_of_several_classifiers_have_their_names() -> None:
    metrics = {"verb_top1": 0.5, "noun_top5": 0.25, "action_top1": 0.125, "top1": 0.125}
    scores = {str(number): (torch.tensor([number % 3, number]), torch.zeros(12)) for number in range(8)}
    table = metric_table(metrics, scores, {"verb": 3, "noun": 9}, 12)
    names, values = (list(column.cells) for column in table.columns[:2])
    assert names == ["action top-1", "verb top-1", "noun top-5"]
    assert values == ["12.50 %", "50.00 %", "25.00 %"]
