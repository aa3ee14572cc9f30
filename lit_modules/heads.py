"""Several classifiers side by side, such as verb and noun: their loss, scores and metrics.

The network has one linear layer. Its outputs ``(B, 97 + 300)`` are those of the first classifier, then those of the
next. With one classifier, all functions here reduce to cross-entropy and softmax.

An action is a combination of one class of each classifier: a verb with a noun. The action recognition challenge of
EPIC-KITCHENS-100 scores an action by the product of the two probabilities, over all pairs, and counts it as correct if
both are correct (github.com/epic-kitchens/C1-Action-Recognition: compute_action_scores in utils/scoring.py,
compute_metrics in utils/metrics.py). Its script applies softmax to its input. With logits, or logarithms of the scores
here, it ranks the pairs as ``heads_metrics`` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_modules.losses import classification_loss
from lit_modules.recipe_options import CROSS_ENTROPY, LossOptions
from zoo.inference.scores import split_heads


def heads_loss(
    logits: Tensor,
    labels: Tensor,
    sizes: Sequence[int],
    options: LossOptions = CROSS_ENTROPY,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the sum of the classifiers' losses, a scalar.

    The published TAdaConv code adds them; the baselines of the challenge use their mean.

    Args:
        logits: ``(B, sum of sizes)``.
        labels: int64 ``(B, heads)``, or ``(B,)`` for one classifier; or probabilities in the layout of the logits.
        sizes: class counts of the classifiers.
        options: kind of the loss.
        label_smoothing: label smoothing of each loss.
        class_weights: weights of the classes of a single classifier, or None.
    """
    outputs = split_heads(logits, sizes)
    if labels.is_floating_point():
        targets = split_heads(labels, sizes)
    else:
        targets = list(labels.reshape(len(labels), len(sizes)).unbind(1))
    losses = [
        classification_loss(output, target, options, label_smoothing, class_weights)
        for output, target in zip(outputs, targets, strict=True)
    ]
    return torch.stack(losses).sum() if len(losses) > 1 else losses[0]


def heads_metrics(scores: Tensor, labels: Tensor, heads: dict[str, int]) -> dict[str, float]:
    """Return accuracies from 0 to 1: ``verb_top1``, ``verb_top5``, ..., ``action_top1``, ``action_top5``.

    Top-5 is omitted for five classes or fewer, where it is always 1.

    The k best pairs consist of the k best verbs and the k best nouns: if the verb of a pair is not among the k best,
    each of these k verbs scores at least as much with the same noun; the same holds for nouns. So 25 pairs are ranked
    instead of 29 100, with the same result. The order of equal scores is not defined.

    Args:
        scores: probabilities ``(N, sum of class counts)`` from ``heads_scores``, averaged over views.
        labels: int64 ``(N, heads)``, or ``(N,)`` for one classifier.
        heads: name -> class count, in the order of the scores. With one classifier there are no actions.
    """
    labels = labels.reshape(len(labels), len(heads))
    metrics: dict[str, float] = {}
    # in double precision, because products of small probabilities would underflow to 0 and tie
    pairs = scores.new_ones(len(scores), 1, dtype=torch.float64)
    correct = labels.new_ones(len(scores), 1).bool()
    for (name, size), part, label in zip(
        heads.items(), split_heads(scores, list(heads.values())), labels.unbind(1), strict=True
    ):
        best, classes = part.double().topk(min(5, size))  # (N, k), best first
        hits = classes == label[:, None]
        metrics |= _top_metrics(name, hits, size)
        pairs = (pairs[:, :, None] * best[:, None]).flatten(1)
        correct = (correct[:, :, None] & hits[:, None]).flatten(1)
    if len(heads) > 1:
        order = pairs.topk(min(5, pairs.shape[1])).indices
        metrics |= _top_metrics("action", correct.gather(1, order), math.prod(heads.values()))
    return metrics


def _top_metrics(name: str, hits: Tensor, classes: int) -> dict[str, float]:
    """Return top-1 and, with more than five classes, top-5 accuracy.

    Args:
        name: prefix of the metrics.
        hits: ``(N, k)``, whether the first, second, ... best class is the label.
        classes: number of classes.
    """
    metrics = {f"{name}_top1": float(hits[:, 0].double().mean())}
    if classes > 5:
        metrics[f"{name}_top5"] = float(hits.any(1).double().mean())
    return metrics
