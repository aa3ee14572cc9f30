"""Verify the weights on this machine."""

from __future__ import annotations

import os

from zoo.index import BUNDLED, Entry
from zoo.settings import cache_folder
from zoo.weights.digests import check_digest, read_digests
from zoo.weights.disk import sha256_of
from zoo.weights.locations import published_path
from zoo.weights.store import get_weights, read_converted


def verify_entry(entry: Entry, cache_dir: str | os.PathLike[str] | None = None) -> str:
    """Verify all bytes of an entry's weights on this machine. Returns a description of what they were compared with.

    Raises:
        WeightsNotFoundError: there are none.
        CheckpointError: they are damaged, or not the expected ones.
    """
    root = cache_folder(cache_dir)
    if (BUNDLED / entry.name).is_dir():
        get_weights(entry)
        return "OK (bundled; SHA-256 of the index)"
    for source in entry.sources:
        path = published_path(source, root)
        if path.is_file():
            check_digest(entry.name, sha256_of(path), entry.sha256, entry.sha256_prefix, path)
    read_converted(entry, root / entry.name)
    if entry.sha256:
        return "OK (published SHA-256)"
    if entry.sha256_prefix:
        return f"OK (published SHA-256 prefix {entry.sha256_prefix})"
    record = read_digests().get(entry.name)
    if record:
        return f"OK (SHA-256 recorded on {record.get('date')})"
    return "complete, but the SHA-256 of the published file is unknown"
