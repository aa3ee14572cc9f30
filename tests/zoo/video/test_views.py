"""Frames are resized while decoding, with the same result as all at once and in less memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from numbered_videos import numbered_video
from PIL import Image
from torch import Tensor

from datamodules.dataset import VideoDataset
from datamodules.records import VideoRecords
from zoo.protocol import CHOICES, DEFAULT_PROTOCOL
from zoo.video.decoding import open_video
from zoo.video.sampling import sample
from zoo.video.transforms import resize_short_side, view_crops

SIZES = [(48, 64), (66, 34), (32, 58)]


def resizing(pixels: str, antialias: bool, sizes: list[int]) -> Callable[[Tensor], Tensor]:
    def resize(frames: Tensor) -> Tensor:
        sizes.append(len(frames))
        return resize_short_side(frames, 32, antialias, pixels)

    return resize


@pytest.mark.parametrize("kind", ["video", "frames"])
@pytest.mark.parametrize("size", SIZES)
def test_resizing_while_decoding_equals_resizing_at_once(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mp4", 24, size)
    if kind == "frames":
        with open_video(path) as reader:
            for number, frame in enumerate(reader.frames(range(24))):
                Image.fromarray(frame.permute(1, 2, 0).numpy()).save(tmp_path / f"{number:02d}.png")
        path = tmp_path
    numbers = [20, 3, 3, 7, *range(24)]  # each distinct frame is resized once
    with open_video(path) as reader:
        frames = reader.frames(numbers)
        for pixels in CHOICES["pixels"]:
            for antialias in (True, False):
                sizes: list[int] = []
                resized = reader.frames(numbers, resizing(pixels, antialias, sizes))
                expected = resize_short_side(frames, 32, antialias, pixels)
                assert resized.dtype == expected.dtype
                assert torch.equal(resized, expected)
                assert sum(sizes) == 24
                assert max(sizes) == 1


@pytest.mark.parametrize("pixels", CHOICES["pixels"])
def test_views_are_crops_of_resized_frames(pixels: str, tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mp4", 40, (48, 64))
    protocol = replace(DEFAULT_PROTOCOL, num_frames=4, resize=32, crop=32, clips=3, crops=3, pixels=pixels)
    (views,) = VideoDataset(VideoRecords.of([path]), protocol, "test", flip=False)[0]["video"]
    with open_video(path) as reader:
        for clip in range(3):
            frames = reader.frames(sample(protocol, len(reader), reader.fps, (clip, 3)))
            frames = resize_short_side(frames, 32, protocol.antialias, pixels)
            for crop, expected in enumerate(view_crops(frames, 32, 3, pixels)):
                assert torch.equal(views[3 * clip + crop], expected)
    assert len(views) == 9
