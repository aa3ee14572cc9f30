"""MixUp and CutMix of clips: all frames alike, labels by their shares, and a training step with them."""

from __future__ import annotations

import pytest
import torch

from lit_modules import VideoClassifier
from lit_modules.mixing import Mixing
from lit_modules.recipe_options import RegularizationOptions
from zoo.errors import ConfigError


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Four clips, each of one value in all frames, of four classes."""
    return torch.arange(1.0, 5.0)[:, None, None, None, None].expand(4, 3, 5, 16, 16).clone(), torch.arange(4)


def test_clips_are_mixed_in_the_shares_of_their_labels() -> None:
    clips, labels = batch()
    mixed, shares = Mixing(0.8, 0.0, [4])(clips, labels)
    assert (mixed.shape, shares.shape, type(mixed)) == (clips.shape, (4, 4), torch.Tensor)
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    torch.testing.assert_close(mixed[:, 0, 0, 0, 0], shares @ torch.arange(1.0, 5.0))
    assert torch.equal(mixed, mixed[:, :1, :1, :1, :1].expand_as(mixed))


def test_cut_boxes_are_the_same_in_every_frame_and_count_by_area() -> None:
    clips, labels = batch()
    for seed in range(5):
        torch.manual_seed(seed)
        mixed, shares = Mixing(0.0, 1.0, [4])(clips, labels)
        assert torch.equal(mixed, mixed[:, :1, :1].expand_as(mixed))
        torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), shares @ torch.arange(1.0, 5.0))


def test_either_of_both_and_neither_of_none() -> None:
    clips, labels = batch()
    assert Mixing(0.0, 0.0, [4])(clips, labels) == (clips, labels)
    both, cut = Mixing(0.8, 1.0, [4]), 0
    for seed in range(40):
        torch.manual_seed(seed)
        mixed, _ = both(clips, labels)
        cut += bool((mixed == mixed.round()).all())  # whole values only where boxes were cut
    assert 8 < cut < 32
    with pytest.raises(ConfigError, match="mixup is -1; it must be at least 0"):
        Mixing(-1, 0, [4])
    with pytest.raises(ConfigError, match="not several heads"):
        VideoClassifier(
            "c2d_r18", num_classes=4, heads={"a": 2, "b": 2}, options={"width": 8}, regularization={"mixup": 0.8}
        )
    with pytest.raises(ConfigError, match="give two or more classifiers"):
        VideoClassifier("c2d_r18", num_classes=4, heads={"a": 4}, options={"width": 8})


def test_a_training_step_takes_mixed_clips() -> None:
    options = {"width": 8, "dropout": 0.0}
    regularization = RegularizationOptions(mixup=0.8, label_smoothing=0.1)
    module = VideoClassifier("c2d_r18", num_classes=4, num_frames=5, options=options, regularization=regularization)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    clips, labels = batch()
    torch.manual_seed(3)
    loss = module.training_step({"video": clips, "label": labels}, 0)
    torch.manual_seed(3)
    mixed, shares = Mixing(0.8, 0.0, [4])(clips, labels)
    wanted = torch.nn.functional.cross_entropy(module(mixed), shares, label_smoothing=0.1)
    torch.testing.assert_close(loss, wanted)
    assert not any(metric.update_called for metric in module.train_metrics.values())
