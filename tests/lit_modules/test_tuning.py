"""``--find_lr`` and ``--find_batch_size``: what they find, and what the run uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import assert_same_last_weights, fit_arguments, flags, read_checkpoint, resume

from cli import main
from lit_modules import VideoClassifier, tuning
from lit_modules.tuning import RangeTest, find_batch_size
from zoo.errors import ConfigError


def short_range_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "STEPS", 8)
    monkeypatch.setattr(tuning, "SKIPPED", 2)


def test_suggestion_is_the_rate_with_the_steepest_fall() -> None:
    test = RangeTest(0.01)
    test.rates = [10 ** (-5 + 0.1 * step) for step in range(40)]
    test.losses = [2.0] * 20 + [2.0 - 0.05 * step for step in range(10)] + [1.0 - 0.3 * step for step in range(10)]
    assert test.rates[29] <= test.suggest() <= test.rates[39]


def test_loss_that_diverges_at_once_is_an_error() -> None:
    test = RangeTest(0.01)
    test.rates, test.losses = [1e-5], [2.0]
    with pytest.raises(ConfigError, match=r"--find_lr stopped after 1 steps.*Set a lower --model.optimizer.lr"):
        test.suggest()


def test_found_learning_rate_is_used_saved_and_resumed(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search changes nothing but the learning rate, and a resumed run does not repeat it."""
    short_range_test(monkeypatch)
    first, same = tmp_path / "first", tmp_path / "same"
    with pytest.raises(RuntimeError, match="stopped"):
        main(fit_arguments(motion_folder, first, "--find_lr", stop=(1, 2)))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "found by --find_lr" in line]
    lr = float(line.rpartition(" ")[2])
    checkpoint = first / "checkpoints" / "step.ckpt"
    options = read_checkpoint(checkpoint)["hyper_parameters"]["optimizer"]
    saved = yaml.safe_load((first / "config.yaml").read_text())["model"]["init_args"]["optimizer"]
    assert options["lr"] == saved["lr"] == lr

    def fail(*arguments: Any) -> float:
        raise AssertionError("a resumed run searches again")

    monkeypatch.setattr("lit_modules.trainer_cli.find_lr", fail)
    assert main(fit_arguments(motion_folder, first, "--find_lr", *resume(checkpoint))) == 0
    assert main(fit_arguments(motion_folder, same, *flags("model.optimizer", lr=lr))) == 0
    assert_same_last_weights(first, same)


def test_find_lr_cannot_resume_without_the_values_of_the_run(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(motion_folder, tmp_path / "run", "--find_lr", *resume(tmp_path / "x.ckpt"))
    assert main(arguments) == 1
    assert "--find_lr is for new runs" in capsys.readouterr().err


class Data:
    batch_size = 8


@pytest.mark.parametrize(
    ("fitting", "videos", "expected"), [(40, 10_000, 32), (3, 10_000, 2), (100, 300, 32), (8, 9, 8)]
)
def test_largest_batch_size_that_fits(
    fitting: int, videos: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes are doubled or halved until one fits; an epoch keeps at least eight steps."""

    def train_copy(module: Any, data: Any, options: Any, steps: int, callbacks: Any, size: int) -> int:
        if size > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return videos

    monkeypatch.setattr(tuning, "_train_copy", train_copy)
    assert find_batch_size(VideoClassifier.__new__(VideoClassifier), Data(), {}) == expected  # type: ignore[arg-type]


def test_batch_of_one_clip_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_copy(*arguments: Any) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(tuning, "_train_copy", train_copy)
    with pytest.raises(ConfigError, match="a batch of one clip does not fit"):
        find_batch_size(VideoClassifier.__new__(VideoClassifier), Data(), {})  # type: ignore[arg-type]


def test_find_batch_size_needs_a_gpu(motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fit_arguments(motion_folder, tmp_path / "run", "--find_batch_size")) == 1
    assert "--find_batch_size needs a CUDA GPU" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--find_lr",), ("--find_batch_size",), ("--early_stop", "3")])
def test_options_of_fit_are_refused_elsewhere(option: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *option]) == 1
    assert f"{option[0]} is for fit; test does not train." in capsys.readouterr().err
