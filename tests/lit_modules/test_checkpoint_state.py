"""Checkpoints with parts of a wrong type are refused in one line that names the file and the part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import resume, video_folder
from small_models import FOUR, small

import cli
import zoo
from zoo.errors import CheckpointError
from zoo.weights.lightning_checkpoint import CONFIG_KEY, read_checkpoint, read_run


@pytest.fixture
def content() -> dict[str, Any]:
    """Content of a checkpoint of a small network, as Lightning writes it."""
    network = small("tanet_r18", labels=list(FOUR))
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    groups = [{"lr": 0.1, "params": [0, 1]}]
    return {
        "epoch": 1, "global_step": 8, "pytorch-lightning_version": "2.6.0", "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {"Best": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": groups}],
        "lr_schedulers": [{"last_epoch": 8}], "hyper_parameters": {"lr": 0.1}, CONFIG_KEY: network.spec.to_config(),
    }  # fmt: skip


def write_checkpoint(path: Path, content: dict[Any, Any]) -> Path:
    torch.save(content, path)
    return path


def test_intact_checkpoint_is_read(content: dict[str, Any], tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "run.ckpt", content)
    tensors, config = read_checkpoint(path)
    assert config == content[CONFIG_KEY]
    assert set(tensors) == {key.removeprefix("network.") for key in content["state_dict"]}
    assert read_run(path) == (config, True)
    assert zoo.load(path).labels == FOUR


@pytest.mark.parametrize("key", ["loops", "optimizer_states", "lr_schedulers", "epoch", "global_step"])
def test_checkpoint_without_a_part_has_weights_but_cannot_be_resumed(
    key: str, content: dict[str, Any], tmp_path: Path
) -> None:
    del content[key]
    assert read_run(write_checkpoint(tmp_path / "run.ckpt", content)) == (content[CONFIG_KEY], False)


OPTIMIZER = {"state": {}, "param_groups": [{"params": [0]}]}
WRONG_VALUES: dict[str, list[Any]] = {
    "epoch": [-1, 1.5, True, "1", None, [1], 2**70, torch.tensor(1)],
    "global_step": [-1, 1.5, True, "1", None],
    "pytorch-lightning_version": [2, None, ["2.6.0"]],
    "loops": [[], None, "x", {1: {}}, {"fit_loop": []}, {"fit_loop": None}, torch.zeros(2)],
    "callbacks": [[], None, {1: {}}, {"a": 3}],
    "optimizer_states": [
        {}, None, [3], [None], [{}], [OPTIMIZER | {"state": []}], [OPTIMIZER | {"state": {"a": {}}}],
        [OPTIMIZER | {"state": {0: 3}}], [OPTIMIZER | {"param_groups": {}}], [OPTIMIZER | {"param_groups": [3]}],
        [OPTIMIZER | {"param_groups": [{}]}], [OPTIMIZER | {"param_groups": [{"params": 3}]}],
        [OPTIMIZER | {"param_groups": [{"params": ["a"]}]}], [OPTIMIZER | {"param_groups": [{"params": [-1]}]}],
    ],
    "lr_schedulers": [{}, None, [3], [{1: 2}]],
    "hyper_parameters": [[], None, 3, "x", {1: 2}],
}  # fmt: skip


@pytest.mark.parametrize("key", list(WRONG_VALUES))
def test_error_names_the_part_of_a_wrong_type(key: str, content: dict[str, Any], tmp_path: Path) -> None:
    for value in WRONG_VALUES[key]:
        path = write_checkpoint(tmp_path / "run.ckpt", content | {key: value})
        with pytest.raises(CheckpointError, match=rf"run\.ckpt is not an intact checkpoint: '{key}' is not ") as error:
            read_run(path)
        assert str(error.value).isprintable()
        read_checkpoint(path)  # the weights alone are readable


@pytest.mark.parametrize("value", [[], None, 3, {"network.w": 3}, {1: torch.zeros(2)}, {("a", "b"): torch.zeros(2)}])
def test_weights_of_a_wrong_type_are_refused(value: Any, content: dict[str, Any], tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "run.ckpt", content | {"state_dict": value})
    for read in (read_checkpoint, read_run):
        with pytest.raises(CheckpointError, match=r"run\.ckpt"):
            read(path)


def nested_list(levels: int) -> list[Any]:
    """Return a list with two references to each next level, so that its printed length is 2 ** levels."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "value", [[], None, 3, {"a": torch.zeros(2)}, {"a": nested_list(40)}, {"a": nested_list(100)}, {"a": {3}}]
)
def test_configs_of_a_wrong_type_are_refused(value: Any, content: dict[str, Any], tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "run.ckpt", content | {CONFIG_KEY: value})
    for read in (read_checkpoint, read_run):
        with pytest.raises(CheckpointError, match=rf"run\.ckpt has an invalid '{CONFIG_KEY}'"):
            read(path)


def test_resume_names_the_part_of_a_wrong_type(
    content: dict[str, Any], tmp_path: Path, motion_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write_checkpoint(tmp_path / "run.ckpt", content | {"loops": [1]})
    arguments = ["fit", "--from", str(path), *video_folder(motion_folder), *resume(path)]
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "run.ckpt is not an intact checkpoint: 'loops' is not a dict of dicts" in error
    assert "Traceback" not in error
