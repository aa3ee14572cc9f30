"""Several classifiers side by side, such as verb and noun: their loss, their scores, and what is measured of both.

A network has one linear layer; its outputs ``(B, 97 + 300)`` are those of the first classifier, then those of the next.
With one classifier everything here is plain cross-entropy and softmax.

An action is one class of each: a verb with a noun. The action recognition challenge of EPIC-KITCHENS-100 scores it by
the product of the two probabilities, over all pairs, and calls it right when both are right
(github.com/epic-kitchens/C1-Action-Recognition: compute_action_scores in utils/scoring.py, compute_metrics in
utils/metrics.py). Its script takes the softmax of what it is given, so give it logits, or logarithms of the scores
here: it then ranks the pairs as ``heads_measured`` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError


def split_heads(logits: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Outputs ``(B, sum of sizes)`` -> those of each classifier, ``(B, size)``.

    Raises:
        ConfigError: there are more or fewer outputs than the classifiers have classes.
    """
    if logits.shape[-1] != sum(sizes):
        raise ConfigError(
            f"{logits.shape[-1]} outputs cannot be split into classifiers of {', '.join(map(str, sizes))} classes; "
            "build the network for as many outputs as they have classes together."
        )
    return list(logits.split(list(sizes), dim=-1))


def heads_loss(logits: Tensor, labels: Tensor, sizes: Sequence[int], label_smoothing: float = 0.0) -> Tensor:
    """The sum of the classifiers' cross-entropies, a scalar.

    The published TAdaConv code adds them up; the baselines of the challenge take their mean, half as much for two.

    Args:
        logits: ``(B, sum of sizes)``.
        labels: int64 ``(B, heads)``, or ``(B,)`` for one classifier; or probabilities, laid out as the logits.
    """
    outputs = split_heads(logits, sizes)
    if labels.is_floating_point():
        wanted = split_heads(labels, sizes)
    else:
        wanted = list(labels.reshape(len(labels), len(sizes)).unbind(1))
    losses = [F.cross_entropy(*pair, label_smoothing=label_smoothing) for pair in zip(outputs, wanted, strict=True)]
    return torch.stack(losses).sum() if len(losses) > 1 else losses[0]


def heads_scores(logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Probabilities ``(B, sum of sizes)``; those of each classifier add up to 1."""
    return torch.cat([output.softmax(-1) for output in split_heads(logits, sizes)], dim=-1)


def heads_measured(scores: Tensor, labels: Tensor, heads: dict[str, int]) -> dict[str, float]:
    """Accuracies over videos, from 0 to 1: ``verb_top1``, ``verb_top5``, ..., ``action_top1``, ``action_top5``; top-5
    only where there are more than five classes, as it is 1 otherwise.

    The k best pairs are all found among the k best verbs with the k best nouns: a pair whose verb is not among the k
    best has k verbs above it, and with each of them its noun scores at least as much; and so for its noun. So 25 pairs
    are looked at instead of 29 100, and the ranking is the same. Between equal scores the order is not defined.

    Args:
        scores: probabilities ``(N, sum of class counts)``, as of ``heads_scores``, views averaged.
        labels: int64 ``(N, heads)``, or ``(N,)`` for one classifier.
        heads: name -> class count, in the order of the scores. With one there is no action.
    """
    labels = labels.reshape(len(labels), len(heads))
    measured: dict[str, float] = {}
    # pairs of small probabilities would be 0 in single precision, and so alike
    pairs, right = scores.new_ones(len(scores), 1, dtype=torch.float64), labels.new_ones(len(scores), 1).bool()
    for (name, size), part, label in zip(
        heads.items(), split_heads(scores, list(heads.values())), labels.unbind(1), strict=True
    ):
        best, classes = part.double().topk(min(5, size))  # (N, k), best first
        hits = classes == label[:, None]
        measured |= _top(name, hits, size)
        pairs = (pairs[:, :, None] * best[:, None]).flatten(1)
        right = (right[:, :, None] & hits[:, None]).flatten(1)
    if len(heads) > 1:
        order = pairs.topk(min(5, pairs.shape[1])).indices
        measured |= _top("action", right.gather(1, order), math.prod(heads.values()))
    return measured


def _top(name: str, hits: Tensor, classes: int) -> dict[str, float]:
    """Accuracies of ``hits`` ``(N, k)``: whether the first, second, ... best is right. Top-5 of more than five only."""
    top1 = {f"{name}_top1": float(hits[:, 0].double().mean())}
    return top1 | ({f"{name}_top5": float(hits.any(1).double().mean())} if classes > 5 else {})
