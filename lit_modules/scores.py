"""Gather the scores of videos from all processes, and compute metrics from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.classification import binary_average_precision

from lit_modules.heads import heads_metrics

T = TypeVar("T")
Scores = dict[
    str, tuple[Tensor, Tensor]
]  # path -> label (), (heads,) or (classes,) if a video has several; probabilities (classes,)
TOP = 5  # with at most this many classes, top-5 accuracy is always 1 and is omitted
Z95 = 1.959964  # 97.5 % quantile of the normal distribution


def gather_by_name(part: Mapping[str, T]) -> dict[str, T]:
    """Merge the dictionaries of all processes, in every process. All processes must call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return dict(part)
    parts: list[Mapping[str, T]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, dict(part))
    return {name: value for mapping in parts for name, value in mapping.items()}


def gather_scores(part: Scores) -> Scores:
    """Merge the scores of all processes, in every process; a video scored by several processes is counted once.

    Scores are stacked first, because each is a view of a batch and pickling a view copies the entire batch.
    """
    if not (part and torch.distributed.is_available() and torch.distributed.is_initialized()):
        packed: dict[str, Any] = {}
    else:
        labels, rows = (torch.stack(column) for column in zip(*part.values(), strict=True))
        packed = {str(torch.distributed.get_rank()): (list(part), labels, rows)}
    scores = dict(part)
    for names, labels, rows in gather_by_name(packed).values():
        scores |= dict(zip(names, zip(labels, rows, strict=True), strict=True))
    return scores


def replace_nonfinite(scores: Scores) -> tuple[Scores, list[str]]:
    """Replace scores that are NaN or infinite by equal scores for all classes; return all scores and these videos."""
    videos = [video for video, (_, values) in scores.items() if not values.isfinite().all()]
    replaced = {
        video: (scores[video][0], torch.full_like(scores[video][1], 1 / len(scores[video][1]))) for video in videos
    }
    return scores | replaced, videos


def compute_metrics(
    scores: Scores, heads: Mapping[str, int] | None = None, multi_label: bool = False
) -> dict[str, float]:
    """Return the metrics of scored videos; empty if there are no videos.

    ``top1``, ``top5`` (with more than five classes) and ``mean_class`` (mean over the classes that have videos) are
    accuracies from 0 to 1. ``top1_low`` and ``top1_high`` are the 95 % interval of ``top1``. ``majority_class`` is the
    top-1 accuracy of always predicting the most frequent class. ``loss`` is the cross-entropy. With several heads,
    there are metrics of each head (``verb_top1``, ``verb_top5``, ...) and of all heads together (``action_top1`` and
    ``action_top5``; ``top1`` and ``top5`` are the same values).

    For videos with several labels (``multi_label``), ``map`` is the mean average precision of the classes that have
    videos, ``map_chance`` that of random scores, and ``loss`` the mean binary cross-entropy of the classes.
    """
    if not scores:
        return {}
    labels = true_labels(scores)
    values = predicted_scores(scores)
    if multi_label:
        return _multi_label_metrics(labels, values)
    if heads:
        metrics = heads_metrics(values, labels, dict(heads))
        metrics |= {key: metrics[f"action_{key}"] for key in ("top1", "top5") if f"action_{key}" in metrics}
    else:
        correct = values.argmax(1) == labels
        by_class = [correct[labels == label].double().mean() for label in labels.unique()]
        metrics = {"top1": float(correct.double().mean()), "mean_class": float(torch.stack(by_class).mean())}
        if values.shape[1] > TOP:
            hits = (values.topk(TOP).indices == labels[:, None]).any(1)
            metrics["top5"] = float(hits.double().mean())
        metrics["loss"] = float(F.nll_loss(values.clamp_min(1e-12).log(), labels))
    for key, reference in references({"top1": metrics["top1"]}, labels, heads).items():
        metrics |= {f"{key}_low": reference.low, f"{key}_high": reference.high, majority_key(key): reference.majority}
    return metrics


def _multi_label_metrics(labels: Tensor, values: Tensor) -> dict[str, float]:
    present = labels.any(0)
    precisions = [value for value in average_precisions(labels, values) if value is not None]
    return {
        "map": sum(precisions) / len(precisions) if precisions else math.nan,
        "map_chance": float(labels[:, present].double().mean()),
        "loss": float(F.binary_cross_entropy(values.clamp(1e-12, 1), labels.to(values.dtype))),
    }


def average_precisions(labels: Tensor, values: Tensor) -> list[float | None]:
    """Return the average precision of each class; None for classes without videos.

    Args:
        labels: 0 or 1, ``(N, classes)``.
        values: probabilities ``(N, classes)``.
    """
    return [
        float(binary_average_precision(value, label)) if label.any() else None
        for label, value in zip(labels.long().unbind(1), values.unbind(1), strict=True)
    ]


def true_labels(scores: Scores) -> Tensor:
    """Return the labels ``(N,)`` or ``(N, heads)`` of scored videos."""
    return torch.stack([label for label, _ in scores.values()])


def predicted_scores(scores: Scores) -> Tensor:
    """Return the probabilities ``(N, classes)`` of scored videos."""
    return torch.stack([value for _, value in scores.values()])


def accuracies(classes: int, prefix: str) -> MetricCollection:
    """Create metrics for training: top-1, top-5 (with more than five classes) and mean class accuracy."""
    metrics: dict[str, Metric | MetricCollection] = {
        "top1": MulticlassAccuracy(classes, average="micro"),
        "mean_class": MulticlassAccuracy(classes, average="macro"),
    }
    if classes > TOP:
        metrics["top5"] = MulticlassAccuracy(classes, top_k=TOP, average="micro")
    # in a compute group, top-5 would share the state of top-1 if both are equal after the first batch
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)


# confidence intervals and baselines ------------------------------------------------------------------------------


class Reference(NamedTuple):
    """Confidence interval and baseline of an accuracy.

    Attributes:
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        majority: accuracy of always predicting the most frequent class; for top-5, the five most frequent ones.
    """

    low: float
    high: float
    majority: float


def majority_key(key: str) -> str:
    """Return the name of an accuracy's majority-class baseline."""
    return "majority_class" if key == "top1" else f"{key}_majority_class"


def references(
    metrics: Mapping[str, float], labels: Tensor, heads: Mapping[str, int] | None = None
) -> dict[str, Reference]:
    """Return the interval and baseline of each accuracy in ``metrics``.

    In ``mean_class``, classes have equal weight and videos do not. Its interval uses Kish's effective number of videos,
    which equals the number of videos if all classes have the same size.

    Args:
        metrics: values by name; those that are not accuracies are skipped.
        labels: labels of the scored videos, ``(N,)`` or ``(N, heads)``.
        heads: names and class counts, if there are several classifiers.
    """
    names = list(heads or {})
    result = {}
    for key, value in metrics.items():
        head, kind = ("", key) if key == "mean_class" else key.rpartition("_")[::2]
        if kind not in ("top1", "top5", "mean_class"):
            continue
        column = labels[:, names.index(head)] if head in names else labels
        counts = column.unique(dim=0, return_counts=True)[1].double().sort(descending=True).values
        if kind == "mean_class":
            count, majority = len(counts) ** 2 / float((1 / counts).sum()), 1 / len(counts)
        else:
            count, majority = len(labels), float(counts[: int(kind.removeprefix("top"))].sum()) / len(labels)
        result[key] = Reference(*wilson_interval(value, count), majority)
    return result


def wilson_interval(share: float, count: float, z: float = Z95) -> tuple[float, float]:
    """Return Wilson's score interval of the proportion ``share`` of ``count`` videos.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc. 22 (1927),
    209-212.
    """
    center = share + z**2 / (2 * count)
    margin = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max((center - margin) / scale, 0.0), min((center + margin) / scale, 1.0)
