"""Folders of frames with the interface of a video, such as Something-Something V1 or extracted raw frames."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.errors import DataError
from zoo.video.pixels import stack_images
from zoo.video.source import Source

FRAME_EXTENSIONS = (".jpg", ".jpeg", ".png")
OPTICAL_FLOW = re.compile(r"(flow|x|y)_", re.IGNORECASE)  # some tools extract it into the same folder

LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key for natural order: frame 10 after frame 9, with or without leading zeros."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.findall(r"\d+|\D+", name)]


class _NumberedNames(Sequence[str]):
    """Consecutively numbered names such as frame_0000000001.jpg, computed instead of stored."""

    def __init__(self, first: re.Match[str], count: int) -> None:
        self._prefix, digits, self._suffix = first.groups()
        self._first, self._width, self._count = int(digits), len(digits), count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self._count:
            raise IndexError(number)
        return f"{self._prefix}{self._first + number:0{self._width}d}{self._suffix}"


@functools.lru_cache(maxsize=2)
def _list_frames(folder: str, modified: int) -> Sequence[str]:
    """Return the names of the frames in a folder; ``modified``, its modification time, is part of the cache key."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(FRAME_EXTENSIONS)]
    names = [n for n in names if not n.startswith(".") and not OPTICAL_FLOW.match(n)]
    first = LAST_NUMBER.fullmatch(min(names, default=""))
    if first:
        numbered = _NumberedNames(first, len(names))
        if set(numbered) == set(names):
            return numbered
    return sorted(names, key=natural_key)


@functools.lru_cache(maxsize=4096)
def _list_numbered_frames(folder: str, modified: int) -> _NumberedNames | None:
    """Return the names if they are consecutive, else None. They take little memory, so this cache is larger."""
    names = _list_frames(folder, modified)
    return names if isinstance(names, _NumberedNames) else None


class FrameReader:
    """The JPEG and PNG files of a folder in natural order, without optical flow (flow_*, x_*, y_*).

    The span of the source is in frame numbers ``[start, stop)`` from 0. EXIF rotation of JPEG files is not applied;
    frames extracted from videos have none.

    Args:
        source: the folder.
        names: paths of the frames relative to the folder, instead of all its frames.

    Raises:
        DataError: the folder does not exist or has no frames, or the span is empty or out of range.
    """

    def __init__(
        self,
        source: str | Path | Source,
        fps: float = 30.0,
        deadline: float | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.source = source if isinstance(source, Source) else Source(str(source))
        self.fps, self._deadline, self._opened = fps, deadline, time.monotonic()
        if names is None:
            names = self._list_names()
        if not names:
            raise DataError(f"{self.source} is a folder without frames (JPEG or PNG files).")
        start, stop = (0, len(names)) if self.source.span is None else map(int, self.source.span)
        stop = min(stop, len(names)) if self.source.open_end else stop
        if not 0 <= start < stop <= len(names):
            raise DataError(f"{self.source} has {len(names)} frames; frames {start} to {stop} are not among them.")
        self._names, self._start, self._length = names, start, stop - start

    def _list_names(self) -> Sequence[str]:
        try:
            cache_key = (self.source.path, os.stat(self.source.path).st_mtime_ns)
            return _list_numbered_frames(*cache_key) or _list_frames(*cache_key)
        except OSError as error:
            raise DataError(f"{self.source} cannot be read as a folder of frames: {error.strerror}.") from error

    def __len__(self) -> int:
        return self._length

    def frames(
        self, indices: Sequence[int] | np.ndarray, transform: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Read frames by number, see ``zoo.video.decoding.Reader.frames``.

        Raises:
            DataError: a file is not a valid image, frames differ in size, or the deadline has passed.
            IndexError: a number is out of range.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= len(self):
            raise IndexError(f"frame numbers {numbers.tolist()} of a video with {len(self)} frames")
        unique, order = np.unique(numbers, return_inverse=True)
        images = (self._read_image(self._names[self._start + n]) for n in unique.tolist())
        frames = stack_images(images, len(unique), str(self.source), transform)
        return frames if np.array_equal(numbers, unique) else frames[torch.from_numpy(order)]

    def _read_image(self, name: str) -> np.ndarray:
        if self._deadline is not None and time.monotonic() > self._deadline:
            limit = max(0.0, self._deadline - self._opened)
            raise DataError(f"{self.source} took longer than {limit:.3g} s to decode.")
        path = Path(self.source.path, name)
        if not path.is_file():
            raise DataError(f"{path} is not a regular file.")
        try:
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                return np.array(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: broken PNGs
            raise DataError(f"{path} cannot be read as an image: {str(error).rstrip('.')}.") from error

    def times(self) -> np.ndarray:
        """Return the times of the frames in seconds, from 0."""
        return np.arange(len(self)) / self.fps

    def iterate(self, indices: np.ndarray) -> Iterator[Tensor]:
        """Yield the frames of increasing numbers, uint8 RGB ``(3, H, W)``.

        Raises:
            DataError: a file is not a valid image, or the deadline has passed.
        """
        for index in indices.tolist():
            yield torch.from_numpy(self._read_image(self._names[self._start + index])).permute(2, 0, 1)

    def close(self) -> None:
        """Do nothing: files are closed after reading."""

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
