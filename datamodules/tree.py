"""A tree of videos and annotation files: a folder, or shards written from one (``shards.py``).

Data sets address files by relative paths with "/", the same for both.
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
from zoo.video.names import SHARD_MANIFEST
from zoo.video.source import VIDEO_EXTENSIONS

log = logging.getLogger("datamodules")
# annotations, label lists, licenses and images: no warning that they are not read as videos
OTHER_EXTENSIONS = (
    ".csv", ".json", ".txt", ".tsv", ".yaml", ".yml", ".md", ".pkl", ".cls", ".jpg", ".jpeg", ".png",
)  # fmt: skip
# names of split folders in lower case; if a root has several of them, the first is used
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "validate"),
    "test": ("test", "testing"),
}


def split_of(folder: str) -> str | None:
    """Return the split that a folder name stands for, ignoring case, or None."""
    return next((split for split, names in SPLITS.items() if folder.lower() in names), None)


class Tree:
    """Videos and annotation files below a folder.

    Raises:
        DataError: the folder does not exist.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        if not Path(root).is_dir():
            raise DataError(f"Folder {root} does not exist.")

    @functools.cached_property
    def names(self) -> list[str]:
        """Relative paths of all videos, sorted; hidden files and folders are ignored."""
        videos: list[str] = []
        others: list[str] = []
        for below, files in walk(self.root):
            for file in files:
                (videos if file.lower().endswith(VIDEO_EXTENSIONS) else others).append(below + file)
        warn_unread(self.root, others)
        return sorted(videos)

    @functools.cached_property
    def stems(self) -> dict[str, str]:
        """File name without extension -> relative path, the first of several."""
        return {PurePosixPath(name).stem: name for name in reversed(self.names)}

    def videos(self, below: str = "") -> list[str]:
        """Return the paths, relative to the root, of the videos below a subfolder, sorted."""
        return [name for name in self.names if not below or name.startswith(f"{below.rstrip('/')}/")]

    def folders(self, below: str = "") -> list[str]:
        """Return the names of the folders directly below a subfolder, sorted, without hidden ones."""
        folder = Path(self.root, below)
        if not folder.is_dir():
            raise DataError(f"Folder {folder} does not exist.")
        try:
            return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        except OSError as error:
            raise DataError(f"The folder {folder} cannot be read ({error.strerror}).") from error

    def has_folder(self, name: str) -> bool:
        """Return whether a subfolder exists."""
        return os.path.isdir(os.path.join(self.root, name))

    def find(self, name: str) -> str | None:
        """Return the relative path of a video, given with, without, or with a different extension; None if missing."""
        if self.exists(name):
            return name
        stem = name[: -len(PurePosixPath(name).suffix)] if name.lower().endswith(VIDEO_EXTENSIONS) else name
        return next((stem + end for end in VIDEO_EXTENSIONS if self.exists(stem + end)), None)

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        return os.path.isfile(os.path.join(self.root, name))  # False for invalid names; pathlib raises

    def read(self, name: str) -> str:
        """Return the text of an annotation file.

        Raises:
            DataError: the file is missing, or not UTF-8 text.
        """
        path = Path(self.root, name)
        try:
            return path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise DataError(f"Annotation file {path} does not exist.") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}.") from error

    def records(self, names: Sequence[str], labels: Any = None, **more: Any) -> VideoRecords:
        """Return records of videos or folders of frames by relative path; ``more`` goes to ``VideoRecords.of``."""
        return VideoRecords.of([os.path.join(self.root, name) for name in names], labels, **more)


def warn_unread(where: str, names: Iterable[str]) -> None:
    """Log one warning about files that are not read, because they have no extension of a video."""
    endings = (PurePosixPath(name).suffix.lower() for name in names)
    counts = Counter(ending or "without extension" for ending in endings if ending not in OTHER_EXTENSIONS)
    if counts:
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
        listing = ", ".join(f"{count} {ending}" for ending, count in most)
        more = f" and {len(counts) - 5} more extensions" if len(counts) > 5 else ""
        total = counts.total()
        subject = "1 file is not read as a video" if total == 1 else f"{total} files are not read as videos"
        log.warning("%s: %s: %s%s", printable(where), subject, printable(listing), more)


def walk(root: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below a root, as "" or "a/b/", and the names of its files; hidden ones are ignored.

    Links are followed, except links to a folder that contains them.

    Raises:
        DataError: a folder cannot be read; its videos would be missing without notice.
    """
    # each folder with the real paths of its ancestors and itself
    pending = [("", [Path(os.path.realpath(root))])]
    while pending:
        below, lineage = pending.pop()
        path = os.path.join(root, below)
        try:
            with os.scandir(path) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(
                f"The folder {Path(path)} cannot be read ({error.strerror}). Fix its permissions or use another folder."
            ) from error
        files = []
        for entry in visible:
            linked = entry.is_symlink()
            if not (os.path.isdir(entry.path) if linked else entry.is_dir()):
                files.append(entry.name)
                continue
            real = Path(os.path.realpath(entry.path)) if linked else lineage[-1] / entry.name
            if not linked or not any(real == folder or real in folder.parents for folder in lineage):
                pending.append((f"{below}{entry.name}/", [*lineage, real]))
        yield below, files


def open_tree(root: str | Path) -> Tree:
    """Open a folder, or shards: a folder or URL (of any kind that fsspec reads) that contains shards.json.

    Raises:
        DataError: the folder does not exist, or the URL has no shards.json.
    """
    from datamodules.shards import ShardTree

    if "://" in str(root) or Path(root, SHARD_MANIFEST).is_file():
        return ShardTree(str(root))
    return Tree(root)


def find_present(names: Sequence[str | None], max_missing: float, source: str, folder: str) -> np.ndarray:
    """Return the indices of the videos that exist; None in ``names`` is a missing video.

    Args:
        max_missing: fraction of the listed videos that may be missing.
        source: the annotation file or split that lists the videos, for the message.
        folder: the folder with the videos, for the message.

    Raises:
        DataError: more videos are missing than allowed, or all.
    """
    present = np.flatnonzero([name is not None for name in names])
    missing = len(names) - len(present)
    if missing > max_missing * len(names) or not len(present):
        raise DataError(
            f"{missing} of the {len(names)} videos listed in {source} are not below {folder}. Check root, or allow "
            "missing videos with max_missing."
        )
    return present
