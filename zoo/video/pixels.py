"""Convert decoded frames to RGB, with the same result for all versions of PyAV and for torchcodec."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from zoo.errors import DataError

# FFmpeg converts these formats with special functions, which ignore the interpolation and the properties of a frame.
SPECIAL_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p")
# Since PyAV 17, the default starts a thread pool for each frame, which takes longer than the conversion.
THREADS = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """Convert a frame to upright RGB, uint8 ``(H, W, 3)``.

    Chroma is interpolated bicubically, and all frames are treated as progressive with centered samples. torchcodec does
    the same, and so did FFmpeg's older interface, with which the published networks were trained.

    Args:
        reformatter: reused for all frames of a video, because its setup is slow.
    """
    mirrored, turns = orientation(frame)
    has_odd_side = frame.width % 2 or frame.height % 2
    if frame.interlaced_frame or has_odd_side or frame.format.name not in SPECIAL_FORMATS:
        frame = _copy_samples(frame)
    converted = reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, **THREADS)
    image = converted.to_ndarray()
    if not mirrored and not turns:
        return image
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if mirrored else image, turns))


def orientation(frame: av.VideoFrame) -> tuple[bool, int]:
    """Return how to display a frame: whether to mirror it left to right, then the counterclockwise quarter turns.

    Phones store portrait videos rotated, and some front cameras store mirrored videos; a display matrix in the file
    describes how to show them.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # the frame has side data of a type that this version of PyAV does not support
        return False, round(getattr(frame, "rotation", 0) / 90) % 4
    if matrix is None:
        return False, 0
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # type: ignore[call-overload]  # (x, y) goes to (ax + cy, bx + dy)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return mirrored, round(math.degrees(math.atan2(c - b, a + d)) / 90) % 4


def _copy_samples(frame: av.VideoFrame) -> av.VideoFrame:
    """Copy the samples and color matrix of a frame, without its other properties.

    A frame with a palette, or with rows stored from bottom to top, is RGB and is returned unchanged.
    """
    if any(plane.line_size <= 0 for plane in frame.planes):
        return frame
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for target, plane in zip(copy.planes, frame.planes, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
        target_rows = np.frombuffer(target, np.uint8).reshape(-1, target.line_size)  # type: ignore[call-overload]
        width = min(rows.shape[1], target_rows.shape[1])
        target_rows[:, :width] = rows[: len(target_rows), :width]
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy


def stack_images(
    images: Iterable[np.ndarray], count: int, name: str, transform: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Stack ``count`` images ``(H, W, 3)`` into a tensor ``(count, 3, H, W)``, without a second copy in memory.

    Args:
        name: the name of the video in error messages.
        transform: function applied to an image ``(1, 3, H, W)`` before the next one is decoded.

    Raises:
        DataError: the images differ in size.
    """
    frames: np.ndarray | None = None
    shape: tuple[int, ...] = ()
    for number, image in enumerate(images):
        shape = shape or image.shape
        if image.shape != shape:
            sizes = sorted([image.shape[:2], shape[:2]])
            raise DataError(f"the frames of {name} differ in size: {sizes[0]} and {sizes[1]}.")
        if transform is not None:
            image = transform(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        if frames is None:
            frames = np.empty((count, *image.shape), image.dtype)
        frames[number] = image
    assert frames is not None
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
