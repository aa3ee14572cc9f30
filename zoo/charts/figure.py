"""A picture of published accuracy against computation and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from zoo.charts.points import Point, family_styles

PANEL = (8.5, 5.2)  # inches
LABEL_SIZE = 8
SIDES = ((7, 0, "left", "center"), (-7, 0, "right", "center"), (0, 6, "center", "bottom"), (0, -6, "center", "top"))
Axis = Callable[[Point], float | None]
AXES: dict[str, Axis] = {
    "GMACs per video: one view x views (log scale)": lambda point: point.total_gmacs,
    "seconds per video, all views (log scale)": lambda point: point.seconds,
}


def draw(points: Sequence[Point]) -> Figure:
    """Draw accuracy against computation for each data set, and against time if it was measured."""
    datasets = dict.fromkeys(point.dataset for point in points)
    panels = [(dataset, label) for dataset in datasets for label in AXES if _of_panel(points, dataset, label)]
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure((PANEL[0] * columns, PANEL[1] * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    used = list(zip(grid[: len(panels)], panels, strict=True))
    for axes, (dataset, label) in used:
        _draw_panel(axes, dataset, label, _of_panel(points, dataset, label))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    _draw_legend(figure, points, columns)
    figure.draw_without_rendering()  # computes the positions
    for axes, (dataset, label) in used:
        _label_points(axes, _of_panel(points, dataset, label), AXES[label])
    return figure


def _of_panel(points: Sequence[Point], dataset: str, label: str) -> list[Point]:
    """Return the points of a data set that have a value on the axis."""
    return [point for point in points if point.dataset == dataset and AXES[label](point) is not None]


def _draw_panel(axes: Any, dataset: str, label: str, points: Sequence[Point]) -> None:
    axis, styles = AXES[label], family_styles()
    axes.set_xscale("log")
    for point in points:
        color, marker = styles[point.family]
        axes.scatter(
            axis(point), point.top1, s=46, c=color, marker=marker, edgecolors="black", linewidths=0.4, zorder=3
        )
    machines = dict.fromkeys(point.machine for point in points if axis(point) == point.seconds)
    axes.set_title(
        "\n".join([dataset, *(f"{machine}; float32, eager" for machine in machines if machine)]), fontsize=10
    )
    axes.set_xlabel(label)
    axes.set_ylabel("published top-1 accuracy, %")
    axes.margins(x=0.2, y=0.12)
    axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    axes.grid(alpha=0.3)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 1000 else (1, 2, 5), numticks=20))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_legend(figure: Figure, points: Sequence[Point], columns: int) -> None:
    families = dict.fromkeys(point.family for point in points)
    handles = []
    for family, (color, marker) in family_styles().items():
        if family in families:
            handles.append(
                Line2D([], [], color=color, marker=marker, markeredgecolor="black", linestyle="", label=family)
            )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6 * columns), frameon=False)


def _label_points(axes: Any, points: Sequence[Point], axis: Axis) -> None:
    """Write names beside points, first those of networks to which no cheaper one is equal; others if space remains."""
    positions = {point: axes.transData.transform((axis(point), point.top1)) for point in points}
    occupied = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in positions.values()]
    for point in sorted(points, key=lambda point: not _is_best(point, points, axis)):
        for dx, dy, horizontal, vertical in SIDES:
            text = axes.annotate(
                point.name, (axis(point), point.top1), (dx, dy), textcoords="offset points",
                ha=horizontal, va=vertical, fontsize=LABEL_SIZE,
            )  # fmt: skip
            box = text.get_window_extent()
            inside = axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 and axes.bbox.y0 < box.y0 and box.y1 < axes.bbox.y1
            if inside and not any(box.overlaps(other) for other in occupied):
                occupied.append(box)
                break
            text.remove()


def _is_best(point: Point, points: Sequence[Point], axis: Axis) -> bool:
    """Whether no network with the same cost or less is more accurate."""
    cost = axis(point) or 0.0
    return all(other.top1 <= point.top1 for other in points if (axis(other) or 0.0) <= cost)
