"""The interface of all decoders: frames of a video by number.

There are two decoders of video files, which give the same frames: PyAV, which brings its own FFmpeg, and torchcodec,
which needs the system's. A folder of frames is read as a video is.
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
    """An open video; ``len(reader)`` is the number of its frames, ``fps`` their rate. Use it in a ``with`` block."""

    fps: float

    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int] | np.ndarray, each: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Frames by number (repeats allowed) -> uint8 RGB ``(len(indices), 3, H, W)``.

        Args:
            each: what becomes of frames ``(n, 3, H, W)``, a few at a time, before the next ones are decoded: resized at
                once, those of a large video take little memory.

        Raises:
            DataError: a frame cannot be decoded.
            IndexError: there is no such frame.
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
    """Open a video file, a part of one, a video inside a shard, or a folder of frames.

    Args:
        source: where it is; a path stands for all of a file or folder.
        decoder: one of ``DECODERS``; folders of frames need none.
        frame_rate: of a folder of frames, which does not say.
        deadline: on the clock of ``time.monotonic``: what is not done by then is given up.

    Raises:
        DataError: it is missing, empty, damaged, no video, or takes too long.
        ConfigError: an unknown decoder, or one that cannot be loaded.
    """
    if decoder not in DECODERS:
        raise ConfigError(f"decoder is {decoder!r}; choose from {', '.join(DECODERS)}.")
    source = source if isinstance(source, Source) else Source(str(source))
    if source.place is None and source.content is None and Path(source.path).is_dir():
        return FrameReader(source, frame_rate, deadline)
    if decoder == "torchcodec":
        from zoo.video.torchcodec_reader import TorchcodecReader

        return TorchcodecReader(source, deadline)
    return VideoReader(source, deadline)


def check_decoder(decoder: str) -> None:
    """Raise what ``open_video`` would, before the first video is opened.

    Raises:
        ConfigError: an unknown decoder, or one that cannot be loaded.
    """
    if decoder not in DECODERS:
        raise ConfigError(f"decoder is {decoder!r}; choose from {', '.join(DECODERS)}.")
    if decoder == "torchcodec":
        from zoo.video.torchcodec_reader import video_decoder

        video_decoder()
