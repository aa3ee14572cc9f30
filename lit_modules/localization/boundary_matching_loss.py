"""Training windows, targets and losses of the Boundary-Matching Network.

Differences from the published code: a window with no cell of a kind (such as no start) has a loss of 0 for this kind
instead of NaN, and segments of medium and low overlap are drawn only among themselves if there are more segments of
high overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.localization.boundary_matching import BoundaryOutput, cut_windows, segment_mask
from zoo.localization.boundary_options import BoundaryOptions
from zoo.localization.segments import temporal_iou

MAX_WINDOWS = 16  # of a training batch; more are drawn at random
CONTAINED = 0.999  # part of a segment that is within a window in which it is used
BOUNDARY = 3.0  # cells around a start or end that are one
HIGH, LOW = 0.7, 0.3  # overlaps that separate segments of high, medium and low overlap
POSITIVE = 0.9  # lowest overlap of a segment that is an action
CLASSIFIED = 0.75  # lowest overlap of a segment whose class is trained
OVERLAP_WEIGHT = 10.0
EPSILON = 1e-6


class Window(NamedTuple):
    """A window of a training video.

    features: ``(D, length)``.
    segments: starts and ends in cells of the window, ``(M, 2)``; a segment from 0 to 2 covers two cells.
    labels: class numbers, ``(M,)``.
    """

    features: Tensor
    segments: Tensor
    labels: Tensor


class BoundaryTargets(NamedTuple):
    """Targets of N windows.

    start, end: part of every cell that is a start or an end, ``(N, T)``.
    overlap: largest intersection over union of every segment with an action, ``(N, durations, T)``.
    classes: class of this action, ``(N, durations, T)``.
    """

    start: Tensor
    end: Tensor
    overlap: Tensor
    classes: Tensor


class BoundaryLoss(NamedTuple):
    """The losses of a batch: of starts and ends, of the overlap, of the probability of an action, of the classes."""

    boundaries: Tensor
    overlap: Tensor
    actions: Tensor
    classes: Tensor

    def total(self) -> Tensor:
        """Return the weighted sum."""
        return self.boundaries + OVERLAP_WEIGHT * self.overlap + self.actions + self.classes


def training_windows(batch: dict[str, Any], options: BoundaryOptions) -> list[Window]:
    """Cut the videos of a batch into windows, and select those that contain a segment.

    If no window contains a segment, the first one is returned, so that every batch has a loss.

    Args:
        batch: of ``LocalizationData``.
        options: of the network.
    """
    counts = batch["mask"].sum(1).tolist()
    windows: list[Window] = []
    first: Window | None = None
    for features, count, segments, labels in zip(
        batch["features"], counts, batch["segments"], batch["labels"], strict=True
    ):
        bounds = (segments + 0.5).clamp(0, count)
        for number, window in enumerate(cut_windows(features[:, :count], options.length, options.stride)):
            start = number * options.stride
            clipped = bounds.clamp(start, start + options.length)
            lengths = (bounds[:, 1] - bounds[:, 0]).clamp(min=EPSILON)
            contained = (clipped[:, 1] - clipped[:, 0]) / lengths > CONTAINED
            item = Window(window, clipped[contained] - start, labels[contained])
            first = item if first is None else first
            if contained.any():
                windows.append(item)
    if len(windows) > MAX_WINDOWS:
        windows = [windows[index] for index in torch.randperm(len(windows))[:MAX_WINDOWS].tolist()]
    if not windows and first is not None:
        windows = [first]
    return windows


def boundary_targets(windows: Sequence[Window], options: BoundaryOptions) -> BoundaryTargets:
    """Compute the targets of windows.

    A start or end covers 3 cells around it. Every cell ``t`` is represented by the two cells from ``t - 0.5`` to
    ``t + 1.5``; its target is their part that is covered by a start or end.
    """
    device = windows[0].features.device
    cell = torch.arange(options.length, device=device)
    regions = torch.stack([cell - 0.5, cell + 1.5], 1)
    duration = torch.arange(1, options.durations + 1, device=device)[:, None]
    proposals = torch.stack([cell.expand(options.durations, -1), cell + duration], 2).flatten(0, 1).float()
    rows = []
    for window in windows:
        segments, labels = window.segments, window.labels
        if not len(segments):
            nothing = torch.zeros(options.length, device=device)
            overlap, classes = torch.zeros(2, len(proposals), device=device)
            rows.append((nothing, nothing, overlap, classes.long()))
            continue
        covered = [
            torch.minimum(regions[:, None, 1], bound + BOUNDARY / 2)
            - torch.maximum(regions[:, None, 0], bound - BOUNDARY / 2)
            for bound in segments.T
        ]
        start, end = ((part.clamp(min=0) / 2).amax(1) for part in covered)
        overlap, index = temporal_iou(proposals, segments).max(1)
        rows.append((start, end, overlap, labels[index]))
    start, end, overlap, classes = (torch.stack(column) for column in zip(*rows, strict=True))
    shape = (options.durations, options.length)
    return BoundaryTargets(start, end, overlap.unflatten(1, shape), classes.unflatten(1, shape))


def balanced_loss(probability: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the binary cross-entropy in which positives and negatives have the same weight.

    Args:
        probability: predictions.
        positive, negative: 1 for the elements of each kind, in the shape of ``probability``.
    """
    positives, negatives = positive.sum(), negative.sum()
    log_positive = (positive * torch.log(probability + EPSILON)).sum() / positives.clamp(min=1)
    log_negative = (negative * torch.log(1 - probability + EPSILON)).sum() / negatives.clamp(min=1)
    return -0.5 * (log_positive + log_negative)


def overlap_weights(overlap: Tensor, noise: Tensor) -> Tensor:
    """Select the segments of high overlap, and on average as many of medium and of low overlap.

    Segments without overlap are not selected.

    Args:
        overlap: targets, 0 outside of the windows.
        noise: uniform random numbers from 0 to 1, in the shape of ``overlap``.

    Returns:
        1 for the selected segments, 0 for others.
    """
    high = overlap > HIGH
    medium = (overlap <= HIGH) & (overlap > LOW)
    low = (overlap <= LOW) & (overlap > 0)
    selected = high.to(overlap.dtype)
    for part in (medium, low):
        ratio = high.sum() / part.sum().clamp(min=1)
        selected = selected + (part & (noise > 1 - ratio))
    return selected


def boundary_loss(output: BoundaryOutput, targets: BoundaryTargets, noise: Tensor | None = None) -> BoundaryLoss:
    """Compute the losses of N windows.

    Args:
        output: predictions of ``BoundaryLocalizer``.
        targets: of the windows.
        noise: selects segments for the loss of the overlap, see ``overlap_weights``; None: new random numbers.
    """
    start, end, confidence = (logits.float().sigmoid() for logits in output[:3])
    _, durations, length = targets.overlap.shape
    valid = segment_mask(durations, length, targets.overlap.device).float()
    overlap = targets.overlap * valid
    boundaries = [
        balanced_loss(predicted, (target > 0.5).float(), (target <= 0.5).float())
        for predicted, target in ((start, targets.start), (end, targets.end))
    ]
    weights = overlap_weights(overlap, torch.rand_like(overlap) if noise is None else noise)
    error = weights * (confidence[:, 0] - overlap) ** 2
    overlap_loss = 0.5 * error.sum() / weights.sum().clamp(min=1)
    positive = (overlap > POSITIVE).float()
    action_loss = balanced_loss(confidence[:, 1], positive, valid - positive) * positive.any()
    class_loss = torch.zeros_like(overlap_loss)
    if output.classes is not None:
        classified = (overlap >= CLASSIFIED).float()
        entropy = F.cross_entropy(output.classes.float(), targets.classes, reduction="none")
        class_loss = (entropy * classified).sum() / classified.sum().clamp(min=1)
    return BoundaryLoss(boundaries[0] + boundaries[1], overlap_loss, action_loss, class_loss)
