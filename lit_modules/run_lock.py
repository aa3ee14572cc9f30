"""Lock on the folder of a run, so that only one command at a time writes to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from zoo.errors import ConfigError

LOCK, OWNER = ".run.lock", ".run.json"  # file names in the folder; both are removed when the lock is released
# Environment variables of launchers (Lightning, torchrun, SLURM, LSF, Open MPI) for the rank of a process or node.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK",
                  "OMPI_COMM_WORLD_RANK")  # fmt: skip
LEFTOVER_SECONDS = 10.0  # child processes of a killed run may keep its lock so long


def is_first_process() -> bool:
    """Whether this process is the first of its run, or the only one; works before Lightning starts the others."""
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of an existing folder.

    The operating system holds the lock, so it ends with the process, also after ``kill -9``. A file system without
    locks gives a warning.

    Raises:
        ConfigError: another process holds the lock, or the folder is not writable.
    """
    lock = FileLock(folder / LOCK)
    acquired = False
    try:
        acquired = _acquire(lock, folder)
    except PermissionError as error:
        raise ConfigError(f"--out {folder} cannot be written to ({error.strerror}); choose another.") from error
    except (OSError, NotImplementedError) as error:
        warnings.warn(
            f"{folder} cannot be locked ({error}): make sure that no other command writes there.", stacklevel=2
        )
    try:
        if acquired:
            _write_owner(folder)
        yield
    finally:
        if acquired:  # remove the files before another process can acquire the lock
            for name in (OWNER, LOCK):
                with contextlib.suppress(OSError):
                    (folder / name).unlink()
            lock.release()


def _acquire(lock: FileLock, folder: Path) -> bool:
    """Acquire the lock."""
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not _owner_is_dead(folder):
                raise
            lock.acquire(timeout=LEFTOVER_SECONDS)
    except Timeout as error:
        raise ConfigError(f"{folder} is in use by {_describe_owner(folder)}. Choose another --out, or wait.") from error
    if isinstance(lock, SoftFileLock):  # filelock falls back to a file that a killed process leaves behind
        lock.release()
        raise NotImplementedError("the file system has no locks")
    return True


def _write_owner(folder: Path) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "start": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with contextlib.suppress(OSError):  # the file is used for messages only
        (folder / OWNER).write_text(json.dumps(owner), encoding="utf-8")


def _read_owner(folder: Path) -> dict[str, object]:
    for _ in range(10):  # the owner writes this file after it acquired the lock
        with contextlib.suppress(OSError, ValueError):
            owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
            if isinstance(owner, dict):
                return owner
        time.sleep(0.05)
    return {}


def _describe_owner(folder: Path) -> str:
    owner = _read_owner(folder)
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')}, started at {owner.get('start')}"


def _owner_is_dead(folder: Path) -> bool:
    """Whether the process that locked the folder ran on this machine and has ended."""
    owner = _read_owner(folder)
    pid = owner.get("pid")
    if owner.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
