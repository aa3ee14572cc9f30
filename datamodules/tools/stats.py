"""`tempozoo data stats`: what a data set's videos are like, and what would make them quicker to read.

From headers and packets alone; nothing is decoded.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import av
from rich.table import Table

from datamodules.records import Source
from datamodules.shards import open_place
from datamodules.tools.parallel import each
from datamodules.tree import open_tree, split_of
from datamodules.video.pyav_reader import video_stream
from zoo.errors import DataError, ZooError

SHOWN = 20  # classes in the table
LARGE, FAR = 320, 32  # a short side and a distance of key frames from which preparing pays; it makes them 256 and 16


class Video(NamedTuple):
    """What packets say of one video: seconds, frames a second, pixels as stored, frames for each key frame, bytes."""

    seconds: float
    fps: float
    width: int
    height: int
    codec: str
    frames: int
    gop: float
    bytes: int


def look(source: Source) -> Video:
    """The packets of one video.

    Raises:
        DataError: it cannot be opened as a video, or has no frames.
    """
    file: Any = source.path
    if source.place is not None:
        file = open_place(source.path, source.place, source.name)
    try:
        size = source.place[1] if source.place else Path(source.path).stat().st_size
        with av.open(file, metadata_errors="replace") as container:
            stream = video_stream(container, source)
            packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size and not p.is_discard]
            if not packets:
                raise DataError(f"{source} has no frames.")
            fps = float(stream.average_rate or stream.guessed_rate or 30)
            codec = stream.codec_context
            gop = len(packets) / max(1, sum(key for _, key in packets))
            return Video(len(packets) / fps, fps, codec.width, codec.height, codec.name, len(packets), gop, size)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, ZooError):
            raise
        raise DataError(f"{source} cannot be opened as a video: {error}.") from error


class Stats(NamedTuple):
    """Of a data set: its name, relative paths of all videos, those looked at, and how many of them cannot be read."""

    root: str
    names: list[str]
    videos: list[Video]
    bad: int


def stats(root: str, limit: int | None = None, workers: int | None = None, time_limit: float | None = 60.0) -> Stats:
    """Look at the videos below a folder or in shards; at ``limit`` of them, evenly spread, if there are more.

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
    results = each(look, [records.source(n) for n in range(count)], "looking at videos", workers, time_limit)
    videos = [result for result in results if not isinstance(result, ZooError)]
    if not videos:
        raise DataError(f"None of {count} videos below {root} can be read; the first: {results[0]}")
    return Stats(root, names, videos, count - len(videos))


def describe(found: Stats) -> list[str | Table]:
    """Sizes and counts, and videos by class, to be printed by rich."""
    videos, count = found.videos, len(found.videos)
    looked = f"{count} looked at" + (f", {found.bad} more cannot be read" if found.bad else "")
    total = sum(v.bytes for v in videos) * len(found.names) / count
    hours = sum(v.seconds for v in videos) * len(found.names) / count / 3600
    about = "" if count == len(found.names) else "about "
    shown = f"{found.root}: {len(found.names)} videos ({looked}), {about}{total / 1e9:.3g} GB, {about}{hours:.3g} hours"
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
            table.add_row("/".join(folders) or ".", str(count))
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
            f"tempozoo data prepare {found.root} --to FOLDER"
        )
    return lines or ["Small frames, key frames close by: `tempozoo data prepare` would gain little."]
