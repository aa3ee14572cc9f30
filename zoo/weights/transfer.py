"""One attempt to transfer a file, and what its failure means.

The transfer itself, Drive's confirmation pages included, is gdown's, also for plain addresses. Here is what it leaves
open: which bytes of an earlier process may be gone on with, and what went wrong in words.
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

# requests, gdown and rich are imported in functions: few loads need them

ATTEMPTS = 6  # without a new byte
TIMEOUTS = (10.0, 60.0)  # seconds to connect, and without a byte
BUSY = (408, 425, 429, 500, 502, 503, 504)
MAX_SIZE = 64 << 30  # bytes of a weight file
MAX_UNANNOUNCED = 8 << 30  # bytes of a body whose length the host does not announce
MAX_CONFIG = 16 << 20  # bytes of a config.json
NOTES = "noted.json"  # in the folder of a half file: its version and total


class TryAgain(Exception):
    """A failure that may pass.

    wait: how long the host asks to wait, seconds. patience: attempts without a new byte that it is worth. connected:
    whether there was a connection.
    """

    def __init__(self, what: str, wait: float = 0.0, patience: int = ATTEMPTS, connected: bool = True) -> None:
        super().__init__(what)
        self.wait, self.patience, self.connected = wait, patience, connected


def size_limit(name: str) -> int:
    """The most bytes that a file of that name, or at that address, may have."""
    return MAX_CONFIG if name.endswith(".json") else MAX_SIZE


def prepare(kind: str, url: str, parts: Path) -> None:
    """Remove what is in ``parts`` if it is of another version of the file; note the version that comes now.

    Drive tells no version before it sends; there, the total is compared in ``transfer``.

    Raises:
        TryAgain, DownloadError: the host did not answer, or with a refusal.
    """
    noted, version = _noted(parts), None
    noted.pop("announced", None)
    if kind == "https":
        answer = _head(url)
        if urlsplit(url).scheme == "https" and urlsplit(answer.url).scheme != "https":
            raise DownloadError(f"{url} redirects to {one_line(answer.url)}, which is not encrypted.")
        length = answer.headers.get("Content-Length", "") if answer.ok else ""
        if length.isdecimal() and len(length) < 20 and int(length):
            noted["announced"] = int(length)
        version = (answer.headers.get("ETag") or answer.headers.get("Last-Modified")) if answer.ok else None
        if version is None or version != noted.get("version"):
            shutil.rmtree(parts, ignore_errors=True)
            noted = {key: value for key, value in noted.items() if key == "announced"}
    parts.mkdir(parents=True, exist_ok=True)
    _note(parts, noted | {"version": version})


def _note(parts: Path, noted: dict[str, Any]) -> None:
    (parts / NOTES).write_text(json.dumps(noted), encoding="utf-8")


def _noted(parts: Path) -> dict[str, Any]:
    try:
        content = json.loads((parts / NOTES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _head(url: str) -> Any:
    """The host's answer without the file; TryAgain if it is busy or gives none."""
    import requests

    if urlsplit(url).netloc == "drive.google.com":
        url = f"https://drive.google.com/uc?id={urlsplit(url).path.split('/')[3]}"
    try:
        plain = {"Accept-Encoding": "identity"}
        with requests.head(url, allow_redirects=True, timeout=TIMEOUTS, headers=plain) as answer:
            if answer.status_code in BUSY:
                raise _of_status(answer, url)
            return answer
    except requests.RequestException as error:
        raise _of_request(error, url) from error
    except ValueError as error:  # requests, of some addresses that it is redirected to
        raise DownloadError(f"{url} redirects to an invalid address ({one_line(str(error))}).") from error


def transfer(kind: str, url: str, parts: Path, whole: Path, progress: bool) -> Path:
    """Fetch a file into ``parts``, or the rest of it, and give it its name ``whole``.

    Raises:
        TryAgain, DownloadError: it did not work; the bytes that came stay, unless they cannot be gone on with.
    """
    import gdown
    import requests

    noted = _noted(parts)
    partial = next(parts.glob(f"{whole.name}*.part"), None)
    if partial is not None and partial.stat().st_size == noted.get("total"):
        return partial.replace(whole)  # killed between its last byte and its name
    with progress_bar(url, progress) as show:

        def watch(done: int, total: int | None) -> None:
            _check_size(url, done, total, noted.get("announced"))
            if total is not None and total != noted.get("total"):
                if "total" in noted and partial is not None:
                    shutil.rmtree(parts)
                    raise TryAgain(f"{url} is another file than the one that was half fetched")
                noted["total"] = total
                _note(parts, noted)
                free = shutil.disk_usage(parts).free
                if free < total - done:
                    raise StorageError(
                        f"{url} has {total / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free in {parts.parent}. "
                        "Make room, or set TEMPOZOO_CACHE to a folder on another disk."
                    )
            show(done, total)

        # gdown never uses a name of the host's, as it is given the path of a file
        cookies = kind != "https"  # of Drive, gdown's cookies may tell of an account
        try:
            gdown.download(
                url, str(whole), quiet=True, use_cookies=cookies, resume=True, progress=watch, timeout=TIMEOUTS
            )
        except ZooError:
            shutil.rmtree(parts, ignore_errors=True)
            raise
        except gdown.FileURLRetrievalError as error:
            _head(url)  # gdown reads every page as an answer; one that says "later" is told by its status alone
            raise _of_drive(str(error), url) from error
        except gdown.DownloadError as error:
            if "byte range" in str(
                error
            ):  # not the rest of the file: the host is busy, or, the second time, never does
                _head(url)
                if noted.get("refused"):
                    shutil.rmtree(parts)
                else:
                    _note(parts, noted | {"refused": True})
            raise TryAgain(f"{url}: {one_line(str(error).splitlines()[0].rstrip('.'), 200)}") from error
        except requests.RequestException as error:
            raise _of_request(error, url) from error
        except (LookupError, AssertionError, AttributeError, TypeError, ValueError, OverflowError) as error:
            # gdown, of a page or header it does not know
            raise DownloadError(f"{url}: the host's answer cannot be understood ({one_line(str(error))}).") from error
    return whole


def _check_size(url: str, done: int, total: int | None, announced: int | None) -> None:
    """Refuse a body that is too large, or goes on beyond its announced length; ``done`` bytes of it have come.

    Raises:
        DownloadError: it is.
    """
    limit = size_limit(urlsplit(url).path)
    if total is not None and total > limit:
        raise DownloadError(f"{url} announces {total} bytes; expected at most {limit}.")
    if total is None:
        limit = min(limit, MAX_UNANNOUNCED if announced is None else announced)
        if done > limit:
            raise DownloadError(f"{url} sends more than {limit} bytes, without end. Nothing of it was kept.")


def in_folder(url: str, file: str) -> str:
    """The address of a file in a Drive folder, by its name.

    Raises:
        TryAgain, DownloadError: the folder cannot be listed, or has no such file.
    """
    import gdown
    import requests

    try:
        files: Any = gdown.download_folder(url, quiet=True, skip_download=True, timeout=TIMEOUTS)
    except requests.RequestException as error:
        raise _of_request(error, url) from error
    except (RecursionError, LookupError, AttributeError, ValueError) as error:
        raise DownloadError(f"The folder {url} cannot be listed: its page cannot be understood.") from error
    except gdown.DownloadError as error:
        status = re.search(r"status code (\d+)", str(error))
        if status and int(status[1]) in BUSY:
            raise TryAgain(f"{url} answers {status[1]}") from error
        raise DownloadError(f"The folder {url} cannot be listed: it is private or gone.") from error
    for found in files:
        if found.path == file:
            return f"https://drive.google.com/file/d/{found.id}/view"
    names = ", ".join(one_line(found.path) for found in files[:5])
    raise DownloadError(f"The folder {url} holds no {file}; it has {names or 'no files'}.")


def _of_drive(text: str, url: str) -> DownloadError:
    if "too many users" in text.lower() or "quota" in text.lower():
        return DownloadError(
            f"Google Drive's quota for {url} is used up: too many people fetched it lately. It opens again within 24 "
            "hours; a signed-in browser can often fetch it now (or make a copy in a Drive of your own first).",
            "quota",
        )
    return DownloadError(f"Google Drive gives no file at {url}: it is private, gone, or asks for a person.")


def _of_request(error: Any, url: str) -> Exception:
    """What a failed request means."""
    import requests
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    if error.response is not None:
        return _of_status(error.response, url)
    if isinstance(error, requests.exceptions.ProxyError):
        return DownloadError(f"{url} cannot be reached: {one_line(str(error), 300)}", "unreachable")
    if isinstance(error, requests.exceptions.SSLError | ValueError):
        return DownloadError(f"{url} cannot be reached: {one_line(str(error), 300)}")
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    connected = not isinstance(reason, NewConnectionError | ConnectTimeoutError)
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return TryAgain(f"no answer in time from {urlsplit(url).netloc}", connected=connected)
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return TryAgain(f"{url}: the connection broke off")
    # no network, most often
    return TryAgain(f"{urlsplit(url).netloc} cannot be reached", patience=3, connected=connected)


def _of_status(response: Any, url: str) -> Exception:
    status, reason = response.status_code, one_line(response.reason or "")
    if status in BUSY:
        return TryAgain(f"{url} answers {status} {reason}", _retry_after(response.headers.get("Retry-After")))
    gone = " (the publisher may have removed or moved it)" if status in (404, 410) else ""
    return DownloadError(f"{url} answers {status} {reason}{gone}.")


def _retry_after(value: str | None) -> float:
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return 0.0


@contextlib.contextmanager
def progress_bar(url: str, visible: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar with size and speed on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(file=sys.stderr), disable=not visible) as bar:
        task = bar.add_task(urlsplit(url).netloc, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
