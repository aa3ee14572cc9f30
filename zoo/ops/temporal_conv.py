"""A convolution over neighboring frames that mixes channels: C2D-TConv of arXiv 2005.06803, table 2."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from zoo.errors import check_odd
from zoo.ops.conv3d import Conv3d
from zoo.ops.frames import fold_frames, unfold_frames
from zoo.ops.operator import BlockModules, BlockPosition, Operator, register_operator
from zoo.ops.stand_in import insert_before


class TemporalConv(nn.Module):
    """A convolution over ``kernel_size`` frames that mixes all channels, without bias, randomly initialized."""

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        check_odd("kernel_size", kernel_size)
        self.conv = Conv3d(channels, channels, (kernel_size, 1, 1), padding=(kernel_size // 2, 0, 0), bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        return fold_frames(self.conv(unfold_frames(x, num_frames)))


def _block(position: BlockPosition, **options: Any) -> BlockModules:
    return BlockModules(temporal=lambda channels: TemporalConv(channels, **options))


def _module(channels: int, num_frames: int, **options: Any) -> TemporalConv:
    return TemporalConv(channels, **options)


register_operator(Operator("tconv", block=_block, stand_in=functools.partial(insert_before, _module)))
