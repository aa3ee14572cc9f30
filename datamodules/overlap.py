"""Overlap between the splits of a data set: videos in two splits, or in two classes of one split.

Two records are the same video if they are the same file, through any path or link, or if two files of equal size have
the same content at the end, at the start and in the middle. Only files of equal size are read. Segments of one video
overlap only if their spans intersect.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import stat
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from datamodules.records import VideoRecords
from zoo.errors import DataError
from zoo.text import printable

log = logging.getLogger("datamodules")

BLOCK = 16 << 10  # bytes compared at the end, the start and in the middle of a file
READ_LIMIT = 20_000  # maximum number of files read; far larger data sets have more files of equal size by chance
THREADS = 16  # most of the time is spent waiting for the disk or network
EXAMPLES = 2
WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Overlap:
    """Videos of one split that are also in another split or, if both are the same split, in two of its classes.

    count: number of these videos, of ``total`` in ``part``.
    examples: names of a few pairs.
    """

    part: str
    other: str
    count: int
    total: int
    examples: list[tuple[str, str]]

    def __str__(self) -> str:
        pairs = "; ".join(one if one == two else f"{one} = {two}" for one, two in self.examples)
        more = ", ..." if self.count > len(self.examples) else ""
        overlap = "are in two classes" if self.part == self.other else f"are also {WORDS[self.other]} videos"
        return f"{self.count} of {self.total} {WORDS[self.part]} videos {overlap} ({pairs}{more})"


def report_overlaps(used: Mapping[str, VideoRecords], others: Mapping[str, VideoRecords], refuse: bool) -> None:
    """Compare the splits that a stage uses with each other and with the other splits; warn, or raise if ``refuse``.

    Training continues after a warning: its weights are usable, only the validation accuracy is too high. Validation and
    testing result in nothing but an accuracy, which an overlap makes meaningless.

    Raises:
        DataError: ``refuse`` is set, and there is an overlap.
    """
    order: list[str] = [part for part in ("train", "val", "test") if part in {*used, *others}]
    pairs = [(later, part) for part, later in itertools.combinations(order, 2) if not refuse or {part, later} & {*used}]
    pairs += [(part, part) for part in used]
    overlaps = find_overlaps({**used, **others}, pairs)
    if not overlaps:
        return
    if refuse:
        raise DataError(
            f"{'; '.join(map(str, overlaps))}. The accuracy would not be valid for new videos. Remove these videos "
            "from one of the two, or set --data.allow_overlap true if this is intended."
        )
    for overlap in overlaps:
        log.warning("%s. Set --data.allow_overlap true if this is intended.", printable(str(overlap)))


class File(NamedTuple):
    """One file, or one video in a shard at ``offset``; of a remote shard, ``path`` is the name and ``offset`` None."""

    identity: Hashable
    size: int
    path: str = ""
    offset: int | None = None


def find_overlaps(parts: Mapping[str, VideoRecords], pairs: Iterable[tuple[str, str]]) -> list[Overlap]:
    """Find overlaps between pairs of splits; for a pair of equal splits, videos in two of its classes."""
    files: dict[Hashable, File] = {}
    members: dict[Hashable, dict[str, list[int]]] = {}  # identity -> part -> numbers of records
    for part, records in parts.items():
        for number, file in enumerate(_files(records)):
            files.setdefault(file.identity, file)
            members.setdefault(file.identity, {}).setdefault(part, []).append(number)
    for same in _equal_content(list(files.values()), parts, members):
        first, *others = [file.identity for file in same]
        for other in others:
            for part, numbers in members.pop(other).items():
                members[first].setdefault(part, []).extend(numbers)
    shared = [group for group in members.values() if sum(map(len, group.values())) > 1]
    overlaps = []
    for part, other in pairs:
        matches = [
            match
            for group in shared
            if part in group and other in group
            for match in (
                _conflicts(parts[part], group[part])
                if part == other
                else _shared(parts[part], group[part], parts[other], group[other])
            )
        ]
        if matches:
            examples: list[tuple[str, str]] = []
            for one, two in matches[: 2 * EXAMPLES]:
                pair = (parts[part].ids[one], parts[other].ids[two])
                if pair[::-1] not in examples:
                    examples.append(pair)
            overlaps.append(Overlap(part, other, len(matches), len(parts[part]), examples[:EXAMPLES]))
    return overlaps


def _shared(
    one: VideoRecords, numbers: Sequence[int], other: VideoRecords, others: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the records of one video that intersect a record of the other split, each with such a record."""
    if one.spans is None or other.spans is None:
        return [(number, others[0]) for number in numbers]
    spans = other.spans[others]
    order = np.argsort(spans[:, 0], kind="stable")
    starts, stops = spans[order, 0], spans[order, 1]
    latest = np.maximum.accumulate(stops)  # of the segments that start no later
    matches = []
    for number in numbers:
        start, stop = one.spans[number]
        before = int(np.searchsorted(starts, stop))  # segments that start before this one ends
        if before and latest[before - 1] > start:
            matches.append((number, others[order[int(np.argmax(stops[:before]))]]))
    return matches


def _conflicts(records: VideoRecords, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the records of one video, or of one span of it, in different classes, each with such a record."""
    if records.labels.ndim > 1:  # several actions may take place at once
        return []
    by_span: dict[Hashable, list[int]] = {}
    for number in numbers:
        by_span.setdefault(None if records.spans is None else tuple(records.spans[number]), []).append(number)
    matches = []
    for same in by_span.values():
        different = {int(records.labels[number]): number for number in same}
        if len(different) > 1:
            for number in same:
                label = int(records.labels[number])
                matches.append((number, next(two for other, two in different.items() if other != label)))
    return matches


# files -----------------------------------------------------------------------------------------------------------


def _files(records: VideoRecords) -> list[File]:
    """Return the file of each record."""
    paths = records.paths.tolist()
    unique = list(dict.fromkeys(paths))
    files_by_path = dict(zip(unique, _each(_file, unique), strict=True))
    if records.byte_spans is None:
        return [files_by_path[path] for path in paths]
    files = []
    for path, (offset, size), name in zip(paths, records.byte_spans.tolist(), records.ids, strict=True):
        remote = "://" in path  # too slow to read: compared by name and size
        identity = (files_by_path[path].identity, offset)
        files.append(File(identity, size, name, None) if remote else File(identity, size, path, offset))
    return files


def _file(path: str) -> File:
    if "://" in path:
        return File(path, 0)
    try:
        status = os.stat(path)  # follows links, so all links to a file have its device and inode
    except (OSError, ValueError):
        return File(os.path.abspath(path), 0)
    identity: Hashable = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
    if not stat.S_ISREG(status.st_mode):  # a folder of frames
        return File(identity, 0)
    return File(identity, status.st_size, path, 0)


def _equal_content(
    files: Sequence[File], parts: Mapping[str, VideoRecords], members: Mapping[Hashable, Mapping[str, Sequence[int]]]
) -> list[list[File]]:
    """Group different files with equal content; only groups across splits or classes are compared."""

    def kind(file: File) -> tuple[str, Any]:
        part, numbers = next(iter(members[file.identity].items()))
        return part, parts[part].labels[numbers[0]].tolist()

    sized: dict[int, list[File]] = {}
    for file in files:
        if file.size:
            sized.setdefault(file.size, []).append(file)
    across: list[list[File]] = []
    within: list[list[File]] = []
    for group in sized.values():
        kinds = [kind(file) for file in group]
        if len({part for part, _ in kinds}) > 1:
            across.append(group)
        elif any(label != kinds[0][1] for _, label in kinds):
            within.append(group)
    groups: list[list[File]] = []
    remaining = READ_LIMIT
    for group in across + within:
        if remaining > 1:
            groups.append(group[:: -(-len(group) // remaining)])  # a sample across splits, if there are too many
            remaining -= len(groups[-1])
    for position in (1.0, 0.0, 0.5):
        flat = [(number, file) for number, group in enumerate(groups) for file in group]
        digests = _each(lambda item: _digest(item[1], position), flat)  # noqa: B023, used before the loop goes on
        alike: dict[Hashable, list[File]] = {}
        for (number, file), digest in zip(flat, digests, strict=True):
            alike.setdefault((number, digest), []).append(file)
        groups = [group for group in alike.values() if len(group) > 1]
    return groups


def _digest(file: File, position: float) -> Hashable:
    """Return a digest of the block at a relative position; for a video in a remote shard, its name."""
    if file.offset is None:
        return file.path
    try:
        with open(file.path, "rb", buffering=0) as stream:
            stream.seek(file.offset + int(position * max(file.size - BLOCK, 0)))
            block = stream.read(min(BLOCK, file.size)) or b""
    except (OSError, ValueError):  # ValueError of a path that cannot be one
        block = b""
    if len(block) < min(BLOCK, file.size):  # unreadable or truncated: equal to no other
        return file.identity
    return hashlib.blake2b(block, digest_size=16).digest()


def _each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Apply a function to every item, in threads."""
    chunks = [items[start : start + 256] for start in range(0, len(items), 256)]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(itertools.chain.from_iterable(pool.map(lambda chunk: [function(item) for item in chunk], chunks)))
