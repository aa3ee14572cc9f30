"""Training losses of one classifier, for videos with one label or several."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.recipe_options import CROSS_ENTROPY, LossOptions


def classification_loss(
    logits: Tensor,
    targets: Tensor,
    options: LossOptions = CROSS_ENTROPY,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean loss of a batch, a scalar.

    Weights multiply the loss of each clip. The sum is divided by the number of clips, so that a batch of rare classes
    has a larger loss (``F.cross_entropy`` divides by the sum of the weights instead).

    Args:
        logits: ``(B, classes)``.
        targets: class numbers, int64 ``(B,)``, or probabilities ``(B, classes)``.
        options: kind of the loss.
        label_smoothing: share of the probability that is distributed evenly over all classes.
        class_weights: weight of each class, ``(classes,)``.
    """
    if options.name == "cross_entropy" and class_weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    classes = logits.shape[1]
    if not targets.is_floating_point():
        targets = F.one_hot(targets, classes).to(logits.dtype)
    targets = targets * (1 - label_smoothing) + label_smoothing / classes
    log_probabilities = logits.log_softmax(1)
    terms = -targets * log_probabilities
    if class_weights is not None:
        terms = terms * class_weights
    if options.name == "focal":  # T. Lin et al., "Focal loss for dense object detection", ICCV 2017
        terms = terms * (1 - log_probabilities.exp()).clamp_min(1e-12) ** options.gamma  # pow(0) has infinite gradients
    return terms.sum(1).mean()


def multi_label_loss(
    logits: Tensor,
    targets: Tensor,
    options: LossOptions = CROSS_ENTROPY,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean binary loss of the classes of a batch, a scalar.

    Args:
        logits: ``(B, classes)``.
        targets: 1 for the classes of a clip, 0 for the others, or values between them for mixed clips,
            ``(B, classes)``.
        options: kind of the loss.
        label_smoothing: moves the targets towards 1/2 by this share of the distance.
        class_weights: weight of each class, ``(classes,)``.
    """
    targets = targets.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    present, absent = F.logsigmoid(logits), F.logsigmoid(-logits)  # logarithms of the two probabilities
    if options.name == "focal":
        present = present * _sigmoid(-logits) ** options.gamma
        absent = absent * _sigmoid(logits) ** options.gamma
    elif options.name == "asymmetric":  # T. Ridnik et al., "Asymmetric loss for multi-label classification", ICCV 2021
        shifted = (_sigmoid(logits) - options.margin).clamp_min(0)
        present = present * _sigmoid(-logits)
        absent = torch.log1p(-shifted.clamp_max(1 - 1e-7)) * shifted.clamp_min(1e-12) ** options.negative_gamma
    terms = -(targets * present + (1 - targets) * absent)
    return (terms if class_weights is None else terms * class_weights).mean()


def _sigmoid(logits: Tensor) -> Tensor:
    """Return sigmoids that are never 0, where powers below 1 have an infinite gradient."""
    return logits.sigmoid().clamp_min(1e-12)
