"""Metrics of localization, against examples worked by hand and against direct implementations."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lit_modules.localization.metrics import THRESHOLDS, detection_map, epic_map, proposal_recall
from zoo.errors import DataError
from zoo.localization.segments import Segment

Rows = dict[str, list[tuple[float, float, str]]]


def iou_of(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    intersection = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return intersection / ((a[1] - a[0]) + (b[1] - b[0]) - intersection)


def direct_ap(truth: Rows, predictions: dict[str, list[Segment]], label: str, threshold: float) -> float:
    """Match, then sum precision over the steps of recall, one prediction at a time."""
    ranked = sorted(
        ((segment, video) for video, segments in predictions.items() for segment in segments if segment.label == label),
        key=lambda item: -item[0].score,
    )
    positives = [(video, n) for video, rows in truth.items() for n, row in enumerate(rows) if row[2] == label]
    used: set[tuple[str, int]] = set()
    points = []  # (recall, precision)
    for rank, (segment, video) in enumerate(ranked, start=1):
        options = [(iou_of(segment[:2], truth[v][n][:2]), v, n) for v, n in positives if v == video]
        options = [option for option in options if option[0] >= threshold and option[1:] not in used]
        if options:
            used.add(max(options, key=lambda option: option[0])[1:])
        points.append((len(used) / len(positives), len(used) / rank))
    area, recall = 0.0, 0.0
    for step in sorted({point[0] for point in points}):
        area += (step - recall) * max(precision for value, precision in points if value >= step)
        recall = step
    return area


def random_case(seed: int, labels: str = "abc") -> tuple[Rows, dict[str, list[Segment]]]:
    rng = random.Random(seed)

    def bounds() -> tuple[float, float]:
        start = rng.random() * 20
        return start, start + 0.5 + rng.random() * 5

    truth = {f"v{n}": [(*bounds(), rng.choice(labels)) for _ in range(rng.randrange(5))] for n in range(6)}
    truth["v0"].append((*bounds(), labels[0]))
    predictions: dict[str, list[Segment]] = {}
    for video, rows in truth.items():
        near = [(s + rng.gauss(0, 0.3), e + rng.gauss(0, 0.3), label) for s, e, label in rows for _ in range(2)]
        near += [(*bounds(), rng.choice(labels + "z")) for _ in range(rng.randrange(8))]
        predictions[video] = [Segment(min(s, e), max(s, e), label, rng.random()) for s, e, label in near]
    return truth, predictions


def test_detection_map_worked_by_hand() -> None:
    """Ranked at 0.5: hit, duplicate, miss, hit: precision 1/1 and 2/4, so AP = 1/2 * 1 + 1/2 * 1/2 = 3/4."""
    truth = {"a": [(0.0, 10.0, "x"), (20.0, 30.0, "x")], "b": [(0.0, 4.0, "y")]}
    predictions = {
        "a": [
            Segment(20.0, 26.0, "x", 0.2),  # overlap 0.6
            Segment(0.0, 9.0, "x", 0.9),  # overlap 0.9
            Segment(1.0, 10.0, "x", 0.8),  # the same segment again
        ],
        "b": [Segment(0.0, 4.0, "x", 0.5)],  # the right time, the wrong class
    }
    metrics = detection_map(truth, predictions, [0.5, 0.75])
    # at 0.75, the last prediction is a false positive: 1/2 * 1
    assert metrics.by_class == {"x": (0.75, 0.5), "y": (0.0, 0.0)}
    assert metrics.by_threshold == (0.375, 0.25)
    assert metrics.average == 0.3125


def test_a_prediction_matches_the_next_segment_if_the_best_is_taken() -> None:
    truth = {"a": [(0.0, 10.0, "x"), (2.0, 12.0, "x")]}
    predictions = {"a": [Segment(0.0, 10.0, "x", 0.9), Segment(0.5, 10.5, "x", 0.8)]}
    assert detection_map(truth, predictions, [0.5]).by_class == {"x": (1.0,)}  # overlap 0.74 with the second


@pytest.mark.parametrize("seed", range(20))
def test_detection_map_matches_its_definition(seed: int) -> None:
    truth, predictions = random_case(seed)
    thresholds = THRESHOLDS["thumos14"]
    metrics = detection_map(truth, predictions, thresholds)
    labels = sorted({row[2] for rows in truth.values() for row in rows})
    assert list(metrics.by_class) == labels
    for label in labels:
        expected = [direct_ap(truth, predictions, label, threshold) for threshold in thresholds]
        assert metrics.by_class[label] == pytest.approx(expected, abs=1e-12)
    assert 0 < metrics.average < 1
    assert metrics.average == pytest.approx(np.mean(list(metrics.by_class.values())))


def test_predictions_outside_the_ground_truth_are_counted() -> None:
    truth = {"a": [(0.0, 10.0, "x")], "b": []}
    hit = Segment(0.0, 10.0, "x", 0.5)
    metrics = detection_map(truth, {"a": [hit], "b": [hit], "c": [hit._replace(score=0.9)]}, [0.5])
    assert metrics.unknown_videos == 1
    assert metrics.by_class["x"] == (0.5,)  # the prediction in c precedes the correct one, that in b follows it
    metrics = detection_map(truth, {"a": [hit, hit._replace(label="z")]}, [0.5])
    assert (metrics.unknown_labels, metrics.average) == (1, 1.0)
    assert detection_map(truth, {}, [0.5]).average == 0


def test_thresholds_of_the_benchmarks() -> None:
    assert THRESHOLDS["activitynet"] == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
    assert THRESHOLDS["hacs"] == THRESHOLDS["activitynet"]
    assert THRESHOLDS["thumos14"] == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
    assert THRESHOLDS["epic"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_epic_scores_verbs_nouns_and_actions() -> None:
    truth = {"P01": [(0.0, 4.0, "cut bread"), (10.0, 14.0, "cut tomato")]}
    predictions = {"P01": [Segment(0.0, 4.0, "cut tomato", 0.9), Segment(10.0, 14.0, "wash tomato", 0.8)]}
    metrics = epic_map(truth, predictions)
    assert metrics["verb"].average == pytest.approx(0.5)  # the first of two "cut" is detected
    # bread is missed; of the predicted tomatoes, the second is correct: precision 1/2
    assert metrics["noun"].by_class == {"bread": (0.0,) * 5, "tomato": (0.5,) * 5}
    assert metrics["action"].average == 0
    assert metrics["action"].unknown_labels == 1
    with pytest.raises(DataError, match="'cut' is not an action"):
        epic_map({"P01": [(0.0, 4.0, "cut")]}, {})


def test_proposal_recall_worked_by_hand() -> None:
    """Two videos with 2 proposals each; at most 2 per video on average, so 1 per video covers 1 of 3 segments."""
    truth = {"a": [(0.0, 10.0, "x"), (20.0, 30.0, "y")], "b": [(0.0, 4.0, "y")], "c": []}
    predictions = {
        "a": [Segment(20.0, 30.0, "?", 0.4), Segment(0.0, 10.0, "?", 0.9)],
        "b": [Segment(50.0, 60.0, "?", 0.9), Segment(0.0, 4.0, "?", 0.1)],
    }
    metrics = proposal_recall(truth, predictions, max_proposals=2)
    assert metrics.proposals_per_video[[0, 49, 99]] == pytest.approx([0.02, 1, 2])
    assert (metrics.at(0.5), metrics.at(1), metrics.at(2)) == pytest.approx((0, 1 / 3, 1))
    # 0 up to 49 of 100 steps, 1/3 from 50 to 99, 1 at 100; trapezoids between the steps
    assert metrics.auc == pytest.approx((1 / 6 + 49 / 3 + 2 / 3) / 100)


def direct_recall(truth: Rows, predictions: dict[str, list[Segment]], most: int, threshold: float, step: int) -> float:
    """Count covered segments, with exact fractions of the retrieved proposals."""
    videos = [video for video in truth if truth[video]]
    total = sum(map(len, predictions.values()))
    ranked = {}
    for video in videos:
        proposals = sorted(predictions.get(video, []), key=lambda segment: -segment.score)
        ranked[video] = proposals[: len(proposals) * most * len(videos) // total]
    retrieved = sum(map(len, ranked.values()))
    covered = 0
    for video in videos:
        number = len(ranked[video]) * step * most * len(videos) // (100 * retrieved)
        best = ranked[video][:number]
        covered += sum(any(iou_of(row, segment) >= threshold for segment in best) for row in truth[video])
    return covered / sum(map(len, truth.values()))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("most", [3, 11])
def test_proposal_recall_matches_its_definition(seed: int, most: int) -> None:
    truth, predictions = random_case(seed)
    predictions.pop("v1")  # a video without proposals
    thresholds = THRESHOLDS["activitynet"]
    metrics = proposal_recall(truth, predictions, max_proposals=most)
    expected = [[direct_recall(truth, predictions, most, t, step) for step in range(1, 101)] for t in thresholds]
    # rounding of the published formula can move a step by one proposal, at single steps
    assert (np.abs(metrics.recall - expected) < 1e-9).mean() > 0.97
    assert metrics.recall.max() > 0.2


def test_proposals_are_optional_but_segments_are_not() -> None:
    metrics = proposal_recall({"a": [(0.0, 1.0, "x")]}, {})
    assert (metrics.auc, metrics.at(100)) == (0, 0)
    for metric in (detection_map, proposal_recall):
        with pytest.raises(DataError, match="ground truth has no segments"):
            metric({"a": []}, {}, thresholds=[0.5])
        with pytest.raises(DataError, match="predictions of video 'a' contain .*not finite"):
            metric({"a": [(0.0, 1.0, "x")]}, {"a": [Segment(0.0, 1.0, "x", float("nan"))]}, thresholds=[0.5])
