"""metrics.csv holds the whole history of a run, however often it is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_resume import fit
from test_runs_again import rows_of

from cli import main
from lit_modules.run_metrics import MetricsLogger


def epochs(out: Path) -> list[str]:
    return [row["epoch"] for row in rows_of(out / "metrics.csv") if row["val_top1"]]


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, resumed for a third, resumed again with nothing left to do."""
    out = tmp_path_factory.mktemp("metrics") / "run"
    resume = ["--ckpt_path", str(out / "checkpoints" / "last.ckpt")]
    assert main(fit(motion_folder, out)) == 0
    assert main([*fit(motion_folder, out, epochs=3), *resume]) == 0
    assert main([*fit(motion_folder, out, epochs=3), *resume]) == 0
    return out


def test_a_resumed_run_appends(run: Path) -> None:
    assert epochs(run) == ["0", "1", "2"]
    assert [file.name for file in run.glob("*metrics*")] == ["metrics.csv"]


def test_a_run_resumed_from_an_earlier_checkpoint_replaces_the_later_lines(motion_folder: Path, tmp_path: Path) -> None:
    assert main(fit(motion_folder, tmp_path, epochs=1)) == 0
    first = tmp_path / "first.ckpt"
    (tmp_path / "checkpoints" / "last.ckpt").rename(first)
    for _ in range(2):
        assert main([*fit(motion_folder, tmp_path), "--ckpt_path", str(first)]) == 0
        assert epochs(tmp_path) == ["0", "1"]


def test_new_columns_join_the_file(tmp_path: Path) -> None:
    for number, metrics in enumerate(({"loss": 1.0}, {"loss": 2.0, "accuracy": 0.5}, {"loss": 3.0})):
        logger = MetricsLogger(tmp_path)
        logger.resume_at(number)
        logger.log_metrics(metrics, number)
        logger.save()
    rows = rows_of(tmp_path / "metrics.csv")
    assert [(row["step"], row["loss"], row["accuracy"]) for row in rows] == [
        ("0", "1.0", ""), ("1", "2.0", "0.5"), ("2", "3.0", ""),
    ]  # fmt: skip


def test_a_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss,step\n0,1.5,3\n1,1.")
    (tmp_path / ".metrics.csv.0123456789ab.csv").write_text("epoch,lo")  # of a process that was killed
    logger = MetricsLogger(tmp_path)
    logger.resume_at(8)
    logger.log_metrics({"epoch": 2, "loss": 1.0}, 8)
    logger.save()
    assert [row["step"] for row in rows_of(tmp_path / "metrics.csv")] == ["3", "8"]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,old,step\n0,1.5,3\n")
    logger = MetricsLogger(tmp_path)
    logger.resume_at(0)
    logger.log_metrics({"epoch": 0}, 0)
    logger.save()
    assert rows_of(tmp_path / "metrics.csv") == [{"epoch": "0", "step": "0"}]
