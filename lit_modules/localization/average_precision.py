"""Average precision of localized segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from zoo.localization.segments import Segment, temporal_iou

THUMOS = (0.3, 0.4, 0.5, 0.6, 0.7)
ACTIVITYNET = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
Truth = tuple[float, float, str]  # start, end, label


def mean_average_precision(
    predictions: Mapping[str, Sequence[Segment]], truth: Mapping[str, Sequence[Truth]], thresholds: Sequence[float]
) -> dict[float, float]:
    """Compute the mean over classes of the average precision at each threshold of the temporal IoU.

    Predictions of a class are sorted by score over all videos. A prediction is correct if the unmatched true segment
    of its video and class with the highest IoU reaches the threshold. The precision is interpolated: that of a recall
    is the highest precision at this or a higher recall. Classes without true segments are left out.

    Args:
        predictions: video -> segments.
        truth: video -> true segments of all videos.
        thresholds: of the IoU.
    """
    labels = sorted({segment[2] for segments in truth.values() for segment in segments})
    table = np.array([_class_precisions(predictions, truth, label, thresholds) for label in labels])
    means = table.mean(0) if len(labels) else np.zeros(len(thresholds))
    return dict(zip(thresholds, means.tolist(), strict=True))


def _class_precisions(
    predictions: Mapping[str, Sequence[Segment]],
    truth: Mapping[str, Sequence[Truth]],
    label: str,
    thresholds: Sequence[float],
) -> list[float]:
    true = {video: [(one[0], one[1]) for one in segments if one[2] == label] for video, segments in truth.items()}
    scores: list[float] = []
    correct: list[list[bool]] = []  # of each prediction, by threshold
    for video, segments in predictions.items():
        own = sorted((one for one in segments if one.label == label), key=lambda one: -one.score)
        scores += [one.score for one in own]
        correct += _matches(own, true.get(video, []), thresholds)
    total = sum(map(len, true.values()))
    order = np.argsort(-np.array(scores), kind="stable")
    return [_area(np.array(correct, dtype=bool)[order, i] if correct else np.zeros(0, bool), total)
            for i in range(len(thresholds))]  # fmt: skip


def _matches(
    own: Sequence[Segment], true: Sequence[tuple[float, float]], thresholds: Sequence[float]
) -> list[list[bool]]:
    """Return which predictions of a video, best first, match a true segment at each threshold."""
    if not true or not own:
        return [[False] * len(thresholds) for _ in own]
    bounds = torch.tensor([(one.start, one.end) for one in own], dtype=torch.float64)
    iou = temporal_iou(bounds, torch.tensor(true, dtype=torch.float64)).numpy()
    result = np.zeros((len(own), len(thresholds)), bool)
    for column, threshold in enumerate(thresholds):
        free = np.ones(len(true), bool)
        for row in range(len(own)):
            best = int(np.where(free, iou[row], -1).argmax())
            if free[best] and iou[row, best] >= threshold:
                free[best], result[row, column] = False, True
    return result.tolist()


def _area(correct: np.ndarray, total: int) -> float:
    """Return the area below the interpolated precision over recall."""
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(correct) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((precision * correct).sum() / max(total, 1))
