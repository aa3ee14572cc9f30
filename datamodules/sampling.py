"""Which frames make a clip: the samplers of the published code, training and test variants.

"interval" and "segment" follow the TAdaConv authors' code, "dense" and "uniform" the TAM authors', "twice"
MMAction2's twice_sample. Videos shorter than a clip repeat frames, as in all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from zoo.errors import ConfigError
from zoo.protocol import Protocol

View = tuple[int, int]  # (k, n): test clip k of n


def _randint(high: int, size: int | None = None) -> np.ndarray:
    """Uniform in [0, high): from torch's generator, which Lightning seeds in every worker."""
    return torch.randint(max(high, 1), (size,) if size else ()).numpy()


def _interval(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    assert protocol.interval is not None
    length = protocol.num_frames * protocol.interval * fps / 30  # released with a target rate of 30
    room = max(total - length, 0)
    if view is None:
        start = room * float(torch.rand(()))
    else:
        k, n = view
        start = room * k / n if n > 1 else room / 2
    # spacing (length - 1) / (T - 1), not `interval`: what the published weights saw
    return np.linspace(start, start + length - 1, protocol.num_frames).clip(0, total - 1).astype(np.int64)


def _segment(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    bounds = np.linspace(0, total, protocol.num_frames + 1)
    left, width = bounds[:-1], np.diff(bounds)
    if view is None:
        position = left + width * torch.rand(protocol.num_frames, dtype=torch.float64).numpy()
        return position.astype(np.int64).clip(0, total - 1)
    k, n = view
    position = left + width * ((k + 1) / n if n > 1 else 0.5)
    return np.round(position).astype(np.int64).clip(0, total - 1)


def _dense(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    assert protocol.interval is not None
    last = max(1, 1 + total - protocol.num_frames * protocol.interval) - 1
    if view is None:
        start = int(_randint(last + 1))
    else:
        k, n = view
        start = int(np.linspace(0, last, n, dtype=np.int64)[k]) if n > 1 else last // 2
    return (start + np.arange(protocol.num_frames) * protocol.interval) % total


def _uniform(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    count = protocol.num_frames
    if view is None:
        average = total // count
        if average > 0:
            return np.arange(count) * average + _randint(average, count)
        return np.sort(_randint(total, count))
    tick = total / count
    k, n = view
    start = float(np.linspace(0, max(tick - 1, 0), n, dtype=np.int64)[k]) if n > 1 else tick / 2
    return (start + tick * np.arange(count)).astype(np.int64) % total


def _twice(protocol: Protocol, total: int, fps: float, view: View | None) -> np.ndarray:
    if view is None:
        return _uniform(protocol, total, fps, None)
    k, n = view
    if n > 2:
        raise ConfigError(f"'twice' sampling gives 1 or 2 test clips, not {n}; set clips to 1 or 2.")
    tick = total / protocol.num_frames
    return (tick * (np.arange(protocol.num_frames) + (0.5 if k == 0 else 0))).astype(np.int64).clip(0, total - 1)


SAMPLERS: dict[str, Callable[[Protocol, int, float, View | None], np.ndarray]] = {
    "interval": _interval,
    "segment": _segment,
    "dense": _dense,
    "uniform": _uniform,
    "twice": _twice,
}


def sample(protocol: Protocol, total: int, fps: float, view: View | None = None) -> np.ndarray:
    """Frame numbers ``(T,)`` of one clip of a video with ``total`` frames.

    Args:
        view: ``(k, n)`` for test clip k of n; None draws a training clip from torch's random generator.
    """
    if total < 1:
        raise ConfigError("a clip cannot be cut from a video without frames.")
    return SAMPLERS[protocol.sampling](protocol, total, fps, view)
