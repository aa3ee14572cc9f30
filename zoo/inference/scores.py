"""Logits of a video's views -> its scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.protocol import Protocol


def split_heads(logits: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Outputs ``(..., sum of sizes)`` -> those of each classifier, ``(..., size)``.

    Raises:
        ConfigError: the number of outputs differs from the number of classes.
    """
    if logits.shape[-1] != sum(sizes):
        raise ConfigError(
            f"{logits.shape[-1]} outputs cannot be split into classifiers of {', '.join(map(str, sizes))} classes; "
            f"build the network with num_classes={sum(sizes)}."
        )
    return list(logits.split(list(sizes), dim=-1))


def heads_scores(logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Probabilities ``(..., sum of sizes)``; those of each classifier add up to 1."""
    return torch.cat([output.softmax(-1) for output in split_heads(logits, sizes)], dim=-1)


def average_views(logits: Tensor, protocol: Protocol) -> Tensor:
    """Logits of views ``(..., V, classes)`` -> probabilities ``(..., classes)``.

    The logits of each view are divided by the temperature. Probabilities or logits are averaged over the views,
    depending on the protocol's ``average``. With ``multi_label``, the probabilities of the classes are independent.
    """
    logits = logits.float()
    if protocol.temperature != 1:
        logits = logits / protocol.temperature
    if protocol.multi_label:
        return logits.sigmoid().mean(-2) if protocol.average == "prob" else logits.mean(-2).sigmoid()
    sizes = [size for _, size in protocol.heads] or [logits.shape[-1]]
    if protocol.average == "prob":
        return heads_scores(logits, sizes).mean(-2)
    return heads_scores(logits.mean(-2), sizes)
