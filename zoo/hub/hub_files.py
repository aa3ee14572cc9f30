"""Download files of the Hugging Face Hub into the Hub's cache.

huggingface_hub trusts the endpoint: it uses response headers as file names in its cache, and does not limit the size of
a body. This module validates headers before they become a path, and reads no body beyond its announced size. The cache
layout is that of huggingface_hub, which can therefore read the cache offline.
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
from zoo.weights.disk import atomic_path, sha256_of
from zoo.weights.transfer import TIMEOUTS, progress_bar, size_limit

TIMEOUT = 10.0  # seconds to resolve a revision; after that, the cached commit is used
WAITS = (1.0, 2.0, 4.0)  # seconds before further attempts
BUSY = (408, 429, 500, 502, 503, 504)
ATTEMPTS = 50  # to transfer a file, if each attempt receives new bytes
MAX_LISTING = 4 << 20  # bytes of the description of a repository, which lists its files
COMMIT = re.compile("[0-9a-f]{40}")
ETAG = re.compile("[0-9a-fA-F]{16,128}")  # used as a file name
SHA256 = re.compile("[0-9a-f]{64}")
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """Validated description of a file of one commit."""

    url: str
    etag: str
    commit: str
    size: int


def with_retries(call: Callable[[], T], waits: Sequence[float] | None = None) -> T:
    """Return the result of ``call``, which is repeated after each of ``waits`` seconds while the Hub is busy."""
    from huggingface_hub.errors import HfHubHTTPError

    for wait in WAITS if waits is None else waits:
        try:
            return call()
        except HfHubHTTPError as error:
            if error.response.status_code not in BUSY:
                raise
            time.sleep(wait)
    return call()


def list_commit(repo: str, revision: str | None) -> tuple[str, list[str]]:
    """Resolve a revision (None: the default branch). Returns its commit and the names of the commit's files.

    Raises:
        DownloadError: the response is not that of a Hub.
    """
    from huggingface_hub import constants, get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers

    url = f"{constants.ENDPOINT}/api/models/{repo}" + (f"/revision/{quote(revision, safe='')}" if revision else "")
    content = bytearray()
    with get_session().stream("GET", url, headers=build_hf_headers(), timeout=TIMEOUT) as response:
        if response.is_success:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_LISTING:
                    raise DownloadError(
                        f"{url} answers with more than {MAX_LISTING} bytes; expected a file list. Check HF_ENDPOINT."
                    )
    hf_raise_for_status(response)
    try:
        answer = json.loads(content)
        commit, names = answer["sha"], [sibling["rfilename"] for sibling in answer.get("siblings") or []]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"{url} does not answer like the Hub. Check HF_ENDPOINT.") from error
    if not all(isinstance(name, str) for name in names):
        raise DownloadError(f"{url} does not answer like the Hub. Check HF_ENDPOINT.")
    return _validate(url, "commit", COMMIT, commit), names


def describe_file(repo: str, file: str, revision: str | None) -> RemoteFile:
    """Return the Hub's description of a file.

    Raises:
        DownloadError: the size is missing or too large, or the etag or commit is invalid.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, file, revision=revision)
    metadata = with_retries(lambda: get_hf_file_metadata(url, timeout=TIMEOUT))
    etag = _validate(url, "etag", ETAG, metadata.etag)
    commit = _validate(url, "commit", COMMIT, metadata.commit_hash)
    if revision is not None and COMMIT.fullmatch(revision) and commit != revision:
        raise DownloadError(f"{url} answers with the commit {commit}. Check HF_ENDPOINT.")
    limit = size_limit(file)
    if metadata.size is None or not 0 <= metadata.size <= limit:
        raise DownloadError(f"{url} announces a size of {metadata.size} bytes; expected at most {limit}.")
    return RemoteFile(url, etag, commit, metadata.size)


def _validate(url: str, name: str, pattern: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise DownloadError(f"{url} answers with an invalid {name}: {one_line(repr(value))}. Check HF_ENDPOINT.")
    return value


def download(remote: RemoteFile, target: Path, progress: bool = True) -> None:
    """Transfer a file, resuming after connection errors, and verify its size and, if known, its SHA-256.

    Raises:
        StorageError: the disk has too little space.
        DownloadError: the size or SHA-256 is not the announced one.
    """
    from huggingface_hub.errors import HfHubHTTPError

    free = shutil.disk_usage(target.parent).free
    if free < remote.size:
        raise StorageError(
            f"{remote.url} has {remote.size / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free in {target.parent}. "
            "Free some space, or set HF_HOME to a folder on another disk."
        )
    failures = 0
    with target.open("wb") as file, progress_bar(remote.url, progress) as show:
        for _ in range(ATTEMPTS):
            before = file.tell()
            try:
                _transfer(remote, file, show)
                break
            except Exception as error:  # the type depends on the client's version
                busy = isinstance(error, HfHubHTTPError) and error.response.status_code in BUSY
                failures = 1 if file.tell() > before else failures + 1
                if not (busy or is_transport(error)) or failures > len(WAITS):
                    raise
                time.sleep(WAITS[failures - 1])
        if file.tell() != remote.size:
            raise DownloadError(
                f"{remote.url} sent {file.tell()} bytes of the {remote.size} announced. Try again.", "incomplete"
            )
    if SHA256.fullmatch(remote.etag) and sha256_of(target) != remote.etag:
        raise DownloadError(f"{remote.url} sent a file whose SHA-256 is not the announced {remote.etag}.", "digest")


def _transfer(remote: RemoteFile, file: BinaryIO, show: Callable[[int, int | None], None]) -> None:
    """Request the rest of a file and append it."""
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers

    timeout = (*TIMEOUTS, *TIMEOUTS)  # connect, read, write, and wait for a connection of the pool
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if file.tell():
        headers["Range"] = f"bytes={file.tell()}-"
    # the client does not send the token to another host after a redirect
    with get_session().stream("GET", remote.url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        if response.is_success:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {file.tell()}-"):
                file.seek(0)
                file.truncate()
            for chunk in response.iter_bytes():
                if file.tell() + len(chunk) > remote.size:
                    raise DownloadError(f"{remote.url} sends more than the {remote.size} bytes announced.")
                file.write(chunk)
                show(file.tell(), remote.size)
    hf_raise_for_status(response)


def cache_file(repo: str, file: str, commit: str, cache: Path, *, force: bool = False, progress: bool = True) -> Path:
    """Return the path of a file in the Hub's cache. It is downloaded if it is not there, or with ``force``."""
    storage = cache / repo_folder(repo)
    pointer = storage / "snapshots" / commit / file
    if pointer.exists() and not force:
        return pointer
    remote = describe_file(repo, file, commit)
    blob, lock = storage / "blobs" / remote.etag, cache / ".locks" / repo_folder(repo) / f"{remote.etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if force or not blob.is_file() or blob.stat().st_size != remote.size:
            with atomic_path(blob) as temporary:
                download(remote, temporary, progress)
        link = pointer.with_name(f".{pointer.name}.{secrets.token_hex(6)}")
        try:
            link.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # a file system without symbolic links
            shutil.copyfile(blob, link)
        link.replace(pointer)
    return pointer


def record_revision(repo: str, revision: str, commit: str, cache: Path) -> None:
    """Record in the cache which commit a branch or tag refers to."""
    with atomic_path(cache / repo_folder(repo) / "refs" / revision) as temporary:
        temporary.write_text(commit, encoding="utf-8")


def repo_folder(repo: str) -> str:
    """Return the name of a repository's folder in the cache."""
    return "--".join(["models", *repo.split("/")])
