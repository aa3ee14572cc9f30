"""Line charts as inline SVG. CSS variables set the colors, so that charts are legible in dark and light mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from zoo.text import printable

WIDTH, HEIGHT = 380, 250  # user units; about the width of a phone, so that text keeps its size there
LEFT, RIGHT, TOP, BOTTOM = 68, 16, 10, 40  # margins
MAX_POINTS = 300  # of a line
COLORS = 7  # CSS variables --series-0 to --series-6


@dataclass(frozen=True)
class Line:
    """Line of a chart.

    Attributes:
        label: text of the legend.
        points: pairs of x and y.
        color: number of the color.
        style: "solid", "dashed", "faint", or "points" for a line with a marker at each point.
    """

    label: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    style: str = "solid"

    @property
    def has_markers(self) -> bool:
        """Whether each point has a marker. A single point is invisible without one."""
        return self.style == "points" or len(self.points) == 1


@dataclass(frozen=True)
class Scale:
    """Maps values to positions, linearly.

    Attributes:
        low: value at ``start``.
        high: value at ``end``.
        start: position of ``low``.
        end: position of ``high``.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values that cover a range: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        margin = min(0.5, abs(low) / 2) or 0.5  # a constant learning rate is small
        low, high = low - margin, high + margin
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * step) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    *,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> Markup | None:
    """Draw a chart with axes, a grid and a legend; None if the lines have no finite points.

    Args:
        title: title of the chart, which is also its text for screen readers.
        x_label: label of the horizontal axis.
        y_label: label of the vertical axis.
        lines: lines of the chart.
        y_range: range of the vertical axis; None for that of the points.
        x_range: range of the horizontal axis; None for that of the points.
        diagonal: also draw the line where both coordinates are equal.
    """
    lines = [Line(line.label, _thin(line.points), line.color, line.style) for line in lines]
    points = [point for line in lines for point in line.points]
    if not points:
        return None
    x_values, y_values = zip(*points, strict=True)
    x_ticks = ticks(*(x_range or (min(x_values), max(x_values))))
    y_ticks = ticks(*(y_range or (min(y_values), max(y_values))))
    x = Scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    y = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [*_axes(x, y, x_ticks, y_ticks, x_label, y_label)]
    if diagonal:
        parts.append(_path([(x.low, y.low), (x.high, y.high)], x, y, "diagonal"))
    for line in lines:
        parts.append(_path(line.points, x, y, f"{line.style} series-{line.color % COLORS}"))
        if line.has_markers:
            parts += [
                Markup('<circle class="series-{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(
                    line.color % COLORS, x(a), y(b)
                )
                for a, b in line.points
            ]
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, printable(title), Markup("").join(parts)
    )
    legend = Markup("").join(_legend_item(line) for line in lines if line.label)
    return Markup('<figure class="chart"><figcaption>{}</figcaption>{}<ul class="legend">{}</ul></figure>').format(
        printable(title), svg, legend
    )


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Remove points that are not finite, and all but every n-th of many points."""
    finite = [point for point in points if all(map(math.isfinite, point))]
    step = -(-len(finite) // MAX_POINTS) if finite else 1
    return finite[::step] + (finite[-1:] if len(finite) % step != 1 and step > 1 else [])


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale, classes: str) -> Markup:
    text = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
    return Markup('<polyline class="{}" points="{}"/>').format(classes, text)


def _axes(
    x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str
) -> list[Markup]:
    grid = '<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    text = '<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>'
    parts = []
    for tick in y_ticks:
        parts.append(Markup(grid).format(x.start, y(tick), x.end, y(tick)))
        parts.append(Markup(text).format(x.start - 6, y(tick) + 4, "end", _number(tick)))
    for tick in x_ticks:
        parts.append(Markup(grid).format(x(tick), y.start, x(tick), y.start + 4))
        parts.append(Markup(text).format(x(tick), y.start + 17, "middle", _number(tick)))
    parts.append(Markup(text).format((x.start + x.end) / 2, HEIGHT - 6, "middle label", printable(x_label)))
    middle = (y.start + y.end) / 2
    parts.append(
        Markup('<text transform="translate(12 {:.1f}) rotate(-90)" class="middle label">{}</text>').format(
            middle, printable(y_label)
        )
    )
    return parts


def _number(value: float) -> str:
    return f"{value:.4g}".replace("e-0", "e-")


def _legend_item(line: Line) -> Markup:
    color = line.color % COLORS
    swatch = Markup(
        '<svg viewBox="0 0 26 10" aria-hidden="true"><polyline class="{} series-{}" points="1,5 25,5"/>{}</svg>'
    )
    dot = Markup('<circle class="series-{}" cx="13" cy="5" r="3"/>').format(color) if line.has_markers else ""
    return Markup("<li>{}{}</li>").format(swatch.format(line.style, color, dot), printable(line.label))
