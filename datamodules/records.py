"""The videos of a split: arrays of paths and labels, and the source of each video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import DataError
from zoo.video.source import Source


class PackedStrings(Sequence[str]):
    """Sequence of strings in a single UTF-8 buffer.

    Forked workers share the buffer, while a list would be copied gradually as reference counts change. A numpy array of
    strings would use four bytes per character of the longest string for each of them.

    An integer index returns a string; an array of indices returns a subset that shares the buffer.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        parts = [string.encode("utf-8", "surrogateescape") for string in strings]
        ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
        self._bytes, self._bounds = b"".join(parts), np.stack([np.append(0, ends)[:-1], ends], axis=-1)

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, number: Any) -> Any:
        if np.ndim(number):
            subset = object.__new__(PackedStrings)
            subset._bytes, subset._bounds = self._bytes, self._bounds[number]
            return subset
        start, stop = self._bounds[number]
        return self._bytes[start:stop].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for start, stop in self._bounds.tolist():
            yield self._bytes[start:stop].decode("utf-8", "surrogateescape")

    def tolist(self) -> list[str]:
        """Return all strings as a list, like the method of numpy arrays."""
        return list(self)


@dataclass(frozen=True)
class VideoRecords:
    """The videos of a split, in arrays that forked workers share.

    paths: ``Source.path`` of each video.
    labels: int64, ``(n,)``, or ``(n, heads)`` for several classifier heads; -1 if unknown. For several labels per
        video, 0 or 1 for each class, ``(n, classes)``, int64 or uint8.
    ids: unique name of each video in the split: the path, except for segments and videos in shards.
    listed: number of videos in the annotations, including missing ones, which are not in the arrays.
    spans: ``Source.span`` of each video, ``(n, 2)``, or None.
    byte_spans: ``Source.byte_span`` of each video, ``(n, 2)``, or None.
    open_end: ``Source.open_end`` of all videos.
    """

    paths: PackedStrings
    labels: np.ndarray
    ids: PackedStrings
    listed: int
    spans: np.ndarray | None = None
    byte_spans: np.ndarray | None = None
    open_end: bool = False

    @classmethod
    def of(
        cls,
        paths: Sequence[str | Path],
        labels: Sequence[int] | Sequence[Sequence[int]] | np.ndarray | None = None,
        *,
        ids: Sequence[str] | None = None,
        spans: Sequence[tuple[float, float]] | None = None,
        byte_spans: Sequence[tuple[int, int]] | None = None,
        listed: int | None = None,
        open_end: bool = False,
        source: str = "a split",
    ) -> VideoRecords:
        """Create records from lists of equal length.

        Args:
            source: the file that lists the videos, for messages.

        Raises:
            DataError: two videos have the same name.
        """
        label_array = np.full(len(paths), -1) if labels is None else np.asarray(labels)
        names = list(map(str, paths if ids is None else ids))
        if len(set(names)) < len(names):
            duplicate = min(name for name, count in Counter(names).items() if count > 1)
            raise DataError(f"{duplicate[:200]} is listed more than once in {source}; remove all but one.")
        packed_names = PackedStrings(names)
        return cls(
            packed_names if ids is None else PackedStrings(map(str, paths)),
            label_array if label_array.dtype == np.uint8 else label_array.astype(np.int64),
            packed_names,
            len(paths) if listed is None else listed,
            None if spans is None else np.asarray(spans, dtype=np.float64).reshape(len(paths), 2),
            None if byte_spans is None else np.asarray(byte_spans, dtype=np.int64).reshape(len(paths), 2),
            open_end,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, numbers: Sequence[int] | np.ndarray) -> VideoRecords:
        """Return a subset in the given order; missing videos still count as listed."""
        numbers = np.asarray(numbers, dtype=np.int64)
        paths = self.paths[numbers]
        return replace(
            self,
            paths=paths,
            labels=self.labels[numbers],
            ids=paths if self.ids is self.paths else self.ids[numbers],
            listed=len(numbers) + self.listed - len(self),
            spans=None if self.spans is None else self.spans[numbers],
            byte_spans=None if self.byte_spans is None else self.byte_spans[numbers],
        )

    def join(self, other: VideoRecords) -> VideoRecords:
        """Return these videos followed by those of another split of the same data set.

        Raises:
            DataError: a video is in both.
        """

        def stacked(one: np.ndarray | None, two: np.ndarray | None) -> Any:
            return None if one is None or two is None else np.concatenate([one, two])

        return VideoRecords.of(
            [*self.paths, *other.paths],
            np.concatenate([self.labels, other.labels]),
            ids=None if self.ids is self.paths else [*self.ids, *other.ids],
            spans=stacked(self.spans, other.spans),
            byte_spans=stacked(self.byte_spans, other.byte_spans),
            listed=self.listed + other.listed,
            open_end=self.open_end,
            source="the training and validation videos",
        )

    def source(self, number: int) -> Source:
        """Return the source of a video."""
        span = None if self.spans is None else (float(self.spans[number, 0]), float(self.spans[number, 1]))
        byte_span = (
            None if self.byte_spans is None else (int(self.byte_spans[number, 0]), int(self.byte_spans[number, 1]))
        )
        return Source(self.paths[number], span, byte_span, self.ids[number], self.open_end)
