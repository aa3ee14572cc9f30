"""Overlap of segments, and suppression of duplicates, against direct implementations of their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.localization.segments import Segment, nms, soft_nms, temporal_iou


def random_candidates(seed: int, count: int = 60, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand(count, generator=generator, dtype=torch.float64) * 20
    lengths = torch.rand(count, generator=generator, dtype=torch.float64) * 8
    scores = torch.rand(count, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    return torch.stack((starts, starts + lengths), 1), scores, labels


def iou_of(a: list[float], b: list[float]) -> float:
    intersection = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - intersection
    return intersection / union if union > 0 else 0.0


def direct_nms(segments: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> list[int]:
    bounds, kinds = segments.tolist(), labels.tolist()
    selected: list[int] = []
    for index in sorted(range(len(bounds)), key=lambda n: -scores[n].item()):
        rivals = [other for other in selected if kinds[other] == kinds[index]]
        if all(iou_of(bounds[index], bounds[other]) <= threshold for other in rivals):
            selected.append(index)
    return selected


def direct_soft_nms(
    segments: Tensor, scores: Tensor, labels: Tensor, sigma: float | None, thresholds: list[float], min_score: float
) -> list[tuple[int, float]]:
    bounds, kinds = segments.tolist(), labels.tolist()
    current = dict(enumerate(scores.tolist()))
    selected = []
    while current:
        best = max(current, key=lambda n: (current[n], -n))
        score = current.pop(best)
        if score < min_score:
            break
        selected.append((best, score))
        for other in current:
            iou = iou_of(bounds[best], bounds[other])
            if kinds[other] == kinds[best] and iou > thresholds[best]:
                current[other] *= 1 - iou if sigma is None else math.exp(-(iou**2) / sigma)
    return selected


def test_temporal_iou_of_pairs() -> None:
    a = torch.tensor([[0.0, 10.0], [5.0, 6.0], [3.0, 3.0]])
    b = torch.tensor([[0.0, 10.0], [5.0, 15.0], [10.0, 12.0], [3.0, 3.0]])
    expected = [[1, 5 / 15, 0, 0], [0.1, 0.1, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(temporal_iou(a, b), torch.tensor(expected))
    assert temporal_iou(a, torch.zeros(0, 2)).shape == (3, 0)


def test_temporal_iou_has_finite_gradients() -> None:
    a = torch.tensor([[0.0, 10.0], [3.0, 3.0]], requires_grad=True)
    temporal_iou(a, torch.tensor([[3.0, 3.0], [5.0, 15.0]])).sum().backward()
    assert a.grad is not None and a.grad.isfinite().all() and a.grad.abs().sum() > 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_nms_matches_its_definition(seed: int, threshold: float) -> None:
    segments, scores, labels = random_candidates(seed)
    expected = direct_nms(segments, scores, labels, threshold)
    assert nms(segments, scores, labels, iou_threshold=threshold).tolist() == expected
    assert nms(segments, scores, labels, iou_threshold=threshold, max_segments=5).tolist() == expected[:5]
    single = direct_nms(segments, scores, torch.zeros_like(labels), threshold)
    assert nms(segments, scores, iou_threshold=threshold).tolist() == single


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("decay", "threshold"), [("gaussian", 0.0), ("gaussian", 0.4), ("linear", 0.0), ("linear", 0.3)]
)
def test_soft_nms_matches_its_definition(seed: int, decay: str, threshold: float) -> None:
    segments, scores, labels = random_candidates(seed)
    sigma = 0.4 if decay == "gaussian" else None
    expected = direct_soft_nms(segments, scores, labels, sigma, [threshold] * 60, 0.01)
    indices, lowered = soft_nms(
        segments, scores, labels, decay=decay, sigma=0.4, iou_threshold=threshold, min_score=0.01
    )
    assert indices.tolist() == [index for index, _ in expected]
    assert lowered.tolist() == pytest.approx([score for _, score in expected], abs=1e-12)
    assert len(indices) < 60  # some scores fall below the minimum
    first, _ = soft_nms(segments, scores, labels, sigma=0.4, decay=decay, iou_threshold=threshold, max_segments=7)
    assert first.tolist() == indices.tolist()[:7]


def test_soft_nms_with_a_threshold_for_each_segment() -> None:
    """BMN's thresholds grow with the length of the selected segment."""
    segments, scores, labels = random_candidates(0)
    thresholds = 0.25 + 0.65 * (segments[:, 1] - segments[:, 0]) / 28
    expected = direct_soft_nms(segments, scores, labels, 0.4, thresholds.tolist(), 0.0)
    indices, lowered = soft_nms(segments, scores, labels, sigma=0.4, iou_threshold=thresholds, min_score=0.0)
    assert list(zip(indices.tolist(), lowered.tolist(), strict=True)) == [
        (index, pytest.approx(score, abs=1e-12)) for index, score in expected
    ]


def test_equal_scores_keep_the_order_of_the_input() -> None:
    segments = torch.tensor([[0.0, 1.0], [5.0, 6.0], [0.0, 1.0], [5.0, 6.0]])
    scores = torch.full((4,), 0.5)
    assert nms(segments, scores).tolist() == [0, 1]
    assert soft_nms(segments, scores, decay="linear")[0].tolist() == [0, 1]


def test_no_candidates_give_no_segments() -> None:
    empty, none = torch.zeros(0, 2), torch.zeros(0)
    labels = torch.zeros(0, dtype=torch.int64)
    assert nms(empty, none, labels).tolist() == []
    indices, lowered = soft_nms(empty, none, labels)
    assert indices.dtype == torch.int64 and (indices.tolist(), lowered.tolist()) == ([], [])


def test_results_have_the_dtype_of_the_scores() -> None:
    segments, scores, labels = random_candidates(1)
    _, lowered = soft_nms(segments.bfloat16(), scores.bfloat16(), labels)
    assert lowered.dtype == torch.bfloat16


def test_wrong_arguments_are_reported() -> None:
    segments, scores, labels = random_candidates(0)
    with pytest.raises(ConfigError, match=r"segments has the shape \(60,\) and scores \(60,\)"):
        nms(scores, scores)
    with pytest.raises(ConfigError, match=r"labels has the shape \(59,\); it must be \(60,\)"):
        nms(segments, scores, labels[1:])
    with pytest.raises(ConfigError, match="segments has values that are NaN"):
        nms(segments / 0, scores)
    with pytest.raises(ConfigError, match="iou_threshold is 2"):
        nms(segments, scores, iou_threshold=2)
    with pytest.raises(ConfigError, match="decay is 'cubic'; choose from gaussian, linear"):
        soft_nms(segments, scores, decay="cubic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="scores has negative values"):
        soft_nms(segments, -scores)
    with pytest.raises(ConfigError, match=r"iou_threshold has the shape \(2,\)"):
        soft_nms(segments, scores, iou_threshold=torch.zeros(2))


def test_segment_is_a_tuple_with_names() -> None:
    assert Segment(1.0, 2.5, "open door", 0.75)._asdict() == {
        "start": 1.0, "end": 2.5, "label": "open door", "score": 0.75,
    }  # fmt: skip
