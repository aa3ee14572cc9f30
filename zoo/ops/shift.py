"""TSM: a shift of some channels in time, which is a temporal convolution with fixed taps.

Source: "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, arXiv 1811.08383, section 3.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, check_counts
from zoo.ops.frames import check_frames, compiles_for_cpu, neighbor_frames
from zoo.ops.operator import BlockModules, BlockPosition, Operator, register_operator
from zoo.ops.stand_in import insert_before


def check_divisor(divisor: int) -> None:
    """Raise a ConfigError unless ``divisor`` is an integer of at least 2."""
    if not isinstance(divisor, int) or divisor < 2:
        raise ConfigError(
            f"divisor is {divisor!r}; it must be at least 2, since two parts of the channels are shifted."
        )


class TemporalShift(nn.Module):
    """Shift a fraction of the channels by one frame in each direction, with zero padding.

    The first ``C // divisor`` channels come from the next frame, the next ``C // divisor`` from the previous frame, and
    the others are unchanged.

    Args:
        divisor: 8 in the paper: 1/8 of the channels in each direction.
    """

    def __init__(self, divisor: int = 8) -> None:
        super().__init__()
        check_divisor(divisor)
        self.divisor = divisor

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        check_frames(x, num_frames)
        fold = x.shape[1] // self.divisor
        if compiles_for_cpu(x):
            return _shift_folded(x, fold, num_frames)
        frames = x.unflatten(0, (-1, num_frames))  # (B, T, C, H, W)
        if frames.requires_grad and torch.is_grad_enabled():
            return _ChannelShift.apply(frames, fold, 1).flatten(0, 1)
        return _shift_channels(frames, fold, 1).flatten(0, 1)

    def extra_repr(self) -> str:
        """Arguments shown by ``print``."""
        return f"divisor={self.divisor}"


def _shift_channels(frames: Tensor, fold: int, step: int) -> Tensor:
    """Take the first ``fold`` channels of frame t from frame t + step, and the next ``fold`` from t - step."""
    shifted = frames.clone()
    for channels, offset in ((slice(0, fold), step), (slice(fold, 2 * fold), -step)):
        source, target = frames[:, :, channels], shifted[:, :, channels]
        if offset > 0:
            target[:, :-1] = source[:, 1:]
            target[:, -1] = 0
        else:
            target[:, 1:] = source[:, :-1]
            target[:, 0] = 0
    return shifted


def _shift_folded(x: Tensor, fold: int, num_frames: int) -> Tensor:
    """``_shift_channels`` of folded frames by one step, for compilers."""
    following, previous = (neighbor_frames(x, num_frames, offset) for offset in (1, -1))
    channel = torch.arange(x.shape[1], device=x.device)[:, None, None]
    return torch.where(channel < fold, following, torch.where(channel < 2 * fold, previous, x))


class _ChannelShift(torch.autograd.Function):
    """``_shift_channels``, whose gradient is the shift in the other direction.

    Autograd would fill and add a gradient of the size of the clip for every slice that is read or written.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor, fold: int, step: int) -> Tensor:
        ctx.fold, ctx.step = fold, step
        return _shift_channels(frames, fold, step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _ChannelShift.apply(grad, ctx.fold, -ctx.step), None, None


def shift_kernel(channels: int, divisor: int = 8) -> Tensor:
    """Return the shift as a depthwise temporal kernel ``(C, 1, 3)``, to initialize a learned kernel."""
    kernel, fold = torch.zeros(channels, 1, 3), channels // divisor
    kernel[:fold, :, 2] = 1
    kernel[fold : 2 * fold, :, 0] = 1
    kernel[2 * fold :, :, 1] = 1
    return kernel


def _block(position: BlockPosition, every: int = 1, **options: Any) -> BlockModules:
    check_counts(every=every)
    if position.index % every:  # the published ResNet-101 shifts in every second block
        return BlockModules()
    return BlockModules(temporal=lambda channels: TemporalShift(**options), position="before_conv1")


def _shift(channels: int, num_frames: int, **options: Any) -> TemporalShift:
    return TemporalShift(**options)


register_operator(
    Operator("tsm", block=_block, stand_in=functools.partial(insert_before, _shift), classifier_std=0.001)
)
