"""Scores by video, merged over processes, and the metrics of them: results do not depend on how many processes ran."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.classification import multiclass_accuracy

from lit_modules.heads import heads_measured

T = TypeVar("T")
Scores = dict[str, tuple[Tensor, Tensor]]  # of a video: label () or (heads,), probabilities (classes,)


def merged(part: Mapping[str, T]) -> dict[str, T]:
    """What all processes hold together, on each of them; a video that several scored counts once."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return dict(part)
    parts: list[Mapping[str, T]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, dict(part))
    return {name: value for one in parts for name, value in one.items()}


def merged_scores(part: Scores) -> Scores:
    """``merged`` of scores; packed, as rows are views of a batch and each would take all of it along."""
    if not (part and torch.distributed.is_available() and torch.distributed.is_initialized()):
        packed: dict[str, Any] = {}
    else:
        labels, rows = (torch.stack(column) for column in zip(*part.values(), strict=True))
        packed = {str(torch.distributed.get_rank()): (list(part), labels, rows)}
    found = dict(part)
    for names, labels, rows in merged(packed).values():
        found |= dict(zip(names, zip(labels, rows, strict=True), strict=True))
    return found


def measured(scores: Scores, heads: Mapping[str, int] | None = None) -> dict[str, float]:
    """top1, top5, mean_class (accuracies in [0, 1]) and loss of scored videos; nothing of none.

    With several heads, those of each under its name ("verb_top1", ...), and of all of them together, an action, whose
    top-1 and top-5 are also ``top1`` and ``top5``.
    """
    if not scores:
        return {}
    labels = torch.stack([label for label, _ in scores.values()])
    values = torch.stack([value for _, value in scores.values()])
    if heads:
        found = heads_measured(values, labels, dict(heads))
        return {**found, "top1": found["action_top1"], "top5": found["action_top5"]}
    classes = values.shape[1]
    accuracy = functools.partial(multiclass_accuracy, values, labels, classes)
    found = {
        "top1": accuracy(average="micro"),
        "top5": accuracy(average="micro", top_k=min(5, classes)),
        "mean_class": accuracy(average="none")[labels.unique()].mean(),  # of the classes that have videos
        "loss": F.nll_loss(values.clamp_min(1e-12).log(), labels),
    }
    return {key: float(value) for key, value in found.items()}


def accuracies(classes: int, prefix: str) -> MetricCollection:
    """Top-1, top-5 (capped at the class count) and mean class accuracy."""
    metrics = {
        "top1": MulticlassAccuracy(classes, average="micro"),
        "top5": MulticlassAccuracy(classes, top_k=min(5, classes), average="micro"),
        "mean_class": MulticlassAccuracy(classes, average="macro"),
    }
    # as a compute group, top-5 would become a copy of top-1 whenever a first batch happens to score the same
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)
