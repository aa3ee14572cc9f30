"""Frame indices of clips: the samplers of the published code, for training and testing.

"interval" and "segment" follow the TAdaConv authors' code (``datasets/base/base_dataset.py``), "dense" and "uniform"
the TAM authors' (``ops/dataset.py``), "twice" and "spread" MMAction2's SampleFrames with and without twice_sample,
"duration" and "middle" pytorchvideo's clip samplers and Something-Something data set, "offset" PySlowFast's
USE_OFFSET_SAMPLING. Videos shorter than a clip repeat frames, as in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from zoo.errors import ConfigError
from zoo.protocol import Protocol

View = tuple[int, int]  # (k, n): test clip k of n


def _randint(high: int, size: int | None = None) -> np.ndarray:
    """Draw uniformly from [0, high), from torch's generator, which Lightning seeds in every worker."""
    return torch.randint(max(high, 1), (size,) if size else ()).numpy()


def _span(protocol: Protocol, fps: float) -> float:
    """Return the length of a clip in frames; ``interval`` is in frames of 1/30 second."""
    assert protocol.interval is not None
    return protocol.num_frames * protocol.interval * fps / 30


def _start(room: float, view: View | None) -> float:
    """Return the start of a clip in a video with ``room`` more frames; test clips start at k/n of it."""
    if view is None:
        return room * float(torch.rand(()))
    k, n = view
    return room * k / n if n > 1 else room / 2


def _stretch(protocol: Protocol, total: int, start: float, length: float) -> np.ndarray:
    # spacing (length - 1) / (T - 1), not `interval`, and in single precision: what the published weights saw
    return torch.linspace(start, start + length - 1, protocol.num_frames).clamp(0, total - 1).long().numpy()


def _interval(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    length = _span(protocol, fps)
    return _stretch(protocol, total, _start(max(total - length, 0), view), length)


def _offset(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    length = _span(protocol, fps)
    room = max(total - length, 0)
    if view is None:
        start = _start(room, None)
    else:
        k, n = view
        start = k * math.floor(room / (n - 1)) if n > 1 else math.floor(room / 2)
    return _stretch(protocol, total, start, length)


def _duration(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    length = _span(protocol, fps)
    # a single test clip, which has no published position, is in the middle; pytorchvideo would use the start
    start = _start(max(total - length, 0), view)
    first, end = (
        math.ceil(round(x, 6)) for x in (start, start + length)
    )  # shown at or after start, and before the end
    first = min(first, total - 1)  # frames are longer than the clip, and none starts within it
    count = max(min(end, total) - first, 1)
    return first + torch.linspace(0, count - 1, protocol.num_frames).clamp(0, count - 1).long().numpy()


def _segment(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    bounds = torch.linspace(0, total, protocol.num_frames + 1)
    left, width = bounds[:-1], bounds.diff()
    if view is None:
        position = left + width * torch.rand(protocol.num_frames)
    else:
        k, n = view
        position = left + width * (k + 1) / n if n > 1 else (left + bounds[1:]) / 2
    return position.clamp(0, total - 1).round().long().numpy()  # halves to even


def _middle(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    bounds = np.round(np.arange(protocol.num_frames + 1) * ((total - 1) / protocol.num_frames)).astype(np.int64)
    left, width = bounds[:-1], np.diff(bounds)
    if view is None:
        return left + (torch.rand(protocol.num_frames).numpy() * (width + 1)).astype(np.int64).clip(0, width)
    k, n = view
    return left + width * (k + 1) // (n + 1)


def _dense(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    assert protocol.interval is not None
    starts = max(1, 1 + total - protocol.num_frames * protocol.interval)  # number of possible starts of a clip
    if view is None:
        start = int(_randint(starts - 1))  # never the last, as released
    else:
        k, n = view
        start = int(np.linspace(0, starts - 1, n, dtype=np.int64)[k]) if n > 1 else starts // 2
    return (start + np.arange(protocol.num_frames) * protocol.interval) % total


def _one_of_each_part(protocol: Protocol, total: int) -> np.ndarray | None:
    """Draw a frame from each of T parts, for training with "uniform", "twice" and "spread"; None for shorter videos."""
    average = total // protocol.num_frames
    if average == 0:
        return None
    return np.arange(protocol.num_frames) * average + _randint(average, protocol.num_frames)


def _uniform(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    count = protocol.num_frames
    if view is None:
        drawn = _one_of_each_part(protocol, total)
        return np.zeros(count, np.int64) if drawn is None else drawn  # the first frame alone, as released
    tick = total / count
    k, n = view
    # parts of less than a frame: -1 would be meant by today's linspace, 0 by that of the release
    start = float(np.linspace(0, max(tick - 1, 0), n, dtype=np.int64)[k]) if n > 1 else tick / 2
    return (start + tick * np.arange(count)).astype(np.int64) % total


def _twice(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    k, n = view or (0, 1)
    if n > 2:
        raise ConfigError(f"'twice' sampling gives 1 or 2 test clips, not {n}; set clips to 1 or 2.")
    if view is None or k == 0:
        return _spread(protocol, total, fps, view and (0, 1))
    return (np.arange(protocol.num_frames) * (total / protocol.num_frames)).astype(np.int64)


def _spread(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    if view is None:
        drawn = _one_of_each_part(protocol, total)
        evenly = np.around(np.arange(protocol.num_frames) * (total / protocol.num_frames)).astype(np.int64) % total
        return evenly if drawn is None else drawn
    k, n = view
    tick = total / (protocol.num_frames * n)
    return (np.arange(protocol.num_frames * n) * tick + tick / 2).astype(np.int64)[k::n]


SAMPLERS: dict[str, Callable[[Protocol, int, float, View | None], np.ndarray]] = {
    "interval": _interval,
    "segment": _segment,
    "dense": _dense,
    "uniform": _uniform,
    "twice": _twice,
    "spread": _spread,
    "duration": _duration,
    "offset": _offset,
    "middle": _middle,
}


def sample(protocol: Protocol, total: int, fps: float, view: View | None = None) -> np.ndarray:
    """Return the frame indices ``(T,)`` of one clip.

    Args:
        protocol: sampling, number of frames and interval.
        total: number of frames of the video.
        fps: frames per second of the video, for samplings by time ("interval", "duration" and "offset").
        view: ``(k, n)`` for test clip k of n; None for a random training clip, from torch's global generator.

    Raises:
        ConfigError: the video has no frames, or "twice" sampling has more than 2 clips.
    """
    if total < 1:
        raise ConfigError("A video without frames has no clips.")
    return SAMPLERS[protocol.sampling](protocol, total, fps, view)
