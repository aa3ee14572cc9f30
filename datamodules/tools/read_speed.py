"""Compare the time of reading frames from source videos and from their prepared copies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.tree import open_tree
from zoo.errors import DataError
from zoo.text import pluralize
from zoo.video.decoding import VideoReader
from zoo.video.source import Source

VIDEOS = 3  # videos that are measured, evenly spread
ROUNDS = 3
SECONDS = 10.0  # no further round of a video after this time
SEGMENTS, FRAMES, INTERVAL = 16, 8, 8  # the two usual samplings: frames of the entire video, and of a clip


class ReadingGain(NamedTuple):
    """Ratios between source videos and their copies.

    segments: time to read ``SEGMENTS`` frames spread over a video, of the source divided by that of the copy.
    clip: the same for ``FRAMES`` frames at a distance of ``INTERVAL``.
    size: bytes of the copy divided by those of the source.
    videos: number of videos measured.
    """

    segments: float
    clip: float
    size: float
    videos: int

    def __str__(self) -> str:
        return (
            f"Reading {SEGMENTS} frames spread over a video is {self.segments:.1f} times as fast as before, and "
            f"{FRAMES} frames with interval {INTERVAL} {self.clip:.1f} times, with {self.size:.1f} times the size "
            f"(measured on {pluralize(self.videos, 'video')})."
        )


def measure_gain(root: str, to: str, pairs: Sequence[tuple[str, str]]) -> ReadingGain | None:
    """Read some videos and their copies alternately; returns None if none of them can be read.

    Args:
        root, to: folders of the source videos and of the copies, which may be in shards.
        pairs: relative path of a source video, and of its copy.
    """
    count = min(VIDEOS, len(pairs))
    sample = [pairs[number * len(pairs) // count] for number in range(count)]
    records = [
        open_tree(folder).records(names, ids=names)
        for folder, names in ((root, [source for source, _ in sample]), (to, [copy for _, copy in sample]))
    ]
    times, sizes = [], []
    for number in range(count):
        source, copy = (part.source(number) for part in records)
        try:
            times.append(_fastest(source, copy))
            sizes.append([video_bytes(source), video_bytes(copy)])
        except DataError:  # a video that has changed since it was prepared
            continue
    if not times:
        return None
    segments, clip = np.sum(times, 0)
    source_bytes, copy_bytes = np.sum(sizes, 0)
    return ReadingGain(segments[0] / segments[1], clip[0] / clip[1], copy_bytes / source_bytes, len(times))


def video_bytes(source: Source) -> int:
    """Return the size of a video file, or of a video in a shard."""
    return source.byte_span[1] if source.byte_span else Path(source.path).stat().st_size


def _fastest(source: Source, copy: Source) -> np.ndarray:
    """Return the CPU seconds of the fastest round: rows are the two samplings, columns the source and the copy."""
    start = time.monotonic()
    rounds: list[list[list[float]]] = []
    while len(rounds) < ROUNDS and (not rounds or time.monotonic() - start < SECONDS):
        rounds.append([[_seconds(video, segments) for video in (source, copy)] for segments in (True, False)])
    return np.min(rounds, 0)


def _seconds(source: Source, segments: bool) -> float:
    """Return the CPU seconds of opening a video and reading frames spread over it, or a clip in its middle."""
    start = time.process_time()
    with VideoReader(source) as reader:
        last = len(reader) - 1
        first = max(0, (last - FRAMES * INTERVAL) // 2)
        numbers = np.linspace(0, last, SEGMENTS).astype(int) if segments else first + INTERVAL * np.arange(FRAMES)
        reader.frames(np.minimum(numbers, last))
    return time.process_time() - start
