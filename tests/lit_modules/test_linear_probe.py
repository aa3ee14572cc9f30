"""Logistic regression and nearest neighbors of features, and the cross-validation that tunes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.preprocessing import StandardScaler

from lit_modules.linear_probe import (
    FOLDS,
    STRENGTHS,
    VideoSamples,
    fit_logistic_regression,
    fit_nearest_neighbors,
    make_splits,
)
from zoo.errors import DataError


def gaussian_samples(
    classes: int, per_class: int, size: int, *, views: int = 1, spread: float = 1.0, seed: int = 0
) -> VideoSamples:
    """Return features around a random center for each class, with other scales and offsets in each dimension."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(0).normal(0, 1, (classes, 1, 1, size))
    features = centers + rng.normal(0, spread, (classes, per_class, views, size))
    features = features * np.linspace(0.5, 30, size) + np.linspace(-5, 50, size)
    labels = np.repeat(np.arange(classes), per_class)
    names = [f"v{number}" for number in range(len(labels))]
    return VideoSamples(names, torch.from_numpy(features.reshape(-1, views, size)).float(), labels)


def accuracy(scores: torch.Tensor, samples: VideoSamples) -> float:
    return float((scores.argmax(-1).numpy() == samples.labels).mean())


@pytest.mark.parametrize(("classes", "per_class", "size"), [(3, 20, 16), (3, 6, 64), (2, 20, 16)])
def test_logistic_regression_equals_that_of_scikit_learn(classes: int, per_class: int, size: int) -> None:
    """Also with fewer videos than features, where the features are rotated, and with two classes."""
    samples = gaussian_samples(classes, per_class, size, spread=2.0)
    probe = fit_logistic_regression(samples, classes)

    rows = samples.features[:, 0].double().numpy()
    scaled = StandardScaler().fit_transform(rows)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    losses = [
        -cross_val_score(
            LogisticRegression(C=strength, max_iter=1000),
            scaled,
            samples.labels,
            cv=folds,
            scoring="neg_log_loss",
        ).mean()
        for strength in STRENGTHS
    ]
    assert probe.strength == STRENGTHS[int(np.argmin(losses))] and probe.folds == FOLDS
    expected = (
        LogisticRegression(C=probe.strength, tol=1e-6, max_iter=1000).fit(scaled, samples.labels).predict_proba(scaled)
    )
    scores = probe.logits(samples.features[:, 0]).softmax(-1)
    torch.testing.assert_close(scores, torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("views", [1, 3])
def test_separable_classes_are_classified(views: int) -> None:
    train = gaussian_samples(4, 10, 32, views=views, spread=0.3)
    test = gaussian_samples(4, 10, 32, views=views, spread=0.3, seed=1)
    probe = fit_logistic_regression(train, 4)
    assert accuracy(probe.logits(test.features).softmax(-1).mean(1), test) == 1
    scores = fit_nearest_neighbors(train, 4).scores(test)
    assert accuracy(scores, test) == 1
    torch.testing.assert_close(scores.sum(1), torch.ones(len(scores)))


def test_class_without_training_videos_is_never_predicted() -> None:
    samples = gaussian_samples(3, 10, 8)
    labels = np.array([0, 2, 4])[samples.labels]
    samples = samples._replace(labels=labels)
    scores = fit_logistic_regression(samples, 6).logits(samples.features[:, 0]).softmax(-1)
    assert scores.shape[1] == 6 and accuracy(scores, samples) > 0.9
    assert float(scores[:, [1, 3, 5]].max()) < 1e-6
    assert float(fit_nearest_neighbors(samples, 6).scores(samples)[:, [1, 3, 5]].max()) == 0


def test_training_videos_of_one_class_are_refused() -> None:
    samples = gaussian_samples(1, 5, 8)
    for fit in (fit_logistic_regression, fit_nearest_neighbors):
        with pytest.raises(DataError, match="at least 2 classes; the 5 readable ones have 1"):
            fit(samples, 3)


def test_folds_do_not_divide_recordings() -> None:
    labels = np.repeat([0, 1], 12)
    groups = [f"{label}-{number // 3}" for label in (0, 1) for number in range(12)]
    splits = make_splits(labels, groups)
    assert len(splits) == 4  # recordings of each class
    for train, held_out in splits:
        assert not {groups[n] for n in train} & {groups[n] for n in held_out}
    ungrouped = make_splits(labels, None)
    assert any({groups[n] for n in train} & {groups[n] for n in held_out} for train, held_out in ungrouped)


def test_recordings_change_the_chosen_regularization() -> None:
    """Videos of a recording are nearly equal. If folds divide recordings, they suggest too weak a regularization."""
    rng = np.random.default_rng(0)
    recordings = rng.normal(0, 1, (2, 8, 1, 40))
    features = (recordings + rng.normal(0, 0.02, (2, 8, 4, 40))).reshape(64, 1, 40)
    labels = np.repeat([0, 1], 32)
    samples = VideoSamples([f"v{n}" for n in range(64)], torch.from_numpy(features).float(), labels)
    grouped = samples._replace(groups=[f"r{n // 4}" for n in range(64)])
    assert fit_logistic_regression(grouped, 2).strength < fit_logistic_regression(samples, 2).strength


def test_too_few_videos_for_cross_validation_use_the_defaults() -> None:
    samples = gaussian_samples(2, 1, 8)
    probe = fit_logistic_regression(samples, 2)
    assert (probe.strength, probe.folds) == (1.0, 0)
    assert fit_nearest_neighbors(samples, 2).neighbors == 1
