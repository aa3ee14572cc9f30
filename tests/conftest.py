"""Shared by the tests: no network, an empty cache, small data sets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.motionclips import write_motion_clips

SMALL = {"width": 8, "num_classes": 4, "num_frames": 4, "dropout": 0.0}  # of a network that builds in milliseconds
FOUR = ("appears", "vanishes", "meets", "parts")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def motion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of MotionClips, 8 + 3 + 3 clips each, 12 frames of 32 x 32."""
    counts = {"train": 8, "val": 3, "test": 3}
    root = tmp_path_factory.mktemp("data") / "motion"
    return write_motion_clips(root, classes=FOUR, clips_per_class=counts, frames=12, size=32, progress=False)
