"""Checkpoints whose parts have wrong types: each is refused in a line that names the file and the part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FOUR, small

import cli
import zoo
from zoo.errors import CheckpointError
from zoo.weights.lightning_checkpoint import CONFIG_KEY, read_checkpoint, read_run


@pytest.fixture
def content() -> dict[str, Any]:
    """A checkpoint as Lightning writes it, of a small network."""
    network = small("tanet_r18", labels=list(FOUR))
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    groups = [{"lr": 0.1, "params": [0, 1]}]
    return {
        "epoch": 1, "global_step": 8, "pytorch-lightning_version": "2.6.0", "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {"Best": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": groups}],
        "lr_schedulers": [{"last_epoch": 8}], "hyper_parameters": {"lr": 0.1}, CONFIG_KEY: network.spec.to_config(),
    }  # fmt: skip


def written(path: Path, content: dict[Any, Any]) -> Path:
    torch.save(content, path)
    return path


def test_a_checkpoint_is_read(content: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path / "run.ckpt", content)
    tensors, config = read_checkpoint(path)
    assert config == content[CONFIG_KEY]
    assert set(tensors) == {key.removeprefix("network.") for key in content["state_dict"]}
    assert read_run(path) == (config, True)
    assert zoo.load(path).labels == FOUR


@pytest.mark.parametrize("key", ["loops", "optimizer_states", "lr_schedulers", "epoch", "global_step"])
def test_a_part_that_is_missing_leaves_weights_only(key: str, content: dict[str, Any], tmp_path: Path) -> None:
    del content[key]
    assert read_run(written(tmp_path / "run.ckpt", content)) == (content[CONFIG_KEY], False)


OPTIMIZER = {"state": {}, "param_groups": [{"params": [0]}]}
WRONG: dict[str, list[Any]] = {
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


@pytest.mark.parametrize("key", list(WRONG))
def test_parts_of_a_wrong_type_are_named(key: str, content: dict[str, Any], tmp_path: Path) -> None:
    for value in WRONG[key]:
        path = written(tmp_path / "run.ckpt", content | {key: value})
        with pytest.raises(CheckpointError, match=rf"run\.ckpt is not an intact checkpoint: '{key}' is not ") as caught:
            read_run(path)
        assert str(caught.value).isprintable()
        read_checkpoint(path)  # weights alone need none of these


@pytest.mark.parametrize("value", [[], None, 3, {"network.w": 3}, {1: torch.zeros(2)}, {("a", "b"): torch.zeros(2)}])
def test_weights_of_a_wrong_type_are_refused(value: Any, content: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path / "run.ckpt", content | {"state_dict": value})
    for read in (read_checkpoint, read_run):
        with pytest.raises(CheckpointError, match=r"run\.ckpt"):
            read(path)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "value", [[], None, 3, {"a": torch.zeros(2)}, {"a": nested(40)}, {"a": nested(100)}, {"a": {3}}]
)
def test_configs_of_a_wrong_type_are_refused(value: Any, content: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path / "run.ckpt", content | {CONFIG_KEY: value})
    for read in (read_checkpoint, read_run):
        with pytest.raises(CheckpointError, match=rf"run\.ckpt has an invalid '{CONFIG_KEY}'"):
            read(path)


def test_resuming_names_the_part(content: dict[str, Any], tmp_path: Path, motion_folder: Path, capsys: Any) -> None:
    path = written(tmp_path / "run.ckpt", content | {"loops": [1]})
    data = ["--data", "VideoFolder", "--data.root", str(motion_folder), "--out", str(tmp_path / "out")]
    assert cli.main(["fit", "--from", str(path), *data, "--ckpt_path", str(path)]) == 1
    error = capsys.readouterr().err
    assert "run.ckpt is not an intact checkpoint: 'loops' is not a dict of dicts" in error
    assert "Traceback" not in error
