"""A table of how many videos each class has in each part of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

MOST_ROWS = 20  # classes; of more, a summary is shown
RAREST = 5  # classes that a summary names for each part


def class_table(labels: Mapping[str, np.ndarray], names: Sequence[str], title: str | None = None) -> Table:
    """Videos by class and part; of many classes, the minimum, median and maximum of each part and its rarest classes.

    Args:
        labels: part ("train", "val", "test") -> class numbers of its videos.
        names: of the classes.
    """
    counts = {part: np.bincount(column, minlength=len(names)) for part, column in labels.items()}
    table = Table(title=title)
    if len(names) <= MOST_ROWS:
        table.add_column("class", overflow="fold")
        for part in counts:
            table.add_column(part, justify="right")
        for number, name in enumerate(names):
            table.add_row(escape(_printable(name)), *(str(column[number]) for column in counts.values()))
        table.add_section()
        table.add_row("all", *(str(column.sum()) for column in counts.values()))
        return table
    table.add_column("part")
    for heading in ("videos", "min", "median", "max"):
        table.add_column(heading, justify="right")
    table.add_column("rarest classes", overflow="fold")
    for part, column in counts.items():
        rarest = np.argsort(column, kind="stable")[:RAREST]
        text = ", ".join(f"{names[number]} ({column[number]})" for number in rarest)
        values = (column.sum(), column.min(), f"{np.median(column):g}", column.max())
        table.add_row(part, *map(str, values), escape(_printable(text)))
    return table


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
