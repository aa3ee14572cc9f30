"""Digests of files, locks, and atomic writes. Importing this module does not import torch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from zoo.errors import CheckpointError, StorageError

log = logging.getLogger("zoo")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        CheckpointError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with readable(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def readable(path: Path) -> Iterator[Any]:
    """Open a file to read its bytes; an OSError in this context becomes a CheckpointError."""
    try:
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Convert errors of a full disk or an unwritable folder to StorageError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError):
            code = error.errno
        else:  # safetensors' writer gives the code in its message
            match = re.search(r"os error (\d+)", str(error))
            code = int(match[1]) if match else None
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"No space left on the disk of {folder}. Free some space, or set TEMPOZOO_CACHE to a folder on another "
                "disk. Incomplete files were removed."
            ) from error
        reason = os.strerror(code) if code else error
        raise StorageError(
            f"{folder} cannot be written to ({reason}). Choose another folder (TEMPOZOO_CACHE sets that of the cache)."
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``, so that one process at a time changes it. Logs a warning while it waits."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=1)
        except Timeout:
            log.warning("waiting for another process that uses %s", path)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Provide an empty temporary file that replaces ``path`` on success and is removed on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{path.suffix}")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
