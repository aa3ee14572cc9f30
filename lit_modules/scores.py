"""Scores by video, merged over processes, and their metrics, which do not depend on the number of processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lit_modules.heads import heads_measured

T = TypeVar("T")
Scores = dict[str, tuple[Tensor, Tensor]]  # of a video: label () or (heads,), probabilities (classes,)
TOP = 5  # of no more classes than that, the five best always include the right one
Z95 = 1.959964  # quantile of the normal distribution that leaves 2.5 % on each side


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
    """Metrics of the scored videos; none without videos.

    ``top1``, ``top5`` (with more than five classes), ``mean_class`` (over the classes that have videos): accuracies
    from 0 to 1. ``top1_low``, ``top1_high``: the 95 % interval of ``top1``. ``majority_class``: top-1 of always
    answering the most frequent class. ``loss``: the cross-entropy. With several heads, ``verb_top1``, ``verb_top5``
    and so on, and ``action_top1``, ``action_top5`` of all heads together, which are also ``top1`` and ``top5``.
    """
    if not scores:
        return {}
    labels = true_labels(scores)
    values = torch.stack([value for _, value in scores.values()])
    if heads:
        found = heads_measured(values, labels, dict(heads))
        found |= {key: found[f"action_{key}"] for key in ("top1", "top5") if f"action_{key}" in found}
    else:
        right = values.argmax(1) == labels
        by_class = [right[labels == label].double().mean() for label in labels.unique()]
        found = {"top1": float(right.double().mean()), "mean_class": float(torch.stack(by_class).mean())}
        if values.shape[1] > TOP:
            hits = (values.topk(TOP).indices == labels[:, None]).any(1)
            found["top5"] = float(hits.double().mean())
        found["loss"] = float(F.nll_loss(values.clamp_min(1e-12).log(), labels))
    for key, reference in references({"top1": found["top1"]}, labels, heads).items():
        found |= {f"{key}_low": reference.low, f"{key}_high": reference.high, majority_key(key): reference.majority}
    return found


def true_labels(scores: Scores) -> Tensor:
    """Labels ``(N,)``, or ``(N, heads)``, of scored videos."""
    return torch.stack([label for label, _ in scores.values()])


def accuracies(classes: int, prefix: str) -> MetricCollection:
    """Top-1, top-5 (with more than five classes) and mean class accuracy."""
    metrics = {
        "top1": MulticlassAccuracy(classes, average="micro"),
        "mean_class": MulticlassAccuracy(classes, average="macro"),
    }
    if classes > TOP:
        metrics["top5"] = MulticlassAccuracy(classes, top_k=TOP, average="micro")
    # as a compute group, top-5 would become a copy of top-1 whenever a first batch happens to score the same
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)


# what an accuracy is compared with -------------------------------------------------------------------------------


class Reference(NamedTuple):
    """What an accuracy has to be read with.

    low, high: its 95 % interval. majority: the same accuracy of an answer that ignores the videos, always the most
    frequent class (for top-5, the five most frequent ones).
    """

    low: float
    high: float
    majority: float


def majority_key(key: str) -> str:
    """The name of an accuracy's majority-class baseline."""
    return "majority_class" if key == "top1" else f"{key}_majority_class"


def references(
    metrics: Mapping[str, float], labels: Tensor, heads: Mapping[str, int] | None = None
) -> dict[str, Reference]:
    """The reference of each accuracy among ``metrics``, from the labels of the scored videos.

    The classes of ``mean_class`` have equal weight, so its videos do not: its interval is that of Kish's effective
    number of videos, which is the number of videos where classes are even.
    """
    names = list(heads or {})
    found = {}
    for key, value in metrics.items():
        head, _, kind = key.rpartition("_") if key != "mean_class" else ("", "", key)
        if kind not in ("top1", "top5", "mean_class"):
            continue
        column = labels[:, names.index(head)] if head in names else labels
        counts = column.unique(dim=0, return_counts=True)[1].double().sort(descending=True).values
        if kind == "mean_class":
            count, majority = len(counts) ** 2 / float((1 / counts).sum()), 1 / len(counts)
        else:
            count, majority = len(labels), float(counts[: int(kind.removeprefix("top"))].sum()) / len(labels)
        found[key] = Reference(*wilson_interval(value, count), majority)
    return found


def wilson_interval(share: float, count: float, z: float = Z95) -> tuple[float, float]:
    """The score interval of a share that was measured on ``count`` videos.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc. 22 (1927),
    209-212.
    """
    center = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max((center - half) / scale, 0.0), min((center + half) / scale, 1.0)
