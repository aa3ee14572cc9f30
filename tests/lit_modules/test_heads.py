"""Several classifiers side by side, against the definitions written out."""

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


def some(videos: int, heads: dict[str, int] = EPIC, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(videos, sum(heads.values())) * scale
    return logits, torch.stack([torch.randint(size, (videos,)) for size in heads.values()], 1)


def test_one_classifier_is_the_plain_case() -> None:
    logits, labels = some(16, {"x": 7})
    for smoothing in (0.0, 0.1):
        plain = F.cross_entropy(logits, labels[:, 0], label_smoothing=smoothing)
        assert torch.equal(heads_loss(logits, labels[:, 0], [7], smoothing), plain)
        assert torch.equal(heads_loss(logits, labels, [7], smoothing), plain)
    assert torch.equal(heads_scores(logits, [7]), logits.softmax(-1))
    mixed = torch.rand(16, 7).softmax(-1)  # as of Mixup
    assert torch.equal(heads_loss(logits, mixed, [7]), F.cross_entropy(logits, mixed))
    measured = heads_metrics(logits.softmax(-1), labels[:, 0], {"x": 7})
    assert list(measured) == ["x_top1", "x_top5"]
    assert measured["x_top1"] == (logits.argmax(1) == labels[:, 0]).double().mean()


def test_losses_add_up_and_scores_are_probabilities_of_each() -> None:
    logits, labels = some(8)
    logits.requires_grad_()
    verb, noun = logits[:, :97], logits[:, 97:]
    loss = heads_loss(logits, labels, SIZES, 0.2)
    wanted = F.cross_entropy(verb, labels[:, 0], label_smoothing=0.2)
    wanted = wanted + F.cross_entropy(noun, labels[:, 1], label_smoothing=0.2)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(wanted, logits)[0])
    hot = torch.cat([F.one_hot(labels[:, 0], 97), F.one_hot(labels[:, 1], 300)], 1).float()
    torch.testing.assert_close(heads_loss(logits, hot, SIZES), heads_loss(logits, labels, SIZES))
    scores = heads_scores(logits, SIZES)
    assert torch.equal(scores[:, 97:], noun.softmax(-1))
    torch.testing.assert_close(scores.sum(1), torch.full((8,), 2.0))
    assert [x.shape[1] for x in split_heads(logits, SIZES)] == SIZES
    with pytest.raises(ConfigError, match="400 outputs cannot be split into classifiers of 97, 300 classes"):
        split_heads(torch.zeros(2, 400), SIZES)


def written_out(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All 29 100 pairs of a video, ranked by their product."""
    found: dict[str, list[bool]] = {}
    for row, (verb, noun) in zip(scores.astype(np.float64), labels, strict=True):
        verbs, nouns = row[:97], row[97:]
        ranked = {"verb": verbs, "noun": nouns, "action": np.outer(verbs, nouns).ravel()}
        for name, right in (("verb", verb), ("noun", noun), ("action", verb * 300 + noun)):
            place = int((ranked[name] > ranked[name][right]).sum())
            for k in (1, 5):
                found.setdefault(f"{name}_top{k}", []).append(place < k)
    return {name: float(np.mean(hits)) for name, hits in found.items()}


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])  # unsure, usual, and so sure that the rest is nearly 0
def test_accuracies_are_those_of_all_pairs(scale: float) -> None:
    logits, labels = some(240, scale=scale)
    for column, (head, start) in enumerate(((97, 0), (300, 97))):  # most labels rank first to third
        ranks = logits[:, start : start + head].argsort(1, descending=True)
        near = ranks[torch.arange(240), torch.randint(3, (240,))]
        labels[:, column] = torch.where(torch.rand(240) < 0.8, near, labels[:, column])
    scores = torch.cat([x.double().softmax(-1) for x in split_heads(logits, SIZES)], 1)
    measured = heads_metrics(scores, labels, EPIC)
    assert list(measured) == [f"{name}_top{k}" for name in ("verb", "noun", "action") for k in (1, 5)]
    assert measured == pytest.approx(written_out(scores.numpy(), labels.numpy()))
    assert 0.03 < measured["action_top1"] < measured["action_top5"] < 0.9


def test_an_action_needs_both_and_its_fifth_best_pair_counts() -> None:
    scores = torch.full((5, 397), 1e-6)
    scores[:, :3] = torch.tensor([0.5, 0.3, 0.1])
    scores[:, 97:100] = torch.tensor([0.6, 0.2, 0.19])
    scores[:, 2] = 0.09
    # products: .3 (0, 0), .18 (1, 0), .1 (0, 1), .095 (0, 2), .06 (1, 1), .057 (1, 2), .054 (2, 0)
    labels = torch.tensor([[0, 0], [1, 0], [0, 2], [1, 1], [2, 0]])
    measured = heads_metrics(scores, labels, EPIC)
    assert measured == pytest.approx({
        "verb_top1": 0.4, "verb_top5": 1.0, "noun_top1": 0.6, "noun_top5": 1.0, "action_top1": 0.2, "action_top5": 0.8,
    })  # fmt: skip


def test_small_classifiers_and_more_than_two() -> None:
    heads = {"a": 2, "b": 3, "c": 4}
    logits, labels = some(50, heads)
    measured = heads_metrics(heads_scores(logits, [2, 3, 4]), labels, heads)
    all_right = torch.stack([x.argmax(1) == y for x, y in zip(split_heads(logits, [2, 3, 4]), labels.T, strict=True)])
    assert measured["action_top1"] == pytest.approx(float(all_right.all(0).double().mean()))
    assert [key for key in measured if "top5" in key] == ["action_top5"]  # of 24 pairs, but of at most four classes
