"""A disk that fills up during a run: one line that says how to resume, and no partial files."""

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
from test_resume import QUIET, fit, tensors
from test_runs_again import rows_of
from two_processes import two_processes

from cli import main
from lit_modules.checkpoints import AtomicCheckpointIO
from lit_modules.run_metrics import MetricsLogger

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Sets the largest size of a file, which the kernel enforces as it does a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_without_room_leaves_the_old_one(file_limit: Callable[[int], None], tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(1000)}, path)
    file_limit(100_000)
    with pytest.raises(OSError, match="File too large") as caught:
        AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(1_000_000)}, path)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(torch.load(path)["weights"], torch.zeros(1000))


def test_a_training_without_room_says_how_to_resume_it(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"
    write = torch.save

    def save(content: dict[str, Any], file: Any) -> None:
        if content["global_step"] > 4:
            file.write(b"some bytes")
            raise FULL
        write(content, file)

    monkeypatch.setattr(torch, "save", save)
    assert main(fit(motion_folder, out)) == 1
    error = capsys.readouterr().err.replace("Seed set to 0\n", "")
    path = out / "checkpoints" / "step.ckpt"
    assert error.startswith(
        f"tempozoo: No space is left to write {path}. Free some space, then resume the run: tempozoo fit"
    )
    assert error.count("\n") == 1
    assert {file.name for file in last.parent.iterdir()} == {"best.ckpt", "last.ckpt", "step.ckpt"}
    assert tensors(last)
    monkeypatch.setattr(torch, "save", write)
    assert main(shlex.split(error.rpartition("tempozoo ")[2])) == 0


def test_processes_end_together_if_a_checkpoint_has_no_room(motion_folder: Path, tmp_path: Path) -> None:
    arguments = fit(motion_folder, tmp_path, 4, "--trainer.callbacks+", "signals.FullDisk")
    done = two_processes(arguments)
    assert done.returncode != 0
    assert done.stderr.count("tempozoo: No space is left to write") == 2  # each of the two
    assert "RuntimeError" not in done.stderr


def test_metrics_without_room_keep_whole_lines(file_limit: Callable[[int], None], tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    before = (tmp_path / "metrics.csv").read_bytes()
    file_limit(len(before) + 4)
    for more in ({"loss": 2.0}, {"loss": 3.0, "another": 4.0}):  # another line; another column
        logger.log_metrics(more, 1)
        with pytest.raises(OSError, match="File too large"):
            logger.save()
        assert (tmp_path / "metrics.csv").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]
    file_limit(resource.RLIM_INFINITY)
    logger.save()
    assert [row["step"] for row in rows_of(tmp_path / "metrics.csv")] == ["0", "1", "1"]


@pytest.fixture(scope="module")
def best(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("full") / "run"
    assert main(fit(motion_folder, out, epochs=1)) == 0
    return out / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize("name", ["test.json", "confusion.csv", "confusion.png", "predictions.csv"])
def test_a_report_without_room_is_one_line(
    name: str, best: Path, motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    out, replace = tmp_path / "test", Path.replace

    def fill(path: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fill)
    data = ["--data", "VideoFolder", "--data.root", str(motion_folder), "--data.num_workers", "0", *QUIET[:6]]
    assert main(["test", "--from", str(best), *data, "--out", str(out)]) == 1
    error = capsys.readouterr().err.replace("Seed set to 0\n", "")
    assert error.startswith("tempozoo: No space is left to write ")
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob(".*"))
    if name != "test.json":
        assert json.loads((out / "test.json").read_text())["videos"] == 12
