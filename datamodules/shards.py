"""Videos in WebDataset shards: local or remote tar files with random access to each video.

A folder or URL of shards contains ``shards.json``, the position of every video. `tempozoo data prepare --shards` writes
such a folder; `tempozoo data index` writes ``shards.json`` for existing shards.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.records import VideoRecords
from datamodules.tools.outputs import written
from datamodules.tree import VIDEO_EXTENSIONS, Tree
from zoo.errors import DataError
from zoo.video.names import SHARD_MANIFEST
from zoo.video.shard_member import fetch


@dataclass(frozen=True)
class Manifest:
    """Content of shards.json: the shards, and columns with one value per video.

    shards: paths relative to shards.json, absolute paths, or URLs.
    path: path of the video in the folder that was packed, with extension.
    shard: index in ``shards``.
    offset, size: position of the video in the shard, in bytes.
    label: class name or number from the shard; "" if it has none.
    """

    shards: list[str]
    path: list[str]
    shard: list[int]
    offset: list[int]
    size: list[int]
    label: list[str]

    def __post_init__(self) -> None:
        columns = (self.path, self.shard, self.offset, self.size, self.label)
        if len({len(column) for column in columns}) != 1 or not set(self.shard) <= set(range(len(self.shards))):
            raise ValueError("its columns differ in length, or refer to missing shards")
        "\n".join((*self.shards, *self.path, *self.label)).encode("utf-8", "surrogateescape")  # TypeError, ValueError
        if not all(type(number) is int and 0 <= number < 2**62 for number in (*self.shard, *self.offset, *self.size)):
            raise ValueError("a shard, offset or size is not a whole number")
        if len(set(self.path)) < len(self.path):
            raise ValueError("a path is listed twice")

    def write(self, folder: Path) -> Path:
        """Write shards.json into a folder, atomically.

        Raises:
            StorageError: the file cannot be written.
        """
        with written(folder / SHARD_MANIFEST) as temporary:
            temporary.write_text(json.dumps({"version": 1, **asdict(self)}, separators=(",", ":")), encoding="utf-8")
        return folder / SHARD_MANIFEST

    @classmethod
    def read(cls, root: str) -> Manifest:
        """Read the shards.json of a folder or URL.

        Raises:
            DataError: the file is missing or damaged.
        """
        where = f"{root}/{SHARD_MANIFEST}"
        try:
            content = json.loads(fetch(where))
            if content.pop("version") != 1:
                raise ValueError("it is of another version")
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{where} is not a valid index of shards ({str(error)[:200]}). Index the shards again."
            ) from error


class ShardTree(Tree):
    """Videos in shards, with the interface of a folder tree. Shards do not contain folders of frames.

    Args:
        root: folder, or URL of any kind that fsspec reads, that contains shards.json.

    Raises:
        DataError: shards.json is missing or damaged.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).rstrip("/")
        self._manifest = Manifest.read(self.root)
        self._number = {name: number for number, name in enumerate(self._manifest.path)}

    @functools.cached_property
    def names(self) -> list[str]:
        """Relative paths of all videos, sorted."""
        return sorted(self._number)

    def labels(self, names: Sequence[str]) -> list[str]:
        """Return the labels of videos in the shards: class names or numbers, "" if missing."""
        return [self._manifest.label[self._number[name]] for name in names]

    def folders(self, below: str = "") -> list[str]:
        """Names of the folders directly below a sub-folder, sorted."""
        depth = len(PurePosixPath(below).parts)
        inside = [PurePosixPath(name).parts for name in self.videos(below)]
        if not inside:
            raise DataError(f"The shards of {self.root} contain no folder {below}.")
        return sorted({parts[depth] for parts in inside if len(parts) > depth + 1})

    def has_folder(self, name: str) -> bool:
        """Whether there is such a sub-folder."""
        return bool(self.videos(name))

    def find(self, name: str) -> str | None:
        """The relative path of a video that is named with or without its ending, or has been given another one."""
        stem = name[: -len(PurePosixPath(name).suffix)] if name.lower().endswith(VIDEO_EXTENSIONS) else name
        return next((n for n in (name, *(stem + end for end in VIDEO_EXTENSIONS)) if n in self._number), None)

    def exists(self, name: str) -> bool:
        """Whether there is such a video, or annotation file beside the shards."""
        if name in self._number:
            return True
        try:
            return bool(fetch(f"{self.root}/{name}", 0, 1))
        except DataError as error:
            if error.reason in ("missing", "forbidden"):  # S3 answers 403 for missing files in buckets without listing
                return False
            raise

    def read(self, name: str) -> str:
        """The text of an annotation file, which lies beside the shards.

        Raises:
            DataError: it is not there, or no text.
        """
        try:
            return fetch(f"{self.root}/{name}").decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.root}/{name} is not UTF-8 ({error}); save it as UTF-8.") from error

    def records(self, names: Sequence[str], labels: Any = None, **more: Any) -> VideoRecords:
        """Return records of videos by relative path, which is also the id; ``more`` goes to ``VideoRecords.of``."""
        m, numbers = self._manifest, [self._number[name] for name in names]
        homes = [file if _is_whole(file) else f"{self.root}/{file}" for file in m.shards]
        byte_spans = [(m.offset[n], m.size[n]) for n in numbers]
        return VideoRecords.of(
            [homes[m.shard[n]] for n in numbers], labels, **({"ids": names, "byte_spans": byte_spans} | more)
        )


def _is_whole(path: str) -> bool:
    return "://" in path or Path(path).is_absolute()
