"""A folder of frames, read as a video is: Something-Something V1, and raw frames as other libraries extract them."""

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
from zoo.video.pixels import stacked
from zoo.video.source import Source

FRAME_EXTENSIONS = (".jpg", ".jpeg", ".png")
FLOW = re.compile(r"(flow|x|y)_", re.IGNORECASE)  # optical flow, which extractors put beside the frames

LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


def _natural(name: str) -> list[tuple[int, str]]:
    """Frame 10 comes after frame 9, with or without zeros in front."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.findall(r"\d+|\D+", name)]


class _Numbered(Sequence[str]):
    """Names that count on from the first, such as frame_0000000001.jpg: all of them in a few bytes."""

    def __init__(self, first: re.Match[str], count: int) -> None:
        self._before, digits, self._after = first.groups()
        self._first, self._width, self._count = int(digits), len(digits), count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self._count:
            raise IndexError(number)
        return f"{self._before}{self._first + number:0{self._width}d}{self._after}"


@functools.lru_cache(maxsize=2)
def _listed(folder: str, changed: int) -> Sequence[str]:
    """Names of the frames in a folder that was last changed at some time."""
    with os.scandir(folder) as entries:
        found = [e.name for e in entries if e.name.lower().endswith(FRAME_EXTENSIONS)]
    found = [n for n in found if not n.startswith(".") and not FLOW.match(n)]
    first = LAST_NUMBER.fullmatch(min(found, default=""))
    if first:
        numbered = _Numbered(first, len(found))
        if set(numbered) == set(found):
            return numbered
    return sorted(found, key=_natural)


@functools.lru_cache(maxsize=4096)
def _kept(folder: str, changed: int) -> _Numbered | None:
    """The same if they are few bytes: long videos have a hundred thousand frames, of which a clip shows some."""
    names = _listed(folder, changed)
    return names if isinstance(names, _Numbered) else None


class FrameReader:
    """The JPEG and PNG files of a folder, in natural order; files of optical flow (flow_*, x_*, y_*) are not read.

    A span of the source is frame numbers ``[start, stop)`` in that order, from 0. Rotation that cameras note in JPEG
    files (EXIF) is not applied, as frames that were extracted from videos have none.

    Raises:
        DataError: there is no such folder, it has no frames, or the span has none.
    """

    def __init__(self, source: str | Path | Source, fps: float = 30.0, deadline: float | None = None) -> None:
        self.source = source if isinstance(source, Source) else Source(str(source))
        self.fps, self._deadline, self._opened = fps, deadline, time.monotonic()
        try:
            place = (self.source.path, os.stat(self.source.path).st_mtime_ns)
            names = _kept(*place) or _listed(*place)
        except OSError as error:
            raise DataError(f"{self.source} cannot be read as a folder of frames: {error.strerror}.") from error
        if not names:
            raise DataError(f"{self.source} is a folder without frames (JPEG or PNG files).")
        start, stop = (0, len(names)) if self.source.span is None else map(int, self.source.span)
        stop = min(stop, len(names)) if self.source.open_end else stop
        if not 0 <= start < stop <= len(names):
            raise DataError(f"{self.source} has {len(names)} frames; frames {start} to {stop} are not among them.")
        self._names, self._start, self._length = names, start, stop - start

    def __len__(self) -> int:
        return self._length

    def frames(self, indices: Sequence[int] | np.ndarray, each: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Frames by number (repeats allowed) -> uint8 RGB ``(len(indices), 3, H, W)``, or what ``each`` makes of them.

        Raises:
            DataError: a file is no picture or a damaged one, frames differ in size, or the deadline has passed.
            IndexError: there is no such frame.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= len(self):
            raise IndexError(f"frame numbers {numbers.tolist()} of a video with {len(self)} frames")
        wanted, order = np.unique(numbers, return_inverse=True)
        pictures = (self._picture(self._names[self._start + n]) for n in wanted.tolist())
        frames = stacked(pictures, len(wanted), str(self.source), each)
        return frames if np.array_equal(numbers, wanted) else frames[torch.from_numpy(order)]

    def _picture(self, name: str) -> np.ndarray:
        if self._deadline is not None and time.monotonic() > self._deadline:
            limit = max(0.0, self._deadline - self._opened)
            raise DataError(f"{self.source} took longer than {limit:.3g} s to decode.")
        path = Path(self.source.path, name)
        if not path.is_file():
            raise DataError(f"{path} is no regular file.")
        try:
            with Image.open(path, formats=("JPEG", "PNG")) as picture:
                return np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: of broken PNGs
            raise DataError(f"{path} cannot be read as a picture: {str(error).rstrip('.')}.") from error

    def times(self) -> np.ndarray:
        """Seconds of the frames, from 0."""
        return np.arange(len(self)) / self.fps

    def iterate(self, indices: np.ndarray) -> Iterator[Tensor]:
        """The frames of increasing numbers, one after another, uint8 RGB ``(3, H, W)``.

        Raises:
            DataError: a file is not a picture, or is damaged.
        """
        for index in indices.tolist():
            yield torch.from_numpy(self._picture(self._names[self._start + index])).permute(2, 0, 1)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
