"""Which videos there are: arrays of paths and labels, and the source of one video among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import DataError
from zoo.video.source import Source


class Names(Sequence[str]):
    """Texts in one piece of UTF-8: a list of objects would be copied bit by bit in every worker, and numpy's arrays of
    texts give each the room of the longest, four bytes a character.

    A number picks a text, an array of numbers a subset, which shares the bytes.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        parts = [text.encode("utf-8", "surrogateescape") for text in texts]
        ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
        self._bytes, self._bounds = b"".join(parts), np.stack([np.append(0, ends)[:-1], ends], axis=-1)

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, number: Any) -> Any:
        if np.ndim(number):
            part = object.__new__(Names)
            part._bytes, part._bounds = self._bytes, self._bounds[number]
            return part
        start, stop = self._bounds[number]
        return self._bytes[start:stop].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for start, stop in self._bounds.tolist():
            yield self._bytes[start:stop].decode("utf-8", "surrogateescape")

    def tolist(self) -> list[str]:
        """All of them, as numpy's arrays say it."""
        return list(self)


@dataclass(frozen=True)
class VideoRecords:
    """The videos of a split. Arrays, not lists: workers then share them instead of copying them bit by bit.

    paths, spans, places: of each ``Source``; spans and places are ``(n, 2)`` or None.
    labels: int64, ``(n,)``, or ``(n, heads)`` where a video has one of each of several kinds; -1 where unknown.
    ids: a name for each, unique in the split; the path, but for segments and videos in shards.
    listed: how many videos the annotations name; those that are not there are not in the arrays.
    open_end: of each ``Source``.
    """

    paths: Names
    labels: np.ndarray
    ids: Names
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
        source: str = "a split",
    ) -> VideoRecords:
        """From lists of equal length. ``source`` is the file that lists the videos, for messages.

        Raises:
            DataError: two videos of the same name.
        """
        known = np.full(len(paths), -1) if labels is None else np.asarray(labels)
        named = list(map(str, paths if ids is None else ids))
        if len(set(named)) < len(named):
            twice = min(name for name, count in Counter(named).items() if count > 1)
            raise DataError(f"{twice[:200]} is listed more than once in {source}; remove all but one.")
        names = Names(named)
        return cls(
            names if ids is None else Names(map(str, paths)),
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
        numbers = np.asarray(numbers, dtype=np.int64)
        paths = self.paths[numbers]
        return replace(
            self,
            paths=paths,
            labels=self.labels[numbers],
            ids=paths if self.ids is self.paths else self.ids[numbers],
            listed=len(numbers) + self.listed - len(self),
            spans=None if self.spans is None else self.spans[numbers],
            places=None if self.places is None else self.places[numbers],
        )

    def source(self, number: int) -> Source:
        """Where video ``number`` is."""
        span = None if self.spans is None else (float(self.spans[number, 0]), float(self.spans[number, 1]))
        place = None if self.places is None else (int(self.places[number, 0]), int(self.places[number, 1]))
        return Source(self.paths[number], span, place, self.ids[number], self.open_end)
