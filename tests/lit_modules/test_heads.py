"""Loss and metrics of several classifiers, compared with their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lit_modules.heads import heads_loss, heads_metrics
from zoo.errors import ConfigError
from zoo.inference.scores import heads_scores, split_heads

EPIC = {"verb": 97, "noun": 300}  # verb and noun classes, README of epic-kitchens-100-annotations
SIZES = list(EPIC.values())


def random_batch(videos: int, heads: dict[str, int] = EPIC, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random logits (videos, classes of all heads) and labels (videos, heads)."""
    logits = torch.randn(videos, sum(heads.values())) * scale
    return logits, torch.stack([torch.randint(size, (videos,)) for size in heads.values()], 1)


def test_one_classifier_equals_cross_entropy_and_softmax() -> None:
    logits, labels = random_batch(16, {"x": 7})
    for smoothing in (0.0, 0.1):
        plain = F.cross_entropy(logits, labels[:, 0], label_smoothing=smoothing)
        assert torch.equal(heads_loss(logits, labels[:, 0], [7], label_smoothing=smoothing), plain)
        assert torch.equal(heads_loss(logits, labels, [7], label_smoothing=smoothing), plain)
    assert torch.equal(heads_scores(logits, [7]), logits.softmax(-1))
    mixed = torch.rand(16, 7).softmax(-1)  # label probabilities, as from MixUp
    assert torch.equal(heads_loss(logits, mixed, [7]), F.cross_entropy(logits, mixed))
    metrics = heads_metrics(logits.softmax(-1), labels[:, 0], {"x": 7})
    assert list(metrics) == ["x_top1", "x_top5"]
    assert metrics["x_top1"] == (logits.argmax(1) == labels[:, 0]).double().mean()


def test_losses_are_summed_and_each_classifier_has_probabilities() -> None:
    logits, labels = random_batch(8)
    logits.requires_grad_()
    verb, noun = logits[:, :97], logits[:, 97:]
    loss = heads_loss(logits, labels, SIZES, label_smoothing=0.2)
    expected = F.cross_entropy(verb, labels[:, 0], label_smoothing=0.2)
    expected = expected + F.cross_entropy(noun, labels[:, 1], label_smoothing=0.2)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0])
    one_hot = torch.cat([F.one_hot(labels[:, 0], 97), F.one_hot(labels[:, 1], 300)], 1).float()
    torch.testing.assert_close(heads_loss(logits, one_hot, SIZES), heads_loss(logits, labels, SIZES))
    scores = heads_scores(logits, SIZES)
    assert torch.equal(scores[:, 97:], noun.softmax(-1))
    torch.testing.assert_close(scores.sum(1), torch.full((8,), 2.0))
    assert [part.shape[1] for part in split_heads(logits, SIZES)] == SIZES
    with pytest.raises(ConfigError, match="400 outputs cannot be split into classifiers of 97, 300 classes"):
        split_heads(torch.zeros(2, 400), SIZES)


def reference_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Rank all 29,100 pairs of a video by the product of their scores."""
    hits: dict[str, list[bool]] = {}
    for row, (verb, noun) in zip(scores.astype(np.float64), labels, strict=True):
        verbs, nouns = row[:97], row[97:]
        scores_by_name = {"verb": verbs, "noun": nouns, "action": np.outer(verbs, nouns).ravel()}
        for name, label in (("verb", verb), ("noun", noun), ("action", verb * 300 + noun)):
            rank = int((scores_by_name[name] > scores_by_name[name][label]).sum())
            for k in (1, 5):
                hits.setdefault(f"{name}_top{k}", []).append(rank < k)
    return {name: float(np.mean(values)) for name, values in hits.items()}


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])  # from nearly uniform scores to nearly one-hot scores
def test_metrics_equal_those_of_all_ranked_pairs(scale: float) -> None:
    logits, labels = random_batch(240, scale=scale)
    for column, head_logits in enumerate(split_heads(logits, SIZES)):
        ranked = head_logits.argsort(1, descending=True)
        one_of_first_three = ranked[torch.arange(240), torch.randint(3, (240,))]
        labels[:, column] = torch.where(torch.rand(240) < 0.8, one_of_first_three, labels[:, column])
    scores = torch.cat([head_logits.double().softmax(-1) for head_logits in split_heads(logits, SIZES)], 1)
    metrics = heads_metrics(scores, labels, EPIC)
    assert list(metrics) == [f"{name}_top{k}" for name in ("verb", "noun", "action") for k in (1, 5)]
    assert metrics == pytest.approx(reference_metrics(scores.numpy(), labels.numpy()))
    assert 0.03 < metrics["action_top1"] < metrics["action_top5"] < 0.9


def test_action_is_correct_if_both_labels_are_and_ranked_by_the_product() -> None:
    scores = torch.full((5, 397), 1e-6)
    scores[:, :3] = torch.tensor([0.5, 0.3, 0.1])
    scores[:, 97:100] = torch.tensor([0.6, 0.2, 0.19])
    scores[:, 2] = 0.09
    # products: .3 (0, 0), .18 (1, 0), .1 (0, 1), .095 (0, 2), .06 (1, 1), .057 (1, 2), .054 (2, 0)
    labels = torch.tensor([[0, 0], [1, 0], [0, 2], [1, 1], [2, 0]])
    metrics = heads_metrics(scores, labels, EPIC)
    assert metrics == pytest.approx({
        "verb_top1": 0.4, "verb_top5": 1.0, "noun_top1": 0.6, "noun_top5": 1.0, "action_top1": 0.2, "action_top5": 0.8,
    })  # fmt: skip


def test_three_small_classifiers() -> None:
    heads = {"a": 2, "b": 3, "c": 4}
    logits, labels = random_batch(50, heads)
    metrics = heads_metrics(heads_scores(logits, [2, 3, 4]), labels, heads)
    parts = split_heads(logits, [2, 3, 4])
    correct = torch.stack([part.argmax(1) == label for part, label in zip(parts, labels.T, strict=True)])
    assert metrics["action_top1"] == pytest.approx(float(correct.all(0).double().mean()))
    assert [key for key in metrics if "top5" in key] == ["action_top5"]  # 24 actions, but at most four classes
