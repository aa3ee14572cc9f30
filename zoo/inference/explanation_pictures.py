"""Pictures and videos of explanations: film strips, charts and heat maps over the frames of a clip."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zoo.errors import ConfigError, check_int
from zoo.inference.operator_views import OFFSET, OperatorView
from zoo.weights.disk import atomic_path, disk_errors

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

    from zoo.inference.explanations import Explanation

PALETTE = "inferno"  # legible with all common forms of color blindness, and in gray
OPERATOR_PALETTE = "cividis"
TILE, VIDEO = 128, 256  # smallest height of a frame in a strip and in a video, pixels; smaller frames are enlarged
GAP, FOOTER = 4, 30  # pixels between the frames of a strip, and below them
BAR = (70, 130, 220)
PERIODS = (0.04, 1.0)  # shortest and longest seconds that a video shows a frame
KINDS = (".png", ".mp4", ".gif")


def check_picture_path(path: Path) -> None:
    """Refuse a file name extension that ``save_explanation`` cannot write.

    Raises:
        ConfigError: another extension than ``KINDS``.
    """
    if path.suffix.lower() not in KINDS:
        raise ConfigError(
            f"{path}: explanations are written as PNG, MP4 or GIF; give a name that ends in .png, .mp4 or .gif."
        )


def save_explanation(explanation: Explanation, path: Path) -> None:
    """Write a picture or a video of an explanation, depending on the file name extension.

    Raises:
        ConfigError: another extension than ``KINDS``.
        StorageError: the file cannot be written.
    """
    check_picture_path(path)
    write = {".png": _write_picture, ".mp4": _write_mp4, ".gif": _write_gif}[path.suffix.lower()]
    with disk_errors(path.parent), atomic_path(path) as temporary:
        write(explanation, temporary)


def overlay(frames: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Blend the colors of the relevance into frames, whose own colors are weakened.

    Args:
        frames: uint8 ``(T, H, W, 3)``.
        relevance: 0 to 1, ``(T, H, W)``.

    Returns:
        uint8 ``(T, H, W, 3)``.
    """
    from matplotlib import colormaps

    gray = frames.mean(3, keepdims=True)
    base = 0.6 * gray + 0.4 * frames
    colors = 255 * colormaps[PALETTE](relevance)[..., :3]
    weight = 0.85 * np.sqrt(relevance)[..., None]
    return np.round((1 - weight) * base + weight * colors).astype(np.uint8)


def _enlarged(explanation: Explanation, rows: np.ndarray, height: int) -> np.ndarray:
    """Frames with their relevance, enlarged by a whole number to at least ``height`` pixels."""
    scale = max(1, -(-height // explanation.frames.shape[1]))
    frames, relevance = explanation.frames[rows], explanation.relevance[rows]
    frames = frames.repeat(scale, 1).repeat(scale, 2)
    return overlay(frames, relevance.repeat(scale, 1).repeat(scale, 2))


def _spaced(count: int, most: int) -> np.ndarray:
    """Numbers of at most ``most`` evenly spaced frames of ``count``."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def draw_strip(explanation: Explanation, frames: int) -> np.ndarray:
    """Draw a film strip, uint8 RGB; see ``Explanation.strip``.

    Raises:
        ConfigError: ``frames`` is not a positive whole number.
    """
    check_int("frames", frames, 1)
    rows = _spaced(len(explanation.times), frames)
    tiles = _enlarged(explanation, rows, TILE)
    _, height, width, _ = tiles.shape
    strip = Image.new("RGB", (len(rows) * (width + GAP) - GAP, height + FOOTER), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
    shares = explanation.frame_relevance
    for position, (row, tile) in enumerate(zip(rows, tiles, strict=True)):
        left = position * (width + GAP)
        strip.paste(Image.fromarray(tile), (left, 0))
        length = round(width * float(shares[row]) / max(float(shares.max()), 1e-12))
        draw.rectangle((left, height + 3, left + width - 1, height + 10), fill=(225, 225, 225))
        if length:
            draw.rectangle((left, height + 3, left + length - 1, height + 10), fill=BAR)
        text = f"{explanation.times[row]:.2f} s"
        draw.text((left + width / 2, height + 12), text, font=font, fill=(40, 40, 40), anchor="ma")
    return np.asarray(strip)


# the picture -------------------------------------------------------------------------------------------------------


def _write_picture(explanation: Explanation, path: Path) -> None:
    """Write the film strip, the relevance over time and the operator views."""
    from matplotlib.figure import Figure

    views = explanation.operators
    view_rows = -(-len(views) // 2)
    heights = [2.0, 2.2, *[2.4] * view_rows]
    figure = Figure(figsize=(12, sum(heights) + 0.7), layout="constrained")
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)  # an array: there are at least two
    best = ", ".join(f"{label} {100 * score:.1f} %" for label, score in explanation.top[:3])
    figure.suptitle(
        f"{explanation.label}: {100 * explanation.score:.1f} %   ({explanation.source})\n"
        f"most probable: {best}\n{explanation.method}",
        fontsize=10, parse_math=False,
    )  # fmt: skip
    _plot_strip(parts[0], explanation)
    _plot_times(parts[1], explanation)
    for row in range(view_rows):
        axes = parts[2 + row].subplots(1, 2)
        for column, ax in enumerate(axes):
            if 2 * row + column < len(views):
                _plot_view(ax, views[2 * row + column])
            else:
                ax.axis("off")
    figure.savefig(path, format="png", dpi=110)


def _plot_strip(part: SubFigure, explanation: Explanation) -> None:
    from matplotlib import cm, colors

    rows = _spaced(len(explanation.times), 8)
    tiles = _enlarged(explanation, rows, TILE)
    _, height, width, _ = tiles.shape
    gap = np.full((len(tiles), height, GAP, 3), 255, np.uint8)
    ax = part.subplots()
    ax.imshow(np.concatenate(list(np.concatenate([tiles, gap], 2)), 1)[:, :-GAP])
    ax.set_xticks(np.arange(len(rows)) * (width + GAP) + width / 2, [f"{explanation.times[row]:.2f}" for row in rows])
    ax.set_yticks([])
    ax.set_xlabel("time of the frame (s)")
    ax.spines[:].set_visible(False)
    scale = cm.ScalarMappable(colors.Normalize(0, 1), PALETTE)
    part.colorbar(scale, ax=ax, label="relevance\n(maximum: 1)", shrink=0.8)


def _plot_times(part: SubFigure, explanation: Explanation) -> None:
    order = np.argsort(explanation.times, kind="stable")  # clips of short videos may start again
    times, shares = explanation.times[order], 100 * explanation.frame_relevance[order]
    ax = part.subplots()
    ax.plot(times, shares, marker="o", color="#3060a0")
    ax.fill_between(times, shares, alpha=0.25, color="#3060a0")
    ax.axhline(100 / len(times), linestyle=":", color="gray", label="equal shares")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("time (s)")
    ax.set_ylabel("share of the\nrelevance (%)")
    ax.set_title("Relevance of each frame", fontsize=10)
    ax.legend(fontsize=8)


def _plot_view(ax: Any, view: OperatorView) -> None:
    rows, columns = view.values.shape
    picture = ax.imshow(view.values, aspect="auto", cmap=OPERATOR_PALETTE, interpolation="nearest")
    for axis, count, name in ((ax.yaxis, rows, view.axes[0]), (ax.xaxis, columns, view.axes[1])):
        steps = _spaced(count, 8)
        first = -(count // 2) if name == OFFSET else 1
        axis.set_ticks(steps, [f"{step + first:+d}" if name == OFFSET else str(step + first) for step in steps])
    ax.set_ylabel(view.axes[0])
    ax.set_xlabel(view.axes[1])
    ax.set_title(view.title, fontsize=9)
    ax.figure.colorbar(picture, ax=ax)


# videos ------------------------------------------------------------------------------------------------------------


def _draw_frames(explanation: Explanation) -> list[Image.Image]:
    """All frames with relevance, label, time, and a bar chart of the relevance over time; both sides are even."""
    tiles = _enlarged(explanation, np.arange(len(explanation.times)), VIDEO)
    shares = explanation.frame_relevance / max(float(explanation.frame_relevance.max()), 1e-12)
    count, height, width, _ = tiles.shape
    size = max(12, height // 20)
    font = ImageFont.load_default(size)
    edges = np.linspace(0, width, count + 1).round().astype(int)
    pictures = []
    for row, tile in enumerate(tiles):
        chart = size * 2
        picture = Image.new("RGB", (width // 2 * 2, (height + chart) // 2 * 2))
        picture.paste(Image.fromarray(tile), (0, 0))
        draw = ImageDraw.Draw(picture, "RGBA")
        draw.rectangle((0, 0, width, size * 3 // 2), fill=(0, 0, 0, 150))
        text = f"{explanation.times[row]:.2f} s  {explanation.label} {100 * explanation.score:.0f} %"
        draw.text((size // 2, size // 5), text, font=font, fill="white")
        for step, share in enumerate(shares):
            top = height + chart - 2 - round(float(share) * (chart - 4))
            color = (255, 200, 60) if step == row else BAR
            draw.rectangle((edges[step] + 1, top, edges[step + 1] - 2, height + chart - 1), fill=color)
        pictures.append(picture)
    return pictures


def _period(times: np.ndarray) -> float:
    """Seconds that a video shows each frame."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    return float(np.clip(np.median(steps) if len(steps) else PERIODS[1], *PERIODS))


def _write_gif(explanation: Explanation, path: Path) -> None:
    first, *others = _draw_frames(explanation)
    duration = round(1000 * _period(explanation.times))
    first.save(path, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)


def _write_mp4(explanation: Explanation, path: Path) -> None:
    import av

    pictures = _draw_frames(explanation)
    with av.open(str(path), "w", format="mp4") as container:
        rate = 1 / Fraction(_period(explanation.times)).limit_denominator(1000)
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
