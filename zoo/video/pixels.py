"""A decoded frame -> RGB, by the same arithmetic whatever the version of PyAV, and as torchcodec does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from zoo.errors import DataError

# these have a converter of their own in FFmpeg, which looks neither at the interpolation nor at anything else
DIRECT = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p")
# from PyAV 17 on, a pool of threads would start for each frame, which costs many times the conversion
THREADS = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


def rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """uint8 ``(H, W, 3)``, upright. ``reformatter`` is kept from frame to frame, as it is costly to set up.

    Chroma is interpolated bicubically and as of a progressive picture, with its samples centered, whatever the frame
    says of that: so do torchcodec and FFmpeg's older interface, with which the published networks were trained.
    """
    mirrored, turns = orientation(frame)
    odd = frame.width % 2 or frame.height % 2
    if frame.interlaced_frame or odd or frame.format.name not in DIRECT:
        frame = _plain(frame)
    converted = reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, **THREADS)
    picture = converted.to_ndarray()
    if not mirrored and not turns:
        return picture
    return np.ascontiguousarray(np.rot90(picture[:, ::-1] if mirrored else picture, turns))


def orientation(frame: av.VideoFrame) -> tuple[bool, int]:
    """How to bring a frame upright: whether to mirror it left to right, then how often to turn it counter-clockwise.

    Phones store portrait videos lying down, and front cameras mirrored ones, with a matrix to display them by.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # the frame has data of a kind that this version of PyAV does not know
        return False, round(getattr(frame, "rotation", 0) / 90) % 4
    if matrix is None:
        return False, 0
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # type: ignore[call-overload]  # (x, y) goes to (ax + cy, bx + dy)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return mirrored, round(math.degrees(math.atan2(c - b, a + d)) / 90) % 4


def _plain(frame: av.VideoFrame) -> av.VideoFrame:
    """The samples and the color matrix, without what else a frame says of itself.

    A frame with a palette, or whose rows are stored from the bottom up, is RGB and stays as it is.
    """
    if any(plane.line_size <= 0 for plane in frame.planes):
        return frame
    plain = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for target, plane in zip(plain.planes, frame.planes, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
        to = np.frombuffer(target, np.uint8).reshape(-1, target.line_size)  # type: ignore[call-overload]
        width = min(rows.shape[1], to.shape[1])
        to[:, :width] = rows[: len(to), :width]
    plain.colorspace, plain.color_range = frame.colorspace, frame.color_range
    return plain


def stacked(
    pictures: Iterable[np.ndarray], count: int, name: str, each: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """``count`` pictures ``(H, W, 3)`` -> ``(count, 3, H, W)``, held in memory once.

    Args:
        each: what becomes of a picture ``(1, 3, H, W)`` before the next one is decoded, if anything.

    Raises:
        DataError: they differ in size; ``name`` is the video's.
    """
    frames: np.ndarray | None = None
    shape: tuple[int, ...] = ()
    for number, picture in enumerate(pictures):
        shape = shape or picture.shape
        if picture.shape != shape:
            sizes = sorted([picture.shape[:2], shape[:2]])
            raise DataError(f"the frames of {name} differ in size: {sizes[0]} and {sizes[1]}.")
        if each is not None:
            picture = each(torch.from_numpy(picture).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        if frames is None:
            frames = np.empty((count, *picture.shape), picture.dtype)
        frames[number] = picture
    assert frames is not None
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
