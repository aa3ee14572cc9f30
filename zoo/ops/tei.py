"""TEI, temporal enhancement and interaction: a motion gate, then a depthwise temporal convolution.

Source: "TEINet: Toward an Efficient Architecture for Video Recognition", AAAI 2020, arXiv 1911.09435, section 3.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import check_counts
from zoo.ops.frames import depthwise_temporal_conv, spatial_mean
from zoo.ops.operator import BlockModules, BlockPosition, Operator, register_operator
from zoo.ops.shift import check_divisor, shift_kernel
from zoo.ops.stand_in import insert_before


class TEIModule(nn.Module):
    """Motion enhanced module (MEM), then temporal interaction module (TIM), on folded frames.

    MEM gates the channels of a frame by the difference between its descriptor and that of the next frame,
    ``x_t * sigmoid(U(V2 xbar_{t+1} - V1 xbar_t))``; the last frame is not gated. TIM is a depthwise convolution over
    three frames, initialized as the shift of TSM.

    Args:
        channels: C of the input.
        reduction: ratio of C to the hidden width of MEM.
        divisor: of the initial shift in TIM; see ``TemporalShift``.
    """

    def __init__(self, channels: int, reduction: int = 8, divisor: int = 8) -> None:
        super().__init__()
        check_counts(reduction=reduction)
        check_divisor(divisor)
        hidden = max(channels // reduction, 1)
        self.current = nn.Linear(channels, hidden)
        self.following = nn.Linear(channels, hidden)
        self.gate = nn.Linear(hidden, channels)
        self.kernel = nn.Parameter(shift_kernel(channels, divisor))

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        xbar = spatial_mean(x, num_frames).transpose(1, 2)  # (B, T, C)
        motion = self.following(xbar[:, 1:]) - self.current(xbar[:, :-1])
        gate = F.pad(torch.sigmoid(self.gate(motion)), (0, 0, 0, 1), value=1.0)  # (B, T, C)
        return depthwise_temporal_conv(x * gate.flatten(0, 1)[:, :, None, None], self.kernel, num_frames)


def _block(position: BlockPosition, **options: Any) -> BlockModules:
    return BlockModules(temporal=lambda channels: TEIModule(channels, **options))


def _module(channels: int, num_frames: int, **options: Any) -> TEIModule:
    return TEIModule(channels, **options)


register_operator(Operator("tei", block=_block, stand_in=functools.partial(insert_before, _module)))
