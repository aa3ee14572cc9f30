"""Training targets of points, and the loss of a localizer: focal loss of the classes, DIoU loss of the distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.localization.point_model import PointOutput, Points

SAME_LENGTH = 1e-3  # cells: segments whose lengths differ by less give a point the labels of all of them
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
EPSILON = 1e-6


class PointTargets(NamedTuple):
    """Targets of the points of a video.

    classes: 1 for the classes of a point, all 0 for background, ``(N, classes)``.
    distances: to the start and the end of its segment in cells, ``(N, 2)``; 0 for background.
    """

    classes: Tensor
    distances: Tensor


class PointLoss(NamedTuple):
    """The losses of a batch, divided by the number of positive points."""

    classes: Tensor
    distances: Tensor


def assign_targets(points: Points, segments: Tensor, labels: Tensor, num_classes: int, radius: float) -> PointTargets:
    """Assign segments to points.

    A point is positive if it is inside a segment, at most ``radius`` strides of its level from the segment's center,
    and its larger distance to the start or end is in the range of the level. Of several such segments, the shortest
    one is assigned.

    Args:
        points: the points of the pyramid.
        segments: starts and ends in cells, ``(M, 2)``.
        labels: class numbers, ``(M,)``.
        num_classes: number of classes.
        radius: of the center sampling, in strides.
    """
    count = len(points.position)
    if not len(segments):
        return PointTargets(points.position.new_zeros(count, num_classes), points.position.new_zeros(count, 2))
    position = points.position[:, None]
    start, end = segments.T
    left, right = position - start, end - position  # (N, M)
    center = (start + end) / 2
    inside = torch.minimum(left, right) > 0
    central = (position - center).abs() <= radius * points.stride[:, None]
    larger = torch.maximum(left, right)
    in_range = (larger >= points.low[:, None]) & (larger < points.high[:, None])
    lengths = (end - start).expand(count, -1).masked_fill(~(inside & central & in_range), torch.inf)
    shortest, index = lengths.min(1)
    positive = shortest.isfinite()
    chosen = (lengths <= shortest[:, None] + SAME_LENGTH) & positive[:, None]
    classes = (chosen.float() @ F.one_hot(labels, num_classes).float()).clamp(max=1)
    distances = torch.stack([left, right], 2)[torch.arange(count, device=index.device), index]
    return PointTargets(classes, distances * positive[:, None])


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss of every element (Lin et al. 2017), without reduction."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    error = torch.where(targets > 0.5, 1 - probability, probability)
    weight = torch.where(targets > 0.5, ALPHA, 1 - ALPHA)
    return weight * error**GAMMA * entropy


def diou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Distance-IoU loss (Zheng et al. 2020) of segments that contain the same point.

    Args:
        predicted: distances from the point to start and end, ``(N, 2)``.
        target: the same of the true segment.

    Returns:
        ``1 - iou + (distance of the centers / length of the smallest common cover)^2``, ``(N,)``.
    """
    intersection = torch.minimum(predicted, target).sum(1)
    union = predicted.sum(1) + target.sum(1) - intersection
    cover = torch.maximum(predicted, target).sum(1)
    centers = ((predicted[:, 1] - predicted[:, 0]) - (target[:, 1] - target[:, 0])) / 2
    return 1 - intersection / union.clamp(min=EPSILON) + (centers / cover.clamp(min=EPSILON)) ** 2


def point_loss(
    output: PointOutput, segments: Sequence[Tensor], labels: Sequence[Tensor], radius: float = 1.5
) -> PointLoss:
    """Compute the losses of a batch.

    Args:
        output: predictions of ``PointLocalizer`` for B videos.
        segments: starts and ends in cells, ``(M, 2)`` for each video.
        labels: class numbers, ``(M,)`` for each video.
        radius: of the center sampling, see ``assign_targets``.
    """
    num_classes = output.logits.shape[2]
    targets = [assign_targets(output.points, *pair, num_classes, radius) for pair in zip(segments, labels, strict=True)]
    classes = torch.stack([target.classes for target in targets]) * output.mask[..., None]
    distances = torch.stack([target.distances for target in targets])
    positive = classes.amax(2)
    count = positive.sum().clamp(min=1)
    # All points take part, weighted by 0 or 1: indexing with a mask would synchronize with the device.
    class_loss = (focal_loss(output.logits.float(), classes).sum(2) * output.mask).sum() / count
    per_point = diou_loss(output.distances.float().flatten(0, 1), distances.flatten(0, 1))
    return PointLoss(class_loss, (per_point * positive.flatten()).sum() / count)
