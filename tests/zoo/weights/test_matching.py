"""A publisher's file without an entry, or with a wrong one: the error names the entries that it fits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from paths import GOLDEN
from safetensors.torch import save_file

import zoo
from zoo.errors import CheckpointError
from zoo.weights.conversion import matching_entries


def published(golden: str, path: Path) -> Path:
    """Write a file with the keys and shapes of a published one."""
    listed = json.loads((GOLDEN / f"{golden}.json").read_text())["state_dict"]
    torch.save({"state_dict": {key: torch.zeros(shape) for key, shape, _ in listed}}, path)
    return path


@pytest.fixture(scope="module")
def tanet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = published("tanet_r50_ssv2_8f", tmp_path_factory.mktemp("files") / "ckpt.best.pth.tar")
    yield path
    path.unlink()


def test_matching_entries_have_the_same_keys_and_shapes(tanet: Path, tmp_path: Path) -> None:
    names = matching_entries(tanet)
    assert "tanet_r50.ssv2_8f" in names
    assert all(name.startswith("tanet_r50.") for name in names)
    assert all(zoo.info(name).options["num_classes"] == 174 for name in names)
    assert all(zoo.info(name).options["num_frames"] == 8 for name in names)
    for name in names:
        assert zoo.load(name, weights=tanet, num_classes=5) is not None


def test_an_image_network_starts_several_entries(tmp_path: Path) -> None:
    import torchvision

    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    names = matching_entries(path)
    assert all(zoo.info(name).init and "r18" in name for name in names)
    expected = [
        name for name in zoo.list_models("*_r18.*") if zoo.info(name).init and zoo.info(name).converter == "torchvision"
    ]
    assert names == expected


def test_errors_name_the_entries_that_a_file_fits(tanet: Path, tmp_path: Path) -> None:
    message = rf"ckpt\.best\.pth\.tar fits .*tanet_r50\.ssv2_8f.*: pass weights={tanet} with one of these names"
    with pytest.raises(CheckpointError, match=message):
        zoo.load(tanet)
    with pytest.raises(CheckpointError, match=f"does not fit the network: .*{message}"):
        zoo.load("tanet_r50.k400_8f", weights=tanet)
    with pytest.raises(CheckpointError, match=message):
        zoo.convert(tanet, "tanet_r50.k400_8f", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_in_our_names_are_matched(tmp_path: Path) -> None:
    name = "tanet_r18.motionclips8"
    path = tmp_path / "plain.safetensors"
    save_file({key: value.clone() for key, value in zoo.load(name).state_dict().items()}, path)
    assert matching_entries(path) == [name]
    with pytest.raises(CheckpointError, match=rf"not written by this package.*plain.safetensors fits {name}: pass"):
        zoo.load(path)


def test_files_that_fit_nothing_get_no_names(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.zeros(3)}, path)
    assert matching_entries(path) == []
    with pytest.raises(CheckpointError, match="To load a published file, pass it as weights="):
        zoo.load(path)
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="other.pth"):
        matching_entries(path)
    with pytest.raises(CheckpointError, match=r"other.pth is neither .* To load a published file"):
        zoo.load(path)
