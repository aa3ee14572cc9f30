"""Predictions over time: a window that moves over a video, decoded once, in constant memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ConfigError, DataError, ZooError, check_number
from zoo.inference.inputs import VideoInput, open_input, video_name
from zoo.inference.predictor import Prediction, Predictor, concatenate, make_prediction
from zoo.inference.prefetch import prefetch
from zoo.inference.scores import average_views
from zoo.protocol import Protocol
from zoo.video.decoding import Reader
from zoo.video.live import is_live, live_frames
from zoo.video.sampling import sample
from zoo.video.views import cut_views, resize_frames

MAX_SECONDS = 86_400.0
DEFAULT_WINDOW = 2.0  # seconds
EPSILON = 1e-6  # seconds: rounding of frame times


@dataclass(frozen=True)
class TimedPrediction(Prediction):
    """The scores of a part of a video.

    start, end: seconds from the first frame; the part has the frames with start <= time < end.
    """

    start: float = 0.0
    end: float = 0.0

    def __str__(self) -> str:
        best = ", ".join(f"{label} {100 * score:.1f} %" for label, score in self.top(3))
        return f"{self.start:8.2f} s to {self.end:8.2f} s  {best}"


class WindowViews(NamedTuple):
    """The views ``(V, T, C, S, S)`` of one window."""

    start: float
    end: float
    views: Tensor


class Span(NamedTuple):
    """A window: seconds [start, end), frames [first, stop)."""

    start: float
    end: float
    first: int
    stop: int


def check_window(window: float, stride: float | None) -> float:
    """Validate a window and stride; return the stride, by default the window.

    Raises:
        ConfigError: the window or stride is not a positive number.
    """
    check_number("window", window, 0.01, MAX_SECONDS)
    stride = window if stride is None else stride
    check_number("stride", stride, 0.01, MAX_SECONDS)
    return float(stride)


def clip_seconds(protocol: Protocol) -> float:
    """Return the length of a protocol's clip at 30 frames per second; 2 seconds if its clips cover the whole video."""
    return DEFAULT_WINDOW if protocol.interval is None else protocol.num_frames * protocol.interval / 30


def spans(times: np.ndarray, fps: float, window: float, stride: float, start: float = 0.0) -> list[Span]:
    """Windows at multiples of the stride, until one reaches the end of the video.

    A window without frames, in a gap of the recording, is left out.

    Args:
        times: seconds of the frames, increasing.
        start: earlier windows are left out.
    """
    end_of_video = float(times[-1]) + 1 / fps
    result: list[Span] = []
    index = 0
    while index * stride < end_of_video - EPSILON:
        begin = index * stride
        end = min(begin + window, end_of_video)
        first, stop = np.searchsorted(times, [begin - EPSILON, end - EPSILON]).tolist()
        if stop > first and begin >= start - EPSILON:
            result.append(Span(begin, end, first, stop))
        if end >= end_of_video - EPSILON:
            break
        index += 1
    return result


def window_views(
    reader: Reader, protocol: Protocol, name: str, window: float, stride: float, start: float = 0.0
) -> Iterator[WindowViews]:
    """Yield the views of every window of an open video. Each frame is decoded once, and few are in memory.

    Raises:
        DataError: a frame cannot be decoded, is too narrow, or has another size than those before.
    """
    windows = spans(reader.times(), reader.fps, window, stride, start)
    if not windows:
        return
    clips = [_clips(span, reader.fps, protocol) for span in windows]
    numbers = np.unique(np.concatenate([rows.ravel() for rows in clips]))
    decoded = zip(numbers.tolist(), reader.iterate(numbers), strict=True)
    frames: dict[int, Tensor] = {}  # by number, resized
    newest = -1
    for span, rows in zip(windows, clips, strict=True):
        for number in [number for number in frames if number < span.first]:
            del frames[number]
        while newest < rows.max():
            newest, frame = next(decoded)
            frames[newest] = resize_frames(frame[None], protocol, name)[0]
        yield WindowViews(span.start, span.end, _cut(frames, rows, protocol, name))


def _clips(span: Span, fps: float, protocol: Protocol) -> np.ndarray:
    """Frame numbers ``(clips, T)`` of a window, sampled as from a separate video."""
    total = span.stop - span.first
    clips = [sample(protocol, total, fps, (clip, protocol.clips)) for clip in range(protocol.clips)]
    return span.first + np.stack(clips)


def _cut(frames: dict[int, Tensor], rows: np.ndarray, protocol: Protocol, name: str) -> Tensor:
    numbers, positions = np.unique(rows, return_inverse=True)
    chosen = [frames[number] for number in numbers.tolist()]
    if len({frame.shape for frame in chosen}) > 1:
        raise DataError(f"the frames of {name} differ in size.")
    if len({frame.dtype for frame in chosen}) > 1:
        chosen = [frame.float() for frame in chosen]
    return cut_views(torch.stack(chosen), positions.reshape(rows.shape), protocol)


def live_views(
    video: str | int, protocol: Protocol, window: float, stride: float, stop: threading.Event
) -> Iterator[WindowViews]:
    """Yield the views of every complete window of a camera or stream, until ``stop`` is set.

    Raises:
        DataError: it cannot be read.
    """
    buffer: list[tuple[float, Tensor]] = []
    start = 0.0
    name = str(video)
    for time, frame in live_frames(video):
        if stop.is_set():
            return
        while time >= start + window - EPSILON:
            inside = [item for item in buffer if start - EPSILON <= item[0] < start + window - EPSILON]
            if inside:
                span = Span(start, start + window, 0, len(inside))
                rows = _clips(span, len(inside) / window, protocol)
                frames = {number: item[1] for number, item in enumerate(inside)}
                yield WindowViews(span.start, span.end, _cut(frames, rows, protocol, name))
            start += stride
            buffer = [item for item in buffer if item[0] >= start - EPSILON]
        buffer.append((time, resize_frames(frame[None], protocol, name)[0]))


def read_windows(
    predictor: Predictor, video: VideoInput | int, window: float, stride: float | None, start: float, fps: float,
    deadline: float | None = None,
) -> Iterator[list[WindowViews]]:  # fmt: skip
    """Windows of a video in batches for the network, decoded in a thread."""
    stride = check_window(window, stride)
    check_number("start", start, 0.0, MAX_SECONDS * 365)
    protocol = predictor.protocol
    per_batch = max(1, predictor.batch_size // (protocol.clips * protocol.crops))
    live = is_live(video)
    stop = threading.Event()

    def decode() -> Iterator[WindowViews]:
        if is_live(video):
            yield from live_views(video, protocol, window, stride, stop)
            return
        if isinstance(video, int):  # a bool
            raise ConfigError(f"A video is {video}; give a path, a URL, or the number of a camera.")
        name = video_name(video)
        try:
            with open_input(video, decoder=predictor.decoder, fps=fps, deadline=deadline) as reader:
                yield from window_views(reader, protocol, name, window, stride, start)
        except ZooError:
            raise
        except Exception as error:  # decoders raise many types for damaged files
            raise DataError(f"{name} cannot be read ({type(error).__name__}: {error}).") from error

    batch: list[WindowViews] = []
    for item in prefetch(decode(), size=2 * per_batch, drop=live, stop=stop):
        batch.append(item)
        if len(batch) >= per_batch or live:
            yield batch
            batch = []
    if batch:
        yield batch


def timeline(
    predictor: Predictor,
    video: VideoInput | int,
    *,
    window: float = 2.0,
    stride: float | None = None,
    start: float = 0.0,
    fps: float = 30.0,
    deadline: float | None = None,
) -> Iterator[TimedPrediction]:
    """Yield predictions of a window that moves over a video.

    Every window is treated as a separate video: the protocol's sampling picks its frames. The video is decoded once,
    in a thread, and few of its frames are in memory at a time. The last window ends with the video and may be shorter.

    Args:
        video: as of ``Predictor.predict``; also the number of a camera (0) or the URL of a stream (``rtsp://``), whose
            windows are dropped when the network is slower than the stream.
        window, stride: seconds; the stride is the window by default.
        start: seconds; earlier windows are left out.
        fps: frames per second of frames in memory or in a folder.
        deadline: value of ``time.monotonic()`` after which decoding a video file raises an error; None for no limit.

    Raises:
        DataError: the video cannot be read, raised at the first window that is affected.
        ConfigError: an argument has an invalid value.
    """
    name = str(video) if isinstance(video, int) else video_name(video)
    for batch in read_windows(predictor, video, window, stride, start, fps, deadline):
        views = [item.views for item in batch]
        logits = predictor.logits(concatenate(views)).split([len(item) for item in views])
        for item, part in zip(batch, logits, strict=True):
            scores = average_views(part, predictor.protocol)
            prediction = make_prediction(predictor.model, name, scores)
            yield TimedPrediction(
                name, prediction.labels, prediction.scores, scores, prediction.heads, start=item.start, end=item.end
            )
