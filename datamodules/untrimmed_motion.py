"""Untrimmed MotionClips: videos in which several motions follow each other, with background between them."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.motion_render import (
    DRAWING_VERSION,
    MOTION_CLASSES,
    MOTION_PAIRS,
    STYLES,
    check_scene,
    draw_actors,
    draw_background,
    finish_frames,
    require,
)
from datamodules.motionclips import SPLITS, already_written, write_video
from zoo.weights.disk import atomic_path

ANNOTATIONS, MANIFEST = "segments.csv", "untrimmed.json"
MOTION = (1.5, 4.0)  # seconds of a motion
STILL = (0.5, 2.0)  # seconds without motion in front of it and behind it
BACKGROUND = (1.0, 4.0)  # seconds of a shot without motion
BACKGROUND_SHARE = 0.35  # of the shots


class Motion(NamedTuple):
    """A motion in a video: its class, and frames [first, stop)."""

    label: str
    first: int
    stop: int


def render_untrimmed(
    classes: Sequence[str], seed: int, *, seconds: float = 30.0, size: int = 64, style: str = "a", fps: int = 12
) -> tuple[np.ndarray, list[Motion]]:
    """Render a video, uint8 RGB ``(frames, size, size, 3)``, and its motions; equal arguments give equal videos.

    The video is a sequence of shots, each with its own scene. In a shot with a motion, the objects stand still before
    and after it. In other shots, the objects of a random class stand still or swing back and forth. A cut between two
    shots is therefore not a sign of a motion.

    Args:
        classes: classes of the motions, of ``MOTION_CLASSES``.
        seed: number of the video, not negative.
        seconds: length of the video.
        size: side of the frames in pixels.
        style: one of ``STYLES``.
        fps: frames per second.
    """
    total = round(seconds * fps)
    for label in classes:
        check_scene(label, total, size, style, seed)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, list(STYLES).index(style), 1])))
    shots: list[np.ndarray] = []
    motions: list[Motion] = []
    done = 0
    while done < total:
        label = classes[int(rng.integers(len(classes)))]
        remaining = total - done
        still, motion, after = (round(rng.uniform(*span) * fps) for span in (STILL, MOTION, STILL))
        if rng.random() < BACKGROUND_SHARE or still + motion + after > remaining:
            length = min(round(rng.uniform(*BACKGROUND) * fps), remaining)
            time = _aimless(rng, length, fps)
        else:
            length = still + motion + after
            time = np.clip((np.arange(length) - still) / motion, 0, 1)
            motions.append(Motion(label, done + still, done + still + motion))
        shots.append(_render_shot(rng, label, time, size, style, fps))
        done += length
    return np.concatenate(shots), motions


def _aimless(rng: np.random.Generator, length: int, fps: int) -> np.ndarray:
    """Times of a motion that stands still, or swings around a moment with a random phase."""
    middle = rng.uniform(0.2, 0.8)
    if rng.random() < 0.5:
        return np.full(length, middle)
    turns = np.arange(length) / fps / rng.uniform(0.8, 1.6) + rng.uniform(0, 1)
    return middle + 0.15 * np.sin(2 * math.pi * turns)


def _render_shot(rng: np.random.Generator, label: str, time: np.ndarray, size: int, style: str, fps: int) -> np.ndarray:
    """Render the frames of one shot; ``time`` is the progress of the motion in each frame, from 0 to 1."""
    pair = next(pair for pair in MOTION_PAIRS if label in pair)
    video = draw_background(rng, len(time), size, STYLES[style], clips=len(time) / (2 * fps))
    forwards = time if label == pair[0] else 1 - time
    draw_actors(video, rng, STYLES[style], forwards, pair[0])
    return finish_frames(video, rng)


def write_untrimmed(
    root: str | Path,
    *,
    classes: Sequence[str] = MOTION_CLASSES,
    videos: Mapping[str, int] = {"train": 60, "val": 15, "test": 25},
    seconds: float = 30.0,
    seed: int = 0,
    size: int = 64,
    style: str = "a",
    fps: int = 12,
    progress: bool = True,
) -> Path:
    """Write ``root/{split}/{i:04d}.mp4``, ``root/segments.csv`` and, last, ``root/untrimmed.json``.

    ``segments.csv`` has the columns ``path,start,end,label,split,duration``, which ``LocalizationData`` reads. A folder
    written with the same arguments is left as it is.

    Args:
        classes: classes of the motions.
        videos: split -> number of videos.
        seconds, size, style, fps: see ``render_untrimmed``.
        seed: random seed of the data set.

    Returns:
        The path of ``segments.csv``.

    Raises:
        DataError: an argument has an invalid value, or the folder was written with other arguments.
    """
    root = Path(root)
    require(classes, f"classes is empty; name some of {', '.join(MOTION_CLASSES)}.")
    require(size % 2 == 0, f"size={size}: H.264 files need an even size.")
    require(1 <= seconds <= 3600, f"seconds={seconds}: a video has from 1 to 3600 seconds.")
    require(set(videos) <= set(SPLITS) and videos, f"videos is {dict(videos)!r}; its keys are {', '.join(SPLITS)}.")
    require(min(videos.values()) > 0, f"videos is {dict(videos)!r}; every split needs at least one video.")
    arguments: dict[str, object] = dict(
        drawing_version=DRAWING_VERSION, classes=list(classes), videos=dict(videos), seconds=seconds, seed=seed,
        size=size, style=style, fps=fps,
    )  # fmt: skip
    manifest, table = root / MANIFEST, root / ANNOTATIONS
    if already_written(manifest, arguments):
        return table
    from rich.progress import track

    jobs = [(split, number) for split, count in videos.items() for number in range(count)]
    rows: list[tuple[str, ...]] = []
    for split, number in track(jobs, description="Drawing untrimmed MotionClips", disable=not progress):
        digest = hashlib.sha256(f"{seed}/{split}/{number}".encode()).digest()
        options = {"seconds": seconds, "size": size, "style": style, "fps": fps}
        frames, motions = render_untrimmed(classes, int.from_bytes(digest[:8], "big"), **options)  # type: ignore[arg-type]
        path = f"{split}/{number:04d}.mp4"
        (root / split).mkdir(parents=True, exist_ok=True)
        write_video(root / path, frames, fps)
        duration = f"{len(frames) / fps:.4f}"
        bounds = [(f"{one.first / fps:.4f}", f"{one.stop / fps:.4f}", one.label) for one in motions]
        rows += [(path, *bound, split, duration) for bound in bounds or [("", "", "")]]
    with atomic_path(table) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "start", "end", "label", "split", "duration"))
        writer.writerows(rows)
    with atomic_path(manifest) as partial:
        partial.write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
    return table
