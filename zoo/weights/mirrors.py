"""Mirrors: converted weights on a disk, a web server or the Hub of a lab, looked for before the published files.

A mirror holds ``<entry>/model.safetensors`` and ``<entry>/config.json``: below a folder, below an address, in a
repository of the Hub (``hf-hub:user/repo``), or in one repository an entry of an organization (``hf-hub:org``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from zoo.errors import CheckpointError, ConfigError, DownloadError, StorageError
from zoo.hub.pull import HUB_PREFIX, fetch_hub_folder
from zoo.weights.download import HUB, asking, fetched, place_for
from zoo.weights.files import disk_errors, readable, refuse_page
from zoo.weights.model_folder import CONFIG_FILE, WEIGHTS_FILE

FILES = (WEIGHTS_FILE, CONFIG_FILE)


def is_remote(mirror: str) -> bool:
    """Whether a mirror needs the network.

    Raises:
        ConfigError: it is neither a folder that exists nor an address.
    """
    if mirror.startswith((HUB_PREFIX, "https://", "http://")):
        return True
    if not Path(mirror).expanduser().is_dir():
        raise ConfigError(
            f"the mirror {mirror!r} is no folder; give one, an address https://..., hf-hub:organization or "
            "hf-hub:user/repo (TEMPOZOO_MIRROR, or mirror: in config.yaml)."
        )
    return False


def hub_place(mirror: str, name: str) -> tuple[str, str]:
    """Repository and folder in it of an entry in a mirror on the Hub."""
    repo = mirror.removeprefix(HUB_PREFIX).strip("/")
    return (repo, name) if "/" in repo else (f"{repo}/{name}", "")


@contextlib.contextmanager
def mirrored(mirror: str, name: str, work: Path, progress: bool = True) -> Iterator[Path]:
    """A folder with the converted weights of an entry, as a mirror has them.

    Args:
        mirror: folder, address, or ``hf-hub:...``.
        name: the entry.
        work: where to download to; what is fetched stays as long as the context lasts.

    Raises:
        CheckpointError: the mirror has no such entry, or cannot be reached.
    """
    if not is_remote(mirror):
        folder = Path(mirror).expanduser() / name
        if not all(os.path.isfile(folder / file) for file in FILES):
            raise CheckpointError(f"The mirror {mirror} has no whole {name}.")
        with _emptied(work / "mirror" / name) as parts:
            for file in FILES:
                _copy(folder / file, parts / file)
            yield parts
    elif mirror.startswith(HUB_PREFIX):
        repo, inside = hub_place(mirror, name)
        with _emptied(work / "mirror" / name) as parts:
            with asking(HUB):
                got = fetch_hub_folder(HUB_PREFIX + repo, parts / "hub", progress, folder=inside)
            for file in FILES:
                (got / file).resolve().replace(parts / file)  # the Hub's cache has links
            yield parts
    else:
        parts = work / place_for("https", f"{mirror.rstrip('/')}/{name}", None)
        try:
            for file in FILES:
                url = f"{mirror.rstrip('/')}/{name}/{file}"
                (parts / file).unlink(missing_ok=True)  # whole, of an earlier process: perhaps not of one version
                with fetched("https", url, None, parts / file, _no_page, keep=True, progress=progress):
                    pass
            yield parts
        except (CheckpointError, StorageError) as error:
            # a transfer that broke off is resumed by the next process
            if not (isinstance(error, DownloadError) and error.reason in ("incomplete", "unreachable", "skipped")):
                shutil.rmtree(parts, ignore_errors=True)
            raise
        shutil.rmtree(parts, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    with readable(source) as given, disk_errors(target.parent), target.open("wb") as taken:
        shutil.copyfileobj(given, taken, 1 << 20)


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """An empty folder that goes away again."""
    shutil.rmtree(folder, ignore_errors=True)
    with disk_errors(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _no_page(path: Path) -> bool:
    """All that is asked of a file here: the caller checks the folder as a whole."""
    return bool(refuse_page(path))
