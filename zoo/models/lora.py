"""Low-rank adapters (LoRA) for the linear layers of transformers.

Source: arXiv 2106.09685. A layer with frozen weights W computes with ``W + ALPHA / rank * B A``. Only A and B are
trained. B starts at zero, so that a new adapter does not change the network. Saved networks contain the sum.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.ops.linear import linear

if TYPE_CHECKING:
    from zoo.models.network import VideoNetwork

RANK, ALPHA = 8, 16.0
DOWN, UP = "lora_a", "lora_b"  # parameters A (rank, in_features) and B (out_features, rank)


class LowRankLinear(nn.Linear):
    """Linear layer with a low-rank adapter. It takes over the parameters of ``linear``; their keys do not change."""

    def __init__(self, linear: nn.Linear, rank: int = RANK) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as nn.Linear
        self.scale = ALPHA / rank

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        return linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)


def effective_weight(linear: nn.Linear) -> Tensor:
    """Return the weight of a linear layer, including its adapter if it has one."""
    if isinstance(linear, LowRankLinear):
        return linear.weight + linear.scale * linear.lora_b @ linear.lora_a
    return linear.weight


def add_adapters(network: VideoNetwork) -> None:
    """Add adapters to the linear layers that match ``network.lora_layers``, in place."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear) and re.fullmatch(network.lora_layers or "(?!)", name):
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, LowRankLinear(module))


def is_adapter(name: str) -> bool:
    """Whether a state-dict key is that of an adapter."""
    return name.endswith((f".{DOWN}", f".{UP}"))


def merge_adapters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a network with its adapters added to the weights, without the keys of the adapters.

    Adapters that do not fit their weights are returned as they are.
    """
    merged = dict(tensors)
    for down_key in [key for key in tensors if key.endswith(f".{DOWN}")]:
        layer = down_key.removesuffix(DOWN)
        down, up, weight = (tensors.get(f"{layer}{name}") for name in (DOWN, UP, "weight"))
        if up is None or weight is None or not _fits(tensors[down_key], up, weight):
            continue
        down = tensors[down_key].float()
        with torch.no_grad():
            total = weight.float() + ALPHA / len(down) * up.float() @ down
        merged[f"{layer}weight"] = total.to(weight.dtype)
        del merged[down_key], merged[f"{layer}{UP}"]
    return merged


def _fits(down: Tensor, up: Tensor, weight: Tensor) -> bool:
    if not all(tensor.ndim == 2 and tensor.is_floating_point() for tensor in (down, up, weight)):
        return False
    rank = len(down)
    return rank > 0 and up.shape == (weight.shape[0], rank) and down.shape == (rank, weight.shape[1])
