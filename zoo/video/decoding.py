"""Open a video and decode its frames by number.

Two decoders return the same frames of video files: PyAV, which contains FFmpeg, and torchcodec, which needs an
installed FFmpeg. Folders of frames have the same interface.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from zoo.errors import ConfigError, DataError, ZooError
from zoo.video.containers import DEFAULT_LIMITS, Limits
from zoo.video.frame_reader import FrameReader
from zoo.video.names import DECODERS
from zoo.video.pyav_reader import VideoReader
from zoo.video.source import Source
from zoo.video.time_limit import within

__all__ = ["Reader", "VideoReader", "check_decoder", "open_video", "read_with"]

T = TypeVar("T")


class Reader(Protocol):
    """An open video, used in a ``with`` block; ``len(reader)`` is its number of frames, ``fps`` its frame rate."""

    fps: float

    def __len__(self) -> int: ...

    def frames(
        self, indices: Sequence[int] | np.ndarray, transform: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Decode frames by number, in any order, with repeats: uint8 RGB ``(len(indices), 3, H, W)``.

        Args:
            transform: function applied to a few frames ``(n, 3, H, W)`` at a time, before more are decoded. Resizing
                here saves memory for large videos.

        Raises:
            DataError: a frame cannot be decoded.
            IndexError: a number is out of range.
        """
        ...

    def times(self) -> np.ndarray:
        """Seconds of the frames, ``(len(reader),)``; those of a whole video begin at 0."""
        ...

    def iterate(self, indices: np.ndarray) -> Iterator[Tensor]:
        """The frames of increasing numbers, one after another, uint8 RGB ``(3, H, W)``.

        Raises:
            DataError: a frame cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Release the file and its decoder."""
        ...

    def __enter__(self) -> Reader: ...

    def __exit__(self, *error: Any) -> None: ...


def open_video(
    source: str | Path | Source,
    decoder: str = "pyav",
    frame_rate: float = 30.0,
    deadline: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Reader:
    """Open a video file, a segment of one, a video in a shard, or a folder of frames.

    Args:
        source: location of the video; a path refers to an entire file or folder.
        decoder: one of ``DECODERS``; ignored for folders of frames.
        frame_rate: frames per second of a folder of frames.
        deadline: value of ``time.monotonic()`` after which reading raises an error; None for no limit.
        limits: largest video file that is opened.

    Raises:
        DataError: the video is missing, empty, damaged, too large or not a video, or the deadline has passed.
        ConfigError: the decoder is unknown or cannot be loaded.
    """
    if decoder not in DECODERS:
        raise ConfigError(f"decoder is {decoder!r}; choose from {', '.join(DECODERS)}.")
    source = source if isinstance(source, Source) else Source(str(source))
    if source.byte_span is None and source.content is None and Path(source.path).is_dir():
        return FrameReader(source, frame_rate, deadline)
    if decoder == "torchcodec":
        from zoo.video.torchcodec_reader import TorchcodecReader

        return TorchcodecReader(source, deadline, limits)
    return VideoReader(source, deadline, limits)


def check_decoder(decoder: str) -> None:
    """Check that a decoder is available, before the first video is opened.

    Raises:
        ConfigError: the decoder is unknown or cannot be loaded.
    """
    if decoder not in DECODERS:
        raise ConfigError(f"decoder is {decoder!r}; choose from {', '.join(DECODERS)}.")
    if decoder == "torchcodec":
        from zoo.video.torchcodec_reader import video_decoder

        video_decoder()


def read_with(
    open_reader: Callable[[float | None], AbstractContextManager[Reader]],
    read: Callable[[Reader], T],
    name: str,
    time_limit: float | None,
) -> T:
    """Open a video, return what ``read`` makes of it, and close it, within a time limit.

    Args:
        open_reader: opens the video; its argument is the deadline on the clock of ``time.monotonic``.
        name: the name of the video in error messages.
        time_limit: seconds for all of it; None for no limit.

    Raises:
        DataError: the video cannot be read, or takes too long.
    """
    deadline = None if time_limit is None else time.monotonic() + time_limit

    def run() -> T:
        try:
            with open_reader(deadline) as reader:
                return read(reader)
        except ZooError:
            raise
        except Exception as error:  # decoders raise many types for damaged files
            raise DataError(f"{name} cannot be read ({type(error).__name__}: {error}).") from error

    return within(time_limit, name, run)
