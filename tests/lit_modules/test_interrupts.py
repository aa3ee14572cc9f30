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
from test_resume import QUIET, assert_epochs_whole, fit, last_metrics, tensors, whole  # noqa: F401
from two_processes import ENVIRONMENT
from watch import Watch

import cli
from cli import main

INTERRUPTED, TERMINATED = 130, 143


def send(hook: str, epoch: int, batch: int, *, name: str = "SIGINT", times: int = 1) -> list[str]:
    """Options of a callback that signals its own process."""
    options = {"hook": hook, "epoch": epoch, "batch": batch, "name": name, "times": times}
    return ["--trainer.callbacks+", "signals.Signal", *(f"--trainer.callbacks.{key}={options[key]}" for key in options)]


@pytest.mark.parametrize(
    ("hook", "epoch", "batch", "steps"),
    [
        ("on_train_batch_start", 0, 1, 2),
        ("on_train_batch_end", 0, 2, 3),
        ("on_train_batch_end", 0, 3, 4),  # the last of an epoch
        ("on_validation_batch_end", 0, 0, 4),
        ("on_train_epoch_end", 0, 0, 4),
        ("on_train_batch_start", 1, 2, 7),
    ],
)
def test_an_interrupted_run_is_resumed_exactly(
    hook: str, epoch: int, batch: int, steps: int, whole: Path, motion_folder: Path, tmp_path: Path,  # noqa: F811
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(fit(motion_folder, first, 8, *send(hook, epoch, batch))) == INTERRUPTED
    last = first / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == steps
    error = capsys.readouterr().err
    assert f"tempozoo: interrupted; the run is saved in {last}. To resume it: " in error
    assert "Traceback" not in error
    assert main([*fit(motion_folder, second), "--ckpt_path", str(last)]) == 0
    assert_epochs_whole([first, second], motion_folder, steps)
    expected, actual = (tensors(run / "checkpoints" / "last.ckpt") for run in (whole, second))
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    assert last_metrics(second) == last_metrics(whole)


def test_the_printed_command_resumes_the_run(
    whole: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture  # noqa: F811
) -> None:  # fmt: skip
    out = tmp_path / "a run"
    assert main(fit(motion_folder, out, 8, *send("on_train_batch_end", 0, 1, name="SIGTERM"))) == TERMINATED
    command = capsys.readouterr().err.rpartition("To resume it: tempozoo ")[2]
    assert main(shlex.split(command)) == 0
    expected, actual = (tensors(run / "checkpoints" / "last.ckpt") for run in (whole, out))
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    rows = (out / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [["0", "3"], ["0", "3"], ["1", "7"], ["1", "7"]]


def test_an_average_is_saved_whole_within_a_validation(motion_folder: Path, tmp_path: Path) -> None:
    average = ["--model.ema_decay", "0.9"]
    runs = [tmp_path / name for name in ("whole", "first", "second")]
    assert main([*fit(motion_folder, runs[0]), *average]) == 0
    stop = send("on_validation_batch_end", 0, 0)
    assert main([*fit(motion_folder, runs[1], 8, *stop), *average]) == INTERRUPTED
    last = runs[1] / "checkpoints" / "last.ckpt"
    assert main([*fit(motion_folder, runs[2]), *average, "--ckpt_path", str(last)]) == 0
    contents = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (runs[0], runs[2])]
    for part in ("state_dict", "current_model_state"):
        expected, actual = (content[part] for content in contents)
        assert all(torch.equal(actual[key], expected[key]) for key in expected)
    assert last_metrics(runs[2]) == last_metrics(runs[0])


def test_accumulated_gradients_are_completed_first(motion_folder: Path, tmp_path: Path) -> None:
    accumulate = ["--trainer.accumulate_grad_batches", "2"]
    arguments = [*fit(motion_folder, tmp_path, 4, *send("on_train_batch_end", 0, 2)), *accumulate]
    assert main(arguments) == INTERRUPTED
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert (content["global_step"], content["VideoFolder"]["train"]["batches"]) == (2, 4)


def test_a_second_signal_stops_at_once(motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stop = send("on_train_batch_start", 1, 1, times=2)
    assert main(fit(motion_folder, tmp_path, 8, *stop)) == INTERRUPTED
    assert len(Watch(str(tmp_path)).seen()) == 5
    error = capsys.readouterr().err
    assert "interrupted; the last steps were not saved, the last checkpoint is" in error
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_run_interrupted_before_it_began_says_so(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, status, word in (("SIGINT", INTERRUPTED, "interrupted"), ("SIGTERM", TERMINATED, "terminated")):
        out = tmp_path / name
        arguments = fit(motion_folder, out, 8, *send("setup", 0, 0, name=name))
        assert main(arguments) == status
        assert capsys.readouterr().err.endswith(f"tempozoo: {word} before anything was saved.\n")
        assert not (out / "checkpoints").exists()


def test_a_test_ends_at_once(
    whole: Path,  # noqa: F811
    motion_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    best = str(whole / "checkpoints" / "best.ckpt")
    data = ["--data", "VideoFolder", "--data.root", str(motion_folder), "--data.num_workers", "0", *QUIET[:6]]
    for name, status, word in (("SIGINT", INTERRUPTED, "interrupted"), ("SIGTERM", TERMINATED, "terminated")):
        stop = send("on_test_batch_start", 0, 0, name=name)
        assert main(["test", "--from", best, *data, *stop, "--out", str(tmp_path / "test")]) == status
        assert capsys.readouterr().err.splitlines()[-1] == f"tempozoo: {word}."
        assert not (tmp_path / "test").exists()


@pytest.mark.parametrize(("module", "is_download"), [("zoo.weights.download", True), ("elsewhere", False)])
def test_only_a_download_is_called_one(
    module: str, is_download: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    namespace: dict[str, Any] = {"__name__": module}
    exec("def stop(arguments):\n    raise KeyboardInterrupt", namespace)
    monkeypatch.setitem(cli.COMMANDS, "list", cli.Command(namespace["stop"], {}))
    assert main(["list"]) == INTERRUPTED
    error = capsys.readouterr().err
    assert error.startswith("tempozoo: interrupted.")
    assert ("The download resumes" in error) is is_download


def started(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    """A command in a process group of its own, whose training has begun."""
    command = [sys.executable, "-m", "cli", *arguments]
    process = subprocess.Popen(
        command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, cwd=ROOT,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (out / "seen-0.jsonl").is_file():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_a_signal_to_all_processes_of_a_run_saves_it(
    signum: int, status: int, motion_folder: Path, tmp_path: Path
) -> None:
    arguments = [*fit(motion_folder, tmp_path, epochs=50), "--data.num_workers", "2"]
    process = started(arguments, tmp_path)
    os.killpg(process.pid, signum)
    output, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    assert "Traceback" not in output + error
    assert "the run is saved in" in error
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 1


def test_two_processes_stop_together(motion_folder: Path, tmp_path: Path) -> None:
    """Lightning starts the second process. Only the first receives the signal."""
    arguments = [*fit(motion_folder, tmp_path, 4, epochs=50), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    process = started(arguments, tmp_path)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate(timeout=120)
    assert process.returncode == TERMINATED, error
    assert error.count("the run is saved in") == 1
    assert "Traceback" not in output + error
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] >= 1
