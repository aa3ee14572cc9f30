"""`tempozoo data stats`: describe the videos of a data set, and recommend how to split them and speed up reading."""

from __future__ import annotations

import functools
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from rich.table import Column, Table
from rich.text import Text

from datamodules.records import Source
from datamodules.tools.check import SHARE, describe_problem, read_all
from datamodules.tools.duplicates import FrameHashes, find_near_duplicates, hash_frames
from datamodules.tools.leaks import describe_leaks
from datamodules.tools.parallel import each
from datamodules.tools.read_speed import video_bytes
from datamodules.tree import open_tree, split_of
from zoo.errors import DataError, ZooError
from zoo.text import pluralize, pluralize_range, printable
from zoo.video.decoding import VideoReader

SHOWN = 20  # number of folders in the table
# above these, `data prepare` (short side 256, key frame distance 16) speeds up reading
LARGE_SIDE, LARGE_GOP = 320, 32


class Video(NamedTuple):
    """One readable video: seconds, frames a second, pixels as shown, frames for each key frame, bytes, hashes."""

    seconds: float
    fps: float
    width: int
    height: int
    codec: str
    frames: int
    gop: float
    bytes: int
    hashes: FrameHashes = FrameHashes((), ())


def describe_video(source: Source, time_limit: float | None = None) -> Video:
    """Read one video, as `tempozoo data check` does, and describe it.

    Raises:
        DataError: the video cannot be read.
    """
    stop = None if time_limit is None else time.monotonic() + SHARE * time_limit
    with VideoReader(source) as reader:
        _, height, width = read_all(reader, str(source), stop)
        count, fps = len(reader), reader.fps
        gop = count / max(1, reader.key_frames)
        return Video(
            count / fps, fps, width, height, reader.codec, count, gop, video_bytes(source), hash_frames(reader)
        )


class Stats(NamedTuple):
    """A data set.

    root: its folder or shards.
    names: relative paths of all videos.
    videos: the videos that were read.
    bad: number of videos that could not be read.
    read: relative paths of ``videos``.
    """

    root: str
    names: list[str]
    videos: list[Video]
    bad: int
    read: list[str]


def stats(root: str, limit: int | None = None, workers: int | None = None, time_limit: float | None = 60.0) -> Stats:
    """Read the videos below a folder or in shards; ``limit`` of them, evenly spread, if there are more.

    Raises:
        DataError: the folder does not exist, has no videos, or none of them can be read.
    """
    tree = open_tree(root)
    names = tree.names
    if not names:
        raise DataError(f"There are no videos below {root}; folders of frames are not supported.")
    count = len(names) if limit is None else min(len(names), max(1, limit))
    some = [names[number * len(names) // count] for number in range(count)]
    records = tree.records(some, ids=some)
    sources = [records.source(number) for number in range(count)]
    work = functools.partial(describe_video, time_limit=time_limit)
    results = each(work, sources, "reading videos", workers, time_limit)
    readable = [(name, video) for name, video in zip(some, results, strict=True) if not isinstance(video, ZooError)]
    videos = [video for _, video in readable]
    if not videos:
        problem = describe_problem(sources[0], str(results[0]))
        raise DataError(f"None of {count} videos below {root} can be read. The first error: {problem}")
    return Stats(root, names, videos, count - len(videos), [name for name, _ in readable])


def describe(result: Stats) -> list[str | Table]:
    """Return lines and tables for rich: counts, sizes, codecs, and videos by folder."""
    videos, count = result.videos, len(result.videos)
    readable = f"{count + result.bad} checked: {count} can be read, {result.bad} cannot"
    total = sum(v.bytes for v in videos) * len(result.names) / count
    seconds = sum(v.seconds for v in videos) * len(result.names) / count
    about = "" if count == len(result.names) else "about "
    totals = f"{about}{format_bytes(total)}, {about}{format_duration(seconds)}"
    shown = f"{printable(result.root)}: {len(result.names)} videos ({readable}), {totals}"
    table = Table()
    for column in ("", "min", "median", "max"):
        table.add_column(column, justify="right" if column else "left")
    rows: dict[str, Callable[[Video], float]] = {
        "seconds": lambda v: v.seconds,
        "frames": lambda v: v.frames,
        "frames per second": lambda v: v.fps,
        "short side": lambda v: min(v.width, v.height),
        "long side": lambda v: max(v.width, v.height),
        "frames per key frame": lambda v: v.gop,
        "kB": lambda v: v.bytes / 1000,
    }
    for name, value in rows.items():
        values = [value(video) for video in videos]
        table.add_row(name, *(f"{number:,.5g}" for number in (min(values), statistics.median(values), max(values))))
    return [shown, table, _shares(videos), *_classes(result.names)]


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
    caption = f"{pluralize(len(counts), 'folder')} of {pluralize_range(sizes[0], sizes[-1], 'video')}"
    if sizes[0] < sizes[-1]:
        caption += f", median {statistics.median(sizes):g}"
    table = Table("folder", Column("videos", justify="right"))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for number, (folders, count) in enumerate(ordered):
        if len(ordered) <= SHOWN or number < SHOWN // 2 or number >= len(ordered) - SHOWN // 2:
            table.add_row(Text(printable("/".join(folders)) or "."), str(count))
        elif number == SHOWN // 2:
            table.add_row(f"... {len(ordered) - SHOWN} more ...", "")
    return [table, caption]


def split_advice(result: Stats) -> list[str]:
    """Return lines about videos that may be in two splits, see ``leaks``."""
    pairs = find_near_duplicates([video.hashes for video in result.videos])
    return describe_leaks(result.names, [(result.read[one], result.read[two]) for one, two in pairs])


def advice(result: Stats) -> list[str]:
    """Return recommendations to speed up reading."""
    short = statistics.median(min(v.width, v.height) for v in result.videos)
    gop = statistics.median(v.gop for v in result.videos)
    lines = []
    if short > LARGE_SIDE:
        lines.append(
            f"Half of the videos have a short side of {short:g} pixels or more; training seldom uses over 256."
        )
    if gop > LARGE_GOP:
        lines.append(
            f"In half of the videos, key frames are {gop:.3g} or more frames apart; reading a frame decodes all frames "
            "since the last key frame."
        )
    if lines:
        lines.append(
            "A copy with a short side of 256 and a key frame in every 16 may decode up to ten times faster: "
            f"tempozoo data prepare {printable(shlex.quote(result.root))} --to FOLDER"
        )
    return lines or [
        "Frames are small and key frames close. Unless `tempozoo data prepare` wrote these videos, its copies may "
        "still be read twice as fast, but are compressed a second time."
    ]
