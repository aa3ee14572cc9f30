"""One published file on disk: resumed, retried, and verified before it is used.

The call path is ``downloaded_file`` -> ``_download_verified`` -> ``_download`` -> ``_download_with_retries`` ->
``zoo.weights.transfer``, which makes a single attempt.
"""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from zoo.errors import CheckpointError, DownloadError, StorageError, ZooError
from zoo.index import Source
from zoo.settings import offline
from zoo.weights.disk import disk_errors, locked
from zoo.weights.locations import parts_folder, path_for
from zoo.weights.transfer import TransientFailure, drive_file_url, prepare_parts, transfer

log = logging.getLogger("zoo")

COMPLETE_FILE = "file"  # name of a completely transferred file in its `.parts` folder
BACKOFF = 1.0  # seconds before the second attempt, doubled for each further one, up to LONGEST_WAIT
LONGEST_WAIT = 60.0
_unreachable_hosts: ContextVar[set[str] | None] = ContextVar("_unreachable_hosts", default=None)


# unreachable hosts -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def skip_unreachable_hosts() -> Iterator[None]:
    """Send no further requests in this context to a host that could not be reached once."""
    token = _unreachable_hosts.set(set())
    try:
        yield
    finally:
        _unreachable_hosts.reset(token)


@contextlib.contextmanager
def requests_to(host: str) -> Iterator[None]:
    """Record in this context whether a host is unreachable; see ``skip_unreachable_hosts``.

    Raises:
        DownloadError: the host was unreachable before (reason "skipped").
    """
    unreachable = _unreachable_hosts.get()
    if unreachable is not None and host in unreachable:
        raise DownloadError(f"{host} could not be reached before.", "skipped")
    try:
        yield
    except DownloadError as error:
        if unreachable is not None and error.reason == "unreachable":
            unreachable.add(host)
        raise


# downloads -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def downloaded_file(
    source: Source, target: Path, verify: Callable[[Path], bool], *, keep: bool = False, progress: bool = True
) -> Iterator[Path]:
    """Provide a source's file on disk while the context lasts.

    An existing ``target``, saved by hand or kept, is used as it is. Otherwise the file is downloaded to
    ``<target>.parts``, where a partial download of an earlier process is resumed. If the caller is interrupted, or
    the disk is full, the download stays there for the next process.

    Args:
        verify: returns whether a file is certainly the expected one; raises CheckpointError if it certainly is not. A
            resumed download that is not certainly the expected file is repeated from the start, because its two
            halves may be of different versions.
        keep: keep the downloaded file as ``target``.

    Raises:
        DownloadError: ``reason`` gives the kind of failure. A file that failed verification is deleted.
    """
    with locked(target):
        if target.is_file():
            try:
                verify(target)
            except CheckpointError as error:
                if offline():
                    raise
                log.warning("%s It is not deleted. Downloading %s instead.", error, source.url)
            else:
                yield target
                return
        parts = parts_folder(target)
        path = _download_verified(source, parts, verify, progress)
        if keep:
            path = path.replace(target)
        try:
            yield path
        except CheckpointError:
            shutil.rmtree(parts, ignore_errors=True)
            raise
        shutil.rmtree(parts, ignore_errors=True)


def _download_verified(source: Source, parts: Path, verify: Callable[[Path], bool], progress: bool) -> Path:
    """Return the complete, verified file in ``parts``; a resumed download that fails verification is repeated."""
    resumed = any(parts.glob(f"{COMPLETE_FILE}*"))
    path = _download(source, parts, progress)
    try:
        # `prepare_parts` resumes https downloads only if both halves are of one version
        if verify(path) or not resumed or source.kind == "https":
            return path
        log.warning("The resumed download of %s cannot be verified; downloading it again.", source.url)
    except CheckpointError:
        shutil.rmtree(parts)
        if not resumed:
            raise
        log.warning("The resumed download of %s is not the expected file; downloading it again.", source.url)
    shutil.rmtree(parts, ignore_errors=True)
    path = _download(source, parts, progress)
    try:
        verify(path)
    except CheckpointError:
        shutil.rmtree(parts)
        raise
    return path


def _download(source: Source, parts: Path, progress: bool) -> Path:
    """Return the complete, unverified file in ``parts``. After an error, a later process can resume from there."""
    path = parts / COMPLETE_FILE
    if path.is_file():
        return path
    try:
        with requests_to(path_for(source).parts[0]):
            if source.kind == "hf":
                from zoo.hub.pull import download_hub_file

                return download_hub_file(source.url, source.file or "", parts, progress).replace(path)
            return _download_with_retries(source, parts, progress)
    except ZooError as error:
        if isinstance(error, StorageError) or not any(parts.glob(f"{COMPLETE_FILE}*")):
            shutil.rmtree(parts, ignore_errors=True)
        raise


def _download_with_retries(source: Source, parts: Path, progress: bool) -> Path:
    """Repeat ``transfer`` after transient failures, until several attempts in a row received no new bytes."""
    kind, url = source.kind, source.url
    failures = most_bytes = 0
    while True:
        try:
            if kind == "gdrive_folder":
                kind, url = "gdrive_file", drive_file_url(source.url, source.file or "")
            with disk_errors(parts):
                prepare_parts(kind, url, parts)
                return transfer(kind, url, parts, parts / COMPLETE_FILE, progress)
        except TransientFailure as error:
            received = sum(part.stat().st_size for part in parts.glob(f"{COMPLETE_FILE}*"))
            failures = 1 if received > most_bytes else failures + 1
            most_bytes = max(most_bytes, received)
            if failures >= error.max_attempts:
                raise DownloadError(
                    f"{error}; {failures} attempts in a row received no new data.",
                    "incomplete" if error.connected or most_bytes else "unreachable",
                ) from error
            if error.wait > LONGEST_WAIT:
                raise DownloadError(
                    f"{error}, and the host asks to wait for {error.wait / 60:.0f} minutes. Try again then.",
                    "incomplete",
                ) from error
            seconds = max(error.wait, min(BACKOFF * 2 ** (failures - 1) * random.uniform(0.5, 1.0), LONGEST_WAIT))
            log.warning("%s; trying again in %.0f s", error, seconds)
            time.sleep(seconds)
