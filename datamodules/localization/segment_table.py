"""Labeled segments of untrimmed videos in a CSV file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from datamodules.annotations import read_header, read_table, shorten
from datamodules.tree import open_tree
from zoo.errors import DataError

SPLITS = ("train", "val", "test")
COLUMNS = ("path", "start", "end", "label")


class LabeledSegment(NamedTuple):
    """An annotated action: seconds and class name."""

    start: float
    end: float
    label: str


class UntrimmedVideo(NamedTuple):
    """Annotations of a video.

    name: as in the annotations.
    path: file of the video, or None if it is unknown.
    duration: seconds, or None if the annotations do not have it.
    segments: in the order of the annotations.
    split: "train", "val" or "test", or None.
    """

    name: str
    path: str | None
    duration: float | None
    segments: list[LabeledSegment]
    split: str | None


def read_segment_table(file: str | Path) -> list[UntrimmedVideo]:
    """Read a CSV file with the columns ``path,start,end,label`` and optionally ``split`` and ``duration``.

    A row is a segment. A row without start, end and label adds a video without segments. Paths are relative to the
    folder of the file.

    Raises:
        DataError: the file cannot be read, or a value is missing or invalid; the message names the line.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"{file} does not exist; give a CSV file with the columns {','.join(COLUMNS)}.")
    tree = open_tree(file.parent)
    extra = [column for column in ("split", "duration") if column in read_header(tree, file.name)]
    videos: dict[str, UntrimmedVideo] = {}
    optional = ("start", "end", "label", *extra)
    for line, row in read_table(tree, file.name, (*COLUMNS, *extra), optional):
        where = f"{file}, line {line}"
        split, duration = row.get("split") or None, row.get("duration") or None
        if split is not None and split not in SPLITS:
            raise DataError(f"{where}: split is {shorten(split)}; it must be one of {', '.join(SPLITS)}.")
        path = os.path.join(file.parent, row["path"])
        seconds = None if duration is None else _number(duration, "duration", where)
        new = UntrimmedVideo(row["path"], path, seconds, [], split)
        video = videos.setdefault(row["path"], new)
        if (video.split, video.duration) != (split, seconds):
            raise DataError(f"{where}: {shorten(row['path'])} has another split or duration in an earlier line.")
        values = [row[key].strip() for key in ("start", "end", "label")]
        if not any(values):
            continue
        if not all(values):
            raise DataError(f"{where}: a segment needs start, end and label; leave all three blank for no segment.")
        start, end = (_number(value, key, where) for key, value in zip(("start", "end"), values[:2], strict=True))
        video.segments.append(LabeledSegment(start, end, values[2]))
    if not videos:
        raise DataError(f"{file} lists no videos.")
    return list(videos.values())


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{where}: {name} is {shorten(text)}; it must be a number of seconds.") from None
    if not abs(value) < 1e9:  # also NaN
        raise DataError(f"{where}: {name} is {shorten(text)}; it must be a number of seconds.")
    return value
