"""List and clear the cache. Importing this module does not import torch."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.index import load_index
from zoo.settings import cache_folder
from zoo.weights.disk import disk_errors, locked
from zoo.weights.locations import PUBLISHED, WEIGHTS_FILE, parts_folder, published_path


@dataclass(frozen=True)
class CacheItem:
    """A folder of converted weights, a published file, or a partial download, with its size in bytes."""

    name: str
    kind: str
    path: Path
    size: int


def list_cache(cache_dir: str | os.PathLike[str] | None = None) -> list[CacheItem]:
    """Return all converted weights, then all published files and partial downloads."""
    root = cache_folder(cache_dir)
    items = [
        CacheItem(weights.parent.name, "converted", weights.parent, _size(weights.parent))
        for weights in sorted(root.glob(f"*/{WEIGHTS_FILE}"))
    ]
    for path in sorted((root / PUBLISHED).rglob("*")):
        if path.suffix == ".parts" and path.is_dir():
            items.append(CacheItem(path.stem, "partial download", path, _size(path)))
        elif path.is_file() and not path.name.startswith(".") and ".parts" not in str(path.parent):
            items.append(CacheItem(path.name, "published file", path, _size(path)))
    return items


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def clear_cache(
    pattern: str, cache_dir: str | os.PathLike[str] | None = None, *, files: bool = False
) -> Iterator[CacheItem]:
    """Remove the converted weights of matching entries, and yield each removed item. Recorded digests are kept.

    Args:
        pattern: shell pattern of entry names, such as "tanet_*".
        files: also remove the published files of these entries, complete or partial.
    """
    root = cache_folder(cache_dir)
    paths = {
        published_path(source, root)
        for name in load_index().find(pattern)
        for source in load_index()[name].sources
        if source.kind != "bundled"
    }
    paths |= {parts_folder(path) for path in paths}
    for item in list_cache(cache_dir):
        if item.kind == "converted":
            selected = fnmatch.fnmatchcase(item.name, pattern)
        else:
            selected = files and (item.path in paths or pattern == "*")
        if not selected:
            continue
        with disk_errors(item.path), locked(item.path.with_name(item.path.name.removesuffix(".parts"))):
            if not item.path.exists():  # another process finished with a partial download meanwhile
                continue
            shutil.rmtree(item.path) if item.path.is_dir() else item.path.unlink()
        yield item
