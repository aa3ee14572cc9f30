"""A video inside a shard (a local or remote tar file), as bytes or as a file object."""

from __future__ import annotations

import functools
import io
import tarfile
import time
from collections.abc import Callable
from typing import Any

from zoo.errors import ConfigError, DataError, DataReason

PAUSES = (0.5, 2.0, 5.0)  # seconds before each repeated request
HEADER = tarfile.BLOCKSIZE
BLOCK = 1 << 20  # bytes per read of a large video
CACHED_BLOCKS = 8  # number of blocks of a large video in memory
# File systems are never released. A forked worker that released an inherited one would close connections that it shares
# with its parent, and the parent's next request would never return.
_FILE_SYSTEMS: dict[int, Any] = {}


def read_member(path: str, byte_span: tuple[int, int], name: str = "") -> bytes:
    """Return the bytes of one video in a shard.

    Args:
        path: path or URL of the shard.
        byte_span: offset and size of the video in bytes.
        name: name of the video in messages.

    Raises:
        DataError: the shard cannot be read, is truncated, or has no video at this position.
    """
    offset, size = byte_span
    content = _exactly(path, offset - HEADER, offset + size, name)
    _check_header(content, path, size, name)
    return content[HEADER:]


def open_member(
    path: str, byte_span: tuple[int, int], name: str = "", part: bool = False
) -> io.BytesIO | io.BufferedReader:
    """Open one video in a shard as a file object.

    Small videos, and remote videos that are read completely, are read at once; others block by block.

    Args:
        path, byte_span, name: see ``read_member``.
        part: whether only a segment of the video will be read.

    Raises:
        DataError: see ``read_member``; reading block by block may raise it later.
    """
    if byte_span[1] <= BLOCK * CACHED_BLOCKS or ("://" in path and not part):
        return io.BytesIO(read_member(path, byte_span, name))
    offset, size = byte_span
    start, stop = offset - HEADER, offset + size

    @functools.lru_cache(CACHED_BLOCKS)
    def block(number: int) -> bytes:
        first = start + number * BLOCK
        return _exactly(path, first, min(first + BLOCK, stop), name)

    _check_header(block(0), path, size, name)
    return MemberFile(block, size).opened()


class MemberFile(io.RawIOBase):
    """File object of a video in a shard, which reads blocks on demand.

    Args:
        block: function that returns a block by number; block 0 starts with the tar header of the video.
        size: size of the video in bytes.
    """

    def __init__(self, block: Callable[[int], bytes], size: int) -> None:
        self._block, self._size, self._at = block, size, 0

    def opened(self) -> io.BufferedReader:
        """Return a file with its own position, which shares the blocks."""
        return io.BufferedReader(MemberFile(self._block, self._size))

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See ``io.IOBase.seek``."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """See ``io.RawIOBase.readinto``; reads at most to the end of a block."""
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
        raise ConfigError(f"{path} cannot be read in parts: its host does not support range requests.")
    if len(content) < stop - start:
        raise DataError(
            f"{name or 'A video'} in {path} ends {stop - start - len(content)} bytes too early: the shard is truncated."
        )
    return content


def _check_header(content: bytes, path: str, size: int, name: str) -> None:
    """Compare the tar header before the video with the index, which may belong to other shards."""
    try:
        fits = tarfile.TarInfo.frombuf(content[:HEADER], "utf-8", "replace").size == size
    except tarfile.HeaderError:
        fits = False
    if not fits:
        raise DataError(
            f"{name or 'A video'} in {path} is not at the position listed in shards.json: the shards have changed. "
            "Index them again."
        )


def fetch(path: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Return bytes ``[start, stop)`` of a file or URL, or fewer at its end; failed requests are repeated.

    Raises:
        DataError: it cannot be read; ``reason`` is the cause.
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
        except Exception as error:  # each storage driver has its own types
            status = getattr(error, "status", None)  # of HTTP
            forbidden = status == 403 or isinstance(error, PermissionError)
            if status == 416:  # start is beyond the end
                return b""
            refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
            if pause is None or refused or forbidden:
                reason: DataReason = "forbidden" if forbidden else "invalid" if refused else "unreachable"
                raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}).", reason) from error
            time.sleep(pause)
    raise AssertionError


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, cached per host and process, and the path in it.

    Raises:
        DataError: no installed driver reads such URLs.
    """
    try:
        import fsspec

        # many clusters define proxies in the environment, which aiohttp ignores by default
        options = {"client_kwargs": {"trust_env": True}} if url.startswith(("http://", "https://")) else {}
        system, inner = fsspec.core.url_to_fs(url, **options)
        _FILE_SYSTEMS[id(system)] = system
        return system, inner
    except ImportError as error:
        kind = url.partition("://")[0]
        hint = "http" if kind == "https" else kind
        raise DataError(f"{url} needs one more package ({error}): pip install 'fsspec[{hint}]'.") from error
    except ValueError as error:
        raise DataError(f"fsspec cannot read {url} ({error}).") from error
