"""Non-local block: attention between all positions of all frames.

Source: "Non-local Neural Networks", CVPR 2018, arXiv 1711.07971, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.ops.frames import fold_frames, unfold_frames
from zoo.ops.operator import BlockPosition

MODES = ("embedded_gaussian", "gaussian", "dot_product")


class NonLocal(nn.Module):
    """``x + BN(W(attention(x)))``; the norm starts at zero, so the block starts as the identity.

    Args:
        channels: C of the input.
        mode: similarity of two positions: softmax of ``theta . phi`` ("embedded_gaussian"), softmax of the features'
            own product ("gaussian"), or the product divided by the number of positions ("dot_product").
        subsample: max-pool keys and values over 2 x 2 positions.
    """

    def __init__(self, channels: int, mode: str = "embedded_gaussian", subsample: bool = True) -> None:
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"mode is {mode!r}; choose from {', '.join(MODES)}.")
        self.mode, self.subsample = mode, subsample
        inner = max(channels // 2, 1)
        self.theta = nn.Conv2d(channels, inner, 1) if mode != "gaussian" else None
        self.phi = nn.Conv2d(channels, inner, 1) if mode != "gaussian" else None
        self.g = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        # keys and values are pooled after their 1x1 convolutions, as published
        reduce = (lambda y: F.max_pool2d(y, 2)) if self.subsample and min(x.shape[2:]) > 1 else (lambda y: y)
        query = x if self.theta is None else self.theta(x)
        query, key, value = (
            unfold_frames(y, num_frames).flatten(2).transpose(1, 2)  # (B, positions, channels)
            for y in (query, reduce(x if self.phi is None else self.phi(x)), reduce(self.g(x)))
        )
        if self.mode == "dot_product":
            # no softmax between the two products, so the smaller one may come first
            y = query @ (key.transpose(1, 2) @ value) / key.shape[1]
        else:
            y = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        y = y.transpose(1, 2).unflatten(2, (num_frames, *x.shape[2:]))  # (B, inner, T, H, W)
        return x + self.bn(self.out(fold_frames(y)))


def non_local_at(
    position: BlockPosition, blocks: Sequence[Sequence[int]] | None = None, **options: Any
) -> Callable[[int], NonLocal] | None:
    """Return ``(channels) -> NonLocal`` for the block to append to this residual block, or None.

    Args:
        blocks: zero-based indices of the blocks in each of the four stages. Default: two blocks in res3 and three in
            res4, evenly spaced (arXiv 1711.07971, section 5.1); in a ResNet-18, where res4 has two blocks, both.
        options: options of NonLocal.
    """
    if blocks is None:
        count = {3: 2, 4: 3}.get(position.stage, 0)
        indices: Sequence[int] = [position.count * (k + 1) // count - 1 for k in range(count)]
    else:
        indices = blocks[position.stage - 2] if len(blocks) == 4 else [-1]
        if not all(isinstance(index, int) and 0 <= index < position.count for index in indices):
            raise ConfigError(
                f"non_local blocks is {blocks}; it must be four lists of block indices, in stage {position.stage} each "
                f"below {position.count}."
            )
    if position.index not in indices:
        return None
    return lambda channels: NonLocal(channels, **options)
