"""A tree of videos and annotation files: a folder, or shards that were made of one (``shards.py``).

Data sets ask it by relative path, with "/" between the parts, so that they read both alike.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.records import VideoRecords
from zoo.errors import DataError
from zoo.text import printable
from zoo.video.source import VIDEO_EXTENSIONS

log = logging.getLogger("datamodules")
# annotations, label lists, licenses and pictures: nobody takes them for videos
OTHER_EXTENSIONS = (
    ".csv", ".json", ".txt", ".tsv", ".yaml", ".yml", ".md", ".pkl", ".cls", ".jpg", ".jpeg", ".png",
)  # fmt: skip
# names of the folders of splits, in lower case; of several the first counts
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "validate"),
    "test": ("test", "testing"),
}


def split_of(folder: str) -> str | None:
    """The split that a folder of some name is of, in whatever case; None if of none."""
    return next((split for split, names in SPLITS.items() if folder.lower() in names), None)


class Tree:
    """The videos below a folder.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        if not Path(root).is_dir():
            raise DataError(f"There is no folder {root}.")

    @functools.cached_property
    def names(self) -> list[str]:
        """Relative paths of all videos, sorted; hidden files and folders are left out."""
        found: list[str] = []
        others: list[str] = []
        for below, files in walk(self.root):
            for file in files:
                (found if file.lower().endswith(VIDEO_EXTENSIONS) else others).append(below + file)
        warn_unread(self.root, others)
        return sorted(found)

    @functools.cached_property
    def stems(self) -> dict[str, str]:
        """File name without its ending -> relative path; of several, the first in order."""
        return {PurePosixPath(name).stem: name for name in reversed(self.names)}

    def videos(self, below: str = "") -> list[str]:
        """Relative paths (to the root) of the videos below a sub-folder, sorted."""
        return [name for name in self.names if not below or name.startswith(f"{below.rstrip('/')}/")]

    def folders(self, below: str = "") -> list[str]:
        """Names of the folders directly below a sub-folder, sorted; hidden ones are left out."""
        home = Path(self.root, below)
        if not home.is_dir():
            raise DataError(f"There is no folder {home}.")
        try:
            return sorted(p.name for p in home.iterdir() if p.is_dir() and not p.name.startswith("."))
        except OSError as error:
            raise DataError(f"The folder {home} cannot be read ({error.strerror}).") from error

    def has_folder(self, name: str) -> bool:
        """Whether there is such a sub-folder."""
        return os.path.isdir(os.path.join(self.root, name))

    def find(self, name: str) -> str | None:
        """The relative path of a video that is named with or without its ending, or has been given another one."""
        if self.exists(name):
            return name
        stem = name[: -len(PurePosixPath(name).suffix)] if name.lower().endswith(VIDEO_EXTENSIONS) else name
        return next((stem + end for end in VIDEO_EXTENSIONS if self.exists(stem + end)), None)

    def exists(self, name: str) -> bool:
        """Whether there is such a file, of whatever kind."""
        return os.path.isfile(os.path.join(self.root, name))  # False for a name that cannot be one, unlike pathlib

    def read(self, name: str) -> str:
        """The text of an annotation file.

        Raises:
            DataError: it is not there, or no text.
        """
        path = Path(self.root, name)
        try:
            return path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise DataError(f"There is no annotation file {path}.") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}.") from error

    def records(self, names: Sequence[str], labels: Any = None, **more: Any) -> VideoRecords:
        """Records of videos (or folders of frames) given by relative path; ``more`` is of ``VideoRecords.of``."""
        return VideoRecords.of([os.path.join(self.root, name) for name in names], labels, **more)


def warn_unread(where: str, names: Iterable[str]) -> None:
    """Tell in one line of files that have no ending of a video, but might be meant as such."""
    endings = (PurePosixPath(name).suffix.lower() for name in names)
    counts = Counter(ending or "without an ending" for ending in endings if ending not in OTHER_EXTENSIONS)
    if counts:
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
        what = printable(", ".join(f"{count} {ending}" for ending, count in most))
        more = f" and {len(counts) - 5} more endings" if len(counts) > 5 else ""
        log.warning(
            "%s: %d files are not read as videos: %s%s", printable(where), counts.total(), printable(what), more
        )


def walk(root: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder below a root, as "" or "a/b/", and the names of the files in it; hidden ones are left out.

    Links are followed, two to the same place both, but for those that lead back to a folder they are in.

    Raises:
        DataError: a folder cannot be read: its videos would be missing without a word.
    """
    waiting = [("", [Path(os.path.realpath(root))])]  # a folder, and what those on the way to it and itself really are
    while waiting:
        below, way = waiting.pop()
        folder = os.path.join(root, below)
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(
                f"The folder {Path(folder)} cannot be read ({error.strerror}). Mend its permissions, or choose another."
            ) from error
        files = []
        for entry in found:
            linked = entry.is_symlink()
            if not (os.path.isdir(entry.path) if linked else entry.is_dir()):
                files.append(entry.name)
                continue
            real = Path(os.path.realpath(entry.path)) if linked else way[-1] / entry.name
            if not linked or not any(real == place or real in place.parents for place in way):
                waiting.append((f"{below}{entry.name}/", [*way, real]))
        yield below, files


def open_tree(root: str | Path) -> Tree:
    """The tree of a folder, or of shards: a folder or URL (of any kind that fsspec reads) that holds shards.json.

    Raises:
        DataError: there is neither.
    """
    from datamodules.shards import MANIFEST, ShardTree

    if "://" in str(root) or Path(root, MANIFEST).is_file():
        return ShardTree(str(root))
    return Tree(root)


def present(names: Sequence[str | None], max_missing: float, what: str, where: str) -> np.ndarray:
    """Numbers of the videos that are there; None in ``names`` stands for one that is not.

    Args:
        max_missing: fraction of the listed videos that may be missing.
        what: the first missing one, for the message, is ``what`` it is listed in.
        where: where they were looked for.

    Raises:
        DataError: more are missing, or all.
    """
    there = np.flatnonzero([name is not None for name in names])
    absent = len(names) - len(there)
    if absent > max_missing * len(names) or not len(there):
        raise DataError(
            f"{absent} of the {len(names)} videos that {what} lists are not below {where}. Check root, or allow some "
            "to be missing with max_missing."
        )
    return there
