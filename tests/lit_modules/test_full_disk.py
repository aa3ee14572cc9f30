"""A disk that fills up during a run: a one-line error with the command that resumes it, and no partial files."""

from __future__ import annotations

import errno
import json
import os
import resource
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ON_CPU, QUIET, callback, fit_arguments, last_weights, read_rows, video_folder
from two_processes import two_processes

from cli import main
from lit_modules.checkpoints import AtomicCheckpointIO
from lit_modules.run_metrics import MetricsLogger

DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Function that limits the size of files: writing beyond it fails, as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_checkpoint_on_a_full_disk_keeps_the_previous_file(file_limit: Callable[[int], None], tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(1000)}, path)
    file_limit(100_000)
    with pytest.raises(OSError, match="File too large") as error:
        AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(1_000_000)}, path)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(path))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(torch.load(path)["weights"], torch.zeros(1000))


def test_fit_on_a_full_disk_prints_the_command_that_resumes_it(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    original_save = torch.save

    def save_until_step_4(content: dict[str, Any], file: Any) -> None:
        if content["global_step"] > 4:
            file.write(b"some bytes")
            raise DISK_FULL
        original_save(content, file)

    monkeypatch.setattr(torch, "save", save_until_step_4)
    assert main(fit_arguments(motion_folder, out)) == 1
    error = capsys.readouterr().err.replace("Seed set to 0\n", "")
    path = out / "checkpoints" / "step.ckpt"
    assert error.startswith(
        f"tempozoo: No space is left to write {path}. Free some space, then resume the run: tempozoo fit"
    )
    assert error.count("\n") == 1
    assert {file.name for file in path.parent.iterdir()} == {"best.ckpt", "last.ckpt", "step.ckpt"}
    assert last_weights(out)

    monkeypatch.setattr(torch, "save", original_save)
    assert main(shlex.split(error.rpartition("tempozoo ")[2])) == 0


def test_all_processes_end_if_one_cannot_write_a_checkpoint(motion_folder: Path, tmp_path: Path) -> None:
    completed = two_processes(fit_arguments(motion_folder, tmp_path, *callback("signals.FullDisk"), batch_size=4))
    assert completed.returncode != 0
    assert completed.stderr.count("tempozoo: No space is left to write") == 2  # one per process
    assert "RuntimeError" not in completed.stderr


def test_metrics_on_a_full_disk_keep_complete_lines(file_limit: Callable[[int], None], tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    before = (tmp_path / "metrics.csv").read_bytes()
    file_limit(len(before) + 4)
    for metrics in ({"loss": 2.0}, {"loss": 3.0, "another": 4.0}):  # a new line; a new column
        logger.log_metrics(metrics, 1)
        with pytest.raises(OSError, match="File too large"):
            logger.save()
        assert (tmp_path / "metrics.csv").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]
    file_limit(resource.RLIM_INFINITY)
    logger.save()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == ["0", "1", "1"]


@pytest.fixture(scope="module")
def best(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Best checkpoint of a run of one epoch."""
    out = tmp_path_factory.mktemp("full") / "run"
    assert main(fit_arguments(motion_folder, out, epochs=1)) == 0
    return out / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize("name", ["test.json", "confusion.csv", "confusion.png", "predictions.csv"])
def test_report_on_a_full_disk_fails_in_one_line(
    name: str, best: Path, motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    out = tmp_path / "test"
    original_replace = Path.replace

    def replace_or_fail(path: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original_replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_or_fail)
    arguments = ["test", "--from", str(best), *video_folder(motion_folder), *QUIET, *ON_CPU]
    assert main([*arguments, "--out", str(out)]) == 1
    error = capsys.readouterr().err.replace("Seed set to 0\n", "")
    assert error.startswith("tempozoo: No space is left to write ")
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob(".*"))
    if name != "test.json":
        assert json.loads((out / "test.json").read_text())["videos"] == 12
