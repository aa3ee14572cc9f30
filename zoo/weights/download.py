"""Published files, on disk while they are needed: resumed, tried again, and never taken for more than they are."""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import quote, urlsplit

from zoo.errors import (
    CheckpointError,
    DownloadError,
    StorageError,
    ZooError,
)
from zoo.settings import offline
from zoo.weights.files import disk_errors, locked
from zoo.weights.transfer import TryAgain, in_folder, prepare, transfer

log = logging.getLogger("zoo")

WHOLE = "file"  # name of a file in its `.parts` folder once all of it has come
BACKOFF = 1.0  # seconds before the second attempt, doubled for each further one, up to LONGEST_WAIT
LONGEST_WAIT = 60.0
HUB = "huggingface.co"
_unreached: ContextVar[set[str] | None] = ContextVar("_unreached", default=None)


@contextlib.contextmanager
def each_host_once() -> Iterator[None]:
    """As long as this lasts, nothing more is asked of a host once no connection to it could be made."""
    token = _unreached.set(set())
    try:
        yield
    finally:
        _unreached.reset(token)


@contextlib.contextmanager
def asking(host: str) -> Iterator[None]:
    """Around requests to a host; a DownloadError if the host is to be skipped, see ``each_host_once``."""
    unreached = _unreached.get()
    if unreached is not None and host in unreached:
        raise DownloadError(f"{host} could not be reached before.", "skipped")
    try:
        yield
    except DownloadError as error:
        if unreached is not None and error.reason == "unreachable":
            unreached.add(host)
        raise


def place_for(kind: str, url: str, file: str | None) -> Path:
    """Where a source's file is kept below a folder: one path for one address, such as ``host/path/name.pth``."""
    parts = urlsplit(url)
    if kind == "gdrive_file":
        names = [parts.netloc, parts.path.split("/")[3]]
    elif kind == "gdrive_folder":
        names = [parts.netloc, parts.path.split("/")[3], file or ""]
    elif kind == "hf":
        names = [HUB, *url.removeprefix("hf-hub:").split("/"), file or ""]
    else:
        names = [parts.netloc, *parts.path.strip("/").split("/")]
    return Path(*(_folder_name(name) for name in names))


def _folder_name(name: str) -> str:
    """A part of an address as the name of a file or folder, which ``.`` and ``..`` are not."""
    return quote(name, safe=" @+=,()") if name.strip(".") else name.replace(".", "%2E")


def half_of(target: Path) -> Path:
    """The folder with what has come so far of a file; and with the file, ``WHOLE``, until it is used."""
    return target.with_name(f"{target.name}.parts")


@contextlib.contextmanager
def fetched(
    kind: str,
    url: str,
    file: str | None,
    target: Path,
    verify: Callable[[Path], bool],
    *,
    keep: bool = False,
    progress: bool = True,
) -> Iterator[Path]:
    """A source's file, on disk for as long as the context lasts.

    It is ``target`` if that is there: saved by hand, or kept. Otherwise it is fetched, going on with what an earlier
    process left in ``<target>.parts``. It stays there if the caller is interrupted, or finds the disk full.

    Args:
        kind, url, file: the source, as in the index.
        verify: whether a file is proved to be the expected one; raises CheckpointError if it is proved not to be. One
            that was put together from two downloads and fails, or cannot be proved, is fetched anew.
        keep: leave a fetched file as ``target``.

    Raises:
        DownloadError: of a kind that says what happened; what was fetched of a wrong file is removed.
    """
    with locked(target):
        if target.is_file():
            try:
                verify(target)
            except CheckpointError as error:
                if offline():
                    raise
                log.warning("%s It stays where it is; fetching it from %s.", error, url)
            else:
                yield target
                return
        parts = half_of(target)
        whole = _proved(kind, url, file, parts, verify, progress)
        if keep:
            whole = whole.replace(target)
        try:
            yield whole
        except CheckpointError:
            shutil.rmtree(parts, ignore_errors=True)
            raise
        shutil.rmtree(parts, ignore_errors=True)


def _proved(kind: str, url: str, file: str | None, parts: Path, verify: Callable[[Path], bool], progress: bool) -> Path:
    """The whole file in ``parts``, verified; fetched anew if its two halves may be of different files."""
    resumed = any(parts.glob(f"{WHOLE}*"))
    whole = _fetch(kind, url, file, parts, progress)
    try:
        if verify(whole) or not resumed or kind == "https":  # of which versions were compared
            return whole
        log.warning("nothing proves that the two halves of %s belong together; fetching it anew", url)
    except CheckpointError:
        shutil.rmtree(parts)
        if not resumed:
            raise
        log.warning("what was fetched of %s in two halves is not its file; fetching it anew", url)
    shutil.rmtree(parts, ignore_errors=True)
    whole = _fetch(kind, url, file, parts, progress)
    try:
        verify(whole)
    except CheckpointError:
        shutil.rmtree(parts)
        raise
    return whole


def _fetch(kind: str, url: str, file: str | None, parts: Path, progress: bool) -> Path:
    """The whole, unverified file in ``parts``; on an error, the bytes so far stay there, for a later process."""
    if (parts / WHOLE).is_file():
        return parts / WHOLE
    try:
        with asking(place_for(kind, url, file).parts[0]):
            if kind == "hf":
                from zoo.hub.pull import fetch_hub_file

                return fetch_hub_file(url, file or "", parts, progress).replace(parts / WHOLE)
            return _attempts(kind, url, file, parts, progress)
    except ZooError as error:
        if isinstance(error, StorageError) or not any(parts.glob(f"{WHOLE}*")):
            shutil.rmtree(parts, ignore_errors=True)
        raise


def _attempts(kind: str, url: str, file: str | None, parts: Path, progress: bool) -> Path:
    failures = most = 0
    address = url
    while True:
        try:
            if kind == "gdrive_folder":
                address, kind = in_folder(url, file or ""), "gdrive_file"
            with disk_errors(parts):
                prepare(kind, address, parts)
                return transfer(kind, address, parts, parts / WHOLE, progress)
        except TryAgain as error:
            come = sum(piece.stat().st_size for piece in parts.glob(f"{WHOLE}*"))
            failures = 1 if come > most else failures + 1  # as long as bytes come, there is hope
            most = max(most, come)
            if failures >= error.patience:
                raise DownloadError(
                    f"{error}; {failures} attempts in a row brought nothing.",
                    "incomplete" if error.connected or most else "unreachable",
                ) from error
            if error.wait > LONGEST_WAIT:
                raise DownloadError(
                    f"{error} and asks to wait for {error.wait / 60:.0f} minutes.", "incomplete"
                ) from error
            seconds = max(error.wait, min(BACKOFF * 2 ** (failures - 1) * random.uniform(0.5, 1.0), LONGEST_WAIT))
            log.warning("%s; trying again in %.0f s", error, seconds)
            time.sleep(seconds)
