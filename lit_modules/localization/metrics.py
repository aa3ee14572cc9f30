"""Metrics of temporal action localization: mean average precision of detections, average recall of proposals.

They follow the evaluation code of the benchmarks: ActivityNet's eval_detection.py and eval_proposal.py
(github.com/activitynet/ActivityNet), and EPIC-KITCHENS' C2-Action-Detection. All values are from 0 to 1. That code does
not define the order of equal scores and overlaps; here, the first prediction or annotated segment precedes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from zoo.errors import DataError, check_int
from zoo.localization.actions import split_action
from zoo.localization.segments import Segment, temporal_iou
from zoo.text import brief

Truth: TypeAlias = Mapping[str, Sequence[tuple[float, float, str]]]  # video -> (start, end, label) in seconds
Predictions: TypeAlias = Mapping[str, Sequence[Segment]]  # video -> segments in any order

# benchmark -> thresholds of the intersection over union
THRESHOLDS: dict[str, tuple[float, ...]] = {
    "activitynet": tuple(np.linspace(0.5, 0.95, 10).tolist()),
    "hacs": tuple(np.linspace(0.5, 0.95, 10).tolist()),
    "thumos14": tuple(np.linspace(0.3, 0.7, 5).tolist()),
    "epic": tuple(np.linspace(0.1, 0.5, 5).tolist()),
}


@dataclass(frozen=True)
class DetectionMetrics:
    """Average precision of detections.

    thresholds: of the intersection over union.
    by_class: label -> average precision at each threshold, for the labels of the ground truth.
    unknown_labels: number of predictions whose label is not in the ground truth. They are not scored.
    unknown_videos: number of predictions in videos that the ground truth does not list. They are false positives.
    """

    thresholds: tuple[float, ...]
    by_class: Mapping[str, tuple[float, ...]]
    unknown_labels: int = 0
    unknown_videos: int = 0

    @property
    def by_threshold(self) -> tuple[float, ...]:
        """Mean average precision over the classes, at each threshold."""
        return tuple(np.mean(list(self.by_class.values()), axis=0).tolist())

    @property
    def average(self) -> float:
        """Mean average precision over classes and thresholds."""
        return float(np.mean(self.by_threshold))


@dataclass(frozen=True)
class ProposalMetrics:
    """Average recall of proposals.

    proposals_per_video: average numbers of proposals, 100 values up to the maximum.
    recall: recall at each threshold and number, ``(thresholds, 100)``.
    """

    proposals_per_video: np.ndarray
    recall: np.ndarray

    @property
    def average_recall(self) -> np.ndarray:
        """Recall averaged over the thresholds, ``(100,)``."""
        return self.recall.mean(axis=0)

    def at(self, number: float) -> float:
        """Return the average recall with this average number of proposals per video (AR@AN)."""
        return float(np.interp(number, self.proposals_per_video, self.average_recall))

    @property
    def auc(self) -> float:
        """Area under the curve of average recall over the number of proposals, divided by the largest number."""
        area = np.trapezoid(self.average_recall, self.proposals_per_video)
        return float(area / self.proposals_per_video[-1])


def detection_map(truth: Truth, predictions: Predictions, thresholds: Sequence[float]) -> DetectionMetrics:
    """Return the interpolated average precision of each class.

    Predictions of a class are matched by descending score: each with the free annotated segment of its video that it
    overlaps most, if the overlap reaches the threshold. A segment is matched once; further predictions of it are false
    positives.

    Args:
        truth: annotated segments of every evaluated video; videos without segments have an empty sequence.
        predictions: segments by video.
        thresholds: of the intersection over union, such as ``THRESHOLDS["thumos14"]``.

    Raises:
        DataError: the ground truth has no segments, or a prediction has bounds or a score that are not finite.
    """
    _check(truth, predictions)
    annotated = _group({video: [(s, e, label, 0.0) for s, e, label in rows] for video, rows in truth.items()})
    predicted = _group(predictions)
    limits = np.asarray(thresholds, dtype=np.float64)
    by_class = {
        label: tuple(_average_precision(annotated[label], predicted.get(label, {}), limits).tolist())
        for label in sorted(annotated)
    }
    labels = sum(segment[2] not in annotated for segments in predictions.values() for segment in segments)
    videos = sum(len(segments) for video, segments in predictions.items() if video not in truth)
    return DetectionMetrics(tuple(limits.tolist()), by_class, labels, videos)


def epic_map(
    truth: Truth, predictions: Predictions, thresholds: Sequence[float] = THRESHOLDS["epic"]
) -> dict[str, DetectionMetrics]:
    """Return the average precision of verbs, nouns and actions, as in EPIC-KITCHENS-100.

    Labels are actions (see ``zoo.localization.actions``). For verbs and nouns, the same segments and scores are
    evaluated with the verb or the noun of each action.

    Returns:
        The metrics by "verb", "noun" and "action".

    Raises:
        DataError: see ``detection_map``, or a label is not an action.
    """
    results = {}
    for position, target in enumerate(("verb", "noun")):
        parts = {
            video: [(start, end, split_action(label)[position]) for start, end, label in rows]
            for video, rows in truth.items()
        }
        renamed = {
            video: [segment._replace(label=split_action(segment.label)[position]) for segment in segments]
            for video, segments in predictions.items()
        }
        results[target] = detection_map(parts, renamed, thresholds)
    return {**results, "action": detection_map(truth, predictions, thresholds)}


def proposal_recall(
    truth: Truth,
    predictions: Predictions,
    *,
    max_proposals: int = 100,
    thresholds: Sequence[float] = THRESHOLDS["activitynet"],
) -> ProposalMetrics:
    """Return the average recall of proposals over their average number per video; labels are not used.

    As in ActivityNet's evaluation, an average number of proposals is the same fraction of the proposals of every video,
    rounded down: videos with more proposals contribute more. Videos without annotated segments are not evaluated.

    Args:
        truth: annotated segments by video.
        predictions: proposals by video.
        max_proposals: largest average number of proposals per video.
        thresholds: of the intersection over union.

    Raises:
        DataError: the ground truth has no segments, or a prediction has bounds or a score that are not finite.
    """
    check_int("max_proposals", max_proposals, 1)
    _check(truth, predictions)
    limits = np.asarray(thresholds, dtype=np.float64)
    videos = [video for video, rows in truth.items() if rows]
    total = sum(len(segments) for segments in predictions.values())
    steps = np.arange(1, 101) / 100.0
    if total == 0:
        return ProposalMetrics(steps * max_proposals, np.zeros((len(limits), 100)))
    ratio = max_proposals * float(len(videos)) / total
    overlaps = []
    for video in videos:
        proposals = _rows(predictions.get(video, ()))
        proposals = proposals[np.argsort(-proposals[:, 2], kind="stable")]
        number = min(int(len(proposals) * ratio), len(proposals))
        overlaps.append(_iou(_rows([(s, e, "", 0.0) for s, e, _ in truth[video]]), proposals[:number]))
    retrieved = sum(iou.shape[1] for iou in overlaps)
    matches = np.zeros((len(limits), 100))
    if retrieved:
        fractions = steps * (max_proposals * float(len(videos)) / retrieved)
        for iou in overlaps:
            matches += _matches(iou, fractions, limits)
    positives = sum(len(iou) for iou in overlaps)
    return ProposalMetrics(steps * max_proposals, matches / positives)


def _matches(iou: np.ndarray, fractions: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the number of annotated segments that the best fraction of the proposals covers, ``(limits, fractions)``.

    ``iou`` has a row for each annotated segment and a column for each proposal, by descending score.
    """
    count = iou.shape[1]
    if not count:
        return np.zeros((len(limits), len(fractions)))
    numbers = np.minimum((count * fractions).astype(int), count)
    best = np.maximum.accumulate(iou, axis=1)[:, np.maximum(numbers, 1) - 1]  # with the first n proposals
    covered = (best[None] >= limits[:, None, None]) & (numbers > 0)
    return covered.sum(axis=1)


def _check(truth: Truth, predictions: Predictions) -> None:
    if not any(truth.values()):
        raise DataError("The ground truth has no segments; check the annotation file and the split.")
    for video, segments in predictions.items():
        for segment in segments:
            if not all(map(math.isfinite, (segment[0], segment[1], segment[3]))):
                raise DataError(
                    f"The predictions of video {brief(video)} contain {brief(tuple(segment))}, with a bound or score "
                    "that is not finite. The network may have diverged; check its weights."
                )


def _rows(segments: Sequence[tuple[float, float, str, float]]) -> np.ndarray:
    """Return starts, ends and scores, ``(N, 3)``."""
    rows = [(start, end, score) for start, end, _, score in segments]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _group(
    segments: Mapping[str, Sequence[tuple[float, float, str, float]]],
) -> dict[str, dict[str, np.ndarray]]:
    """Return starts, ends and scores by label and video."""
    groups: dict[str, dict[str, list[tuple[float, float, str, float]]]] = {}
    for video, rows in segments.items():
        for row in rows:
            groups.setdefault(row[2], {}).setdefault(video, []).append(row)
    return {label: {video: _rows(rows) for video, rows in videos.items()} for label, videos in groups.items()}


def _iou(annotated: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return temporal_iou(torch.from_numpy(annotated[:, :2]), torch.from_numpy(predicted[:, :2])).numpy()


def _average_precision(
    annotated: Mapping[str, np.ndarray], predicted: Mapping[str, np.ndarray], limits: np.ndarray
) -> np.ndarray:
    """Return the interpolated average precision of one class at each threshold (Pascal VOC 2010 to 2012)."""
    if not predicted:
        return np.zeros(len(limits))
    scores = np.concatenate([rows[:, 2] for rows in predicted.values()])
    correct = np.concatenate([_true_positives(annotated.get(v), rows, limits) for v, rows in predicted.items()], axis=1)
    correct = correct[:, np.argsort(-scores, kind="stable")]
    precision = correct.cumsum(axis=1) / np.arange(1, len(scores) + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # highest precision at this recall or above
    return (envelope * correct).sum(axis=1) / sum(map(len, annotated.values()))


def _true_positives(annotated: np.ndarray | None, predicted: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return whether each prediction of one video and class is correct at each threshold, ``(limits, N)``."""
    correct = np.zeros((len(limits), len(predicted)), dtype=bool)
    if annotated is None:
        return correct
    iou = _iou(predicted, annotated)
    free = np.ones((len(limits), len(annotated)), dtype=bool)
    candidates = iou.max(axis=1) >= limits.min()  # most predictions overlap no annotated segment
    order = np.argsort(-predicted[:, 2], kind="stable")
    for index in order[candidates[order]]:
        usable = free & (iou[index] >= limits[:, None])
        best = np.where(usable, iou[index], -1.0).argmax(axis=1)
        matched = np.flatnonzero(usable.any(axis=1))
        correct[matched, index] = True
        free[matched, best[matched]] = False
    return correct
