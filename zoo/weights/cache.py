"""What is in the cache: list it, check it, clear it."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.index import BUNDLED, Entry, load_index
from zoo.settings import cache_folder
from zoo.weights.digests import check_digest, read_digests
from zoo.weights.download import half_of
from zoo.weights.files import disk_errors, locked, sha256_of
from zoo.weights.model_folder import WEIGHTS_FILE
from zoo.weights.store import FILES, file_by_hand, obtain, read_cached


@dataclass(frozen=True)
class Cached:
    """An item of the cache: converted weights, a published file, or a partial download."""

    name: str
    kind: str
    place: Path
    size: int


def list_cache(cache_dir: str | os.PathLike[str] | None = None) -> list[Cached]:
    """All converted weights, then all published files and partial downloads."""
    root = cache_folder(cache_dir)
    found = [
        Cached(weights.parent.name, "converted", weights.parent, _size(weights.parent))
        for weights in sorted(root.glob(f"*/{WEIGHTS_FILE}"))
    ]
    for file in sorted((root / FILES).rglob("*")):
        if file.suffix == ".parts" and file.is_dir():
            found.append(Cached(file.stem, "partial download", file, _size(file)))
        elif file.is_file() and not file.name.startswith(".") and ".parts" not in str(file.parent):
            found.append(Cached(file.name, "published file", file, _size(file)))
    return found


def _size(place: Path) -> int:
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files if file.is_file())


def clear_cache(
    pattern: str, cache_dir: str | os.PathLike[str] | None = None, *, files: bool = False
) -> Iterator[Cached]:
    """Remove conversions whose names match a shell pattern and yield what went; digests of first files stay.

    Args:
        pattern: such as "tanet_*".
        files: also the publishers' files of these entries, whole or half.
    """
    root = cache_folder(cache_dir)
    theirs = {
        file_by_hand(source, root)
        for name in load_index().find(pattern)
        for source in load_index()[name].sources
        if source.kind != "bundled"
    }
    theirs |= {half_of(path) for path in theirs}
    for item in list_cache(cache_dir):
        theirs_or_all = item.place in theirs or pattern == "*"
        if fnmatch.fnmatchcase(item.name, pattern) if item.kind == "converted" else files and theirs_or_all:
            with disk_errors(item.place), locked(item.place.with_name(item.place.name.removesuffix(".parts"))):
                if not item.place.exists():  # another process was about to finish with it
                    continue
                shutil.rmtree(item.place) if item.place.is_dir() else item.place.unlink()
            yield item


def verify_entry(entry: Entry, cache_dir: str | os.PathLike[str] | None = None) -> str:
    """Verify all bytes of an entry's weights on this machine; returns what they were compared with, in words.

    Raises:
        WeightsNotFoundError: there are none.
        CheckpointError: they are damaged, or not what they should be.
    """
    root = cache_folder(cache_dir)
    if (BUNDLED / entry.name).is_dir():
        obtain(entry)
        return "OK (bundled; SHA-256 of the index)"
    for source in entry.sources:
        kept = file_by_hand(source, root)
        if kept.is_file():
            check_digest(entry.name, sha256_of(kept), entry.sha256, entry.sha256_prefix, kept)
    read_cached(entry, root / entry.name)
    if entry.sha256 or entry.sha256_prefix:
        return "OK (published SHA-256)" if entry.sha256 else f"OK (published SHA-256 prefix {entry.sha256_prefix})"
    seen = read_digests().get(entry.name)
    if seen:
        return f"OK (SHA-256 recorded on {seen.get('date')})"
    return "complete, but the SHA-256 of the published file is unknown"
