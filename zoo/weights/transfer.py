"""One attempt to transfer a file, and the errors that describe why it failed.

gdown transfers the bytes, including Google Drive's confirmation pages, also from other hosts. This module adds what
gdown lacks: whether the partial file of an earlier process is of the same version, size limits, and typed errors.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoo.errors import DownloadError, StorageError, ZooError
from zoo.text import one_line

# requests, gdown and rich are imported in functions, because most loads do not download

ATTEMPTS = 6  # without a new byte
TIMEOUTS = (10.0, 60.0)  # seconds to connect, and without a byte
BUSY = (408, 425, 429, 500, 502, 503, 504)
MAX_SIZE = 64 << 30  # bytes of a weight file
MAX_UNANNOUNCED = 8 << 30  # bytes of a body whose length the host does not announce
MAX_CONFIG = 16 << 20  # bytes of a config.json
STATE_FILE = "noted.json"  # in the folder of a partial file: its version and size

ProgressCallback = Callable[[int, int | None], None]  # bytes received so far, total bytes if known


class TransientFailure(Exception):
    """A failed attempt that may succeed when repeated. Only ``zoo.weights.download`` sees it.

    wait: seconds that the host asks to wait. max_attempts: attempts in a row without a new byte before giving up.
    connected: whether there was a connection.
    """

    def __init__(self, message: str, wait: float = 0.0, max_attempts: int = ATTEMPTS, connected: bool = True) -> None:
        super().__init__(message)
        self.wait, self.max_attempts, self.connected = wait, max_attempts, connected


def size_limit(name: str) -> int:
    """Return the maximum size in bytes of a file, by its name or URL."""
    return MAX_CONFIG if name.endswith(".json") else MAX_SIZE


def drive_file_url(folder_url: str, file: str) -> str:
    """Return the URL of a file in a Google Drive folder, by its name.

    Raises:
        TransientFailure, DownloadError: the folder cannot be listed, or has no such file.
    """
    import gdown
    import requests

    try:
        files: Any = gdown.download_folder(folder_url, quiet=True, skip_download=True, timeout=TIMEOUTS)
    except requests.RequestException as error:
        raise _request_error(error, folder_url) from error
    except (RecursionError, LookupError, AttributeError, ValueError) as error:
        raise DownloadError(f"The folder {folder_url} cannot be listed: its page has an unknown format.") from error
    except gdown.DownloadError as error:
        status = re.search(r"status code (\d+)", str(error))
        if status and int(status[1]) in BUSY:
            raise TransientFailure(f"{folder_url} answers {status[1]}") from error
        raise DownloadError(f"The folder {folder_url} cannot be listed: it is private or was removed.") from error
    for listed in files:
        if listed.path == file:
            return f"https://drive.google.com/file/d/{listed.id}/view"
    names = ", ".join(one_line(listed.path) for listed in files[:5])
    raise DownloadError(f"The folder {folder_url} has no file {file}; it has {names or 'no files'}.")


# the folder of a partial download ----------------------------------------------------------------------------------


def prepare_parts(kind: str, url: str, parts: Path) -> None:
    """Delete the content of ``parts`` if it is of another version of the file, and record the current version.

    Google Drive does not announce versions. There, ``transfer`` compares the total size.

    Raises:
        TransientFailure, DownloadError: the host did not answer, or refused.
    """
    state, version = _read_state(parts), None
    state.pop("announced", None)
    if kind == "https":
        response = _head(url)
        if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
            raise DownloadError(f"{url} redirects to {one_line(response.url)}, which is not encrypted.")
        length = response.headers.get("Content-Length", "") if response.ok else ""
        if length.isdecimal() and len(length) < 20 and int(length):
            state["announced"] = int(length)
        version = (response.headers.get("ETag") or response.headers.get("Last-Modified")) if response.ok else None
        if version is None or version != state.get("version"):
            shutil.rmtree(parts, ignore_errors=True)
            state = {key: value for key, value in state.items() if key == "announced"}
    parts.mkdir(parents=True, exist_ok=True)
    _write_state(parts, state | {"version": version})


def _write_state(parts: Path, state: dict[str, Any]) -> None:
    (parts / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")


def _read_state(parts: Path) -> dict[str, Any]:
    try:
        content = json.loads((parts / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _head(url: str) -> Any:
    """Return the response to a HEAD request.

    Raises:
        TransientFailure, DownloadError: the host is busy or does not answer.
    """
    import requests

    if urlsplit(url).netloc == "drive.google.com":
        url = f"https://drive.google.com/uc?id={urlsplit(url).path.split('/')[3]}"
    try:
        headers = {"Accept-Encoding": "identity"}
        with requests.head(url, allow_redirects=True, timeout=TIMEOUTS, headers=headers) as response:
            if response.status_code in BUSY:
                raise _status_error(response, url)
            return response
    except requests.RequestException as error:
        raise _request_error(error, url) from error
    except ValueError as error:  # requests raises it for some invalid redirect targets
        raise DownloadError(f"{url} redirects to an invalid address ({one_line(str(error))}).") from error


# transfer --------------------------------------------------------------------------------------------------------


def transfer(kind: str, url: str, parts: Path, target: Path, progress: bool) -> Path:
    """Download a file, or the rest of it, into ``parts`` and rename it to ``target`` when it is complete.

    Raises:
        TransientFailure, DownloadError: the attempt failed. The bytes received so far are kept if they can be resumed.
    """
    import gdown
    import requests

    state = _read_state(parts)
    partial = next(parts.glob(f"{target.name}*.part"), None)
    if partial is not None and partial.stat().st_size == state.get("total"):
        return partial.replace(target)  # an earlier process was killed between the last byte and the renaming
    with progress_bar(url, progress) as show:

        def watch(done: int, total: int | None) -> None:
            _check_size(url, done, total, state.get("announced"))
            if total is not None and total != state.get("total"):
                _accept_total(url, done, total, parts, state, resumed=partial is not None)
            show(done, total)

        # gdown gets a file path, so it never uses a file name from the host
        cookies = kind != "https"  # of Google Drive; they may identify an account, so other hosts do not get them
        try:
            gdown.download(
                url, str(target), quiet=True, use_cookies=cookies, resume=True, progress=watch, timeout=TIMEOUTS
            )
        except ZooError:
            shutil.rmtree(parts, ignore_errors=True)
            raise
        except gdown.FileURLRetrievalError as error:
            _head(url)  # gdown ignores the status of pages, so check whether the host is only busy
            raise _drive_error(str(error), url) from error
        except gdown.DownloadError as error:
            if "byte range" in str(error):
                _handle_range_refusal(url, parts, state)
            raise TransientFailure(f"{url}: {one_line(str(error).splitlines()[0].rstrip('.'), 200)}") from error
        except requests.RequestException as error:
            raise _request_error(error, url) from error
        except (LookupError, AssertionError, AttributeError, TypeError, ValueError, OverflowError) as error:
            # gdown raises these for unknown pages and headers
            raise DownloadError(f"{url}: the host's answer has an unknown format ({one_line(str(error))}).") from error
    return target


def _check_size(url: str, done: int, total: int | None, announced: int | None) -> None:
    """Refuse a body that is too large, or longer than announced. ``done`` bytes were received.

    Raises:
        DownloadError: a limit is exceeded.
    """
    limit = size_limit(urlsplit(url).path)
    if total is not None and total > limit:
        raise DownloadError(f"{url} announces {total} bytes; expected at most {limit}.")
    if total is None:
        limit = min(limit, MAX_UNANNOUNCED if announced is None else announced)
        if done > limit:
            raise DownloadError(f"{url} sends more than {limit} bytes. The download was stopped and deleted.")


def _accept_total(url: str, done: int, total: int, parts: Path, state: dict[str, Any], *, resumed: bool) -> None:
    """Record a newly announced total size in ``state`` and on disk.

    Raises:
        TransientFailure: the partial file belongs to a file of another size; it was deleted.
        StorageError: the disk has too little space for the rest.
    """
    if "total" in state and resumed:
        shutil.rmtree(parts)
        raise TransientFailure(f"{url} has changed since it was partially downloaded")
    state["total"] = total
    _write_state(parts, state)
    free = shutil.disk_usage(parts).free
    if free < total - done:
        raise StorageError(
            f"{url} has {total / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free in {parts.parent}. "
            "Free some space, or set TEMPOZOO_CACHE to a folder on another disk."
        )


def _handle_range_refusal(url: str, parts: Path, state: dict[str, Any]) -> None:
    """Handle a host that did not send the requested rest of a file: it is busy, or does not support ranges at all.

    The partial file is deleted at the second refusal, because the host then never resumes.
    """
    _head(url)
    if state.get("refused"):
        shutil.rmtree(parts)
    else:
        _write_state(parts, state | {"refused": True})


@contextlib.contextmanager
def progress_bar(url: str, visible: bool) -> Iterator[ProgressCallback]:
    """Show a progress bar with size and speed on standard error; provides the function that updates it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(file=sys.stderr), disable=not visible) as bar:
        task = bar.add_task(urlsplit(url).netloc, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# errors ----------------------------------------------------------------------------------------------------------


def _drive_error(message: str, url: str) -> DownloadError:
    """Interpret gdown's message about a page that Google Drive sent instead of a file."""
    if "too many users" in message.lower() or "quota" in message.lower():
        return DownloadError(
            f"Google Drive's download quota for {url} is exceeded: too many users downloaded it recently. Try again "
            "within 24 hours, or download it in a browser that is signed in to Google (if necessary, from a copy in a "
            "Drive of your own).",
            "quota",
        )
    return DownloadError(f"Google Drive has no public file at {url}: it is private, was removed, or requires a login.")


def _request_error(error: Any, url: str) -> Exception:
    """Return the error to raise for a failed request."""
    import requests
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    if error.response is not None:
        return _status_error(error.response, url)
    if isinstance(error, requests.exceptions.ProxyError):
        return DownloadError(f"{url} cannot be reached: {one_line(str(error), 300)}", "unreachable")
    if isinstance(error, requests.exceptions.SSLError | ValueError):
        return DownloadError(f"{url} cannot be reached: {one_line(str(error), 300)}")
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    connected = not isinstance(reason, NewConnectionError | ConnectTimeoutError)
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return TransientFailure(f"no answer in time from {urlsplit(url).netloc}", connected=connected)
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return TransientFailure(f"{url}: the connection was closed early")
    # most often there is no network
    return TransientFailure(f"{urlsplit(url).netloc} cannot be reached", max_attempts=3, connected=connected)


def _status_error(response: Any, url: str) -> Exception:
    """Return the error to raise for an HTTP status other than success."""
    status, reason = response.status_code, one_line(response.reason or "")
    if status in BUSY:
        return TransientFailure(f"{url} answers {status} {reason}", _retry_after(response.headers.get("Retry-After")))
    hint = " (the publisher may have removed or moved it)" if status in (404, 410) else ""
    return DownloadError(f"{url} answers {status} {reason}{hint}.")


def _retry_after(value: str | None) -> float:
    """Return the seconds that a Retry-After header asks to wait; 0 if it is missing or invalid."""
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return 0.0
