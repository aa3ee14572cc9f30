"""Ctrl-C and SIGTERM: a training saves its state and is resumed exactly; other commands end at once."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from runs import (
    ON_CPU,
    QUIET,
    assert_each_video_once_per_epoch,
    assert_same_last_weights,
    callback,
    fit_arguments,
    flags,
    last_metrics,
    read_checkpoint,
    read_rows,
    resume,
    video_folder,
)
from two_processes import ENVIRONMENT
from watch import Watch

import cli
from cli import main

INTERRUPTED, TERMINATED = 130, 143  # exit status
SIGNALS = [("SIGINT", INTERRUPTED, "interrupted"), ("SIGTERM", TERMINATED, "terminated")]


def send_signal(hook: str, epoch: int = 0, batch: int = 0, *, name: str = "SIGINT", times: int = 1) -> list[str]:
    """Return the arguments of a callback that sends a signal to its own process."""
    return callback("signals.Signal", hook=hook, epoch=epoch, batch=batch, name=name, times=times)


@pytest.mark.parametrize(
    ("hook", "epoch", "batch", "saved_steps"),
    [
        ("on_train_batch_start", 0, 1, 2),
        ("on_train_batch_end", 0, 2, 3),
        ("on_train_batch_end", 0, 3, 4),  # the last of an epoch
        ("on_validation_batch_end", 0, 0, 4),
        ("on_train_epoch_end", 0, 0, 4),
        ("on_train_batch_start", 1, 2, 7),
    ],
)
def test_interrupted_run_is_resumed_exactly(
    hook: str, epoch: int, batch: int, saved_steps: int, uninterrupted_run: Path, motion_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(fit_arguments(motion_folder, first, *send_signal(hook, epoch, batch))) == INTERRUPTED
    last = first / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["global_step"] == saved_steps
    error = capsys.readouterr().err
    assert f"tempozoo: interrupted; the run is saved in {last}. To resume it: " in error
    assert "Traceback" not in error

    assert main(fit_arguments(motion_folder, second, *resume(last))) == 0
    assert_each_video_once_per_epoch(first, second, motion_folder, saved_steps=saved_steps)
    assert_same_last_weights(second, uninterrupted_run)
    assert last_metrics(second) == last_metrics(uninterrupted_run)


def test_printed_command_resumes_the_run(
    uninterrupted_run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "a run"
    stop = send_signal("on_train_batch_end", epoch=0, batch=1, name="SIGTERM")
    assert main(fit_arguments(motion_folder, out, *stop)) == TERMINATED
    command = capsys.readouterr().err.rpartition("To resume it: tempozoo ")[2]
    assert main(shlex.split(command)) == 0
    assert_same_last_weights(out, uninterrupted_run)
    steps, expected = (
        [(row["epoch"], row["step"]) for row in read_rows(run / "metrics.csv")] for run in (out, uninterrupted_run)
    )
    assert steps == expected
    assert [step for _, step in steps] == 4 * ["3"] + 4 * ["7"]  # rate, loss of a step, validation, epoch


def test_averaged_weights_survive_an_interrupt_during_validation(motion_folder: Path, tmp_path: Path) -> None:
    """Validation replaces the current weights by their average; the checkpoint must contain both."""
    average = flags("model", ema_decay=0.9)
    uninterrupted, first, second = tmp_path / "uninterrupted", tmp_path / "first", tmp_path / "second"
    assert main(fit_arguments(motion_folder, uninterrupted, *average)) == 0
    stop = send_signal("on_validation_batch_end")
    assert main(fit_arguments(motion_folder, first, *stop, *average)) == INTERRUPTED
    last = first / "checkpoints" / "last.ckpt"
    assert main(fit_arguments(motion_folder, second, *average, *resume(last))) == 0

    content, expected_content = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (second, uninterrupted))
    for part in ("state_dict", "current_model_state"):
        for key, expected in expected_content[part].items():
            assert torch.equal(content[part][key], expected), key
    assert last_metrics(second) == last_metrics(uninterrupted)


def test_interrupt_between_accumulated_batches_completes_the_step(motion_folder: Path, tmp_path: Path) -> None:
    stop = send_signal("on_train_batch_end", epoch=0, batch=2)
    accumulate = flags("trainer", accumulate_grad_batches=2)
    assert main(fit_arguments(motion_folder, tmp_path, *stop, *accumulate, batch_size=4)) == INTERRUPTED
    content = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert (content["global_step"], content["VideoFolder"]["train"]["batches"]) == (2, 4)


def test_second_signal_stops_without_saving(motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stop = send_signal("on_train_batch_start", epoch=1, batch=1, times=2)
    assert main(fit_arguments(motion_folder, tmp_path, *stop)) == INTERRUPTED
    assert len(Watch(str(tmp_path)).seen()) == 5
    error = capsys.readouterr().err
    assert "interrupted; the last steps were not saved, the last checkpoint is" in error
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4


@pytest.mark.parametrize(("name", "status", "verb"), SIGNALS)
def test_run_interrupted_before_the_first_step_reports_that_nothing_is_saved(
    name: str, status: int, verb: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(fit_arguments(motion_folder, tmp_path, *send_signal("setup", name=name))) == status
    assert capsys.readouterr().err.endswith(f"tempozoo: {verb} before anything was saved.\n")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("name", "status", "verb"), SIGNALS)
def test_interrupted_test_ends_without_a_report(
    name: str,
    status: int,
    verb: str,
    uninterrupted_run: Path,
    motion_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    best = str(uninterrupted_run / "checkpoints" / "best.ckpt")
    arguments = ["test", "--from", best, *video_folder(motion_folder), *QUIET, *ON_CPU]
    stop = send_signal("on_test_batch_start", name=name)
    assert main([*arguments, *stop, "--out", str(tmp_path / "test")]) == status
    assert capsys.readouterr().err.splitlines()[-1] == f"tempozoo: {verb}."
    assert not (tmp_path / "test").exists()


@pytest.mark.parametrize(("module", "is_download"), [("zoo.weights.download", True), ("elsewhere", False)])
def test_interrupt_message_mentions_a_download_only_during_one(
    module: str, is_download: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    namespace: dict[str, Any] = {"__name__": module}
    exec("def interrupt(arguments):\n    raise KeyboardInterrupt", namespace)
    monkeypatch.setitem(cli.COMMANDS, "list", cli.Command(namespace["interrupt"], {}))
    assert main(["list"]) == INTERRUPTED
    error = capsys.readouterr().err
    assert error.startswith("tempozoo: interrupted.")
    assert ("The download resumes" in error) is is_download


def start(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, and wait until its training has begun."""
    command = [sys.executable, "-m", "cli", *arguments]
    process = subprocess.Popen(
        command,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 120
    while not (out / "seen-0.jsonl").is_file():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_signal_to_the_process_group_saves_the_run(
    signum: int, status: int, motion_folder: Path, tmp_path: Path
) -> None:
    """A terminal sends Ctrl-C to the workers of the data loader as well."""
    arguments = fit_arguments(motion_folder, tmp_path, *flags("data", num_workers=2), epochs=50)
    process = start(arguments, tmp_path)
    os.killpg(process.pid, signum)
    output, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    assert "Traceback" not in output + error
    assert "the run is saved in" in error
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] >= 1


def test_two_processes_stop_together(motion_folder: Path, tmp_path: Path) -> None:
    """Lightning starts the second process. Only the first receives the signal."""
    devices = flags("trainer", devices=2, strategy="ddp")
    process = start(fit_arguments(motion_folder, tmp_path, *devices, batch_size=4, epochs=50), tmp_path)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate(timeout=120)
    assert process.returncode == TERMINATED, error
    assert error.count("the run is saved in") == 1
    assert "Traceback" not in output + error
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] >= 1
