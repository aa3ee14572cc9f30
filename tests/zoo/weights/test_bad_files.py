"""Damaged and foreign weight files raise only errors of this package."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoo.errors import CheckpointError
from zoo.weights.files import read_tensors


@pytest.mark.parametrize(
    "content",
    [b"abc", b"\x80\x02....", b"\x80\x02}q\x00.", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"{", bytes(600)],
)
def test_files_that_are_not_checkpoints_are_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        read_tensors(path)


def test_keys_that_are_not_text_are_rejected(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(2)}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="other than plain tensors under 0"):
        read_tensors(tmp_path / "file.pth")


def written(kind: str, path: Path) -> bytes:
    """Write a small file of a format and return its bytes."""
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    if kind == "torchscript":
        torch.jit.script(module).save(path)
    elif kind == "safetensors":
        save_file(module.state_dict(), path)
    else:
        torch.save({"model_state": module.state_dict()}, path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["zip", "legacy", "torchscript", "safetensors"])
def test_flipped_bytes_and_truncation_raise_checkpoint_error(kind: str, tmp_path: Path) -> None:
    """Files that are still valid may be read; all others raise CheckpointError."""
    path = tmp_path / ("file.safetensors" if kind == "safetensors" else "file.pth")
    content = written(kind, path)
    assert len(read_tensors(path)) == 7
    draw, refused = random.Random(0), 0
    for trial in range(150):
        data = bytearray(content)
        if trial % 5 == 0:
            del data[draw.randrange(1, len(data)) :]
        for _ in range(draw.randint(1, 5)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            read_tensors(path)
        except CheckpointError:
            refused += 1
    assert refused > 30
