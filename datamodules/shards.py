"""Videos in shards: tar files as WebDataset has them, each video read by its place in one, near or far.

A folder or address of shards holds ``shards.json``, which says where in which shard every video is. `tempozoo data
prepare --shards` writes such a folder, and `tempozoo data index` the same for shards that others made.
"""

from __future__ import annotations

import functools
import io
import json
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.records import VideoRecords
from datamodules.tools.outputs import written
from datamodules.tree import VIDEO_EXTENSIONS, Tree
from zoo.errors import ConfigError, DataError

MANIFEST = "shards.json"
PAUSES = (0.5, 2.0, 5.0)  # seconds before a host that failed is asked again
HEADER = tarfile.BLOCKSIZE
BLOCK, KEPT = 1 << 20, 8  # bytes fetched at a time of a large video, and how many such blocks are kept
# file systems are never given up: a forked worker that did so with an inherited one would close its connections in
# the kernel's table that it shares with the parent, whose next request would then wait for ever
_KEPT: dict[int, Any] = {}


class AbsentError(DataError):
    """There is no such file, where there might have been one."""


class ForbiddenError(DataError):
    """A file that may not be read, or not be known to be missing."""


class UnreachableError(DataError):
    """A host that failed again and again, which may be well again later."""


@dataclass(frozen=True)
class Manifest:
    """What shards.json holds: files, and columns with a value for each video.

    shards: paths, relative to shards.json, or whole paths or URLs.
    path: of each video, relative to the folder that the shards stand for, with its ending.
    shard: of each, the number in ``shards``; offset, size: of its bytes there.
    label: of each, as the shard has it, a class's name or number; "" if it has none.
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
            raise ValueError("its columns do not fit together")
        "\n".join((*self.shards, *self.path, *self.label)).encode("utf-8", "surrogateescape")  # TypeError, ValueError
        if not all(type(number) is int and 0 <= number < 2**62 for number in (*self.shard, *self.offset, *self.size)):
            raise ValueError("a shard, offset or size is not a whole number")
        if len(set(self.path)) < len(self.path):
            raise ValueError("a path is there twice")

    def write(self, folder: Path) -> Path:
        """Write it into a folder, whole or not at all.

        Raises:
            NoSpaceError, AccessError: it cannot be written.
        """
        with written(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps({"version": 1, **asdict(self)}, separators=(",", ":")), encoding="utf-8")
        return folder / MANIFEST

    @classmethod
    def read(cls, root: str) -> Manifest:
        """Of a folder or URL.

        Raises:
            DataError: there is none, or it is damaged.
        """
        where = f"{root}/{MANIFEST}"
        try:
            content = json.loads(fetch(where))
            if content.pop("version") != 1:
                raise ValueError("it is of another version")
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{where} does not say what is in the shards ({str(error)[:200]}); make it again."
            ) from error


class ShardTree(Tree):
    """The videos in shards, as the folder tree that they were made of. Folders of frames are not kept in shards.

    Args:
        root: a folder, or a URL of any kind that fsspec reads, that holds shards.json.

    Raises:
        DataError: it does not.
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
        """What the shards say of videos: class names or numbers, "" if nothing."""
        return [self._manifest.label[self._number[name]] for name in names]

    def folders(self, below: str = "") -> list[str]:
        """Names of the folders directly below a sub-folder, sorted."""
        depth = len(PurePosixPath(below).parts)
        inside = [PurePosixPath(name).parts for name in self.videos(below)]
        if not inside:
            raise DataError(f"There is no folder {below} in the shards of {self.root}.")
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
        except (AbsentError, ForbiddenError):  # S3 forbids to know of files that are not there, if none may be listed
            return False

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
        """Records of videos given by relative path, which is their id too, unless ``more`` has others."""
        m, numbers = self._manifest, [self._number[name] for name in names]
        homes = [file if _is_whole(file) else f"{self.root}/{file}" for file in m.shards]
        places = [(m.offset[n], m.size[n]) for n in numbers]
        return VideoRecords.of(
            [homes[m.shard[n]] for n in numbers], labels, **({"ids": names, "places": places} | more)
        )


def _is_whole(path: str) -> bool:
    return "://" in path or Path(path).is_absolute()


def read_place(path: str, place: tuple[int, int], name: str = "") -> bytes:
    """The bytes of one video in a shard.

    Args:
        path: of the shard, or its URL.
        place: offset and number of the bytes.
        name: of the video, for messages.

    Raises:
        DataError: the shard cannot be reached, is shorter, or has something else there.
    """
    offset, size = place
    content = _exactly(path, offset - HEADER, offset + size, name)
    _check_header(content, path, size, name)
    return content[HEADER:]


def open_place(path: str, place: tuple[int, int], name: str = "", part: bool = False) -> io.BytesIO | io.BufferedReader:
    """One video in a shard as a file: a small one, or a whole one from afar, is read at once, others block by block.

    Args:
        path, place, name: as of ``read_place``.
        part: only a part of it is wanted.

    Raises:
        DataError: as of ``read_place``; of a video that is read block by block also when it is read.
    """
    if place[1] <= BLOCK * KEPT or ("://" in path and not part):
        return io.BytesIO(read_place(path, place, name))
    offset, size = place
    start, stop = offset - HEADER, offset + size

    @functools.lru_cache(KEPT)
    def block(number: int) -> bytes:
        first = start + number * BLOCK
        return _exactly(path, first, min(first + BLOCK, stop), name)

    _check_header(block(0), path, size, name)
    return PlaceFile(block, size).opened()


class PlaceFile(io.RawIOBase):
    """A video in a shard, fetched block by block as it is read.

    Args:
        block: the bytes of a block by number; they begin with the header in front of the video.
        size: bytes of the video.
    """

    def __init__(self, block: Callable[[int], bytes], size: int) -> None:
        self._block, self._size, self._at = block, size, 0

    def opened(self) -> io.BufferedReader:
        """A file with a place of its own in the same blocks."""
        return io.BufferedReader(PlaceFile(self._block, self._size))

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As of any file; at most to the end of a block."""
        if self._at >= self._size:
            return 0
        number, at = divmod(HEADER + self._at, BLOCK)
        piece = memoryview(self._block(number))[at : at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def _exactly(path: str, start: int, stop: int, name: str) -> bytes:
    content = fetch(path, max(start, 0), stop)
    if len(content) > stop - start:
        raise ConfigError(f"{path} is served only as a whole: the host has to answer range requests.")
    if len(content) < stop - start:
        what = f"{name or 'A video'} in {path}"
        raise DataError(f"{what} ends {stop - start - len(content)} bytes too early: the shard is truncated.")
    return content


def _check_header(content: bytes, path: str, size: int, name: str) -> None:
    """The file's own header is read with it: an index may be of other shards than these."""
    try:
        fits = tarfile.TarInfo.frombuf(content[:HEADER], "utf-8", "replace").size == size
    except tarfile.HeaderError:
        fits = False
    if not fits:
        what = f"{name or 'A video'} in {path}"
        raise DataError(f"{what} is not where {MANIFEST} says; the shards were changed: index them again.")


def fetch(path: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Bytes ``[start, stop)`` of a file or URL, as far as it has them; a host that fails is asked again a few times.

    Raises:
        AbsentError, ForbiddenError, UnreachableError: it is not there, is forbidden, or its host fails again and again.
        DataError: it cannot be read.
    """
    if "://" not in path:
        try:
            with open(path, "rb") as file:
                file.seek(start or 0)
                return file.read(-1 if stop is None else stop - (start or 0))
        except OSError as error:
            kind = AbsentError if isinstance(error, FileNotFoundError) else DataError
            raise kind(f"{path} cannot be read ({error.strerror}).") from error
    for pause in (*PAUSES, None):
        try:
            system, inner = file_system(path)
            return bytes(system.cat_file(inner, start=start, end=stop))
        except DataError:
            raise
        except FileNotFoundError as error:
            raise AbsentError(f"{path} cannot be read: there is no such file.") from error
        except Exception as error:  # each kind of store has its own
            status = getattr(error, "status", None)  # of HTTP
            forbidden = status == 403 or isinstance(error, PermissionError)
            if status == 416:  # it begins behind the end
                return b""
            refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
            if pause is None or refused or forbidden:
                kind = ForbiddenError if forbidden else DataError if refused else UnreachableError
                raise kind(f"{path} cannot be read ({type(error).__name__}: {error}).") from error
            time.sleep(pause)
    raise AssertionError


def file_system(url: str) -> tuple[Any, str]:
    """What reads a URL, and what it calls it. fsspec keeps one for each host, anew in every process.

    Raises:
        DataError: nothing that is installed reads such URLs.
    """
    try:
        import fsspec

        # proxies are told by the environment on many clusters, which aiohttp looks at only if asked
        options = {"client_kwargs": {"trust_env": True}} if url.startswith(("http://", "https://")) else {}
        system, inner = fsspec.core.url_to_fs(url, **options)
        _KEPT[id(system)] = system
        return system, inner
    except ImportError as error:
        kind = url.partition("://")[0]
        hint = "http" if kind == "https" else kind
        raise DataError(f"{url} needs one more package ({error}): pip install 'fsspec[{hint}]'.") from error
    except ValueError as error:
        raise DataError(f"{url} is of no kind that fsspec reads ({error}).") from error
