"""Segments of a video: their overlap, and suppression of duplicates among scored candidates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ConfigError, check_int, check_number

Decay = Literal["gaussian", "linear"]
DECAYS = ("gaussian", "linear")


class Segment(NamedTuple):
    """A predicted action: ``start`` and ``end`` in seconds, the class name, and a score (higher is more certain)."""

    start: float
    end: float
    label: str
    score: float


def temporal_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of all pairs of segments, ``(N, M)``.

    Segments without a common part have 0, also if both are empty.

    Args:
        a: starts and ends, ``(N, 2)``.
        b: starts and ends, ``(M, 2)``.
    """
    start = torch.maximum(a[:, None, 0], b[None, :, 0])
    end = torch.minimum(a[:, None, 1], b[None, :, 1])
    intersection = (end - start).clamp(min=0)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] - intersection
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), 0)


def nms(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor | None = None,
    *,
    iou_threshold: float = 0.5,
    max_segments: int | None = None,
) -> Tensor:
    """Return the indices that remain after non-maximum suppression, by descending score.

    The segment with the highest score removes the segments of its class that overlap it by more than ``iou_threshold``;
    the next remaining one follows (greedy suppression, Neubeck and Van Gool 2006). Of equal scores, the first in the
    input precedes. The computation runs on the CPU in float64.

    Args:
        segments: starts and ends, ``(N, 2)``.
        scores: one per segment, ``(N,)``.
        labels: class index of each segment, ``(N,)``; None: all have the same class.
        iou_threshold: intersection over union above which a segment is a duplicate, from 0 to 1.
        max_segments: maximum number of indices; None: all.

    Raises:
        ConfigError: a shape or an option is wrong, or a value is NaN or infinite.
    """
    check_number("iou_threshold", iou_threshold, 0, 1)
    bounds, values = _to_arrays(segments, scores, max_segments)
    remaining = [_suppress(bounds, values, members, iou_threshold) for members in _classes(labels, len(values))]
    indices = np.concatenate([np.zeros(0, dtype=np.int64), *remaining])
    indices = indices[np.lexsort((indices, -values[indices]))][:max_segments]
    return torch.from_numpy(indices).to(segments.device)


def soft_nms(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor | None = None,
    *,
    decay: Decay = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float | Tensor = 0.0,
    min_score: float = 0.001,
    max_segments: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Lower the scores of segments that overlap a better one (Soft-NMS, Bodla et al. 2017, arXiv:1704.04503).

    The segment with the highest score is selected, and the scores of the other segments of its class that overlap it by
    more than ``iou_threshold`` are multiplied by ``exp(-iou ** 2 / sigma)`` (gaussian) or ``1 - iou`` (linear). This
    repeats with the remaining segments and their new scores. Of equal scores, the first in the input precedes. The
    computation runs on the CPU in float64.

    Args:
        segments: starts and ends, ``(N, 2)``.
        scores: one per segment, at least 0, ``(N,)``.
        labels: class index of each segment, ``(N,)``; None: all have the same class.
        decay: "gaussian" or "linear".
        sigma: width of the Gaussian decay; not used by the linear one.
        iou_threshold: intersection over union above which a score is lowered. A tensor ``(N,)`` has a threshold for
            each segment, which applies when that segment is selected.
        min_score: segments whose lowered score is below this value are removed.
        max_segments: maximum number of segments; None: all.

    Returns:
        The indices of the selected segments by descending lowered score, and these scores in the dtype of ``scores``.

    Raises:
        ConfigError: a shape or an option is wrong, or a value is NaN, infinite or negative.
    """
    if decay not in DECAYS:
        raise ConfigError(f"decay is {decay!r}; choose from {', '.join(DECAYS)}.")
    check_number("sigma", sigma, 1e-9, 1e9)
    bounds, values = _to_arrays(segments, scores, max_segments)
    if (values < 0).any():
        raise ConfigError("scores has negative values; soft_nms needs scores of at least 0, such as probabilities.")
    thresholds = _thresholds(iou_threshold, len(values))
    width = sigma if decay == "gaussian" else None
    pairs = [
        _decay_class(bounds, values, thresholds, members, width, min_score, max_segments)
        for members in _classes(labels, len(values))
    ]
    indices = np.concatenate([np.zeros(0, dtype=np.int64), *(indices for indices, _ in pairs)])
    lowered = np.concatenate([np.zeros(0), *(lowered for _, lowered in pairs)])
    order = np.lexsort((indices, -lowered))[:max_segments]
    return (
        torch.from_numpy(indices[order]).to(segments.device),
        torch.from_numpy(lowered[order]).to(scores.device, scores.dtype),
    )


def _to_arrays(segments: Tensor, scores: Tensor, max_segments: int | None) -> tuple[np.ndarray, np.ndarray]:
    if segments.ndim != 2 or segments.shape[1] != 2 or scores.shape != segments.shape[:1]:
        raise ConfigError(
            f"segments has the shape {tuple(segments.shape)} and scores {tuple(scores.shape)}; they must be (N, 2) and "
            "(N,)."
        )
    if max_segments is not None:
        check_int("max_segments", max_segments, 1)
    bounds = segments.detach().cpu().double().numpy()
    values = scores.detach().cpu().double().numpy()
    for name, array in (("segments", bounds), ("scores", values)):
        if not np.isfinite(array).all():
            raise ConfigError(f"{name} has values that are NaN or infinite; remove these candidates first.")
    return bounds, values


def _thresholds(iou_threshold: float | Tensor, count: int) -> np.ndarray:
    if isinstance(iou_threshold, Tensor):
        if iou_threshold.shape != (count,):
            raise ConfigError(f"iou_threshold has the shape {tuple(iou_threshold.shape)}; it must be ({count},).")
        return iou_threshold.detach().cpu().double().numpy()
    check_number("iou_threshold", iou_threshold, 0, 1)
    return np.full(count, float(iou_threshold))


def _classes(labels: Tensor | None, count: int) -> Iterator[np.ndarray]:
    """Yield the indices of the members of each class."""
    if labels is None:
        yield np.arange(count)
        return
    if labels.shape != (count,):
        raise ConfigError(f"labels has the shape {tuple(labels.shape)}; it must be ({count},).")
    classes = labels.detach().cpu().numpy()
    order = np.argsort(classes, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(classes[order])) + 1)


def _overlaps(bounds: np.ndarray, index: int, first: int = 0) -> np.ndarray:
    """Return the intersection over union of one segment with those from ``first`` on; ``bounds`` is ``(2, N)``."""
    starts, ends = bounds[0, first:], bounds[1, first:]
    start, end = bounds[:, index]
    intersection = np.maximum(np.minimum(ends, end) - np.maximum(starts, start), 0)
    union = (ends - starts) + (end - start) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _suppress(bounds: np.ndarray, scores: np.ndarray, members: np.ndarray, threshold: float) -> np.ndarray:
    """Return the members of one class that no better member suppresses."""
    members = members[np.argsort(-scores[members], kind="stable")]
    columns = np.ascontiguousarray(bounds[members].T)
    alive = np.ones(len(members), dtype=bool)
    for index in range(len(members)):
        if alive[index]:
            alive[index + 1 :] &= _overlaps(columns, index, index + 1) <= threshold
    return members[alive]


def _decay_class(
    bounds: np.ndarray,
    scores: np.ndarray,
    thresholds: np.ndarray,
    members: np.ndarray,
    sigma: float | None,
    min_score: float,
    max_segments: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the selected members of one class and their lowered scores; ``sigma`` None is the linear decay."""
    columns = np.ascontiguousarray(bounds[members].T)
    current = scores[members].copy()
    selected: list[int] = []
    lowered: list[float] = []
    while len(selected) < min(len(members), max_segments or len(members)):
        best = int(current.argmax())
        if current[best] < min_score:
            break
        selected.append(best)
        lowered.append(float(current[best]))
        iou = _overlaps(columns, best)
        factor = 1 - iou if sigma is None else np.exp(-(iou**2) / sigma)
        np.multiply(current, factor, out=current, where=iou > thresholds[members[best]])
        current[best] = -np.inf
    return members[selected], np.array(lowered)
