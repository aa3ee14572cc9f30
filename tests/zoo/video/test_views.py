"""Frames are resized as they are decoded: the same as all at once, in the memory of a few."""

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


def resizing(pixels: str, antialias: bool, seen: list[int]) -> Callable[[Tensor], Tensor]:
    def resized(frames: Tensor) -> Tensor:
        seen.append(len(frames))
        return resize_short_side(frames, 32, antialias, pixels)

    return resized


@pytest.mark.parametrize("kind", ["video", "frames"])
@pytest.mark.parametrize("size", SIZES)
def test_frames_resized_one_by_one_are_those_resized_at_once(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mp4", 24, size)
    if kind == "frames":
        with open_video(path) as reader:
            for number, frame in enumerate(reader.frames(range(24))):
                Image.fromarray(frame.permute(1, 2, 0).numpy()).save(tmp_path / f"{number:02d}.png")
        path = tmp_path
    numbers = [20, 3, 3, 7, *range(24)]  # each is resized once
    with open_video(path) as reader:
        whole = reader.frames(numbers)
        for pixels in CHOICES["pixels"]:
            for antialias in (True, False):
                seen: list[int] = []
                found = reader.frames(numbers, resizing(pixels, antialias, seen))
                wanted = resize_short_side(whole, 32, antialias, pixels)
                assert found.dtype == wanted.dtype
                assert torch.equal(found, wanted)
                assert sum(seen) == 24
                assert max(seen) == 1


@pytest.mark.parametrize("pixels", CHOICES["pixels"])
def test_the_views_of_a_video_are_cut_from_its_resized_frames(pixels: str, tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mp4", 40, (48, 64))
    protocol = replace(DEFAULT_PROTOCOL, num_frames=4, resize=32, crop=32, clips=3, crops=3, pixels=pixels)
    (views,) = VideoDataset(VideoRecords.of([path]), protocol, "test", flip=False)[0]["video"]
    with open_video(path) as reader:
        for clip in range(3):
            frames = reader.frames(sample(protocol, len(reader), reader.fps, (clip, 3)))
            frames = resize_short_side(frames, 32, protocol.antialias, pixels)
            for crop, wanted in enumerate(view_crops(frames, 32, 3, pixels)):
                assert torch.equal(views[3 * clip + crop], wanted)
    assert len(views) == 9
