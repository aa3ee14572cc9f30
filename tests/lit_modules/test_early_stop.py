"""``--early_stop``, and the estimate of time and memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import fit_arguments, flags, resume, validated_epochs

from cli import main
from lit_modules.console import describe_duration
from lit_modules.progress import RunEstimate, peak_memory

STUCK = flags("model.optimizer", lr=1e-12)  # the validation metrics never change


def test_run_stops_after_epochs_without_improvement(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(motion_folder, tmp_path / "run", *STUCK, "--early_stop", "2", epochs=8, watch=False)
    assert main(arguments) == 0
    assert validated_epochs(tmp_path / "run") == ["0", "1", "2"]
    printed = capsys.readouterr().out
    assert "Stopped early: val_mean_class has not improved for 2 epochs (--early_stop)." in printed


def test_resumed_run_keeps_the_count(motion_folder: Path, tmp_path: Path) -> None:
    """A run that has stopped early does not continue."""
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    options = [*STUCK, "--early_stop", "2"]
    with pytest.raises(RuntimeError, match="stopped"):
        main(fit_arguments(motion_folder, first, *options, epochs=8, stop=(2, 3)))
    assert "patience: 2" in (first / "config.yaml").read_text()
    last = resume(first / "checkpoints" / "last.ckpt")
    assert main(fit_arguments(motion_folder, second, *options, *last, epochs=8, watch=False)) == 0
    assert validated_epochs(second) == ["2"]

    last = resume(second / "checkpoints" / "last.ckpt")
    assert main(fit_arguments(motion_folder, third, *options, *last, epochs=8, watch=False)) == 0
    assert not (third / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("value", ["0", "many"])
def test_early_stop_needs_a_number_of_epochs(
    value: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit_arguments(motion_folder, tmp_path / "run", "--early_stop", value)) == 1
    assert f"--early_stop is {value}; give the number of epochs" in capsys.readouterr().err


def test_early_stop_without_validation_is_refused(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--early_stop", "2", *flags("trainer", limit_val_batches=0)]
    assert main(fit_arguments(motion_folder, tmp_path / "run", *options, watch=False)) == 1
    assert "monitors 'val_mean_class', which fit does not log" in capsys.readouterr().err


# estimate --------------------------------------------------------------------------------------------------------


def test_estimate_of_a_run_of_few_steps_is_printed_once(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit_arguments(motion_folder, tmp_path / "run", watch=False)) == 0  # eight steps
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Estimate: about ")]
    assert len(lines) == 1
    assert " for 2 epochs, " in lines[0]
    assert lines[0].endswith(" GB")


def test_estimate_counts_steps_and_validation() -> None:
    estimate = RunEstimate()
    estimate._batches = 20
    trainer: Any = SimpleNamespace(
        estimated_stepping_batches=100, global_step=20, accumulate_grad_batches=1, num_training_batches=50,
        check_val_every_n_epoch=1, num_val_batches=[10], current_epoch=0,
    )  # fmt: skip
    assert estimate._remaining(trainer) == 100 + 0.5 * 2 * 10
    assert estimate._length(trainer) == "2 epochs"


@pytest.mark.parametrize(("steps", "last"), [(1000, 20), (60, 20), (15, 5), (3, 2)])
def test_estimate_of_a_short_run_measures_its_first_third(steps: int, last: int) -> None:
    trainer: Any = SimpleNamespace(estimated_stepping_batches=steps, global_step=0, accumulate_grad_batches=1)
    assert RunEstimate()._last_measured(trainer) == last


def test_durations_and_memory_have_units() -> None:
    assert [describe_duration(seconds) for seconds in (42, 1440, 9000)] == ["42 s", "24 min", "2.5 h"]
    memory = peak_memory(torch.device("cpu"))
    assert memory is None or 1e7 < memory < 1e13
