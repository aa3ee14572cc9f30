"""`tempozoo data stats`: what a data set's videos are like, and what would make them quicker to read."""

from __future__ import annotations

import functools
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from datamodules.records import Source
from datamodules.tools.check import SHARE, describe_problem, read_all
from datamodules.tools.parallel import each
from datamodules.tree import open_tree, split_of
from zoo.errors import DataError, ZooError
from zoo.text import printable
from zoo.video.decoding import VideoReader

SHOWN = 20  # classes in the table
LARGE, FAR = 320, 32  # a short side and a distance of key frames from which preparing pays; it makes them 256 and 16


class Video(NamedTuple):
    """One readable video: seconds, frames a second, pixels as shown, frames for each key frame, bytes."""

    seconds: float
    fps: float
    width: int
    height: int
    codec: str
    frames: int
    gop: float
    bytes: int


def describe_video(source: Source, time_limit: float | None = None) -> Video:
    """Read one video, as `tempozoo data check` does, and describe it.

    Raises:
        DataError: it cannot be read.
    """
    stop = None if time_limit is None else time.monotonic() + SHARE * time_limit
    with VideoReader(source) as reader:
        _, height, width = read_all(reader, str(source), stop)
        count, fps = len(reader), reader.fps
        size = source.byte_span[1] if source.byte_span else Path(source.path).stat().st_size
        gop = count / max(1, reader.key_frames)
        return Video(count / fps, fps, width, height, reader.codec, count, gop, size)


class Stats(NamedTuple):
    """A data set: its root, relative paths of all videos, those that were read, and how many could not be read."""

    root: str
    names: list[str]
    videos: list[Video]
    bad: int


def stats(root: str, limit: int | None = None, workers: int | None = None, time_limit: float | None = 60.0) -> Stats:
    """Read the videos below a folder or in shards; ``limit`` of them, evenly spread, if there are more.

    Raises:
        DataError: there is no such folder, no video in it, or none that can be read.
    """
    tree = open_tree(root)
    names = tree.names
    if not names:
        raise DataError(f"There are no videos below {root}; folders of frames have nothing to tell.")
    count = len(names) if limit is None else min(len(names), max(1, limit))
    some = [names[number * len(names) // count] for number in range(count)]
    records = tree.records(some, ids=some)
    sources = [records.source(number) for number in range(count)]
    work = functools.partial(describe_video, time_limit=time_limit)
    results = each(work, sources, "reading videos", workers, time_limit)
    videos = [result for result in results if not isinstance(result, ZooError)]
    if not videos:
        problem = describe_problem(sources[0], str(results[0]))
        raise DataError(f"None of {count} videos below {root} can be read. The first error: {problem}")
    return Stats(root, names, videos, count - len(videos))


def describe(found: Stats) -> list[str | Table]:
    """Sizes and counts, and videos by class, to be printed by rich."""
    videos, count = found.videos, len(found.videos)
    readable = f"{count + found.bad} checked: {count} can be read, {found.bad} cannot"
    total = sum(v.bytes for v in videos) * len(found.names) / count
    seconds = sum(v.seconds for v in videos) * len(found.names) / count
    about = "" if count == len(found.names) else "about "
    totals = f"{about}{format_bytes(total)}, {about}{format_duration(seconds)}"
    shown = f"{printable(found.root)}: {len(found.names)} videos ({readable}), {totals}"
    table = Table()
    for column in ("", "least", "median", "most"):
        table.add_column(column, justify="right" if column else "left")
    rows: dict[str, Callable[[Video], float]] = {
        "seconds": lambda v: v.seconds,
        "frames": lambda v: v.frames,
        "frames a second": lambda v: v.fps,
        "short side": lambda v: min(v.width, v.height),
        "long side": lambda v: max(v.width, v.height),
        "frames for each key frame": lambda v: v.gop,
        "kB": lambda v: v.bytes / 1000,
    }
    for name, value in rows.items():
        values = [value(video) for video in videos]
        table.add_row(name, *(f"{number:,.5g}" for number in (min(values), statistics.median(values), max(values))))
    return [shown, table, _shares(videos), *_classes(found.names)]


def format_bytes(count: float) -> str:
    """Bytes in the largest unit that leaves a number of at least 1."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def format_duration(seconds: float) -> str:
    """A time in hours, minutes or seconds."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _shares(videos: Sequence[Video]) -> str:
    codecs = Counter(video.codec for video in videos)
    return ", ".join(f"{name} {100 * count / len(videos):.3g} %" for name, count in codecs.most_common())


def _classes(names: Sequence[str]) -> list[str | Table]:
    """Videos by folder: the first level, or the first two where those are splits; none if there are no folders."""
    counts: Counter[tuple[str, ...]] = Counter()
    for name in names:
        folders = PurePosixPath(name).parts[:-1]
        counts[folders[: 2 if folders[:1] and split_of(folders[0]) else 1]] += 1
    if set(counts) == {()}:
        return []
    sizes = sorted(counts.values())
    caption = f"{len(counts)} folders of {sizes[0]} to {sizes[-1]} videos, median {statistics.median(sizes):g}"
    table = Table("folder", "videos")
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for number, (folders, count) in enumerate(ordered):
        if len(ordered) <= SHOWN or number < SHOWN // 2 or number >= len(ordered) - SHOWN // 2:
            table.add_row(Text(printable("/".join(folders)) or "."), str(count))
        elif number == SHOWN // 2:
            table.add_row(f"... {len(ordered) - SHOWN} more ...", "")
    return [table, caption]


def advice(found: Stats) -> list[str]:
    """What to do so that reading takes less time, or that there is little to gain."""
    short = statistics.median(min(v.width, v.height) for v in found.videos)
    gop = statistics.median(v.gop for v in found.videos)
    lines = []
    if short > LARGE:
        lines.append(
            f"Half of the videos have a short side of {short:g} pixels or more; training seldom uses over 256."
        )
    if gop > FAR:
        lines.append(
            f"Half of the videos have a key frame in {gop:.3g} frames or more; to reach a frame, all since the last "
            "key frame are decoded."
        )
    if lines:
        lines.append(
            "A copy with a short side of 256 and a key frame in every 16 may decode up to ten times faster: "
            f"tempozoo data prepare {printable(shlex.quote(found.root))} --to FOLDER"
        )
    return lines or ["Small frames, key frames close by: `tempozoo data prepare` would gain little."]
