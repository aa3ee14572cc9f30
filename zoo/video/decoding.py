"""Open a video and decode its frames by number.

Two decoders return the same frames of video files: PyAV, which contains FFmpeg, and torchcodec, which needs an
installed FFmpeg. Folders of frames have the same interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from zoo.errors import ConfigError
from zoo.video.frame_reader import FrameReader
from zoo.video.pyav_reader import VideoReader
from zoo.video.source import Source

__all__ = ["DECODERS", "Reader", "VideoReader", "check_decoder", "open_video"]

DECODERS = ("pyav", "torchcodec")


class Reader(Protocol):
    """An open video, used in a ``with`` block; ``len(reader)`` is its number of frames, ``fps`` its frame rate."""

    fps: float

    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int] | np.ndarray, each: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Decode frames by number, in any order, with repeats: uint8 RGB ``(len(indices), 3, H, W)``.

        Args:
            each: function applied to a few frames ``(n, 3, H, W)`` at a time, before more are decoded. Resizing here
                saves memory for large videos.

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
    source: str | Path | Source, decoder: str = "pyav", frame_rate: float = 30.0, deadline: float | None = None
) -> Reader:
    """Open a video file, a segment of one, a video in a shard, or a folder of frames.

    Args:
        source: location of the video; a path stands for a whole file or folder.
        decoder: one of ``DECODERS``; ignored for folders of frames.
        frame_rate: frames per second of a folder of frames.
        deadline: value of ``time.monotonic()`` after which reading raises an error; None for no limit.

    Raises:
        DataError: the video is missing, empty, damaged or not a video, or the deadline has passed.
        ConfigError: the decoder is unknown or cannot be loaded.
    """
    if decoder not in DECODERS:
        raise ConfigError(f"decoder is {decoder!r}; choose from {', '.join(DECODERS)}.")
    source = source if isinstance(source, Source) else Source(str(source))
    if source.byte_span is None and source.content is None and Path(source.path).is_dir():
        return FrameReader(source, frame_rate, deadline)
    if decoder == "torchcodec":
        from zoo.video.torchcodec_reader import TorchcodecReader

        return TorchcodecReader(source, deadline)
    return VideoReader(source, deadline)


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
