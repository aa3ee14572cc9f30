"""Mirrors: converted weights in a folder, on a web server or on the Hub, tried before the published files.

A mirror has ``<entry>/model.safetensors`` and ``<entry>/config.json``: below a folder, below a URL, in a repository of
the Hub (``hf-hub:user/repo``), or in an organization with one repository per entry (``hf-hub:org``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from zoo.errors import CheckpointError, ConfigError, DownloadError, StorageError
from zoo.hub.pull import download_hub_folder
from zoo.index import Source
from zoo.weights.disk import disk_errors, readable
from zoo.weights.download import downloaded_file, requests_to
from zoo.weights.files import refuse_page
from zoo.weights.locations import CONFIG_FILE, HUB, HUB_PREFIX, WEIGHTS_FILE, path_for

MODEL_FILES = (WEIGHTS_FILE, CONFIG_FILE)


def is_remote(mirror: str) -> bool:
    """Return whether a mirror needs the network.

    Raises:
        ConfigError: neither an existing folder nor a URL.
    """
    if mirror.startswith((HUB_PREFIX, "https://", "http://")):
        return True
    if not Path(mirror).expanduser().is_dir():
        raise ConfigError(
            f"the mirror {mirror!r} is not an existing folder. Set TEMPOZOO_MIRROR (or mirror: in config.yaml) to a "
            "folder, https://..., hf-hub:organization or hf-hub:user/repo."
        )
    return False


def hub_location(mirror: str, name: str) -> tuple[str, str]:
    """Return the repository of an entry in a mirror on the Hub, and the subfolder in that repository."""
    repo = mirror.removeprefix(HUB_PREFIX).strip("/")
    return (repo, name) if "/" in repo else (f"{repo}/{name}", "")


@contextlib.contextmanager
def mirrored(mirror: str, name: str, work: Path, progress: bool = True) -> Iterator[Path]:
    """Provide a temporary folder with a copy of an entry's two files from a mirror. The files are not verified.

    Args:
        mirror: folder, URL, or ``hf-hub:...``.
        name: of the entry.
        work: folder below which the copy is made.

    Raises:
        CheckpointError: the mirror lacks the entry, or cannot be reached.
    """
    if not is_remote(mirror):
        folder = Path(mirror).expanduser() / name
        if not all(os.path.isfile(folder / file) for file in MODEL_FILES):
            raise CheckpointError(f"The mirror {mirror} lacks {' or '.join(MODEL_FILES)} of {name}.")
        with _temporary_folder(work / "mirror" / name) as copy:
            for file in MODEL_FILES:
                _copy(folder / file, copy / file)
            yield copy
    elif mirror.startswith(HUB_PREFIX):
        repo, subfolder = hub_location(mirror, name)
        with _temporary_folder(work / "mirror" / name) as copy:
            with requests_to(HUB):
                snapshot = download_hub_folder(HUB_PREFIX + repo, copy / "hub", progress, folder=subfolder)
            for file in MODEL_FILES:
                (snapshot / file).resolve().replace(copy / file)  # the Hub's cache has symbolic links
            yield copy
    else:
        with _web_mirror(f"{mirror.rstrip('/')}/{name}", work, progress) as copy:
            yield copy


@contextlib.contextmanager
def _web_mirror(url: str, work: Path, progress: bool) -> Iterator[Path]:
    copy = work / path_for(Source("https", url))
    try:
        for file in MODEL_FILES:
            # a complete file of an earlier process may be of another version than the other file
            (copy / file).unlink(missing_ok=True)
            source = Source("https", f"{url}/{file}")
            with downloaded_file(source, copy / file, _is_no_page, keep=True, progress=progress):
                pass
        yield copy
    except (CheckpointError, StorageError) as error:
        # the next process resumes a transfer that ended early
        if not (isinstance(error, DownloadError) and error.reason in ("incomplete", "unreachable", "skipped")):
            shutil.rmtree(copy, ignore_errors=True)
        raise
    shutil.rmtree(copy, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    with readable(source) as reader, disk_errors(target.parent), target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


@contextlib.contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """Create ``folder`` empty, and remove it at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    with disk_errors(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_no_page(path: Path) -> bool:
    """Refuse web pages only: the caller verifies both files together."""
    return bool(refuse_page(path))
