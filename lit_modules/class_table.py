"""A table of the number of videos per class and split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

MAX_ROWS = 20  # classes; for more, the table has a summary
RAREST = 5  # number of classes that the summary lists per split


def class_table(labels: Mapping[str, np.ndarray], names: Sequence[str], title: str | None = None) -> Table:
    """Build a table of videos by class and split.

    For more than ``MAX_ROWS`` classes, it has the minimum, median and maximum of each split and its rarest classes.

    Args:
        labels: split ("train", "val", "test") -> class numbers of its videos.
        names: class names.
        title: title of the table.
    """
    counts = {split: np.bincount(numbers, minlength=len(names)) for split, numbers in labels.items()}
    if len(names) <= MAX_ROWS:
        return _table_by_class(counts, names, title)
    table = Table(title=title)
    table.add_column("part")
    for heading in ("videos", "min", "median", "max"):
        table.add_column(heading, justify="right")
    table.add_column("rarest classes", overflow="fold")
    for split, column in counts.items():
        rarest = np.argsort(column, kind="stable")[:RAREST]
        text = ", ".join(f"{names[number]} ({column[number]})" for number in rarest)
        values = (column.sum(), column.min(), f"{np.median(column):g}", column.max())
        table.add_row(split, *map(str, values), escape(_printable(text)))
    return table


def _table_by_class(counts: Mapping[str, np.ndarray], names: Sequence[str], title: str | None) -> Table:
    """Build a table with a row for each class."""
    table = Table(title=title)
    table.add_column("class", overflow="fold")
    for split in counts:
        table.add_column(split, justify="right")
    for number, name in enumerate(names):
        table.add_row(escape(_printable(name)), *(str(column[number]) for column in counts.values()))
    table.add_section()
    table.add_row("all", *(str(column.sum()) for column in counts.values()))
    return table


def _printable(text: str) -> str:
    """Replace characters that no encoding of the terminal can represent."""
    return text.encode("utf-8", "replace").decode()
