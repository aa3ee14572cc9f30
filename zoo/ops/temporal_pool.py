"""Average pooling over neighboring frames: C2D-Pool of arXiv 2005.06803, table 2."""

from __future__ import annotations

import functools
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import check_odd
from zoo.ops.frames import fold_frames, unfold_frames
from zoo.ops.operator import BlockModules, BlockPosition, Operator, register_operator
from zoo.ops.stand_in import insert_before


class TemporalPool(nn.Module):
    """Average pooling over ``kernel_size`` frames, stride 1; averages at the ends have fewer frames."""

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        check_odd("kernel_size", kernel_size)
        self.kernel_size = kernel_size

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        clip = unfold_frames(x, num_frames)
        rows = clip.flatten(3)  # (B, C, T, HW)
        y = F.avg_pool2d(rows, (self.kernel_size, 1), 1, (self.kernel_size // 2, 0), count_include_pad=False)
        return fold_frames(y.unflatten(3, clip.shape[3:]))


def _block(position: BlockPosition, **options: Any) -> BlockModules:
    return BlockModules(temporal=lambda channels: TemporalPool(**options))


def _module(channels: int, num_frames: int, **options: Any) -> TemporalPool:
    return TemporalPool(**options)


register_operator(Operator("pool", block=_block, stand_in=functools.partial(insert_before, _module)))
