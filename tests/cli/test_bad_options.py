"""Invalid option values are reported in one line that names the option, before weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import ON_CPU, QUIET, flags, video_folder

from cli import main
from datamodules import VideoFolder
from lit_modules import VideoClassifier
from lit_modules.recipe_options import RULES
from lit_modules.trainer_options import check_trainer_options
from zoo.errors import ConfigError

MODEL_OPTIONS = [
    ("optimizer.lr", -1.0, "optimizer.lr is -1.0; it must be above 0"),
    ("optimizer.lr", 0.0, "optimizer.lr is 0.0; it must be above 0"),
    ("optimizer.lr", float("nan"), "optimizer.lr is nan; it must be above 0"),
    ("optimizer.lr", float("inf"), "optimizer.lr is inf; it must be above 0"),
    ("optimizer.lr", "0.1", "optimizer.lr is 0.1; it must be a number"),
    ("optimizer.lr_batch_size", 0, "optimizer.lr_batch_size is 0; it must be at least 1"),
    ("optimizer.momentum", 1.5, "optimizer.momentum is 1.5; it must be at least 0 and below 1"),
    ("optimizer.nesterov", True, "optimizer.nesterov is true, but optimizer.momentum is 0"),
    ("optimizer.head_lr_scale", -1.0, "optimizer.head_lr_scale is -1.0; it must be at least 0"),
    ("optimizer.operator_lr_scale", -1.0, "optimizer.operator_lr_scale is -1.0; it must be at least 0"),
    ("optimizer.bias_lr_scale", -1.0, "optimizer.bias_lr_scale is -1.0; it must be at least 0"),
    ("optimizer.new_bias_lr_scale", -1.0, "optimizer.new_bias_lr_scale is -1.0; it must be at least 0"),
    ("optimizer.layer_decay", 0.0, "optimizer.layer_decay is 0.0; it must be above 0 and at most 1"),
    ("optimizer.weight_decay", -1.0, "optimizer.weight_decay is -1.0; it must be at least 0"),
    ("schedule.milestones", [0.9, 0.5], "schedule.milestones is [0.9, 0.5]; its values must increase"),
    ("schedule.milestones", [0.5, 2.0], "schedule.milestones is 2.0; it must be above 0 and at most 1"),
    ("schedule.gamma", -0.1, "schedule.gamma is -0.1; it must be above 0 and at most 1"),
    ("schedule.warmup_epochs", -1.0, "schedule.warmup_epochs is -1.0; it must be at least 0"),
    ("schedule.warmup_start", 2.0, "schedule.warmup_start is 2.0; it must be from 0 to 1"),
    ("schedule.min_lr_scale", -1.0, "schedule.min_lr_scale is -1.0; it must be from 0 to 1"),
    ("regularization.label_smoothing", 2.0, "regularization.label_smoothing is 2.0; it must be at least 0 and below 1"),
    ("regularization.mixup", -1.0, "regularization.mixup is -1.0; it must be at least 0"),
    ("regularization.cutmix", float("nan"), "regularization.cutmix is nan; it must be at least 0"),
    ("regularization.drop_rate", 1.0, "regularization.drop_rate is 1.0; it must be at least 0 and below 1"),
    ("regularization.drop_path_rate", -0.1, "regularization.drop_path_rate is -0.1; it must be at least 0 and below 1"),
    ("loss.gamma", -1.0, "loss.gamma is -1.0; it must be at least 0"),
    ("loss.negative_gamma", -1.0, "loss.negative_gamma is -1.0; it must be at least 0"),
    ("loss.margin", 1.0, "loss.margin is 1.0; it must be at least 0 and below 1"),
    ("loss.name", "hinge", "loss.name is 'hinge'; choose from cross_entropy, focal, asymmetric"),
    ("head_warmup_epochs", -1, "head_warmup_epochs is -1; it must be at least 0"),
    ("ema_decay", 2.0, "ema_decay is 2.0; it must be at least 0 and below 1"),
    ("view_chunk", 0, "view_chunk is 0; it must be at least 1"),
    ("image_size", 3, "image_size is 3; it must be at least 16 pixels"),
    ("num_frames", 0, "num_frames is 0; it must be a whole number of at least 1"),
    ("num_classes", 1, "num_classes is 1; it must be a whole number of at least 2"),
    ("optimizer.name", "adam", "optimizer.name is 'adam'; choose from sgd, adamw"),
    ("schedule.name", "linear", "schedule.name is 'linear'; choose from cosine"),
]


@pytest.mark.parametrize(("name", "value", "message"), MODEL_OPTIONS)
def test_classifier_refuses_a_value_before_it_loads_weights(name: str, value: object, message: str) -> None:
    group, _, option = name.rpartition(".")
    arguments: dict[str, Any] = {"optimizer": {"momentum": 0.0}}
    if group:
        arguments.setdefault(group, {})[option] = value
    else:
        arguments[name] = value
    with pytest.raises(ConfigError) as error:
        VideoClassifier("no-such-network", **arguments)
    assert message in str(error.value)


def test_every_numeric_rule_is_tested() -> None:
    assert set(RULES) <= {name for name, _, _ in MODEL_OPTIONS}


TRAINER_OPTIONS = [
    ("max_epochs", -5, "--trainer.max_epochs is -5; it must be at least 1, or -1 for no limit"),
    ("max_epochs", 0, "--trainer.max_epochs is 0; it must be at least 1"),
    ("max_epochs", -1, "the learning rate schedule needs the length of the training"),
    ("max_steps", -3, "--trainer.max_steps is -3; it must be at least 1"),
    ("min_epochs", -1, "--trainer.min_epochs is -1; it must be at least 0"),
    ("min_steps", -1, "--trainer.min_steps is -1; it must be at least 0"),
    ("num_nodes", 0, "--trainer.num_nodes is 0; it must be at least 1"),
    ("accumulate_grad_batches", 0, "--trainer.accumulate_grad_batches is 0; it must be at least 1"),
    ("check_val_every_n_epoch", 0, "--trainer.check_val_every_n_epoch is 0; it must be at least 1"),
    ("log_every_n_steps", -1, "--trainer.log_every_n_steps is -1; it must be at least 0"),
    ("reload_dataloaders_every_n_epochs", -1, "--trainer.reload_dataloaders_every_n_epochs is -1"),
    ("num_sanity_val_steps", -2, "--trainer.num_sanity_val_steps is -2; it must be at least 0, or -1"),
    ("gradient_clip_val", -1.0, "--trainer.gradient_clip_val is -1.0; it must be at least 0"),
    ("gradient_clip_val", float("nan"), "--trainer.gradient_clip_val is nan; it must be at least 0"),
    ("gradient_clip_algorithm", "x", "`gradient_clip_algorithm` x is invalid"),
    ("limit_train_batches", 0, "--trainer.limit_train_batches is 0, so fit would read no videos"),
    ("limit_train_batches", 2.5, "--trainer.limit_train_batches is 2.5; it must be a number of batches"),
    ("limit_val_batches", 2.5, "--trainer.limit_val_batches is 2.5; it must be a number of batches"),
    ("limit_test_batches", -1, "--trainer.limit_test_batches is -1; it must be a number of batches"),
    ("limit_predict_batches", 1.5, "--trainer.limit_predict_batches is 1.5; it must be a number of batches"),
    ("overfit_batches", 0.5, "--trainer.overfit_batches is not supported"),
    ("default_root_dir", "x", "--trainer.default_root_dir is not supported; use --out"),
    ("val_check_interval", 0, "--trainer.val_check_interval is 0; it must be a number of batches"),
    ("val_check_interval", 1.5, "--trainer.val_check_interval is 1.5; it must be a number of batches"),
    ("val_check_interval", "x", "Invalid time format for `val_check_interval`"),
    ("max_time", "x", "`Timer(duration='x')` is not a valid duration"),
    ("devices", 0, "`Trainer(devices=0)` value is not a valid input"),
    ("devices", "x", "These --trainer options do not work here: "),
    ("strategy", "foo", "You selected an invalid strategy name"),
    ("accelerator", "foo", "You selected an invalid accelerator name"),
    ("profiler", "foo", "These --trainer options do not work here: "),
    ("fast_dev_run", -1, "fast_dev_run=-1 is not a valid configuration"),
]


@pytest.mark.parametrize(("name", "value", "message"), TRAINER_OPTIONS)
def test_trainer_option_is_refused(name: str, value: object, message: str) -> None:
    options = {"max_epochs": 3, "max_steps": -1, "accelerator": "cpu", name: value}
    with pytest.raises(ConfigError) as error:
        check_trainer_options("fit", options, 0)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_valid_trainer_options_are_accepted() -> None:
    options = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": -1,
        "max_steps": 10,
        "max_time": "00:01:00:00",
        "limit_val_batches": 0,
        "limit_train_batches": 0.5,
        "val_check_interval": 0.25,
        "num_sanity_val_steps": -1,
        "gradient_clip_val": 20,
    }
    check_trainer_options("fit", options, True)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"--seed_everything is {seed}; it must be a whole number from 0 to"):
        check_trainer_options("fit", {}, seed)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_limit_of_0_batches_is_refused_if_a_command_would_read_no_videos(command: str) -> None:
    name = "limit_val_batches" if command == "validate" else f"limit_{command}_batches"
    with pytest.raises(ConfigError, match=f"{name} is 0, so {command} would read no videos"):
        check_trainer_options(command, {name: 0}, 0)


@pytest.mark.parametrize("name", ["color_jitter", "time_limit", "erasing", "max_missing", "max_bad_fraction"])
def test_nan_in_a_data_option_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} is nan"):
        VideoFolder(tmp_path, **{name: float("nan")})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model.optimizer.lr", "-1", "optimizer.lr is -1.0; it must be above 0."),
        ("--model.schedule.milestones", "[0.9, 0.5]", "schedule.milestones is [0.9, 0.5]; its values must increase."),
        ("--seed_everything", "-1", "--seed_everything is -1; it must be a whole number"),
        ("--trainer.accumulate_grad_batches", "0", "--trainer.accumulate_grad_batches is 0; it must be at least 1."),
        ("--trainer.limit_train_batches", "0", "--trainer.limit_train_batches is 0, so fit would read no videos"),
        ("--trainer.precision", "foo", "--trainer.precision is foo; choose from "),
        ("--trainer.devices", "0", "These --trainer options do not work here: "),
        ("--trainer.max_epochs", "many", "--trainer.max_epochs is many; it must be a whole number."),
    ],
)
def test_command_reports_a_bad_value_in_one_line(
    option: str, value: str, message: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The weights of the network are not on this machine. A later check would report that instead."""
    arguments = ["fit", "--from", "tanet_r50.k400_8f", *video_folder(motion_folder), *ON_CPU, option, value]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tempozoo: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_validation_interval_longer_than_the_epoch_is_reported_in_one_line(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["fit", "--from", "tanet_r18.motionclips8", *video_folder(motion_folder), *QUIET]
    arguments += flags("trainer", val_check_interval=1000)
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tempozoo: ")]
    assert "--trainer.val_check_interval does not work here: " in line
