"""`tempozoo data check`: find the unreadable videos of a data set before training."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from datamodules.records import Source
from datamodules.shards import ShardTree
from datamodules.tools.outputs import write_rows, written
from datamodules.tools.parallel import each
from datamodules.tree import VIDEO_EXTENSIONS, Tree, open_tree, walk
from zoo.errors import DataError, ZooError
from zoo.video.decoding import Reader, open_video
from zoo.video.frame_reader import FRAME_EXTENSIONS
from zoo.video.views import check_aspect

REPORT, EXCLUDE = "check.csv", "exclude.txt"
SPREAD = 16  # number of frames read by random access, as for a clip
SHARE = 0.8  # share of the time limit after which decoding stops, so that a long video does not count as hanging


class Checked(NamedTuple):
    """A row of the report; numbers are 0 where there is a problem.

    seconds: the duration of the video.
    decoded: the number of frames that were decoded: all, unless the time limit came first.
    problem: the error, which names the video.
    """

    path: str
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    decoded: int = 0
    problem: str = ""

    @property
    def kind(self) -> str:
        """The problem without names and numbers: the same for all videos with the same problem."""
        return re.sub(r"\d+(\.\d+)?", "N", self.problem.replace(self.path, ""))


@dataclass(frozen=True)
class Report:
    """The results of a check."""

    rows: list[Checked]

    @property
    def bad(self) -> list[Checked]:
        """The videos with a problem."""
        return [row for row in self.rows if row.problem]

    @property
    def partial(self) -> list[Checked]:
        """Readable videos of which not all frames were decoded within the time limit."""
        return [row for row in self.rows if not row.problem and row.decoded < row.frames]

    @property
    def unlistable(self) -> list[str]:
        """Names of unreadable videos that a text file with one name per line cannot represent."""
        paths = (row.path for row in self.bad)
        return [path for path in paths if path != path.strip() or re.search("[\r\n]", path) or path.startswith("# ")]

    def problems(self) -> list[tuple[str, int]]:
        """The first problem of each kind, and how many videos have a problem of that kind; the most frequent first."""
        groups: dict[str, list[str]] = {}
        for row in self.bad:
            groups.setdefault(row.kind, []).append(row.problem)
        return sorted(((problems[0], len(problems)) for problems in groups.values()), key=lambda item: -item[1])

    def write(self, folder: Path) -> Path:
        """Write check.csv and exclude.txt into a folder; returns the path of the latter.

        Raises:
            StorageError: they cannot be written.
        """
        write_rows(folder / REPORT, Checked._fields, self.rows)
        lines = [
            f"# {len(self.bad)} of {len(self.rows)} videos cannot be read, see {REPORT}",
            *(row.path for row in self.bad if row.path not in self.unlistable),
        ]
        with written(folder / EXCLUDE) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
        return folder / EXCLUDE


def check(root: str, decoder: str = "pyav", workers: int | None = None, time_limit: float | None = 60.0) -> Report:
    """Decode every video, and folder of frames, below ``root`` as training and testing do: see ``read_all``.

    Args:
        root: a folder, or a folder or URL of shards.
        decoder: see ``decoding.open_video``.
        workers, time_limit: see ``parallel.each``.

    Raises:
        DataError: the folder does not exist, or has no videos and no folders of frames.
    """
    sources = find_sources(root)
    work = functools.partial(check_video, decoder=decoder, time_limit=time_limit)
    results = each(work, sources, "checking", workers, time_limit)
    rows = []
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, ZooError):
            result = Checked(source.name, problem=describe_problem(source, str(result)))
        rows.append(result)
    return Report(rows)


def describe_problem(source: Source, message: str) -> str:
    """Return an error message with the relative path of the video, and its shard if it is in one."""
    if source.byte_span is not None:
        return f"{message} The video is in the shard {source.path}."
    folder = source.path.removesuffix(source.name)  # messages name single frames of a folder by absolute path
    return message.replace(folder, "") if folder else message


def check_video(source: Source, decoder: str, time_limit: float | None = None) -> Checked:
    """Check one video and return its row.

    Raises:
        DataError: it is damaged.
    """
    begin = time.monotonic()
    with open_video(source, decoder) as reader:
        stop = None if time_limit is None else begin + SHARE * time_limit
        decoded, height, width = read_all(reader, str(source), stop)
        count, fps = len(reader), float(reader.fps)
        seconds = round(count / fps, 3) if fps else 0.0
        return Checked(source.name, count, round(fps, 3), width, height, seconds, decoded)


class _OutOfTime(Exception):
    """Not all frames could be decoded in time."""


def read_all(reader: Reader, name: str, stop: float | None = None) -> tuple[int, int, int]:
    """Decode frames that are spread over a video, as those of a clip, then all frames in order.

    A video that passes is readable: `fit`, `test` and `predict` read frames in the same way.

    Args:
        name: the name of the video in error messages.
        stop: on the clock of ``time.monotonic``: the second part ends then.

    Returns:
        The number of frames decoded in order, their height and their width.

    Raises:
        DataError: a frame cannot be decoded, or frames have a shape that cannot be used.
    """
    shape = (0, 0)
    decoded = 0

    def record_shape(frames: Tensor) -> Tensor:
        nonlocal shape
        shape = (frames.shape[-2], frames.shape[-1])
        check_aspect(*shape, name)
        return frames[..., :1, :1]

    def count_frames(frames: Tensor) -> Tensor:
        nonlocal decoded
        decoded += len(frames)
        if stop is not None and time.monotonic() > stop:
            raise _OutOfTime
        return frames[..., :1, :1]

    count = len(reader)
    spread = np.linspace(0, count - 1, min(SPREAD, count // 2 + 1)).astype(int)
    reader.frames(np.unique(spread), record_shape)
    with contextlib.suppress(_OutOfTime):
        reader.frames(np.arange(count), count_frames)
    return (decoded, *shape)


def find_sources(root: str) -> list[Source]:
    """List all videos and folders of frames below a root; their names are the relative paths.

    Raises:
        DataError: the folder does not exist, or has no videos and no folders of frames.
    """
    tree = open_tree(root)
    names = [*tree.names, *([] if isinstance(tree, ShardTree) else frame_folders(tree))]
    if not names:
        raise DataError(f"There are no videos or folders of frames below {tree.root}.")
    records = tree.records(names, ids=names)
    return [records.source(number) for number in range(len(records))]


def frame_folders(tree: Tree) -> list[str]:
    """Return the relative paths of the folders with images and without videos, sorted."""
    folders = []
    for below, files in walk(tree.root):
        names = [name.lower() for name in files]
        if any(n.endswith(FRAME_EXTENSIONS) for n in names) and not any(n.endswith(VIDEO_EXTENSIONS) for n in names):
            folders.append(below.rstrip("/") or ".")
    return sorted(folders)
