"""Focal loss and class weights, compared with cross-entropy and with their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lit_modules import VideoClassifier
from lit_modules.losses import classification_loss
from lit_modules.recipe_options import LossOptions
from zoo.errors import ConfigError


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(16, 5).double() * 3, torch.randint(5, (16,))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_with_exponent_zero_is_cross_entropy(smoothing: float) -> None:
    logits, labels = batch()
    loss = classification_loss(logits, labels, LossOptions("focal", 0.0), smoothing)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, label_smoothing=smoothing))


def test_focal_loss_scales_each_term_by_the_remaining_probability() -> None:
    logits, labels = batch()
    true = logits.softmax(1)[torch.arange(16), labels]
    expected = -((1 - true) ** 2 * true.log()).mean()
    torch.testing.assert_close(classification_loss(logits, labels, LossOptions("focal")), expected)
    mixed = torch.rand(16, 5).double().softmax(1)  # as from MixUp
    one_hot = F.one_hot(labels, 5).double()
    torch.testing.assert_close(classification_loss(logits, one_hot, LossOptions("focal")), expected)
    assert classification_loss(logits, mixed, LossOptions("focal")) < F.cross_entropy(logits, mixed)


def test_focal_loss_has_finite_gradients_for_certain_predictions() -> None:
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]], requires_grad=True)
    classification_loss(logits, torch.tensor([0, 0]), LossOptions("focal", 0.5)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_multiply_the_loss_of_each_clip(smoothing: float) -> None:
    logits, labels = batch()
    weights = torch.rand(5).double() + 0.5
    terms = F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing, reduction="none")
    loss = classification_loss(logits, labels, label_smoothing=smoothing, class_weights=weights)
    torch.testing.assert_close(loss, terms.mean())


def test_invalid_options_of_the_loss_are_errors() -> None:
    network = {"options": {"width": 8}, "num_classes": 4, "num_frames": 4}
    with pytest.raises(ConfigError, match=r"loss\.gamma is -1; it must be at least 0"):
        VideoClassifier("tanet_r18", **network, loss={"gamma": -1})
    with pytest.raises(ConfigError, match=r"loss\.name is 'hinge'; choose from cross_entropy, focal"):
        VideoClassifier("tanet_r18", **network, loss={"name": "hinge"})
