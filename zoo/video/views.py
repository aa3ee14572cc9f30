"""A video -> the clips that a network is tested with, as its protocol defines them.

video -> frame numbers of all clips -> decoded frames, each once -> resize -> crops -> views.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.protocol import Protocol
from zoo.video.decoding import Reader
from zoo.video.sampling import sample
from zoo.video.transforms import normalize, resize_short_side, view_crops

MAX_ASPECT = 20  # ratio of the sides: resizing longer frames would take gigabytes


class Views(NamedTuple):
    """All views of a video.

    frames: ``(V, T, C, S, S)``, uint8, or float32 from 0 to 255 where the protocol resizes floats; the crops of the
        first clip, then those of the next.
    repeated: whether frames repeat because the video is shorter than a clip.
    """

    frames: Tensor
    repeated: bool


def views_of(reader: Reader, protocol: Protocol, name: str) -> Views:
    """Return the views of an open video; every frame is decoded and resized once.

    Args:
        name: the name of the video in error messages.

    Raises:
        DataError: a frame cannot be decoded, or is too narrow.
    """

    def resize(frames: Tensor) -> Tensor:
        return resize_frames(frames, protocol, name)

    total = len(reader)
    clips = [sample(protocol, total, reader.fps, (clip, protocol.clips)) for clip in range(protocol.clips)]
    numbers, rows = np.unique(np.concatenate(clips), return_inverse=True)
    frames = reader.frames(numbers, resize)
    views = cut_views(frames, rows.reshape(len(clips), -1), protocol)
    return Views(views, repeated=total < protocol.num_frames)


def resize_frames(frames: Tensor, protocol: Protocol, name: str) -> Tensor:
    """Resize frames ``(n, C, H, W)``, uint8, for testing.

    Raises:
        DataError: one side is more than ``MAX_ASPECT`` times the other.
    """
    height, width = frames.shape[-2:]
    check_aspect(height, width, name)
    return resize_short_side(frames, protocol.resize, protocol.antialias, protocol.pixels)


def check_aspect(height: int, width: int, name: str) -> None:
    """Refuse frames that are too narrow to be resized and cropped.

    Raises:
        DataError: one side is more than ``MAX_ASPECT`` times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise DataError(f"{name} has frames of {width} x {height} pixels, too narrow to be cut into views.")


def cut_views(frames: Tensor, clips: np.ndarray, protocol: Protocol) -> Tensor:
    """Views ``(V, T, C, S, S)`` of resized frames.

    Args:
        frames: ``(n, C, H, W)``.
        clips: for each clip the rows of its frames, ``(clips, T)``.
    """
    crops = view_crops(frames, protocol.crop, protocol.crops, protocol.pixels)
    pairs = [(rows, crop) for rows in clips for crop in crops]
    views = torch.empty((len(pairs), clips.shape[1], *crops[0].shape[1:]), dtype=frames.dtype)
    for view, (rows, crop) in zip(views, pairs, strict=True):  # torch.stack would need twice the memory
        view.copy_(crop[rows])
    return views


class ClipTransform:
    """Pixels of a network's test input, for custom loops: what ``Protocol.transform`` returns.

    Like a torchvision transform, it takes the frames of one clip, uint8 ``(T, 3, H, W)``, and returns the normalized
    clip, float32 ``(3, T, S, S)``; with more than one crop ``(crops, 3, T, S, S)``.

    Args:
        protocol: sizes, arithmetic of the resizing, crops, mean and std.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol

    def __call__(self, frames: Tensor) -> Tensor:
        """Resize, crop and normalize.

        Raises:
            DataError: another shape or type, or frames that are too narrow.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise DataError(f"The frames are {frames.dtype} of shape {tuple(frames.shape)}; give uint8 (T, 3, H, W).")
        resized = resize_frames(frames, self.protocol, "the clip")
        views = cut_views(resized, np.arange(len(frames))[None], self.protocol)
        clips = normalize(views, self.protocol.mean, self.protocol.std).contiguous()
        return clips if self.protocol.crops > 1 else clips[0]

    def __repr__(self) -> str:
        p = self.protocol
        return f"ClipTransform(resize={p.resize}, crop={p.crop}, crops={p.crops}, mean={p.mean}, std={p.std})"
