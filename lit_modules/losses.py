"""Training losses of one classifier."""

from __future__ import annotations

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
