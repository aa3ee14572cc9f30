"""`tempozoo data check`: which videos of a data set cannot be read, found before a run finds them."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datamodules.records import Source
from datamodules.shards import ShardTree
from datamodules.tools.outputs import write_rows, written
from datamodules.tools.parallel import each
from datamodules.tree import VIDEO_EXTENSIONS, Tree, open_tree, walk
from datamodules.video.decoding import open_video
from datamodules.video.frame_reader import FRAME_EXTENSIONS
from zoo.errors import DataError, ZooError

REPORT, EXCLUDE = "check.csv", "exclude.txt"


class Checked(NamedTuple):
    """A row of the report; numbers are 0 where there is a problem. ``seconds`` is how long the video lasts."""

    path: str
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """What a check found."""

    rows: list[Checked]

    @property
    def bad(self) -> list[Checked]:
        """The videos with a problem."""
        return [row for row in self.rows if row.problem]

    @property
    def nameless(self) -> list[str]:
        """Those of bad videos that a list of a name a line would not say, or would say of another."""
        bare = (row.path for row in self.bad)
        return [path for path in bare if path != path.strip() or re.search("[\r\n]", path) or path.startswith("# ")]

    def kinds(self) -> Counter[str]:
        """How many videos have each problem, whatever they and the numbers in it are."""
        return Counter(re.sub(r"\d+(\.\d+)?", "N", row.problem) for row in self.bad)

    def write(self, folder: Path) -> Path:
        """check.csv and exclude.txt into a folder; returns the latter.

        Raises:
            NoSpaceError, AccessError: they cannot be written.
        """
        write_rows(folder / REPORT, Checked._fields, self.rows)
        lines = [
            f"# {len(self.bad)} of {len(self.rows)} videos cannot be read, see {REPORT}",
            *(row.path for row in self.bad if row.path not in self.nameless),
        ]
        with written(folder / EXCLUDE) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
        return folder / EXCLUDE


def check(root: str, decoder: str = "pyav", workers: int | None = None, time_limit: float | None = 60.0) -> Report:
    """Decode the first, the middle and the last frame of every video, and folder of frames, below ``root``.

    Args:
        root: a folder, or a folder or URL of shards.
        decoder: see ``decoding.open_video``.
        workers, time_limit: see ``parallel.each``.

    Raises:
        DataError: there is no such folder, or nothing in it.
    """
    sources = find_sources(root)
    results = each(functools.partial(check_video, decoder=decoder), sources, "checking", workers, time_limit)
    rows = []
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, ZooError):
            result = Checked(source.name, problem=_problem(source, str(result)))
        rows.append(result)
    return Report(rows)


def _problem(source: Source, text: str) -> str:
    """What is wrong, without the name of the video; of a folder of frames with that of the frame."""
    folder = f"{Path(source.path)}{os.sep}"
    if source.place is None and folder in text:
        return text.replace(folder, "")
    return re.sub(rf"(^|\s){re.escape(str(source))}(?=[\s:,]|$)", "", text, count=1).strip(" :")


def check_video(source: Source, decoder: str) -> Checked:
    """The row of one video.

    Raises:
        DataError: it is damaged.
    """
    with open_video(source, decoder) as reader:
        count = len(reader)
        height, width = reader.frames(sorted({0, count // 2, count - 1})).shape[-2:]
        fps = float(reader.fps)
        return Checked(source.name, count, round(fps, 3), width, height, round(count / fps, 3) if fps else 0.0)


def find_sources(root: str) -> list[Source]:
    """Every video and folder of frames below a root, each with its relative path as its name.

    Raises:
        DataError: there is no such folder, or nothing in it.
    """
    tree = open_tree(root)
    names = [*tree.names, *([] if isinstance(tree, ShardTree) else frame_folders(tree))]
    if not names:
        raise DataError(f"There are no videos or folders of frames below {tree.root}.")
    records = tree.records(names, ids=names)
    return [records.source(number) for number in range(len(records))]


def frame_folders(tree: Tree) -> list[str]:
    """Relative paths of the folders that hold pictures and no videos, sorted."""
    found = []
    for below, files in walk(tree.root):
        names = [name.lower() for name in files]
        if any(n.endswith(FRAME_EXTENSIONS) for n in names) and not any(n.endswith(VIDEO_EXTENSIONS) for n in names):
            found.append(below.rstrip("/") or ".")
    return sorted(found)
