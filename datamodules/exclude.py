"""The list of videos to exclude, which ``tempozoo data check`` writes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.records import VideoRecords
from zoo.errors import DataError
from zoo.text import printable

log = logging.getLogger("datamodules")


def read_exclude_list(file: str | Path) -> set[str]:
    """Read names or paths of videos, one per line. File names that are not UTF-8 keep their bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"The list of videos to exclude, {file}, cannot be read: {error}.") from error
    return {line.strip() for line in lines if line.strip() and not line.startswith("# ")}


def exclude_videos(
    records: VideoRecords, names: Sequence[tuple[str, ...]], file: str | Path, split: str
) -> VideoRecords:
    """Return records without the videos of an exclude list.

    Args:
        names: the names and paths of each record that the list may contain.
        split: for messages.

    Raises:
        DataError: the file cannot be read, or no video remains.
    """
    excluded = read_exclude_list(file)
    remaining = [number for number, aliases in enumerate(names) if excluded.isdisjoint(aliases)]
    log.warning("%s: excluding %d videos listed in %s", split, len(records) - len(remaining), printable(str(file)))
    if not remaining:
        raise DataError(f"{file} excludes every {split} video.")
    return replace(records.take(remaining), listed=records.listed)
