"""Which videos there are: arrays of paths and labels, and the source of one video among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zoo.errors import DataError


@dataclass(frozen=True)
class Source:
    """Where one video is.

    path: a video file, a folder of frames, or a shard (a path or a URL).
    span: of a longer video, seconds ``[start, stop)``; of a folder of frames, frame numbers ``[start, stop)`` from 0.
    place: of a video in a shard, the offset and the number of its bytes.
    name: what messages and reports call it; the path, if not given.
    open_end: the span of a folder of frames may pass its end, as that of a video file may; else that is an error.
    """

    path: str
    span: tuple[float, float] | None = None
    place: tuple[int, int] | None = None
    name: str = ""
    open_end: bool = False

    def __str__(self) -> str:
        return self.name or self.path


@dataclass(frozen=True)
class VideoRecords:
    """The videos of a split. Arrays, not lists: workers then share them instead of copying them bit by bit.

    paths, spans, places: of each ``Source``; spans and places are ``(n, 2)`` or None.
    labels: int64, ``(n,)``, or ``(n, heads)`` where a video has one of each of several kinds; -1 where unknown.
    ids: a name for each, unique in the split; the path, but for segments and videos in shards.
    listed: how many videos the annotations name; those that are not there are not in the arrays.
    open_end: of each ``Source``.
    """

    paths: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    listed: int
    spans: np.ndarray | None = None
    places: np.ndarray | None = None
    open_end: bool = False

    @classmethod
    def of(
        cls,
        paths: Sequence[str | Path],
        labels: Sequence[int] | Sequence[Sequence[int]] | np.ndarray | None = None,
        *,
        ids: Sequence[str] | None = None,
        spans: Sequence[tuple[float, float]] | None = None,
        places: Sequence[tuple[int, int]] | None = None,
        listed: int | None = None,
        open_end: bool = False,
    ) -> VideoRecords:
        """From lists of equal length.

        Raises:
            DataError: two videos of the same name.
        """
        known = np.full(len(paths), -1) if labels is None else np.asarray(labels)
        names = np.array([str(p) for p in (paths if ids is None else ids)], dtype=np.str_)
        unique, counts = np.unique(names, return_counts=True)
        if len(unique) < len(names):
            raise DataError(f"{unique[counts > 1][0]} is listed more than once in a split; remove all but one.")
        return cls(
            np.array([str(p) for p in paths], dtype=np.str_),
            known.astype(np.int64),
            names,
            len(paths) if listed is None else listed,
            None if spans is None else np.asarray(spans, dtype=np.float64).reshape(len(paths), 2),
            None if places is None else np.asarray(places, dtype=np.int64).reshape(len(paths), 2),
            open_end,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, numbers: Sequence[int] | np.ndarray) -> VideoRecords:
        """A subset, in the order given; what was not there counts as listed still."""
        parts = {
            name: None if values is None else values[numbers]
            for name, values in (
                ("paths", self.paths), ("labels", self.labels), ("ids", self.ids), ("spans", self.spans),
                ("places", self.places),
            )
        }  # fmt: skip
        return replace(self, listed=len(numbers) + self.listed - len(self), **parts)

    def source(self, number: int) -> Source:
        """Where video ``number`` is."""
        span = None if self.spans is None else (float(self.spans[number, 0]), float(self.spans[number, 1]))
        place = None if self.places is None else (int(self.places[number, 0]), int(self.places[number, 1]))
        return Source(str(self.paths[number]), span, place, str(self.ids[number]), self.open_end)
