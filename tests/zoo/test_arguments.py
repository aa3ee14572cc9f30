"""Arguments of public functions: a wrong type or value raises a ConfigError that names the argument."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small
from torch import nn

import zoo
from zoo.errors import ConfigError, ZooError

NAME = "tanet_r18.motionclips8"
WRONG_TYPES: dict[str, list[Any]] = {
    "name": [None, b"tanet", 3, ["a"]],
    "weights": [3, b"a.pth", ["a"]],
    "cache_dir": [3, b"a"],
    "progress": [1, "yes", None],
    "pretrained": [0, "no", None],
    "num_classes": ["12", True, 12.0, [12]],
    "num_frames": ["8", True, 8.0],
    "image_size": [1e9, "64", True],
    "in_channels": [3.0, "3", True],
}


@pytest.mark.parametrize(("argument", "value"), [(name, value) for name in WRONG_TYPES for value in WRONG_TYPES[name]])
def test_load_rejects_wrong_types(argument: str, value: Any) -> None:
    arguments: dict[str, Any] = {"name": NAME} | {argument: value}
    with pytest.raises(ConfigError, match=f"^{argument} is .*; it must be"):
        zoo.load(arguments.pop("name"), **arguments)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("name", ""), ("name", "x" * 5000), ("name", "x" * 300), ("name", "a\0b"), ("weights", ""), ("weights", "a\0"),
        ("num_classes", 1), ("num_classes", 10**9), ("num_frames", 0), ("num_frames", 10**9), ("image_size", 15),
        ("image_size", 10**5000), ("in_channels", -1), ("in_channels", 10**9),
    ],
    ids=lambda value: value[:12].replace("\0", "0") if isinstance(value, str) else f"{value.bit_length()} bits",
)  # fmt: skip
def test_load_rejects_values_out_of_range(argument: str, value: Any) -> None:
    arguments: dict[str, Any] = {"name": NAME} | {argument: value}
    with pytest.raises(ConfigError, match=f"^{argument} is ") as caught:
        zoo.load(arguments.pop("name"), **arguments)
    assert len(str(caught.value)) < 300


def test_load_accepts_paths_as_str_and_path(tmp_path: Path) -> None:
    folder = zoo.save(small("tanet_r18"), str(tmp_path / "saved"))
    assert zoo.load(folder) is not None and zoo.load(str(folder)) is not None
    with pytest.raises(ZooError, match=r"\\udc80"):
        zoo.load("\udc80")
    with pytest.raises(ZooError, match="4 frames of .* pixels|clip has"):
        zoo.load(folder, num_frames=1024, image_size=4096)


model = nn.Linear(2, 2)
CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "create arch": (lambda: zoo.create(None), "^arch is None"),  # type: ignore[arg-type]
    "create classes": (lambda: zoo.create("c2d_r18", num_classes="12"), "^num_classes is '12'"),
    "create width": (lambda: zoo.create("c2d_r18", width=8.0), "^width is 8.0"),
    "create size": (lambda: zoo.create("c2d_r18", image_size="64"), "^image_size is '64'"),  # type: ignore[arg-type]
    "create labels": (lambda: zoo.create("c2d_r18", num_classes=3, labels="abc"), "^labels is 'abc'"),
    "create label": (lambda: zoo.create("c2d_r18", num_classes=2, labels=["a", 1]), r"^labels\[1\] is 1"),  # type: ignore[list-item]
    "create drop_rate": (lambda: zoo.create("c2d_r18", drop_rate="0.5"), "^drop_rate is '0.5'"),
    "save model": (lambda: zoo.save("x", "y"), "^model is 'x'"),  # type: ignore[arg-type]
    "save folder": (lambda: zoo.save(model, None), "^folder is None"),  # type: ignore[arg-type]
    "convert file": (lambda: zoo.convert(None, NAME), "^source_file is None"),  # type: ignore[arg-type]
    "convert name": (lambda: zoo.convert("x", None), "^name is None"),  # type: ignore[arg-type]
    "convert folder": (lambda: zoo.convert("x", NAME, 3), "^out_dir is 3"),  # type: ignore[arg-type]
    "info": (lambda: zoo.info(["a"]), "^name is "),  # type: ignore[arg-type]
    "list pattern": (lambda: zoo.list_models(None), "^pattern is None"),  # type: ignore[arg-type]
    "list data": (lambda: zoo.list_models(dataset=3), "^dataset is 3"),  # type: ignore[arg-type]
    "push model": (lambda: zoo.push(3, "a/b"), "^model is 3"),  # type: ignore[arg-type]
    "push repo": (lambda: zoo.push(model, None), "^repo is None"),  # type: ignore[arg-type]
    "push private": (lambda: zoo.push(model, "a/b", private="no"), "^private is 'no'"),  # type: ignore[arg-type]
    "push message": (lambda: zoo.push(model, "a/b", message=3), "^message is 3"),  # type: ignore[arg-type]
    "push results": (lambda: zoo.push(small("c2d_r18"), "a/b", results=3), "^results is 3"),  # type: ignore[arg-type]
    "profile": (lambda: zoo.profile("x", (4, 32, 32)), "^model is 'x'"),  # type: ignore[arg-type]
    "temporalize": (lambda: zoo.temporalize("x"), "temporalize takes an image network"),  # type: ignore[arg-type]
    "temporalize frames": (lambda: zoo.temporalize(model, num_frames="8"), "^num_frames is '8'"),  # type: ignore[arg-type]
    "temporalize inplace": (lambda: zoo.temporalize(model, inplace=1), "^inplace is 1"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("call", list(CALLS))
def test_public_functions_reject_wrong_types(call: str) -> None:
    function, message = CALLS[call]
    with pytest.raises(ConfigError, match=message):
        function()


def test_networks_of_create_can_be_saved(tmp_path: Path) -> None:
    """create rejects everything that save would reject, so that no training is lost."""
    for options in ({"num_frames": 2000}, {"num_classes": 200_000}, {"in_channels": 2000}, {"width": 10_000}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            zoo.create("c2d_r18", **options)
    for labels in (["a", "a"], ["a", ""], ["a", "\x1b"], ["a"]):
        with pytest.raises(ConfigError, match="labels"):
            zoo.create("c2d_r18", num_classes=2, labels=labels)
    network: Any = zoo.create("c2d_r18", width=8, num_classes=2, num_frames=1024, labels=["猫", "a b"])
    again: Any = zoo.load(zoo.save(network, tmp_path / "saved"))
    assert again.labels == ("猫", "a b") and torch.equal(again.fc.weight, network.fc.weight)
