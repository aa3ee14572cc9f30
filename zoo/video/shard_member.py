"""One video inside a shard (a tar file, local or remote), as bytes or as a file."""

from __future__ import annotations

import functools
import io
import tarfile
import time
from collections.abc import Callable
from typing import Any

from zoo.errors import ConfigError, DataError, DataReason

PAUSES = (0.5, 2.0, 5.0)  # seconds before a host that failed is asked again
HEADER = tarfile.BLOCKSIZE
BLOCK, KEPT = 1 << 20, 8  # bytes fetched at a time of a large video, and how many such blocks are kept
# file systems are never given up: a forked worker that did so with an inherited one would close its connections in
# the kernel's table that it shares with the parent, whose next request would then wait for ever
_KEPT: dict[int, Any] = {}


def read_member(path: str, byte_span: tuple[int, int], name: str = "") -> bytes:
    """The bytes of one video in a shard.

    Args:
        path: of the shard, or its URL.
        byte_span: offset and number of the bytes.
        name: of the video, for messages.

    Raises:
        DataError: the shard cannot be reached, is shorter, or has something else there.
    """
    offset, size = byte_span
    content = _exactly(path, offset - HEADER, offset + size, name)
    _check_header(content, path, size, name)
    return content[HEADER:]


def open_member(
    path: str, byte_span: tuple[int, int], name: str = "", part: bool = False
) -> io.BytesIO | io.BufferedReader:
    """One video in a shard as a file: a small one, or a whole one from afar, is read at once, others block by block.

    Args:
        path, byte_span, name: as of ``read_member``.
        part: only a part of it is wanted.

    Raises:
        DataError: as of ``read_member``; of a video that is read block by block also when it is read.
    """
    if byte_span[1] <= BLOCK * KEPT or ("://" in path and not part):
        return io.BytesIO(read_member(path, byte_span, name))
    offset, size = byte_span
    start, stop = offset - HEADER, offset + size

    @functools.lru_cache(KEPT)
    def block(number: int) -> bytes:
        first = start + number * BLOCK
        return _exactly(path, first, min(first + BLOCK, stop), name)

    _check_header(block(0), path, size, name)
    return MemberFile(block, size).opened()


class MemberFile(io.RawIOBase):
    """A video in a shard, fetched block by block as it is read.

    Args:
        block: the bytes of a block by number; they begin with the header in front of the video.
        size: bytes of the video.
    """

    def __init__(self, block: Callable[[int], bytes], size: int) -> None:
        self._block, self._size, self._at = block, size, 0

    def opened(self) -> io.BufferedReader:
        """Return a file with its own position, which shares the blocks."""
        return io.BufferedReader(MemberFile(self._block, self._size))

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
        raise DataError(f"{what} is not where shards.json says; the shards were changed: index them again.")


def fetch(path: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Bytes ``[start, stop)`` of a file or URL, as far as it has them; a host that fails is asked again a few times.

    Raises:
        DataError: it cannot be read; ``reason`` says why.
    """
    if "://" not in path:
        try:
            with open(path, "rb") as file:
                file.seek(start or 0)
                return file.read(-1 if stop is None else stop - (start or 0))
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}).",
                "missing" if isinstance(error, FileNotFoundError) else "invalid",
            ) from error
    for pause in (*PAUSES, None):
        try:
            system, inner = file_system(path)
            return bytes(system.cat_file(inner, start=start, end=stop))
        except DataError:
            raise
        except FileNotFoundError as error:
            raise DataError(f"{path} cannot be read: there is no such file.", "missing") from error
        except Exception as error:  # each kind of store has its own
            status = getattr(error, "status", None)  # of HTTP
            forbidden = status == 403 or isinstance(error, PermissionError)
            if status == 416:  # it begins behind the end
                return b""
            refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
            if pause is None or refused or forbidden:
                reason: DataReason = "forbidden" if forbidden else "invalid" if refused else "unreachable"
                raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}).", reason) from error
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
