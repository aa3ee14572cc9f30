"""Output files of long commands: written atomically, without leftovers of killed runs."""

from __future__ import annotations

import contextlib
import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import StorageError
from zoo.weights.disk import atomic_path, disk_errors

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}(\.\w+)?")  # temporary names of atomic_path


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``path`` on success and removed on failure.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        with disk_errors(path.parent), atomic_path(path) as temporary:
            yield temporary
    except StorageError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
        raise StorageError(
            f"{path} cannot be written ({reason}). Free disk space or choose another folder, then repeat the command; "
            "it resumes."
        ) from error


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file; file names that are not UTF-8 keep their bytes.

    Raises:
        StorageError: the file cannot be written.
    """
    with (
        written(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text,
    ):
        csv.writer(text).writerows([header, *rows])


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed runs below a folder."""
    for home, _, files in os.walk(folder):
        for name in files:
            if TEMPORARY.fullmatch(name):
                Path(home, name).unlink(missing_ok=True)
