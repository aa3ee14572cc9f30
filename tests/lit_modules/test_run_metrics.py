"""metrics.csv contains the complete history of a run that was resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import fit_arguments, read_rows, resume, validated_epochs

from cli import main
from lit_modules.run_metrics import MetricsLogger


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, resumed for a third, resumed again with nothing left to do."""
    out = tmp_path_factory.mktemp("metrics") / "run"
    last = out / "checkpoints" / "last.ckpt"
    assert main(fit_arguments(motion_folder, out)) == 0
    assert main(fit_arguments(motion_folder, out, *resume(last), epochs=3)) == 0
    assert main(fit_arguments(motion_folder, out, *resume(last), epochs=3)) == 0
    return out


def test_resumed_run_appends_to_its_metrics(run: Path) -> None:
    assert validated_epochs(run) == ["0", "1", "2"]
    assert [file.name for file in run.glob("*metrics*")] == ["metrics.csv"]


def test_resume_from_an_earlier_checkpoint_replaces_later_lines(motion_folder: Path, tmp_path: Path) -> None:
    assert main(fit_arguments(motion_folder, tmp_path, epochs=1)) == 0
    first = tmp_path / "first.ckpt"
    (tmp_path / "checkpoints" / "last.ckpt").rename(first)
    for _ in range(2):
        assert main(fit_arguments(motion_folder, tmp_path, *resume(first))) == 0
        assert validated_epochs(tmp_path) == ["0", "1"]


def test_learning_rate_is_logged_in_every_epoch_of_few_steps(run: Path) -> None:
    rows = read_rows(run / "metrics.csv")
    rates = {row["epoch"] or row["step"] for row in rows if any(row[key] for key in row if key.startswith("lr-"))}
    assert len(rates) == 3  # an epoch has four steps, fewer than the logging interval


def test_new_metrics_become_columns(tmp_path: Path) -> None:
    for step, metrics in enumerate(({"loss": 1.0}, {"loss": 2.0, "accuracy": 0.5}, {"loss": 3.0})):
        logger = MetricsLogger(tmp_path)
        logger.resume_at(step)
        logger.log_metrics(metrics, step)
        logger.save()
    rows = read_rows(tmp_path / "metrics.csv")
    assert [(row["step"], row["loss"], row["accuracy"]) for row in rows] == [
        ("0", "1.0", ""), ("1", "2.0", "0.5"), ("2", "3.0", ""),
    ]  # fmt: skip


def test_incomplete_last_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss,step\n0,1.5,3\n1,1.")
    (tmp_path / ".metrics.csv.0123456789ab.csv").write_text("epoch,lo")  # temporary file of a killed process
    logger = MetricsLogger(tmp_path)
    logger.resume_at(8)
    logger.log_metrics({"epoch": 2, "loss": 1.0}, 8)
    logger.save()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == ["3", "8"]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_new_run_starts_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,old,step\n0,1.5,3\n")
    logger = MetricsLogger(tmp_path)
    logger.resume_at(0)
    logger.log_metrics({"epoch": 0}, 0)
    logger.save()
    assert read_rows(tmp_path / "metrics.csv") == [{"epoch": "0", "step": "0"}]
