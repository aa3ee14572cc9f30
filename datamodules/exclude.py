"""The list of videos to leave out, which ``tempozoo data check`` writes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.records import VideoRecords
from zoo.errors import DataError

log = logging.getLogger("datamodules")


def read_exclude_list(file: str | Path) -> set[str]:
    """Names or paths of videos, one a line. File names may hold any bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"the list of videos to leave out, {file}, cannot be read: {error}.") from error
    return {line.strip() for line in lines if line.strip() and not line.startswith("# ")}


def leave_out(records: VideoRecords, names: Sequence[tuple[str, ...]], file: str | Path, split: str) -> VideoRecords:
    """Records without the videos of an exclude list.

    Args:
        names: names and paths that each record goes by.
        split: for messages.

    Raises:
        DataError: the file cannot be read, or no video remains.
    """
    listed = read_exclude_list(file)
    keep = [number for number, known in enumerate(names) if listed.isdisjoint(known)]
    log.warning("%s: %d videos are left out, as %s says", split, len(records) - len(keep), file)
    if not keep:
        raise DataError(f"{file} leaves out every {split} video.")
    return replace(records.take(keep), listed=records.listed)
