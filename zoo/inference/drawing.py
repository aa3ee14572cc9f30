"""Pictures of predictions over time: an annotated video and a chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zoo.errors import ConfigError
from zoo.inference.inputs import VideoInput, open_input
from zoo.inference.windows import TimedPrediction
from zoo.localization.segments import Segment
from zoo.weights.disk import atomic_path, disk_errors

BAR = (70, 130, 220)
MIN_HEIGHT = 240  # pixels of an annotated video; smaller ones are enlarged so that the text is legible
CHART_CLASSES = 8
CHART_FRAMES = 10  # of the film strip above a chart
FRAME_WIDTH = 0.78  # inches of a frame of the strip


def annotate_video(
    video: VideoInput, windows: Sequence[TimedPrediction], path: Path, top: int = 3, fps: float = 30.0
) -> None:
    """Write a copy of a video (H.264, MP4) that shows the most probable classes of every moment.

    Every frame shows the scores of the window whose center is nearest. Frame times are kept.

    Args:
        windows: of ``timeline``, in their order.
        path: ends in ``.mp4``.
        fps: frames per second of image files.

    Raises:
        DataError: the video cannot be read.
        ConfigError: another file name extension, or no windows.
        StorageError: the file cannot be written.
    """
    check_video_path(path)
    if not windows:
        raise ConfigError(f"{path} is not written: there are no predictions.")
    centers = np.array([(window.start + window.end) / 2 for window in windows])
    _write_annotated(video, path, lambda time: windows[int(np.abs(centers - time).argmin())].top(top), top, fps)


def annotate_segments(
    video: VideoInput, segments: Sequence[Segment], path: Path, top: int = 3, fps: float = 30.0
) -> None:
    """Write a copy of a video (H.264, MP4) that shows the labels and scores of the segments of every moment.

    A frame at time t shows the segments with start <= t < end, the best ones first.

    Args:
        fps: frames per second of image files.

    Raises:
        DataError, ConfigError, StorageError: as of ``annotate_video``.
    """
    check_video_path(path)
    ranked = sorted(segments, key=lambda segment: -segment.score)

    def labels_at(time: float) -> list[tuple[str, float]]:
        return [(one.label, one.score) for one in ranked if one.start <= time < one.end][:top]

    _write_annotated(video, path, labels_at, top, fps)


def _write_annotated(
    video: VideoInput, path: Path, labels_at: Callable[[float], Sequence[tuple[str, float]]], top: int, fps: float
) -> None:
    """Write a video whose frames show labels and scores, which ``labels_at`` returns for a time in seconds."""
    with (
        disk_errors(path.parent),
        atomic_path(path) as temporary,
        open_input(video, fps=fps) as reader,
        av.open(str(temporary), "w", format="mp4") as container,
    ):
        times = reader.times()
        base = Fraction(1, 90_000)
        stream: Any = container.add_stream("libx264", rate=Fraction(reader.fps).limit_denominator(1000))
        stream.pix_fmt, stream.time_base = "yuv420p", base
        stream.options = {"crf": "20", "preset": "veryfast"}
        previous = -1
        for time, frame in zip(times.tolist(), reader.iterate(np.arange(len(reader))), strict=True):
            picture = _annotate(frame.permute(1, 2, 0).numpy(), labels_at(time), time, top)
            if not stream.width or previous < 0:
                stream.height, stream.width = picture.shape[:2]
            output = av.VideoFrame.from_ndarray(picture, format="rgb24")
            previous = max(previous + 1, round(time / base))
            output.pts, output.time_base = previous, base
            container.mux(stream.encode(output))
        container.mux(stream.encode())


def _annotate(frame: np.ndarray, labels: Sequence[tuple[str, float]], time: float, top: int) -> np.ndarray:
    """A frame ``(H, W, 3)`` with a panel of bars and labels; both sides become even."""
    height, width = frame.shape[:2]
    scale = max(1, -(-MIN_HEIGHT // height))
    picture = Image.fromarray(frame).resize((width * scale // 2 * 2, height * scale // 2 * 2))
    size = max(12, picture.height // 22)
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(picture, "RGBA")
    line, margin = size * 3 // 2, size // 2
    panel = min(picture.width, size * 20)
    draw.rectangle((0, 0, panel, line * (top + 1) + margin), fill=(0, 0, 0, 150))
    draw.text((margin, margin // 2), f"{time:.1f} s", font=font, fill="white")
    for row, (label, score) in enumerate(labels, 1):
        y = row * line
        draw.rectangle((0, y, score * panel, y + line - 2), fill=(*BAR, 200))
        draw.text((margin, y + margin // 3), f"{100 * score:3.0f} % {label}", font=font, fill="white")
    return np.asarray(picture)


def plot_timeline(
    windows: Sequence[TimedPrediction],
    path: Path,
    top: int = CHART_CLASSES,
    video: VideoInput | None = None,
    fps: float = 30.0,
) -> None:
    """Write a strip chart: one row for each of the classes with the highest scores, colored by score over time.

    Rows are in the order of the times of their highest scores.

    Args:
        windows: of ``timeline``, in their order.
        path: an image file that matplotlib can write, such as PNG, PDF or SVG.
        video: video of the windows; evenly spaced frames are drawn above the chart. None: no frames.
        fps: frames per second of image files.

    Raises:
        DataError: the video cannot be read.
        ConfigError: another file name extension, or no windows.
        StorageError: the file cannot be written.
    """
    from matplotlib import cm, colormaps, colors
    from matplotlib.figure import Figure

    check_chart_path(path)
    if not windows:
        raise ConfigError(f"{path} is not written: there are no predictions.")
    scores = [dict(zip(window.labels, window.scores, strict=True)) for window in windows]
    best = {label: max(score[label] for score in scores) for label in windows[0].labels}
    labels = sorted(best, key=lambda label: -best[label])[:top]
    table = np.array([[score[label] for score in scores] for label in labels])
    order = table.argmax(1).argsort(kind="stable")
    labels, table = [labels[row] for row in order], table[order]
    start, end = windows[0].start, windows[-1].end
    height = 0.4 * len(labels)
    if video is None:
        figure = Figure(figsize=(10, 1.2 + height), layout="constrained")
        axes = figure.subplots()
        strip_axes = []
    else:
        strip = _film_strip(video, start, end, fps)
        strip_height = FRAME_WIDTH * CHART_FRAMES * strip.shape[0] / strip.shape[1]
        figure = Figure(figsize=(10, 1.3 + height + strip_height), layout="constrained")
        above, axes = figure.subplots(2, 1, sharex=True, height_ratios=[strip_height, height])
        square = (end - start) * strip.shape[0] / strip.shape[1]  # of a pixel, in units of the axes
        above.imshow(strip, extent=(start, end, 0, 1), aspect=square)
        above.set_anchor("S")
        above.axis("off")
        strip_axes = [above]
    palette, scale = colormaps["Blues"], colors.Normalize(0, 1)
    axes.pcolormesh(_cell_edges(windows), np.arange(len(labels) + 1) - 0.5, table, cmap=palette, norm=scale)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(start, end)
    axes.set_xlabel("seconds")
    figure.suptitle(windows[0].source, fontsize=9)
    figure.colorbar(cm.ScalarMappable(scale, palette), ax=[*strip_axes, axes], label="probability")
    with disk_errors(path.parent), atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=100)


def _film_strip(video: VideoInput, start: float, end: float, fps: float) -> np.ndarray:
    """Evenly spaced frames of a part of a video side by side, uint8 ``(H, W', 3)``; white columns separate them."""
    moments = start + (np.arange(CHART_FRAMES) + 0.5) * (end - start) / CHART_FRAMES
    with open_input(video, fps=fps) as reader:
        numbers = np.abs(reader.times()[:, None] - moments).argmin(0)
        unique, rows = np.unique(numbers, return_inverse=True)
        frames = reader.frames(unique).permute(0, 2, 3, 1).numpy()[rows]
    gap = max(1, frames.shape[2] // 40)
    frames[:, :, :gap] = 255
    return np.concatenate(list(frames), 1)


def plot_segments(segments: Sequence[Segment], duration: float, path: Path, title: str = "") -> None:
    """Write a chart of segments: one row for each label, bars colored by score.

    Args:
        segments: of one video.
        duration: of the video, in seconds.
        path: an image file that matplotlib can write, such as PNG, PDF or SVG.
        title: title of the chart.

    Raises:
        ConfigError: another file name extension.
        StorageError: the file cannot be written.
    """
    from matplotlib import cm, colormaps, colors
    from matplotlib.figure import Figure

    check_chart_path(path)
    labels = sorted({segment.label for segment in segments})
    figure = Figure(figsize=(10, 1.2 + 0.4 * max(len(labels), 1)), layout="constrained")
    axes = figure.subplots()
    palette, scale = colormaps["Blues"], colors.Normalize(0, 1)
    for one in sorted(segments, key=lambda segment: segment.score):  # the best ones are drawn last
        bar = [(one.start, one.end - one.start)]
        axes.broken_barh(bar, (labels.index(one.label) - 0.4, 0.8), color=palette(scale(one.score)), edgecolor="gray")
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.set_xlim(0, duration)
    axes.set_xlabel("seconds")
    axes.set_title(title, fontsize=9, parse_math=False)
    figure.colorbar(cm.ScalarMappable(scale, palette), ax=axes, label="score")
    with disk_errors(path.parent), atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=120)


def _cell_edges(windows: Sequence[TimedPrediction]) -> np.ndarray:
    """Seconds between the cells of the windows: halfway between their centers, and the ends of the timeline."""
    centers = np.array([(window.start + window.end) / 2 for window in windows])
    return np.array([windows[0].start, *((centers[1:] + centers[:-1]) / 2), windows[-1].end])


def check_chart_path(path: Path) -> None:
    """Refuse a file name extension that matplotlib cannot write.

    Raises:
        ConfigError: it cannot.
    """
    from matplotlib.figure import Figure

    kinds = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ConfigError(f"{path}: give a name that ends in one of {', '.join('.' + kind for kind in sorted(kinds))}.")


def check_video_path(path: Path) -> None:
    """Refuse a file name extension other than ``.mp4``.

    Raises:
        ConfigError: another extension.
    """
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"{path}: the annotated video is written as MP4; give a name that ends in .mp4.")
