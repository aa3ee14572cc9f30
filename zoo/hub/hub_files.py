"""Files of the Hugging Face Hub: looked up, transferred and put into the Hub's cache.

huggingface_hub trusts the endpoint: it names files in its cache after headers of the answer, and writes a body to its
end. Here, headers are checked before they become a path, and no body is read beyond its announced size. The layout of
the cache is huggingface_hub's, which reads it without a network.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from filelock import FileLock

from zoo.errors import DownloadError, StorageError
from zoo.hub.client import is_transport
from zoo.text import one_line
from zoo.weights.files import atomic_path, sha256_of
from zoo.weights.transfer import TIMEOUTS, progress_bar, size_limit

TIMEOUT = 10.0  # seconds for the Hub to say which commit a revision is; without an answer, what is cached is used
WAITS = (1.0, 2.0, 4.0)  # seconds before further attempts
BUSY = (408, 429, 500, 502, 503, 504)
ATTEMPTS = 50  # to transfer a file, with new bytes in each
MAX_ANSWER = 4 << 20  # bytes of an answer about a repository, which lists its files
COMMIT = re.compile("[0-9a-f]{40}")
ETAG = re.compile("[0-9a-fA-F]{16,128}")  # becomes a file's name
SHA256 = re.compile("[0-9a-f]{64}")
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A file of one commit, as the Hub describes it; all of it is checked."""

    url: str
    etag: str
    commit: str
    size: int


def with_retries(call: Callable[[], T], waits: Sequence[float] | None = None) -> T:
    """The result of a call; made again after ``waits`` seconds if the host is busy or in trouble."""
    from huggingface_hub.errors import HfHubHTTPError

    for wait in WAITS if waits is None else waits:
        try:
            return call()
        except HfHubHTTPError as error:
            if error.response.status_code not in BUSY:
                raise
            time.sleep(wait)
    return call()


def list_repository(repo: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit that a revision is now, and the names of its files.

    Raises:
        DownloadError: the answer is not the Hub's.
    """
    from huggingface_hub import constants, get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers

    url = f"{constants.ENDPOINT}/api/models/{repo}" + (f"/revision/{quote(revision, safe='')}" if revision else "")
    content = bytearray()
    with get_session().stream("GET", url, headers=build_hf_headers(), timeout=TIMEOUT) as response:
        if response.is_success:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER:
                    raise DownloadError(f"{url} answers with more than {MAX_ANSWER} bytes; expected a list of files.")
    hf_raise_for_status(response)
    try:
        answer = json.loads(content)
        commit, names = answer["sha"], [sibling["rfilename"] for sibling in answer.get("siblings") or []]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"{url} does not answer as the Hub does; check HF_ENDPOINT.") from error
    if not all(isinstance(name, str) for name in names):
        raise DownloadError(f"{url} does not answer as the Hub does; check HF_ENDPOINT.")
    return _valid(url, "commit", COMMIT, commit), names


def look_up(repo: str, file: str, revision: str | None) -> RemoteFile:
    """What the Hub says of a file, checked.

    Raises:
        DownloadError: it names no size, or an etag or commit that is not one.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, file, revision=revision)
    metadata = with_retries(lambda: get_hf_file_metadata(url, timeout=TIMEOUT))
    etag = _valid(url, "etag", ETAG, metadata.etag)
    commit = _valid(url, "commit", COMMIT, metadata.commit_hash)
    if revision is not None and COMMIT.fullmatch(revision) and commit != revision:
        raise DownloadError(f"{url} answers with the commit {commit}; check HF_ENDPOINT.")
    limit = size_limit(file)
    if metadata.size is None or not 0 <= metadata.size <= limit:
        raise DownloadError(f"{url} announces a size of {metadata.size} bytes; expected at most {limit}.")
    return RemoteFile(url, etag, commit, metadata.size)


def _valid(url: str, what: str, pattern: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise DownloadError(f"{url} answers with an invalid {what}: {one_line(repr(value))}. Check HF_ENDPOINT.")
    return value


def download(remote: RemoteFile, target: Path, progress: bool = True) -> None:
    """Transfer a file, over broken connections if need be, and verify its size and, where it is known, its SHA-256.

    Raises:
        StorageError: the disk has no room for it.
        DownloadError: the host sends other than it announced.
    """
    from huggingface_hub.errors import HfHubHTTPError

    free = shutil.disk_usage(target.parent).free
    if free < remote.size:
        raise StorageError(
            f"{remote.url} has {remote.size / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free in {target.parent}. "
            "Make room, or set HF_HOME to a folder on another disk."
        )
    failures = 0
    with target.open("wb") as file, progress_bar(remote.url, progress) as show:
        for _ in range(ATTEMPTS):
            before = file.tell()
            try:
                _transfer(remote, file, show)
                break
            except Exception as error:  # its transport differs between versions of the client
                busy = isinstance(error, HfHubHTTPError) and error.response.status_code in BUSY
                failures = 1 if file.tell() > before else failures + 1
                if not (busy or is_transport(error)) or failures > len(WAITS):
                    raise
                time.sleep(WAITS[failures - 1])
        if file.tell() != remote.size:
            raise DownloadError(
                f"{remote.url} sent {file.tell()} bytes of the {remote.size} that it announced.", "incomplete"
            )
    if SHA256.fullmatch(remote.etag) and sha256_of(target) != remote.etag:
        raise DownloadError(f"{remote.url} sent a file whose sha256 is not the announced {remote.etag}.", "digest")


def _transfer(remote: RemoteFile, file: BinaryIO, show: Callable[[int, int | None], None]) -> None:
    """The rest of a file, in one request."""
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers

    timeout = (*TIMEOUTS, *TIMEOUTS)  # to connect, between bytes; to send, to get a connection
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if file.tell():
        headers["Range"] = f"bytes={file.tell()}-"
    # the client does not send the token to another host that it is redirected to
    with get_session().stream("GET", remote.url, headers=headers, timeout=timeout, follow_redirects=True) as answer:
        if answer.is_success:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {file.tell()}-"):
                file.seek(0)
                file.truncate()
            for chunk in answer.iter_bytes():
                if file.tell() + len(chunk) > remote.size:
                    raise DownloadError(f"{remote.url} sends more than the {remote.size} bytes that it announced.")
                file.write(chunk)
                show(file.tell(), remote.size)
    hf_raise_for_status(answer)


def cache_file(repo: str, file: str, commit: str, cache: Path, *, again: bool = False, progress: bool = True) -> Path:
    """The path of a file in the Hub's cache; transferred if it is not there, or ``again``."""
    storage = cache / repo_folder(repo)
    pointer = storage / "snapshots" / commit / file
    if pointer.exists() and not again:
        return pointer
    remote = look_up(repo, file, commit)
    blob, lock = storage / "blobs" / remote.etag, cache / ".locks" / repo_folder(repo) / f"{remote.etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if again or not blob.is_file() or blob.stat().st_size != remote.size:
            with atomic_path(blob) as temporary:
                download(remote, temporary, progress)
        link = pointer.with_name(f".{pointer.name}.{secrets.token_hex(6)}")
        try:
            link.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # a disk without links
            shutil.copyfile(blob, link)
        link.replace(pointer)
    return pointer


def note_revision(repo: str, revision: str, commit: str, cache: Path) -> None:
    """Let the cache know which commit a branch or tag is."""
    with atomic_path(cache / repo_folder(repo) / "refs" / revision) as temporary:
        temporary.write_text(commit, encoding="utf-8")


def repo_folder(repo: str) -> str:
    """The name of a repository's folder in the cache."""
    return "--".join(["models", *repo.split("/")])
