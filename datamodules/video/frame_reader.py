"""A folder of frames, read as a video is: Something-Something V1, and raw frames as other libraries extract them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.records import Source
from zoo.errors import DataError

FRAME_EXTENSIONS = (".jpg", ".jpeg", ".png")
FLOW = re.compile(r"(flow|x|y)_", re.IGNORECASE)  # optical flow, which extractors put beside the frames


def _natural(name: str) -> list[tuple[int, str]]:
    """Frame 10 comes after frame 9, with or without zeros in front."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.findall(r"\d+|\D+", name)]


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
            with os.scandir(self.source.path) as entries:
                found = [e.name for e in entries if e.name.lower().endswith(FRAME_EXTENSIONS)]
        except OSError as error:
            raise DataError(f"{self.source} cannot be read as a folder of frames: {error.strerror}.") from error
        names = sorted((n for n in found if not n.startswith(".") and not FLOW.match(n)), key=_natural)
        if not names:
            raise DataError(f"{self.source} is a folder without frames (JPEG or PNG files).")
        start, stop = (0, len(names)) if self.source.span is None else map(int, self.source.span)
        if not 0 <= start < stop <= len(names):
            raise DataError(f"{self.source} has {len(names)} frames; frames {start} to {stop} are not among them.")
        self._names = names[start:stop]

    def __len__(self) -> int:
        return len(self._names)

    def frames(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Frames by number (repeats allowed) -> uint8 RGB ``(len(indices), 3, H, W)``.

        Raises:
            DataError: a file is no picture or a damaged one, frames differ in size, or the deadline has passed.
            IndexError: there is no such frame.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= len(self):
            raise IndexError(f"frame numbers {numbers.tolist()} of a video with {len(self)} frames")
        wanted, order = np.unique(numbers, return_inverse=True)
        pictures = [self._picture(self._names[n]) for n in wanted.tolist()]
        sizes = {picture.shape[:2] for picture in pictures}
        if len(sizes) > 1:
            raise DataError(f"the frames of {self.source} differ in size: {' and '.join(map(str, sorted(sizes)))}.")
        return torch.from_numpy(np.stack(pictures)[order]).permute(0, 3, 1, 2)

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

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
