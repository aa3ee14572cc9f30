"""Maps of a Boundary-Matching Network -> segments in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.segments import Segment, soft_nms

PROBABILITY_POWER = 1.2  # of the classification map in the score; the exponent of the overlap is 1
SIGMA = 0.4  # of Soft-NMS
LOW, HIGH = 0.25, 0.9  # IoU thresholds of Soft-NMS, for a short segment and for one with the length of the video
CLASSES = 5  # labels of a proposal


class VideoMaps(NamedTuple):
    """Probabilities of a video with T cells.

    start, end: of a start and an end at every cell, ``(T,)``.
    overlap: with an action, of the segments by duration and start, ``(durations, T)``.
    probability: that a segment is an action, ``(durations, T)``.
    classes: of the labels, ``(labels, durations, T)``; None if there is one label.
    """

    start: Tensor
    end: Tensor
    overlap: Tensor
    probability: Tensor
    classes: Tensor | None


def decode_proposals(maps: VideoMaps, grid: FeatureGrid, duration: float, labels: Sequence[str]) -> list[Segment]:
    """Convert the maps of a video to segments, the best ones first, as in the published code.

    A segment is a candidate if its start and its end are candidates, see ``boundary_candidates``. Its score is
    ``probability ** 1.2 * overlap``. Soft-NMS lowers the scores of segments that overlap a better segment by more than
    a threshold, which grows with the length of the better segment; one segment per second of video, plus one, remain.
    Each has the 5 most probable labels, and its score is multiplied by their probability.

    Args:
        maps: probabilities of the segments.
        grid: position of the cells in seconds.
        duration: of the video, in seconds.
        labels: class names in the order of the class maps.
    """
    candidates = _candidates(maps)
    if not len(candidates):
        return []
    index, start = candidates.T
    scores = maps.probability[index, start] ** PROBABILITY_POWER * maps.overlap[index, start]
    cells = torch.stack([start, start + index + 1], 1).double()
    thresholds = LOW + (HIGH - LOW) * (index + 1) / len(maps.start)
    selected, lowered = soft_nms(
        cells, scores, sigma=SIGMA, iou_threshold=thresholds, min_score=0.0, max_segments=int(duration) + 1
    )
    bounds = grid.to_seconds(cells[selected] - 0.5).clamp(0, duration).tolist()
    if maps.classes is None:
        numbers, probabilities = torch.zeros_like(selected)[:, None], torch.ones_like(lowered)[:, None]
    else:
        best = maps.classes[:, index[selected], start[selected]].T.topk(min(CLASSES, len(labels)))
        numbers, probabilities = best.indices, best.values
    final = (lowered[:, None] * probabilities).tolist()
    rows = zip(bounds, numbers.tolist(), final, strict=True)
    segments = [
        Segment(first, last, labels[number], score)
        for (first, last), row, values in rows
        for number, score in zip(row, values, strict=True)
        if last > first
    ]
    return sorted(segments, key=lambda segment: -segment.score)


def _candidates(maps: VideoMaps) -> Tensor:
    """Return duration indices and starts of the candidates with a score above 0, ``(N, 2)``."""
    starts = boundary_candidates(maps.start)
    ends = boundary_candidates(maps.end.flip(0)).flip(0)
    durations, count = maps.overlap.shape
    end = torch.arange(count, device=starts.device) + torch.arange(1, durations + 1, device=starts.device)[:, None]
    positive = (maps.probability > 0) & (maps.overlap > 0)
    return (starts & (end < count) & ends[end.clamp(max=count - 1)] & positive).nonzero()


def boundary_candidates(scores: Tensor) -> Tensor:
    """Return which cells are candidates of a start: the first cell, local maxima, and half the highest score or more.

    The last cell is not a candidate. For candidates of an end, flip the scores and the result.

    Args:
        scores: ``(T,)``.

    Returns:
        bool ``(T,)``.
    """
    result = torch.zeros_like(scores, dtype=torch.bool)
    inner = scores[1:-1]
    result[1:-1] = ((inner > scores[:-2]) & (inner > scores[2:])) | (inner > 0.5 * scores.max())
    result[0] = True
    return result
