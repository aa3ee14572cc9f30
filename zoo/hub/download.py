"""Published files from the web and from Google Drive: resumed, retried, and never taken for more than they are.

The transfer itself, Drive's confirmation pages included, is gdown's, also for plain addresses. Here is what it leaves
open: what may be resumed in another process, when to try again, and what went wrong in words.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import logging
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout

from zoo.errors import AccessError, CheckpointError, DownloadError, IncompleteError, NoSpaceError, QuotaExceededError
from zoo.hub.files import disk_errors

log = logging.getLogger("zoo")

ATTEMPTS = 6
BACKOFF = 1.0  # seconds before the second attempt, doubled for each further one, up to LONGEST_WAIT
LONGEST_WAIT = 60.0
TIMEOUTS = (10.0, 60.0)  # seconds to connect, and without a byte
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


def place_for(kind: str, url: str, file: str | None) -> Path:
    """Where a source's file is kept below a folder: one path for one address, such as ``host/path/name.pth``."""
    parts = urlsplit(url)
    if kind == "gdrive_file":
        names = [parts.netloc, parts.path.split("/")[3]]
    elif kind == "gdrive_folder":
        names = [parts.netloc, parts.path.split("/")[3], file or ""]
    elif kind == "hf":
        names = ["huggingface.co", *url.removeprefix("hf-hub:").split("/"), file or ""]
    else:
        names = [parts.netloc, *parts.path.strip("/").split("/")]
    return Path(*(quote(name, safe=" @+=,()") for name in names))


def half_of(target: Path) -> Path:
    """The folder with what has come so far of a file: ``file``, once it is whole."""
    return target.with_name(f"{target.name}.parts")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time works on ``path``; says so when it has to wait."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=1)
        except Timeout:
            log.info("waiting for another process that works on %s", path)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def fetched(
    kind: str,
    url: str,
    file: str | None,
    target: Path,
    verify: Callable[[Path], None],
    *,
    keep: bool = False,
    progress: bool = True,
) -> Iterator[Path]:
    """A source's file, on disk for as long as the context lasts.

    It is ``target`` if that is there: saved by hand, or kept. Otherwise it is fetched to there, going on with what an
    earlier process left in ``<target>.parts``.

    Args:
        kind, url, file: the source, as in the index.
        verify: raises CheckpointError for a file that is not the expected one; a download that was resumed and fails
            is then fetched anew.
        keep: leave a fetched file where it is.

    Raises:
        DownloadError: of a kind that says what happened; what was fetched of a wrong file is removed.
    """
    with locked(target):
        if target.is_file():
            verify(target)
            yield target
            return
        parts = half_of(target)
        resumed = any(parts.glob("file*"))
        complete = _fetch(kind, url, file, parts, progress)
        try:
            verify(complete)
        except CheckpointError:
            shutil.rmtree(parts)
            if not resumed:
                raise
            log.warning("what was fetched of %s in two parts is not one file; fetching it anew", url)
            complete = _fetch(kind, url, file, parts, progress)
            try:
                verify(complete)
            except CheckpointError:
                shutil.rmtree(parts)
                raise
        if keep:
            complete = complete.replace(target)
        try:
            yield complete
        finally:
            shutil.rmtree(parts, ignore_errors=True)


def _fetch(kind: str, url: str, file: str | None, parts: Path, progress: bool) -> Path:
    """The complete, unverified file in ``parts``; on an error, the bytes so far stay there, for a later process."""
    if (parts / "file").is_file():
        return parts / "file"
    try:
        if kind == "hf":
            from zoo.hub.hf import fetch_hub_file

            return fetch_hub_file(url, file or "", parts, progress).replace(parts / "file")
        if kind == "gdrive_folder":
            url, kind = _in_folder(url, file or ""), "gdrive_file"
        return _attempts(kind, url, parts, progress)
    except DownloadError as error:
        if isinstance(error, NoSpaceError) or not any(parts.glob("file*")):
            shutil.rmtree(parts, ignore_errors=True)
        raise


def _attempts(kind: str, url: str, parts: Path, progress: bool) -> Path:
    failures = refusals = most = 0
    while True:
        try:
            with disk_errors(parts):
                _forget_other(kind, url, parts)
                return _transfer(kind, url, parts, progress)
        except _TryAgain as error:
            come = sum(file.stat().st_size for file in parts.glob("file*"))
            failures = 1 if come > most else failures + 1  # as long as bytes come, there is hope
            most = max(most, come)
            refusals += error.refused
            if refusals == 2:
                shutil.rmtree(parts, ignore_errors=True)
            if failures >= error.patience:
                raise IncompleteError(f"{error}; {failures} attempts in a row brought nothing.") from error
            _wait(failures, error)


class _TryAgain(Exception):
    """A failure that may pass.

    wait: how long the host asks to wait, seconds. refused: it would not send the rest of a file alone. patience:
    attempts without a new byte that it is worth.
    """

    def __init__(self, what: str, wait: float = 0.0, refused: bool = False, patience: int = ATTEMPTS) -> None:
        super().__init__(what)
        self.wait, self.refused, self.patience = wait, refused, patience


def _wait(failures: int, error: _TryAgain) -> None:
    seconds = max(error.wait, BACKOFF * 2 ** (failures - 1) * random.uniform(0.5, 1.0))
    seconds = min(seconds, LONGEST_WAIT)
    log.warning("%s; trying again in %.0f s", error, seconds)
    time.sleep(seconds)


def _forget_other(kind: str, url: str, parts: Path) -> None:
    """Remove what is in ``parts`` if it is of another version of the file; note the version that comes now.

    Drive tells no version before it sends; there, the total is compared in ``_transfer``.
    """
    noted, known = _noted(parts), {}
    if kind == "https":
        import requests

        try:
            with requests.head(
                url, allow_redirects=True, timeout=TIMEOUTS, headers={"Accept-Encoding": "identity"}
            ) as r:
                known["version"] = r.headers.get("ETag") or r.headers.get("Last-Modified") if r.ok else None
        except requests.RequestException as error:
            raise _of_request(error, url) from error
        if known["version"] is None or known["version"] != noted.get("version"):
            shutil.rmtree(parts, ignore_errors=True)
            noted = {}
    parts.mkdir(parents=True, exist_ok=True)
    (parts / "noted.json").write_text(json.dumps(noted | known), encoding="utf-8")


def _noted(parts: Path) -> dict[str, Any]:
    try:
        content = json.loads((parts / "noted.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _transfer(kind: str, url: str, parts: Path, progress: bool) -> Path:
    import gdown
    import requests

    complete, noted = parts / "file", _noted(parts)
    partial = next(parts.glob("file*.part"), None)
    if partial is not None and partial.stat().st_size == noted.get("total"):
        partial.replace(complete)  # killed between its last byte and its name
    with _bar(url, progress) as show:

        def watch(done: int, total: int | None) -> None:
            if total is not None and total != noted.get("total"):
                if "total" in noted and partial is not None:
                    shutil.rmtree(parts)
                    raise _TryAgain(f"{url} is another file than the one that was half fetched")
                noted["total"] = total
                (parts / "noted.json").write_text(json.dumps(noted), encoding="utf-8")
                free = shutil.disk_usage(parts).free
                if free < total - done:
                    raise NoSpaceError(
                        f"{url} has {total / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free in {parts.parent}. "
                        "Make room, or set TEMPOZOO_CACHE to a folder on another disk."
                    )
            show(done, total)

        try:
            gdown.download(
                url,
                str(complete),
                quiet=True,
                use_cookies=kind != "https",
                resume=True,
                progress=watch,
                timeout=TIMEOUTS,
            )
        except gdown.FileURLRetrievalError as error:
            _raise_if_busy(url)
            raise _of_drive(str(error), url) from error
        except gdown.DownloadError as error:
            what = f"{url}: {str(error).splitlines()[0].rstrip('.')}"
            raise _TryAgain(what, refused="byte range" in what) from error
        except requests.RequestException as error:
            raise _of_request(error, url) from error
        except (KeyError, AssertionError, AttributeError) as error:  # gdown, of a page it does not know
            raise DownloadError(f"{url}: Google Drive answered with a page that cannot be understood.") from error
    return complete


def _in_folder(url: str, file: str) -> str:
    """The address of a file in a Drive folder, by its name."""
    import gdown
    import requests

    try:
        files: Any = gdown.download_folder(url, quiet=True, skip_download=True, timeout=TIMEOUTS, retries=3)
    except gdown.FileURLRetrievalError as error:
        raise _of_drive(str(error), url) from error
    except (gdown.DownloadError, requests.RequestException) as error:
        raise AccessError(f"The folder {url} cannot be listed: {str(error).splitlines()[0]}") from error
    for found in files:
        if found.path == file:
            return f"https://drive.google.com/file/d/{found.id}/view"
    names = ", ".join(found.path for found in files[:5])
    raise AccessError(f"The folder {url} holds no {file}; it has {names or 'no files'}.")


def _raise_if_busy(url: str) -> None:
    """gdown reads every page of Drive as an answer; one that says "later" is told by its status alone."""
    import requests

    try:
        id_ = urlsplit(url).path.split("/")[3]
        answer = requests.head(f"https://drive.google.com/uc?id={id_}", allow_redirects=True, timeout=TIMEOUTS)
    except requests.RequestException as error:
        raise _of_request(error, url) from error
    if answer.status_code in TRY_AGAIN:
        raise _of_status(answer, url)


def _of_drive(text: str, url: str) -> DownloadError:
    if "too many users" in text.lower() or "quota" in text.lower():
        return QuotaExceededError(
            f"Google Drive's quota for {url} is used up: too many people fetched it lately. It opens again within 24 "
            "hours; a signed-in browser can often fetch it now (or make a copy in a Drive of your own first)."
        )
    return AccessError(f"Google Drive gives no file at {url}: it is private, gone, or asks for a person.")


def _of_request(error: Any, url: str) -> Exception:
    """What a failed request means."""
    import requests

    response = getattr(error, "response", None)
    if response is None:
        if isinstance(error, requests.exceptions.SSLError | requests.exceptions.ProxyError | ValueError):
            return AccessError(f"{url} cannot be reached: {error}")
        if isinstance(error, requests.Timeout):
            return _TryAgain(f"no answer in time from {urlsplit(url).netloc}")
        return _TryAgain(f"{urlsplit(url).netloc} cannot be reached", patience=3)  # no network, most often
    return _of_status(response, url)


def _of_status(response: Any, url: str) -> Exception:
    status = response.status_code
    if status in TRY_AGAIN:
        return _TryAgain(f"{url} answers {status} {response.reason}", _retry_after(response.headers.get("Retry-After")))
    gone = " (the publisher may have removed or moved it)" if status in (404, 410) else ""
    return AccessError(f"{url} answers {status} {response.reason}{gone}.")


def _retry_after(value: str | None) -> float:
    if not value:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    with contextlib.suppress(TypeError, ValueError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return 0.0


@contextlib.contextmanager
def _bar(url: str, visible: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar with size and speed on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(file=sys.stderr), disable=not visible) as bar:
        task = bar.add_task(urlsplit(url).netloc, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
