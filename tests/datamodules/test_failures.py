"""Videos that are temporarily unreadable: counted while they are, and read again afterwards."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_modules import set_up, transferred_batches
from numbered_videos import numbered_video
from PIL import Image

from datamodules import VideoFolder
from datamodules.dataset import VideoDataset
from datamodules.records import VideoRecords
from zoo.protocol import DEFAULT_PROTOCOL, Protocol


def protocol() -> Protocol:
    return replace(DEFAULT_PROTOCOL, num_frames=4, resize=32, crop=32, train_crop=32)


def dataset(path: Path, split: str, **options: Any) -> VideoDataset:
    return VideoDataset(VideoRecords.of([path], [0]), protocol(), split, flip=False, **options)


@pytest.fixture
def broken(motion_folder: Path, tmp_path: Path) -> tuple[Path, Callable[[], None]]:
    """A data set with an unreadable video in each split, and a function that restores them."""
    root = tmp_path / "motion"
    shutil.copytree(motion_folder, root)
    paths = [root / split / "meets" / "meets_0000.mp4" for split in ("train", "val", "test")]
    contents = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(b"")

    def restore() -> None:
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)

    return root, restore


@pytest.mark.parametrize("workers", [0, 2])
def test_each_validation_pass_counts_its_unreadable_videos(
    workers: int, broken: tuple[Path, Callable[[], None]], caplog: pytest.LogCaptureFixture
) -> None:
    root, restore = broken
    data = set_up(VideoFolder(root, num_workers=workers, batch_size=4), "validate")
    loader = data.val_dataloader()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert sum(len(batch["path"]) for batch in transferred_batches(data, loader)) == 11
            assert [Path(path).name for path in data.skipped["val"]] == ["meets_0000.mp4"]
    assert caplog.text.count("val video skipped") == 1  # logged once, counted in every pass
    restore()
    assert sum(len(batch["path"]) for batch in transferred_batches(data, loader)) == 12  # with the same workers
    assert data.skipped["val"] == {}


def test_second_run_restarts_the_count(
    broken: tuple[Path, Callable[[], None]], caplog: pytest.LogCaptureFixture
) -> None:
    root, restore = broken
    data = set_up(VideoFolder(root, num_workers=0, batch_size=8))
    transferred_batches(data, data.train_dataloader())
    transferred_batches(data, data.train_dataloader())
    assert len(data.skipped["train"]) == 1  # counted once per run
    with caplog.at_level(logging.WARNING):
        transferred_batches(set_up(data), data.train_dataloader())
    assert "train video replaced by another" in caplog.text
    restore()
    transferred_batches(set_up(data), data.train_dataloader())
    assert data.skipped["train"] == {}


def test_restored_video_is_read_again(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    train, val = dataset(video, "train"), dataset(video, "val")
    assert len(train[0, 0]["skipped"]) == 10  # attempts 1 to 10; there is no other video to replace it
    assert len(val[0]["skipped"]) == 1
    numbered_video(video, 8)
    assert val[0]["skipped"] == []
    item = train[0, 0]
    assert len(item["skipped"]) == 5  # attempts 11 to 15 fail without opening the file, which may be slow
    assert [clip.shape for clip in item["video"]] == [(4, 3, 32, 32)]
    assert train[0, 1]["skipped"] == []
    video.unlink()
    assert len(train[0, 2]["skipped"]) == 10
    assert "does not exist" in train[0, 2]["skipped"][0][1]


@pytest.mark.parametrize(("height", "width"), [(2, 1500), (1500, 2)])
def test_videos_too_narrow_for_views_count_as_unreadable(height: int, width: int, tmp_path: Path) -> None:
    for number in range(4):
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(tmp_path / f"{number}.png")
    item = dataset(tmp_path, "test")[0]
    (reason,) = [reason for _, reason in item["skipped"]]
    assert f"{tmp_path} has frames of {width} x {height} pixels, too narrow to be cut into views" in reason
    (clip,) = dataset(tmp_path, "train")[0, 0]["video"]
    assert torch.equal(clip, torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
