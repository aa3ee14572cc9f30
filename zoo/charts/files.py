"""Write charts of the index into files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.charts.figure import draw
from zoo.charts.page import render
from zoo.charts.points import Point, check_chart_path, index_points
from zoo.weights.disk import atomic_path, disk_errors


def write_chart(names: Iterable[str], path: Path) -> int:
    """Write a chart of the networks with a published accuracy, and return their number.

    Args:
        names: names of index entries.
        path: ends in ``.png`` (a picture) or ``.html`` (one page with filters, which needs no other files).

    Raises:
        ConfigError: another file name extension.
        ZooError: none of the networks has a published accuracy.
        StorageError: the file cannot be written.
    """
    check_chart_path(path)
    points = index_points(names)
    is_page = path.suffix.lower() == ".html"
    content = render(points).encode() if is_page else _png(points)
    with disk_errors(path.parent), atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return len(points)


def _png(points: Sequence[Point]) -> bytes:
    buffer = io.BytesIO()
    draw(points).savefig(buffer, dpi=120, format="png")
    return buffer.getvalue()
