"""Losses and gradients that are not finite stop a run, or their steps are skipped; validation has finite metrics."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from runs import fit_arguments, last_weights, read_checkpoint, resume
from small_models import small
from torch.utils.data import DataLoader
from two_processes import two_processes

from cli import main
from lit_modules import VideoClassifier
from lit_modules.batch_statistics import FirstStatistics
from lit_modules.scores import compute_metrics, replace_nonfinite
from zoo.errors import ConfigError

BATCHES = 16


def batches(bad: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return batches of two clips; those with the numbers ``bad`` contain NaN."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for number in range(BATCHES):
        clips = torch.randn(2, 3, 4, 32, 32, generator=generator)
        if number in bad:
            clips[1, 0, 0, 0, 0] = math.nan
        paths = [f"clip{number}a.mp4", f"clip{number}b.mp4"]
        result.append({"video": clips, "label": torch.tensor([0, 1]), "path": paths})
    return result


def train(bad: tuple[int, ...], *, skip: bool, optimizer: str = "sgd", **trainer_options: Any) -> VideoClassifier:
    torch.manual_seed(0)
    options = {"width": 8, "num_classes": 2, "drop_rate": 0.0}
    settings = {"name": optimizer, "lr": 0.01, "lr_batch_size": None}
    module = VideoClassifier("tada2d_r18", options=options, num_frames=4, image_size=32, optimizer=settings)
    module.skip_nonfinite = skip
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **trainer_options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches(bad), batch_size=None))
    return module


def test_nonfinite_loss_stops_the_run_before_the_weights_change() -> None:
    with pytest.raises(ConfigError) as caught:
        train((2,), skip=False)
    message = str(caught.value)
    assert "The loss is nan in step 3 (epoch 1, learning rate" in message
    assert re.search(r"The last finite values are loss \d[\d.]* and gradient norm \d[\d.e+]* in step 2\.", message)
    assert "lower --model.optimizer.lr, clip gradients (--trainer.gradient_clip_val 1), or check" in message
    assert "clip2a.mp4, clip2b.mp4" in message
    assert "clip1a" not in message
    assert message.endswith("add --skip_nonfinite.")


def test_message_suggests_only_options_that_can_help() -> None:
    with pytest.raises(ConfigError) as caught:
        train((0,), skip=False, precision="bf16-mixed", gradient_clip_val=1.0)
    assert "No earlier step of this run had finite values." in str(caught.value)
    assert "lower --model.optimizer.lr, use --trainer.precision 32-true, or check" in str(caught.value)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_skipped_step_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights, optimizer state and batch statistics are those before the step."""
    states: list[dict[str, Any]] = []

    def record(module: VideoClassifier, *_: Any) -> None:
        tensors = {key: value.clone() for key, value in module.network.state_dict().items()}
        for number, state in enumerate(module.optimizers().state.values()):  # type: ignore[union-attr]
            tensors |= {f"{number} {key}": value.clone() for key, value in state.items() if torch.is_tensor(value)}
        states.append(tensors)

    monkeypatch.setattr(VideoClassifier, "on_train_batch_end", record)
    module = train((3, 8), skip=True, optimizer=name)
    assert len(states) == BATCHES
    for number in range(1, BATCHES):
        before, after = states[number - 1], states[number]
        same = [key for key in after if torch.equal(before[key], after[key])]
        if number in (3, 8):
            assert len(same) == len(after)
        else:
            assert len(same) < len(after) / 2
    assert all(value.isfinite().all() for value in module.network.state_dict().values())
    assert "The loss is nan in step 4 (epoch 1" in caplog.text
    assert "The step is skipped. Videos of the batch: clip3a.mp4, clip3b.mp4" in caplog.text
    assert "Skipped steps, whose loss or gradient was not finite: 2" in caplog.text
    assert math.isfinite(float(module.trainer.callback_metrics["train_loss_epoch"]))


def test_accumulated_batches_are_skipped_together(caplog: pytest.LogCaptureFixture) -> None:
    """Batches 4 and 5 are one step; only batch 5 is named."""
    module = train((5,), skip=True, accumulate_grad_batches=2)
    assert "in step 3 " in caplog.text and "clip5a.mp4" in caplog.text
    assert "clip4a.mp4" not in caplog.text
    assert all(value.isfinite().all() for value in module.network.state_dict().values())


def test_many_skipped_steps_in_a_row_stop_the_run() -> None:
    train(tuple(range(1, 11)), skip=True)
    with pytest.raises(ConfigError, match=r"in step 12 .* 10 steps in a row were skipped before it\. .* in step 1\."):
        train(tuple(range(1, 12)), skip=True)


def test_nonfinite_gradient_of_a_finite_loss_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(module: VideoClassifier) -> None:
        module.network.get_parameter("fc.bias").grad.fill_(math.inf)  # type: ignore[union-attr]

    monkeypatch.setattr(VideoClassifier, "on_after_backward", spoil)
    with pytest.raises(ConfigError, match="The gradient is not finite in step 1 .*; the loss is "):
        train((), skip=False)


# the command line ------------------------------------------------------------------------------------------------


def test_fit_reports_the_step_and_skips_on_request(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    original = VideoClassifier.forward

    def forward(module: VideoClassifier, clips: torch.Tensor) -> torch.Tensor:
        bad = module.training and module.trainer.global_step == 1
        return original(module, clips * math.nan if bad else clips)

    monkeypatch.setattr(VideoClassifier, "forward", forward)
    arguments = fit_arguments(motion_folder, tmp_path / "stopped", network="tada2d_r18", epochs=1, watch=False)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "tempozoo: The loss is nan in step 2 (epoch 1, learning rate" in error
    assert str(motion_folder / "train") in error

    caplog.set_level(logging.WARNING)
    out = tmp_path / "skipped"
    arguments = fit_arguments(motion_folder, out, "--skip_nonfinite", network="tada2d_r18", epochs=1, watch=False)
    assert main(arguments) == 0
    assert "Skipped steps, whose loss or gradient was not finite: 1" in caplog.text
    assert read_checkpoint(out / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert all(value.isfinite().all() for value in last_weights(out).values())


def test_resumed_run_skips_steps_without_the_option(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is resumed from its config.yaml, which contains the option."""
    original = VideoClassifier.forward

    def forward(module: VideoClassifier, clips: torch.Tensor) -> torch.Tensor:
        bad = module.training and module.trainer.global_step == 5
        return original(module, clips * math.nan if bad else clips)

    monkeypatch.setattr(VideoClassifier, "forward", forward)
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(fit_arguments(motion_folder, first, "--skip_nonfinite", epochs=1, watch=False)) == 0
    options = [*resume(first / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "2"]
    assert main(["fit", "--config", str(first / "config.yaml"), *options, "--out", str(second)]) == 0
    assert "Skipped steps, whose loss or gradient was not finite: 1" in caplog.text
    assert all(value.isfinite().all() for value in last_weights(second).values())


def test_skip_nonfinite_is_for_fit(capsys: pytest.CaptureFixture) -> None:
    assert main(["test", "--skip_nonfinite"]) == 1
    assert "--skip_nonfinite is for fit" in capsys.readouterr().err


# validation ------------------------------------------------------------------------------------------------------


def test_new_batch_norms_fit_the_data_after_the_first_batch() -> None:
    """With the initial statistics, TAdaConv squares too large activations in every block, until they overflow."""
    clips = 5 * torch.randn(8, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))

    def logits_after_one_batch(adjust: bool) -> torch.Tensor:
        torch.manual_seed(0)
        network = small("tada2d_r18")
        for name, parameter in network.named_parameters():
            if name.endswith(".routing.b.weight"):
                torch.nn.init.normal_(parameter)
        statistics = FirstStatistics(network)
        network.train()
        if adjust:
            statistics.start_batch()
        with torch.no_grad():
            network(clips)
            return network.eval()(clips)

    assert not logits_after_one_batch(adjust=False).abs().max() < 1e6
    assert logits_after_one_batch(adjust=True).abs().max() < 100


def test_first_batches_are_averaged_equally_in_new_norms_only() -> None:
    network = small("tada2d_r18")
    trained = {name for name in network.state_dict() if name.startswith("layer1.")}
    network.report = replace(network.report, untrained=tuple(set(network.state_dict()) - trained))
    statistics = FirstStatistics(network.train())
    means = []
    network.stem.bn.register_forward_hook(lambda norm, args, output: means.append(args[0].mean((0, 2, 3))))
    for number in range(12):
        statistics.start_batch()
        network(torch.randn(2, 3, 4, 32, 32))
        if number == 4:
            torch.testing.assert_close(network.stem.bn.running_mean, torch.stack(means).mean(0))
        assert network.layer1[0].conv1.bn.momentum == 0.1
    assert network.stem.bn.momentum == 0.1


def test_nonfinite_scores_count_as_guesses() -> None:
    label = torch.tensor(1)
    good, bad = torch.tensor([0.1, 0.7, 0.1, 0.1]), torch.tensor([math.nan, 0.5, 0.2, 0.3])
    scores, videos = replace_nonfinite({"good": (label, good), "bad": (label, bad)})
    assert videos == ["bad"]
    assert scores["good"][1] is good
    assert scores["bad"][1].tolist() == [0.25] * 4
    metrics = compute_metrics(scores)
    assert metrics["top1"] == 0.5
    assert metrics["loss"] == pytest.approx(-(math.log(0.7) + math.log(0.25)) / 2)


@pytest.mark.slow
def test_two_processes_skip_the_same_step(motion_folder: Path, tmp_path: Path) -> None:
    """Only one process has the bad batch."""
    extra = ["--skip_nonfinite", "--trainer.callbacks+", "nan_batch.NanBatch"]
    completed = two_processes(
        fit_arguments(motion_folder, tmp_path / "run", *extra, batch_size=4, epochs=1, watch=False)
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr.count("The step is skipped") == 1
    assert all(value.isfinite().all() for value in last_weights(tmp_path / "run").values())
