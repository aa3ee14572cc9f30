"""Predictions at points -> segments in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.point_model import PointOutput
from zoo.localization.segments import Segment, soft_nms

MIN_SEGMENTS = 200  # smallest limit on the number of segments of a video
CANDIDATES = 10  # per segment, in front of the suppression of duplicates
MIN_SCORE = 0.001


def decode_segments(
    output: PointOutput,
    grid: FeatureGrid,
    durations: Sequence[float],
    labels: Sequence[str],
    *,
    sigma: float = 0.5,
    min_score: float = MIN_SCORE,
    max_segments: int | None = None,
) -> list[list[Segment]]:
    """Convert the predictions for a batch of videos to segments, the best ones first.

    Starts and ends are limited to [0, duration]; segments without length are removed. Soft-NMS lowers the scores of
    segments that overlap a better segment of the same class.

    Args:
        output: predictions of ``PointLocalizer``.
        grid: position of the cells in seconds.
        durations: of the videos, in seconds.
        labels: class names in the order of the logits.
        sigma: width of the decay of Soft-NMS.
        min_score: segments with lower scores are left out.
        max_segments: maximum number of segments of a video; None: 200, or one per second of longer videos.
    """
    scores = output.logits.sigmoid() * output.mask[..., None]
    position = output.points.position
    bounds = torch.stack([position - output.distances[..., 0], position + output.distances[..., 1]], 2)
    seconds = grid.to_seconds(bounds)
    decoded = []
    for index, duration in enumerate(durations):
        limit = max(MIN_SEGMENTS, math.ceil(duration)) if max_segments is None else max_segments
        candidates = _candidates(scores[index], seconds[index], duration, min_score, CANDIDATES * limit)
        decoded.append(_suppress(*candidates, labels, sigma, min_score, limit))
    return decoded


def _candidates(
    scores: Tensor, seconds: Tensor, duration: float, min_score: float, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return segments ``(M, 2)``, scores ``(M,)`` and classes ``(M,)`` of the best candidates of a video."""
    classes = scores.shape[1]
    best, order = scores.flatten().topk(min(count, scores.numel()))
    segments, numbers = seconds[order // classes].clamp(0, duration), order % classes
    remaining = (best >= min_score) & (segments[:, 1] > segments[:, 0])
    return segments[remaining], best[remaining], numbers[remaining]


def _suppress(
    segments: Tensor,
    scores: Tensor,
    numbers: Tensor,
    labels: Sequence[str],
    sigma: float,
    min_score: float,
    max_segments: int,
) -> list[Segment]:
    selected, lowered = soft_nms(segments, scores, numbers, sigma=sigma, min_score=min_score, max_segments=max_segments)
    columns = (segments[selected].tolist(), numbers[selected].tolist(), lowered.tolist())
    return [Segment(start, end, labels[number], score) for (start, end), number, score in zip(*columns, strict=True)]
