"""MixUp and CutMix of clips: equal mixing of all frames, mixed labels, and a training step."""

from __future__ import annotations

import pytest
import torch

from lit_modules import VideoClassifier
from lit_modules.mixing import Mixing
from lit_modules.recipe_options import RegularizationOptions
from zoo.errors import ConfigError


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return four clips of four classes. All pixels of clip n have the value n + 1."""
    return torch.arange(1.0, 5.0)[:, None, None, None, None].expand(4, 3, 5, 16, 16).clone(), torch.arange(4)


def test_mixup_mixes_clips_and_labels_by_the_same_weights() -> None:
    clips, labels = batch()
    mixed, mixed_labels = Mixing(0.8, 0.0, [4])(clips, labels)
    assert (mixed.shape, mixed_labels.shape, type(mixed)) == (clips.shape, (4, 4), torch.Tensor)
    torch.testing.assert_close(mixed_labels.sum(1), torch.ones(4))
    torch.testing.assert_close(mixed[:, 0, 0, 0, 0], mixed_labels @ torch.arange(1.0, 5.0))
    assert torch.equal(mixed, mixed[:, :1, :1, :1, :1].expand_as(mixed))


def test_cutmix_boxes_are_equal_in_all_frames_and_weighted_by_area() -> None:
    clips, labels = batch()
    for seed in range(5):
        torch.manual_seed(seed)
        mixed, mixed_labels = Mixing(0.0, 1.0, [4])(clips, labels)
        assert torch.equal(mixed, mixed[:, :1, :1].expand_as(mixed))
        torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), mixed_labels @ torch.arange(1.0, 5.0))


def test_mixing_without_mixup_and_cutmix_changes_nothing() -> None:
    clips, labels = batch()
    assert Mixing(0.0, 0.0, [4])(clips, labels) == (clips, labels)


def test_mixup_and_cutmix_alternate_at_random() -> None:
    clips, labels = batch()
    mixing = Mixing(0.8, 1.0, [4])
    cut_batches = 0
    for seed in range(40):
        torch.manual_seed(seed)
        mixed, _ = mixing(clips, labels)
        cut_batches += bool((mixed == mixed.round()).all())  # CutMix copies pixels, so that values remain integers
    assert 8 < cut_batches < 32


def test_invalid_mixing_is_refused() -> None:
    with pytest.raises(ConfigError, match="mixup is -1; it must be at least 0"):
        Mixing(-1, 0, [4])
    options = {"width": 8}
    mixup = {"mixup": 0.8}
    with pytest.raises(ConfigError, match="not several heads"):
        VideoClassifier("c2d_r18", num_classes=4, heads={"a": 2, "b": 2}, options=options, regularization=mixup)
    with pytest.raises(ConfigError, match="give two or more classifiers"):
        VideoClassifier("c2d_r18", num_classes=4, heads={"a": 4}, options=options)


def test_training_step_uses_mixed_clips() -> None:
    options = {"width": 8, "drop_rate": 0.0}
    regularization = RegularizationOptions(mixup=0.8, label_smoothing=0.1)
    module = VideoClassifier("c2d_r18", num_classes=4, num_frames=5, options=options, regularization=regularization)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    clips, labels = batch()
    torch.manual_seed(3)
    loss = module.training_step({"video": clips, "label": labels}, 0)
    torch.manual_seed(3)
    mixed, mixed_labels = Mixing(0.8, 0.0, [4])(clips, labels)
    expected = torch.nn.functional.cross_entropy(module(mixed), mixed_labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
    assert not any(metric.update_called for metric in module.train_metrics.values())
