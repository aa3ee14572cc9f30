"""Output of a run: epochs counted from 1, the number of trained parameters, a table of validation metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import callback, fit_arguments, flags, model, read_rows, video_folder

import zoo
from cli import main
from lit_modules.metric_table import metric_table


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one epoch."""
    out = tmp_path_factory.mktemp("output") / "run"
    assert main(fit_arguments(motion_folder, out, epochs=1)) == 0
    return out


def test_progress_bar_of_a_terminal_counts_epochs_from_one(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich draws as in a terminal
    progress_bar = flags("trainer", enable_progress_bar=True)
    assert main(fit_arguments(motion_folder, tmp_path, *progress_bar, epochs=3)) == 0
    printed = capsys.readouterr().out
    assert "Epoch 3/3" in printed
    assert "Epoch 2/2" not in printed and "Epoch 0" not in printed
    assert "Epoch 3/3:" not in printed


def test_fit_prints_a_line_per_epoch_without_a_terminal(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = flags("trainer", enable_progress_bar=True, check_val_every_n_epoch=2)
    assert main(fit_arguments(motion_folder, tmp_path, *options, network="c2d_r18")) == 0
    printed = capsys.readouterr().out
    rows = read_rows(tmp_path / "metrics.csv")
    losses = [float(row["train_loss_epoch"]) for row in rows if row["train_loss_epoch"]]
    (validated,) = [row for row in rows if row["val_loss"]]
    loss, top1 = (float(validated[name]) for name in ("val_loss", "val_top1"))
    validation = f"; validation loss {loss:.4f}, top-1 {100 * top1:.2f} %"
    lines = [line.rpartition("; ") for line in printed.splitlines() if line.startswith("Epoch ")]
    assert [line[0] for line in lines] == [
        f"Epoch {number}/2: train loss {loss:.4f}{validation if number == 2 else ''}"
        for number, loss in enumerate(losses, start=1)
    ]
    assert all(duration.endswith(" s") for *_, duration in lines)
    assert "it/s" not in printed  # the progress bar


def test_progress_bar_of_the_user_replaces_the_default(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    progress_bar = [*flags("trainer", enable_progress_bar=True), *callback("TQDMProgressBar")]
    assert main(fit_arguments(motion_folder, tmp_path, *progress_bar, epochs=1)) == 0
    assert "Epoch 1/1" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "{total}, {total} trained"),
        ({"freeze_backbone": True}, "{total}, {head} trained (the classifier)"),
        ({"train": "head"}, "{total}, {head} trained (the classifier)"),
        ({"head_warmup_epochs": 2}, "{total}, {head} trained (the classifier), all of them from epoch 3 on"),
        ({"batch_norm": "frozen"}, "{total}, {total} trained; trained batch norms keep their statistics"),
    ],
)
def test_fit_prints_the_number_of_trained_parameters(
    options: dict[str, object], message: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainer = flags("trainer", max_epochs=1, limit_train_batches=1, enable_progress_bar=False)
    network_options = model("VideoClassifier", "c2d_r18", pretrained=False, **options)
    assert main(["fit", *network_options, *video_folder(motion_folder), *trainer, "--out", str(tmp_path)]) == 0
    network = zoo.create("c2d_r18", width=8, num_classes=4, num_frames=4)
    total = f"{sum(p.numel() for p in network.parameters()) / 1000:.3g} k"
    head = str(sum(p.numel() for name, p in network.named_parameters() if name.startswith("fc.")))
    printed = capsys.readouterr().out
    assert f"Parameters: {message.format(total=total, head=head)}\n" in printed
    assert "FLOPs" not in printed


def test_fit_without_model_summary_does_not_print_parameters(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(fit_arguments(motion_folder, tmp_path, epochs=1)) == 0  # includes enable_model_summary=False
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


def test_metric_table_names_the_classifier_of_each_row() -> None:
    metrics = {"verb_top1": 0.5, "noun_top5": 0.25, "action_top1": 0.125, "top1": 0.125}
    scores = {str(number): (torch.tensor([number % 3, number]), torch.zeros(12)) for number in range(8)}
    table = metric_table(metrics, scores, {"verb": 3, "noun": 9}, 12)
    names, values = (list(column.cells) for column in table.columns[:2])
    assert names == ["action top-1", "verb top-1", "noun top-5"]
    assert values == ["12.50 %", "50.00 %", "25.00 %"]
