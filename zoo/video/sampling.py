"""Frame indices of clips, selected like the published code does for training and testing.

"interval" and "segment" follow the TAdaConv authors' code (``datasets/base/base_dataset.py``), "dense" and "uniform"
the TAM authors' (``ops/dataset.py``), "twice" and "spread" MMAction2's SampleFrames with and without twice_sample,
"duration" and "middle" pytorchvideo's clip samplers and Something-Something data set, "offset" PySlowFast's
USE_OFFSET_SAMPLING. "duration" follows pytorchvideo 0.1.5, its last release, with which the published accuracies were
measured; on 2022-04-28 its repository moved the last test clip to the end of the video. As in all of them, videos
shorter than a clip repeat frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from zoo.errors import ConfigError
from zoo.protocol import Protocol

View = tuple[int, int]  # (k, n): test clip k of n
DENSE_RANGE = 64  # frames that a "dense" clip spans in the code of the TAM authors and MMAction2


def _randint(high: int, size: int | None = None) -> np.ndarray:
    """Draw integers uniformly from [0, high) with torch's generator, which Lightning seeds in every worker."""
    return torch.randint(max(high, 1), (size,) if size else ()).numpy()


def _clip_length(protocol: Protocol, fps: float) -> float:
    """Return the length of a clip in frames; ``interval`` is in frames of 1/30 second."""
    assert protocol.interval is not None
    return protocol.num_frames * protocol.interval * fps / 30


def _start(latest: float, view: View | None) -> float:
    """Return the start of a clip: random from 0 to ``latest`` for training, at k / n of ``latest`` for testing."""
    if view is None:
        return latest * float(torch.rand(()))
    k, n = view
    return latest * k / n if n > 1 else latest / 2


def _evenly_spaced(protocol: Protocol, total: int, start: float, length: float) -> np.ndarray:
    # Spacing (length - 1) / (T - 1) instead of `interval`, in single precision: as the published weights were trained.
    return torch.linspace(start, start + length - 1, protocol.num_frames).clamp(0, total - 1).long().numpy()


def _interval(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    length = _clip_length(protocol, fps)
    return _evenly_spaced(protocol, total, _start(max(total - length, 0), view), length)


def _offset(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    length = _clip_length(protocol, fps)
    latest = max(total - length, 0)
    if view is None:
        start = _start(latest, None)
    else:
        k, n = view
        start = k * math.floor(latest / (n - 1)) if n > 1 else math.floor(latest / 2)
    return _evenly_spaced(protocol, total, start, length)


def _duration(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    length = _clip_length(protocol, fps)
    # A single test clip is taken from the middle. No published result uses one; pytorchvideo would start at 0.
    start = _start(max(total - length, 0), view)
    # The clip has the frames that start at or after ``start`` and before its end.
    first, end = (math.ceil(round(x, 6)) for x in (start, start + length))
    first = min(first, total - 1)  # no frame starts within a clip that is shorter than a frame
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
    return position.clamp(0, total - 1).round().long().numpy()  # rounds halves to even


def _middle(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    bounds = np.round(np.arange(protocol.num_frames + 1) * ((total - 1) / protocol.num_frames)).astype(np.int64)
    left, width = bounds[:-1], np.diff(bounds)
    if view is None:
        return left + (torch.rand(protocol.num_frames).numpy() * (width + 1)).astype(np.int64).clip(0, width)
    k, n = view
    return left + width * (k + 1) // (n + 1)


def _dense(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    assert protocol.interval is not None
    length = protocol.num_frames * protocol.interval
    if view is None and protocol.interval == DENSE_RANGE // protocol.num_frames:
        length = DENSE_RANGE  # 5 frames, 12 apart, span 60, but the released code draws the start for a clip of 64
    starts = max(1, 1 + total - length)  # number of possible starts of a clip
    if view is None:
        start = int(_randint(starts - 1))  # never the last one, like the released code
    else:
        k, n = view
        start = int(np.linspace(0, starts - 1, n, dtype=np.int64)[k]) if n > 1 else starts // 2
    return (start + np.arange(protocol.num_frames) * protocol.interval) % total


def _random_per_part(protocol: Protocol, total: int) -> np.ndarray | None:
    """Draw a frame from each of T equal parts, or return None for videos of fewer than T frames.

    Used for training with "uniform", "twice" and "spread".
    """
    length = total // protocol.num_frames
    if length == 0:
        return None
    return np.arange(protocol.num_frames) * length + _randint(length, protocol.num_frames)


def _uniform(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    count = protocol.num_frames
    if view is None:
        indices = _random_per_part(protocol, total)
        # Short videos repeat the first frame, like the released code.
        return np.zeros(count, np.int64) if indices is None else indices
    spacing = total / count
    k, n = view
    # For parts shorter than a frame, current NumPy would round the negative end to -1, that of the release to 0.
    start = float(np.linspace(0, max(spacing - 1, 0), n, dtype=np.int64)[k]) if n > 1 else spacing / 2
    return (start + spacing * np.arange(count)).astype(np.int64) % total


def _twice(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    k, n = view or (0, 1)
    if n > 2:
        raise ConfigError(f"'twice' sampling supports 1 or 2 test clips, not {n}; set clips to 1 or 2.")
    if view is None or k == 0:
        return _spread(protocol, total, fps, view and (0, 1))
    return (np.arange(protocol.num_frames) * (total / protocol.num_frames)).astype(np.int64)


def _spread(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    if view is None:
        indices = _random_per_part(protocol, total)
        if indices is None:
            indices = np.around(np.arange(protocol.num_frames) * (total / protocol.num_frames)).astype(np.int64) % total
        return indices
    k, n = view
    spacing = total / (protocol.num_frames * n)
    return (np.arange(protocol.num_frames * n) * spacing + spacing / 2).astype(np.int64)[k::n]


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
        fps: frames per second of the video, which samplings by time use ("interval", "duration" and "offset").
        view: ``(k, n)`` for test clip k of n; None for a random training clip, drawn with torch's global generator.

    Raises:
        ConfigError: the video has no frames, or "twice" sampling is used with more than 2 clips.
    """
    if total < 1:
        raise ConfigError("A video without frames has no clips.")
    return SAMPLERS[protocol.sampling](protocol, total, fps, view)
