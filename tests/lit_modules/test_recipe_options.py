"""Option groups of VideoClassifier, and their names of earlier versions."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from runs import flags

from cli import main
from lit_modules import TAdaConvNeXtV2, TANet, VideoClassifier
from lit_modules.recipe_options import (
    GROUPS,
    OLD_NAMES,
    OptimizerOptions,
    Recipe,
    ScheduleOptions,
    nest_argument,
    nest_old_names,
)
from zoo.errors import ConfigError
from zoo.weights.lightning_checkpoint import CONFIG_KEY

TINY_NETWORK: dict[str, Any] = {"options": {"width": 8, "drop_rate": 0.0}, "num_classes": 4, "num_frames": 4}
OLD: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 0.3,
    "schedule": "constant",
    "dropout": 0.2,
    "milestones": (0.2, 0.4),
}
CURRENT: dict[str, Any] = {
    "optimizer": {"name": "adamw", "lr": 0.3},
    "schedule": {"name": "constant", "milestones": (0.2, 0.4)},
    "regularization": {"drop_rate": 0.2},
}


def printed_config(capsys: pytest.CaptureFixture, *arguments: str) -> dict[str, Any]:
    """Return the options of the model that ``fit --print_config`` prints."""
    assert main(["fit", *arguments, "--data", "VideoFolder", "--data.root", "videos", "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]


def assert_old_values(module: VideoClassifier) -> None:
    """Check that the module has the values of ``OLD``, and those of TANet's recipe otherwise."""
    recipe = module.recipe
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.optimizer.head_lr_scale) == ("adamw", 0.3, 5)
    assert (recipe.schedule.name, list(recipe.schedule.milestones)) == ("constant", [0.2, 0.4])
    assert module.network.dropout.p == recipe.regularization.drop_rate == 0.2


def test_every_option_of_version_0_1_has_one_earlier_name() -> None:
    groups = [group for group in GROUPS if group != "loss"]  # added later
    options = [f"{group}.{field.name}" for group in groups for field in fields(getattr(Recipe(), group))]
    assert sorted(OLD_NAMES.values()) == sorted(options)
    assert Recipe().flat_options().keys() == OLD_NAMES.keys()


# command line ----------------------------------------------------------------------------------------------------


def test_command_line_sets_single_options_of_a_recipe(capsys: pytest.CaptureFixture) -> None:
    model = printed_config(capsys, "--model", "TANet", "--model.optimizer.lr", "0.3", "--model.schedule.gamma", "0.5")
    assert (model["optimizer"]["lr"], model["optimizer"]["head_lr_scale"]) == (0.3, 5)
    assert (model["schedule"]["name"], model["schedule"]["gamma"]) == ("steps", 0.5)


def test_command_line_resets_an_option_to_null(capsys: pytest.CaptureFixture) -> None:
    current_name, earlier_name = flags("model.optimizer", lr_batch_size=None), flags("model", drop_path=None)
    model = printed_config(capsys, "--model", "TAdaConvNeXtV2", *current_name, *earlier_name)
    assert (model["optimizer"]["lr_batch_size"], model["optimizer"]["lr"]) == (None, 5e-4)
    assert model["regularization"]["drop_path_rate"] is None


def test_command_line_accepts_earlier_names(capsys: pytest.CaptureFixture) -> None:
    old = printed_config(capsys, "--model", "TANet", *flags("model", **OLD))
    assert (old["optimizer"]["name"], old["optimizer"]["lr"], old["optimizer"]["bias_lr_scale"]) == ("adamw", 0.3, 2)
    assert (old["schedule"]["name"], old["schedule"]["milestones"]) == ("constant", [0.2, 0.4])
    assert old["regularization"]["drop_rate"] == 0.2


@pytest.mark.parametrize(
    ("argument", "current"),
    [
        ("--model.lr=1", "--model.optimizer.lr=1"),
        ("--model.init_args.lr=1", "--model.init_args.optimizer.lr=1"),
        ("--model.optimizer=sgd", "--model.optimizer.name=sgd"),
        ('--model.optimizer={"lr": 1}', '--model.optimizer={"lr": 1}'),
        ("--model.milestones+=0.3", "--model.schedule.milestones+=0.3"),
        ("--model.layer_decay=null", '--model.optimizer={"layer_decay": null}'),
        ("--model.name=lr", "--model.name=lr"),
        ("--data.lr=1", "--data.lr=1"),
    ],
)
def test_argument_with_an_earlier_name_is_rewritten(argument: str, current: str) -> None:
    assert nest_argument(argument) == current


# configuration files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [OLD, CURRENT], ids=["old", "current"])
def test_config_file_accepts_earlier_and_current_names(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "config.yaml"
    plain_values = json.loads(json.dumps(values))  # lists instead of tuples
    file.write_text(yaml.safe_dump({"model": {"class_path": "TANet", "init_args": plain_values}}))
    model = printed_config(capsys, "--config", str(file))
    assert (model["optimizer"]["name"], model["optimizer"]["lr"]) == ("adamw", 0.3)
    assert model["optimizer"]["head_lr_scale"] == 5  # of TANet
    assert (model["schedule"]["name"], model["schedule"]["milestones"]) == ("constant", [0.2, 0.4])
    assert model["regularization"]["drop_rate"] == 0.2


def test_option_with_both_names_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lr and optimizer\.lr are the same option; remove lr"):
        nest_old_names({"lr": 0.1, "optimizer": {"lr": 0.2}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{optimizer: {lrr: 1}}", "TANet has no option --model.optimizer.lrr (did you mean --model.optimizer.lr?)"),
        ("{optimizer: {name: adam}}", "--model.optimizer.name is adam; choose from sgd, adamw."),
        ("{lrr: 1}", "TANet has no option --model.lrr (did you mean --model.optimizer.lr?)"),
    ],
)
def test_unknown_option_in_a_config_file_is_an_error(
    options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "config.yaml").write_text(f"model: {{class_path: TANet, init_args: {options}}}")
    assert main(["fit", "--config", str(tmp_path / "config.yaml"), "--data", "VideoFolder", "--data.root", "x"]) == 1
    assert message in capsys.readouterr().err


# Python ----------------------------------------------------------------------------------------------------------


def test_python_accepts_dictionaries_and_options_objects() -> None:
    assert_old_values(TANet("tanet_r18", **TINY_NETWORK, **CURRENT))
    module = TANet(
        "tanet_r18", **TINY_NETWORK, optimizer=OptimizerOptions(lr=0.3), schedule=ScheduleOptions("constant")
    )
    assert module.recipe.optimizer == OptimizerOptions(lr=0.3)  # an object replaces the whole group
    assert module.recipe.group_rules == TANet.recipe.group_rules
    assert TANet.recipe.optimizer.lr == 0.01


def test_python_accepts_earlier_names() -> None:
    assert_old_values(TANet("tanet_r18", **TINY_NETWORK, **OLD))


def test_python_refuses_unknown_options() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'lrr'"):
        VideoClassifier("tanet_r18", **TINY_NETWORK, lrr=0.1)
    with pytest.raises(ConfigError, match=r"optimizer has no option 'lrr'; choose from name, lr"):
        VideoClassifier("tanet_r18", **TINY_NETWORK, optimizer={"lrr": 0.1})
    with pytest.raises(ConfigError, match=r"optimizer is 3; it must be OptimizerOptions or a dictionary"):
        VideoClassifier("tanet_r18", **TINY_NETWORK, optimizer=3)


# checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [OLD, CURRENT], ids=["old", "current"])
@pytest.mark.parametrize("command_line", [False, True], ids=["python", "command line"])
def test_checkpoint_accepts_earlier_and_current_names(
    values: dict[str, Any], command_line: bool, tmp_path: Path
) -> None:
    module = TANet("tanet_r18", **TINY_NETWORK)
    hparams = {"name": "tanet_r18", **TINY_NETWORK, **values}
    if command_line:
        hparams |= {"_class_path": "lit_modules.TANet", "_instantiator": "lightning.pytorch.cli.instantiate_module"}
    content = {
        "state_dict": module.state_dict(),
        "hyper_parameters": hparams,
        "pytorch-lightning_version": L.__version__,
        CONFIG_KEY: module.network.spec.to_config(),
    }
    torch.save(content, tmp_path / "run.ckpt")
    cls = VideoClassifier if command_line else TANet
    loaded = cls.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    assert type(loaded) is TANet
    assert_old_values(loaded)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_hyperparameters_are_plain_values() -> None:
    hparams = TAdaConvNeXtV2("tadaconvnextv2_tiny", **TINY_NETWORK, lr=0.3).hparams
    assert hparams["optimizer"]["lr"] == 0.3 and hparams["regularization"]["drop_path_rate"] == 0.2
    assert "lr" not in hparams
    assert all(type(hparams[group]) is dict for group in GROUPS)
