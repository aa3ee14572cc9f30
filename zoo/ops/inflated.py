"""Image convolutions inflated over frames: I3D 3x1x1, arXiv 1711.07971, section 5.1."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from zoo.errors import check_odd
from zoo.ops.conv3d import Conv3d, conv3d
from zoo.ops.conv_unit import TemporalConvBN
from zoo.ops.frames import fold_frames, inflate, unfold_frames
from zoo.ops.operator import BlockModules, BlockPosition, Operator, register_operator
from zoo.ops.stand_in import StandIn, pad_frames, replace_conv


class InflatedConv2d(Conv3d):
    """A 2D convolution inflated to ``frames`` frames, on folded frames; ``inflate`` converts the 2D kernel."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        frames: int = 3,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        check_odd("frames", frames)
        super().__init__(
            in_channels,
            out_channels,
            (frames, kernel_size, kernel_size),
            (1, stride, stride),
            (frames // 2, padding, padding),
            groups=groups,
            bias=bias,
        )
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        return fold_frames(super().forward(unfold_frames(x, num_frames)))


def _conv_bn(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> TemporalConvBN:
    conv = InflatedConv2d(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2)
    return TemporalConvBN(conv, out_channels)


class InflatedStandIn(StandIn, nn.Conv2d):
    """The host's convolution inflated to ``frames`` frames; ``weight`` is ``(O, I, frames, kh, kw)``."""

    def __init__(self, *shape: Any, frames: int = 3, **conv: Any) -> None:
        check_odd("frames", frames)
        super().__init__(*shape, **conv)
        self.frames = frames

    def adopt(self, conv: nn.Conv2d) -> None:
        """Use the parameters of the replaced convolution, with the kernel inflated evenly over the frames."""
        self.weight = nn.Parameter(inflate(conv.weight.detach(), self.frames), conv.weight.requires_grad)
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        x, padding = pad_frames(self, x)  # time is always padded with zeros
        y = conv3d(
            unfold_frames(x, self.num_frames),
            self.weight,
            self.bias,
            (1, *self.stride),
            (self.frames // 2, *padding),
            (1, *self.dilation),
            self.groups,
        )
        return fold_frames(y)


def _block(position: BlockPosition) -> BlockModules:
    return BlockModules(first_conv=_conv_bn)


register_operator(Operator("i3d", block=_block, stand_in=functools.partial(replace_conv, InflatedStandIn)))
