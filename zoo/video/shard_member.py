"""A video inside a shard (a local or remote tar file), as bytes or as a file object."""

from __future__ import annotations

import functools
import io
import tarfile
import time
from collections.abc import Callable
from typing import Any

from zoo.errors import ConfigError, DataError, DataReason

RETRY_DELAYS = (0.5, 2.0, 5.0)  # seconds before each retry of a request
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
    content = _read_exactly(path, offset - HEADER, offset + size, name)
    _check_header(content, path, size, name)
    return content[HEADER:]


def open_member(
    path: str, byte_span: tuple[int, int], name: str = "", partial: bool = False
) -> io.BytesIO | io.BufferedReader:
    """Open one video in a shard as a file object.

    Small videos, and remote videos that are read completely, are fetched in one request. Others are read in blocks.

    Args:
        path, byte_span, name: see ``read_member``.
        partial: whether only a segment of the video will be read.

    Raises:
        DataError: see ``read_member``; also raised by later reads of the file object.
    """
    if byte_span[1] <= BLOCK * CACHED_BLOCKS or ("://" in path and not partial):
        return io.BytesIO(read_member(path, byte_span, name))
    offset, size = byte_span
    start, stop = offset - HEADER, offset + size

    @functools.lru_cache(CACHED_BLOCKS)
    def block(number: int) -> bytes:
        first = start + number * BLOCK
        return _read_exactly(path, first, min(first + BLOCK, stop), name)

    _check_header(block(0), path, size, name)
    return MemberFile(block, size).buffered()


class MemberFile(io.RawIOBase):
    """A file object of a video in a shard that reads blocks on demand.

    Args:
        block: function that returns a block by number; block 0 starts with the tar header of the video.
        size: size of the video in bytes.
    """

    def __init__(self, block: Callable[[int], bytes], size: int) -> None:
        self._block, self._size, self._position = block, size, 0

    def buffered(self) -> io.BufferedReader:
        """Return a buffered file object of the same video, with its own position and the same cached blocks."""
        return io.BufferedReader(MemberFile(self._block, self._size))

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position and return it, see ``io.IOBase.seek``."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``, at most to the end of a block, and return the number of bytes."""
        if self._position >= self._size:
            return 0
        number, start = divmod(HEADER + self._position, BLOCK)
        chunk = memoryview(self._block(number))[start : start + len(buffer)]
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)


def _read_exactly(path: str, start: int, stop: int, name: str) -> bytes:
    content = fetch(path, max(start, 0), stop)
    if len(content) > stop - start:
        raise ConfigError(f"{path} cannot be read in parts: its host does not support range requests.")
    if len(content) < stop - start:
        raise DataError(
            f"{name or 'A video'} in {path} ends {stop - start - len(content)} bytes too early: the shard is truncated."
        )
    return content


def _check_header(content: bytes, path: str, size: int, name: str) -> None:
    """Check that the video has the size of the index in its tar header; the shards may have changed since indexing."""
    try:
        matches = tarfile.TarInfo.frombuf(content[:HEADER], "utf-8", "replace").size == size
    except tarfile.HeaderError:
        matches = False
    if not matches:
        raise DataError(
            f"{name or 'A video'} in {path} is not at the position listed in shards.json: the shards have changed. "
            "Index them again."
        )


def fetch(path: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Return bytes ``[start, stop)`` of a file or URL, or fewer at its end; failed requests are retried.

    Raises:
        DataError: the file cannot be read; ``reason`` is the cause.
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
    for delay in (*RETRY_DELAYS, None):
        try:
            system, inner = file_system(path)
            return bytes(system.cat_file(inner, start=start, end=stop))
        except DataError:
            raise
        except FileNotFoundError as error:
            raise DataError(f"{path} cannot be read: there is no such file.", "missing") from error
        except Exception as error:  # each storage driver has its own error types
            status = getattr(error, "status", None)  # HTTP status of aiohttp's errors
            forbidden = status == 403 or isinstance(error, PermissionError)
            if status == 416:  # start is beyond the end
                return b""
            refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
            if delay is None or refused or forbidden:
                reason: DataReason = "unreachable"
                if forbidden or refused:
                    reason = "forbidden" if forbidden else "invalid"
                raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}).", reason) from error
            time.sleep(delay)
    raise AssertionError("unreachable")


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, cached per host and process, and the path in it.

    Raises:
        DataError: no installed driver reads such URLs.
    """
    try:
        import fsspec

        # Many clusters define proxies in the environment, which aiohttp ignores by default.
        options = {"client_kwargs": {"trust_env": True}} if url.startswith(("http://", "https://")) else {}
        system, inner = fsspec.core.url_to_fs(url, **options)
        _FILE_SYSTEMS[id(system)] = system
        return system, inner
    except ImportError as error:
        scheme = url.partition("://")[0]
        extra = "http" if scheme == "https" else scheme
        raise DataError(f"{url} needs one more package ({error}): pip install 'fsspec[{extra}]'.") from error
    except ValueError as error:
        raise DataError(f"fsspec cannot read {url} ({error}).") from error
