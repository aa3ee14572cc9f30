"""Classifiers of fixed features: logistic regression and nearest neighbors, tuned by cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # values of C; a smaller one regularizes more
DEFAULT_STRENGTH = 1.0  # if there are too few videos for cross-validation
NEIGHBORS = (1, 3, 5, 10, 20)  # values of k
DEFAULT_NEIGHBORS = 1
FOLDS = 5
TOLERANCES = (1e-4, 1e-6)  # largest gradient, in the cross-validation and in the final fit
SMALLEST_SCALE = 1e-3  # of the largest one; else rounding errors of nearly constant features would be amplified
UNSEEN = -20.0  # bias of a class without training videos; the logits of the others add up to 0, so one is positive
Split = tuple[np.ndarray, np.ndarray]  # indices of the videos to fit on, and to validate on


class VideoSamples(NamedTuple):
    """Features of labeled videos.

    names: names of the videos.
    features: float32 ``(N, V, D)``, the input of the classifier for each of V views.
    labels: int64 ``(N,)``.
    groups: recording that each video belongs to; None if each is a recording of its own.
    """

    names: list[str]
    features: Tensor
    labels: np.ndarray
    groups: list[str] | None = None

    @property
    def video_features(self) -> np.ndarray:
        """Features averaged over views, ``(N, D)``."""
        return self.features.mean(1).numpy()


class LinearProbe(NamedTuple):
    """A logistic regression of the input of a network's classifier.

    weight: float32 ``(classes, D)``; applies to the features as they are, without standardization.
    bias: float32 ``(classes,)``.
    strength: inverse regularization C.
    folds: folds of the cross-validation that chose C; 0 if there were too few videos for one.
    videos: number of training videos.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    folds: int
    videos: int

    def logits(self, features: Tensor) -> Tensor:
        """Features ``(..., D)`` -> logits ``(..., classes)``."""
        return torch.nn.functional.linear(features, self.weight, self.bias)


class NearestNeighbors(NamedTuple):
    """A k-nearest-neighbor classifier with cosine distance.

    estimator: the fitted classifier of scikit-learn.
    neighbors: k.
    num_classes: number of classes.
    """

    estimator: Any
    neighbors: int
    num_classes: int

    def scores(self, samples: VideoSamples) -> Tensor:
        """Return probabilities ``(N, classes)`` of videos, whose features are averaged over views."""
        return torch.from_numpy(_probabilities(self.estimator, samples.video_features, self.num_classes)).float()


def fit_logistic_regression(samples: VideoSamples, num_classes: int) -> LinearProbe:
    """Fit a multinomial logistic regression to standardized features; each view of a video is a sample.

    C has the lowest log loss in a stratified cross-validation, in which all views of a video, and all videos of a
    recording, are in the same fold.

    Raises:
        DataError: the videos have fewer than two classes.
    """
    check_classes(samples)
    count, views, size = samples.features.shape
    rows = samples.features.reshape(count * views, size).double().numpy()
    mean, deviation = rows.mean(0), rows.std(0)
    scale = np.maximum(deviation, SMALLEST_SCALE * deviation.max())
    scale[scale == 0] = 1  # all features are constant
    rows = (rows - mean) / scale
    basis = None
    if len(rows) < size:  # an equivalent problem with fewer variables, as the penalty is invariant to rotation
        left, singular, basis = np.linalg.svd(rows, full_matrices=False)
        rows = left * singular
    splits = make_splits(samples.labels, samples.groups)
    table = rows.reshape(count, views, -1)
    losses = [_log_loss(table, samples.labels, splits, strength) for strength in STRENGTHS] if splits else []
    strength = STRENGTHS[int(np.argmin(losses))] if splits else DEFAULT_STRENGTH
    model = _fit_rows(table, samples.labels, strength, TOLERANCES[1])
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: the sigmoid of z is the softmax of (-z / 2, z / 2)
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = (weight if basis is None else weight @ basis) / scale
    all_weights, all_biases = np.zeros((num_classes, size)), np.full(num_classes, UNSEEN)
    all_weights[model.classes_], all_biases[model.classes_] = weight, bias - weight @ mean
    return LinearProbe(
        torch.from_numpy(all_weights).float(), torch.from_numpy(all_biases).float(), strength, len(splits), count
    )


def fit_nearest_neighbors(samples: VideoSamples, num_classes: int) -> NearestNeighbors:
    """Fit a nearest-neighbor classifier, whose votes are weighted by inverse distance.

    k has the highest accuracy in the cross-validation of ``fit_logistic_regression``; the smallest of several.

    Raises:
        DataError: the videos have fewer than two classes.
    """
    from sklearn.neighbors import KNeighborsClassifier

    check_classes(samples)
    features, labels = samples.video_features, samples.labels
    splits = make_splits(labels, samples.groups)
    smallest = min((len(train) for train, _ in splits), default=0)
    candidates = [count for count in NEIGHBORS if count <= smallest]

    def fit(count: int, videos: Sequence[int] | slice | np.ndarray) -> Any:
        estimator = KNeighborsClassifier(count, metric="cosine", weights="distance")
        return estimator.fit(features[videos], labels[videos])

    def correct(count: int) -> int:
        pairs = [(fit(count, train).predict(features[held_out]), labels[held_out]) for train, held_out in splits]
        return sum(int((predicted == true).sum()) for predicted, true in pairs)

    best = max(candidates, key=correct, default=DEFAULT_NEIGHBORS)
    return NearestNeighbors(fit(best, slice(None)), best, num_classes)


def make_splits(labels: np.ndarray, groups: Sequence[str] | None) -> list[Split]:
    """Return up to ``FOLDS`` stratified splits of videos, which do not divide groups.

    Folds whose training part has fewer than two classes are omitted; the result is empty if none remains.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    fewest = min(len(np.unique(units[labels == label])) for label in np.unique(labels))
    count = max(2, min(FOLDS, fewest))
    if len(np.unique(units)) < count:
        return []
    kind: Callable[..., Any] = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = kind(n_splits=count, shuffle=True, random_state=0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class with fewer videos than folds
            splits = list(folds.split(units, labels, units))
    except ValueError:  # each class has fewer videos than there are folds
        return []
    return [(train, test) for train, test in splits if len(test) and len(np.unique(labels[train])) > 1]


def check_classes(samples: VideoSamples) -> None:
    """Raise a DataError unless the videos have at least two classes."""
    classes = len(np.unique(samples.labels))
    if classes < 2:
        raise DataError(
            f"A probe needs training videos of at least 2 classes; the {len(samples.labels)} readable ones have "
            f"{classes}."
        )


def _fit_rows(table: np.ndarray, labels: np.ndarray, strength: float, tolerance: float) -> Any:
    """Fit a logistic regression to the views ``(N, V, D)`` of videos."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of weak regularization, which is rarely chosen
        rows = table.reshape(-1, table.shape[-1])
        return LogisticRegression(C=strength, tol=tolerance, max_iter=1000).fit(rows, np.repeat(labels, table.shape[1]))


def _log_loss(table: np.ndarray, labels: np.ndarray, splits: Sequence[Split], strength: float) -> float:
    """Return the mean cross-entropy of videos in a cross-validation. Probabilities are averaged over views."""
    return float(np.concatenate(list(_fold_losses(table, labels, splits, strength))).mean())


def _fold_losses(
    table: np.ndarray, labels: np.ndarray, splits: Sequence[Split], strength: float
) -> Iterator[np.ndarray]:
    classes = int(labels.max()) + 1
    for train, held_out in splits:
        model = _fit_rows(table[train], labels[train], strength, TOLERANCES[0])
        rows = _probabilities(model, table[held_out].reshape(-1, table.shape[-1]), classes)
        scores = rows.reshape(len(held_out), table.shape[1], classes).mean(1)
        yield -np.log(scores[np.arange(len(held_out)), labels[held_out]].clip(1e-6))


def _probabilities(model: Any, rows: np.ndarray, num_classes: int) -> np.ndarray:
    """Return probabilities ``(rows, num_classes)``; those of classes that the model does not have are 0."""
    scores = np.zeros((len(rows), num_classes))
    scores[:, model.classes_] = model.predict_proba(rows)
    return scores
