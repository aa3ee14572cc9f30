"""Only one command at a time writes to a run folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import filelock
import pytest

from cli import main
from lit_modules import run_folder, run_lock
from lit_modules.run_folder import output_folder
from lit_modules.run_lock import locked_folder
from zoo.errors import ConfigError


def hold_lock(folder: Path, ready: Connection) -> None:
    """Hold the lock of a folder in this process, and start a child process."""
    os.setsid()
    with locked_folder(folder):
        if os.fork():
            ready.send(None)
        time.sleep(60)


@pytest.fixture
def lock_holder(tmp_path: Path) -> Iterator[int]:
    """ID of a process that holds the lock of ``tmp_path`` and has a child process."""
    context = multiprocessing.get_context("fork")
    ready, sender = context.Pipe(duplex=False)
    process = context.Process(target=hold_lock, args=(tmp_path, sender))
    process.start()
    assert process.pid
    ready.recv()
    yield process.pid
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_folder_in_use_is_refused(
    command: str, lock_holder: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = sorted(tmp_path.iterdir())
    arguments = ["--from", "tanet_r18.motionclips8", "--data", "VideoFolder", "--data.root", "absent"]
    assert main([command, *arguments, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path} is in use by process {lock_holder} on {socket.gethostname()}, started at 20" in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_killed_process_releases_the_lock_although_its_child_lives(lock_holder: int, tmp_path: Path) -> None:
    os.kill(lock_holder, signal.SIGKILL)  # not its child
    os.waitid(os.P_PID, lock_holder, os.WEXITED | os.WNOWAIT)
    start = time.monotonic()
    with locked_folder(tmp_path):
        assert time.monotonic() - start < 8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", run_lock.RANK_VARIABLES)
def test_only_the_first_process_of_a_run_locks_the_folder(
    variable: str, lock_holder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with output_folder("fit", str(tmp_path), []) as folder:
        assert folder == tmp_path
    monkeypatch.setenv(variable, "0")
    with pytest.raises(ConfigError, match="in use"), output_folder("fit", str(tmp_path), []):
        pass


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError("no flock")])
def test_file_system_without_locks_gives_a_warning(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: filelock.FileLock, timeout: float) -> None:
        raise error

    monkeypatch.setattr(run_lock.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="cannot be locked"), locked_folder(tmp_path):
        pass


def test_soft_file_lock_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "FileLock", filelock.SoftFileLock)  # the fallback of filelock
    with pytest.warns(UserWarning, match="cannot be locked"), locked_folder(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_commands_started_in_the_same_second_have_different_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(run_folder.datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls(2025, 1, 2)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "datetime", Clock)
    with output_folder("test", None, []) as first, output_folder("test", None, []) as second:
        assert (first.name, second.name) == ("test-20250102-000000", "test-20250102-000000-2")
    assert list(tmp_path.iterdir()) == []


def test_help_does_not_lock_the_folder(lock_holder: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["fit", "--out", str(tmp_path), "--help_all"]) == 0
    assert "--trainer.logger" in capsys.readouterr().out


def test_folder_without_write_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(lock: filelock.FileLock, timeout: float) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_lock.FileLock, "acquire", refuse)
    with pytest.raises(ConfigError, match="cannot be written to"), locked_folder(tmp_path):
        pass


def test_restarted_job_resumes_the_newest_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would resume its SLURM checkpoint even if another checkpoint is newer."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert run_folder.auto_resume_args(tmp_path, []) == []
    (tmp_path / "checkpoints").mkdir()
    last, slurm = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "hpc_ckpt_1.ckpt"
    for path, time_in_seconds in ((slurm, 100), (last, 200)):
        path.touch()
        os.utime(path, (time_in_seconds, time_in_seconds))
    assert run_folder.auto_resume_args(tmp_path, []) == ["--ckpt_path", str(last)]
    os.utime(slurm, (300, 300))
    assert run_folder.auto_resume_args(tmp_path, []) == ["--ckpt_path", str(slurm)]
    assert run_folder.auto_resume_args(tmp_path, ["--ckpt_path", "x"]) == []
