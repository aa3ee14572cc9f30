"""Shared by the tests: no network, an empty cache, small data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from loopback import Loopback
from loopback_hub import LoopbackHub

import zoo
from datamodules.motionclips import write_motion_clips
from zoo.models import takes
from zoo.weights import download, transfer

SMALL = {"width": 8, "num_classes": 4, "num_frames": 4, "dropout": 0.0}  # of a network that builds in milliseconds
VIT = {"width": 48, "depth": 2, "patch": 8, "image_size": 32} | {k: SMALL[k] for k in SMALL if k != "width"}
FOUR = ("appears", "vanishes", "meets", "parts")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEMPOZOO_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TEMPOZOO_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    torch.manual_seed(0)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """An internet with nothing in it, the index of tiny_zoo, and no patience."""
    from tiny_zoo import write_index  # which takes SMALL from here

    with Loopback() as loopback:
        for name, value in loopback.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("TEMPOZOO_OFFLINE")
        monkeypatch.setenv("HOME", str(tmp_path))  # gdown keeps cookies there
        monkeypatch.setenv("TEMPOZOO_INDEX", str(write_index(tmp_path / "index.yaml")))
        monkeypatch.setattr(download, "BACKOFF", 0.01)
        monkeypatch.setattr(transfer, "TIMEOUTS", (2.0, 1.0))
        yield loopback


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub without repositories, to which the client is pointed as its user alice."""
    with LoopbackHub() as hub:
        hub.point(monkeypatch, tmp_path / "home")
        yield hub


@pytest.fixture(scope="session")
def motion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of MotionClips, 8 + 3 + 3 clips each, 12 frames of 32 x 32."""
    counts = {"train": 8, "val": 3, "test": 3}
    root = tmp_path_factory.mktemp("data") / "motion"
    return write_motion_clips(root, classes=FOUR, clips_per_class=counts, frames=12, size=32, progress=False)


def small(arch: str, **options: Any) -> Any:
    """A small network of one of our own architectures, for clips (B, 3, 4, 32, 32) and four classes."""
    return zoo.create(arch, **((VIT if takes(arch, "patch") else SMALL) | options))


def numbered_video(path: Path, frames: int, size: tuple[int, int] = (48, 64), **options: str) -> Path:
    """A video whose frame n has brightness about 8 n, with B frames and few key frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "8", "bf": "2", "crf": "12", **options})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.full((*size, 3), min(8 * number, 255), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
