"""Targets of points and the losses of a localizer, on examples computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lit_modules.localization.point_loss import assign_targets, diou_loss, focal_loss
from zoo.localization.point_model import make_points


def test_points_near_the_center_of_a_segment_are_positive() -> None:
    points = make_points([16, 8], torch.device("cpu"))
    targets = assign_targets(points, torch.tensor([[3.0, 7.0]]), torch.tensor([1]), 2, radius=1.5)
    assert targets.classes[:, 1].nonzero()[:, 0].tolist() == [4, 5, 6]
    assert targets.distances[4].tolist() == [1.0, 3.0]
    assert not targets.classes[:, 0].any()


def test_long_segments_belong_to_a_higher_level() -> None:
    points = make_points([16, 8], torch.device("cpu"))
    targets = assign_targets(points, torch.tensor([[0.0, 14.0]]), torch.tensor([0]), 1, radius=1.5)
    positive = targets.classes[:, 0].nonzero()[:, 0]
    assert points.position[positive].tolist() == [4.0, 6.0, 8.0, 10.0]
    assert points.stride[positive].unique().tolist() == [2.0]


def test_the_shortest_of_two_segments_is_assigned() -> None:
    points = make_points([16], torch.device("cpu"))
    segments = torch.tensor([[2.0, 12.0], [5.0, 9.0]])
    targets = assign_targets(points, segments, torch.tensor([0, 1]), 2, radius=1.5)
    assert targets.classes[7].tolist() == [0.0, 1.0] and targets.distances[7].tolist() == [2.0, 2.0]


def test_focal_and_diou_losses_equal_their_definitions() -> None:
    loss = focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
    assert loss.tolist() == pytest.approx([0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)])
    predicted, target = torch.tensor([[2.0, 2.0], [1.0, 3.0]]), torch.tensor([[2.0, 2.0], [2.0, 2.0]])
    assert diou_loss(predicted, target).tolist() == pytest.approx([0.0, 1 - 3 / 5 + (1 / 5) ** 2])
