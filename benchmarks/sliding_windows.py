"""Baseline of localization: a classifier of windows, whose scores are merged into segments; metrics of both."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lit_modules.localization.metrics import THRESHOLDS, detection_map, proposal_recall
from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.segments import Segment, soft_nms

BACKGROUND = ""  # class of windows without an action
LEVELS = tuple(np.arange(0.1, 0.95, 0.1))  # scores at which the timeline is cut into segments
METRICS = ("average mAP 0.3:0.1:0.7", "average mAP 0.5:0.05:0.95", "AR@10")


class Video(Protocol):
    """A video of ``LocalizationData``: seconds, and the true segments (start, end, label)."""

    @property
    def name(self) -> str: ...

    @property
    def duration(self) -> float: ...

    @property
    def truth(self) -> Sequence[tuple[float, float, str]]: ...


Items = Sequence[tuple[Video, Tensor]]  # with features (D, T)


class SlidingWindows:
    """Logistic regression of the features of windows, with a class for background.

    A window has the label of the action at its center.

    Args:
        items: training videos and features.
        grid: window and stride of their features.
        context: neighbors on each side of a window whose features are also inputs.
        iterations: maximum number of iterations of the solver.
    """

    def __init__(self, items: Items, grid: FeatureGrid, context: int = 0, iterations: int = 200) -> None:
        self.grid, self.context = grid, context
        rows = [self._rows(features) for _, features in items]
        labels = [self._labels(video, features.shape[1]) for video, features in items]
        table = np.concatenate(rows)
        self.mean, self.scale = table.mean(0), table.std(0) + 1e-6
        self.model = LogisticRegression(C=0.1, max_iter=iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit((table - self.mean) / self.scale, np.concatenate(labels).astype(str))

    def _centers(self, count: int) -> np.ndarray:
        return self.grid.to_seconds(torch.arange(count)).numpy()

    def _labels(self, video: Video, count: int) -> np.ndarray:
        centers = self._centers(count)
        labels = np.full(len(centers), BACKGROUND, dtype=object)
        for start, end, label in video.truth:
            labels[(centers >= start) & (centers < end)] = label
        return labels

    def _rows(self, features: Tensor) -> np.ndarray:
        """Features ``(D, T)`` -> ``(T, D * (2 * context + 1))``."""
        table = features.T.numpy()
        padded = np.pad(table, ((self.context, self.context), (0, 0)), mode="edge")
        return np.concatenate([padded[shift : shift + len(table)] for shift in range(2 * self.context + 1)], axis=1)

    def localize(self, features: Tensor, duration: float) -> list[Segment]:
        """Merge runs of windows whose probability of a class is above a level, and suppress overlapping segments.

        The score of a segment is the mean over its windows times the square root of their number. With the mean alone,
        the shortest segments would have the highest scores.
        """
        scores = self.model.predict_proba((self._rows(features) - self.mean) / self.scale)
        segments: list[Segment] = []
        for column, label in enumerate(self.model.classes_):
            if label != BACKGROUND:
                segments += self._merge(scores[:, column], str(label), duration)
        return segments

    def _merge(self, scores: np.ndarray, label: str, duration: float) -> list[Segment]:
        centers, half = self._centers(len(scores)), self.grid.stride / 2
        candidates = []
        for level in LEVELS:
            steps = np.diff(np.concatenate([[0], scores >= level, [0]]).astype(int))
            for first, stop in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True):
                start, end = max(centers[first] - half, 0.0), min(centers[stop - 1] + half, duration)
                score = scores[first:stop].mean() * math.sqrt(stop - first)
                candidates.append(Segment(float(start), float(end), label, float(score)))
        bounds = torch.tensor([one[:2] for one in candidates]).reshape(-1, 2)
        order, lowered = soft_nms(bounds, torch.tensor([one.score for one in candidates]))
        pairs = zip(order.tolist(), lowered.tolist(), strict=True)
        return [candidates[index]._replace(score=score) for index, score in pairs]

    def test(self, items: Items) -> dict[str, float]:
        """Return the ``METRICS`` of test videos, in percent."""
        predictions = {video.name: self.localize(features, video.duration) for video, features in items}
        return measure({video.name: video.truth for video, _ in items}, predictions)


def measure(
    truth: Mapping[str, Sequence[tuple[float, float, str]]], predictions: Mapping[str, Sequence[Segment]]
) -> dict[str, float]:
    """Return the ``METRICS`` of segments, in percent."""
    values = [
        *(detection_map(truth, predictions, THRESHOLDS[name]).average for name in ("thumos14", "activitynet")),
        proposal_recall(truth, predictions).at(10),
    ]
    return {name: 100 * value for name, value in zip(METRICS, values, strict=True)}


def read_measured(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the ``METRICS`` in ``localization.json`` of ``tempozoo test``, in percent."""
    values = [*(results[name]["average"] for name in ("0.3:0.1:0.7", "0.5:0.05:0.95")), results["recall"]["AR@10"]]
    return {name: 100 * value for name, value in zip(METRICS, values, strict=True)}
