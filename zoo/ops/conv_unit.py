"""Convolutions with batch norm and, for adaptive operators, temporal aggregation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.ops.average_norm import TemporalAverage, average_norm, can_inline, has_hooks
from zoo.ops.pointwise_norm import can_recompute, pointwise_norm
from zoo.ops.recompute import is_recomputable, load, record, save
from zoo.ops.temporal_filter import TemporalFilter


class ConvBN(nn.Module):
    """Convolution without bias, then batch norm, for every frame; no activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(N, C_in, H, W)`` -> ``(N, C_out, H', W')``."""
        if can_recompute(x, self.conv, self.bn):
            return pointwise_norm(x, self.conv, self.bn)
        return _batch_norm(_convolve(x, self.conv), self.bn)


def _batch_norm(y: Tensor, bn: nn.Module) -> Tensor:
    """Compute ``bn(y)``, recorded for ``zoo.ops.recompute`` in training on a CPU."""
    if not (bn.training and torch.is_grad_enabled() and y.device.type == "cpu" and can_inline(y, bn)):
        return bn(y)
    assert isinstance(bn, nn.BatchNorm2d) and bn.momentum is not None
    if bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
    out, mean, invstd = torch.native_batch_norm(
        y, bn.weight, bn.bias, bn.running_mean, bn.running_var, True, bn.momentum, bn.eps
    )
    return record(out, _normalize, y, mean, bn.weight * invstd, bn.bias)


def _normalize(y: Tensor, mean: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(y, mean, torch.ones_like(mean), scale, bias, False, 0.0, 0.0)


def _convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Compute ``conv(x)``; ``x`` is not kept if it can be computed again."""
    if not is_recomputable(x) or type(conv) is not nn.Conv2d or has_hooks(conv):
        return conv(x)
    if conv.bias is not None or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return conv(x)
    return _Conv.apply(x, conv.weight, conv.stride, conv.padding, conv.dilation, conv.groups)


class _Conv(torch.autograd.Function):
    """``F.conv2d`` of a tensor with a computation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        save(ctx, x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight.to(x.dtype), None, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = load(ctx)
        stride, padding, dilation, groups = ctx.geometry
        to_x, to_weight, _ = torch.ops.aten.convolution_backward(
            grad, x.to(grad.dtype), weight.to(grad.dtype), None, stride, padding, dilation, False, (0, 0), groups,
            (*ctx.needs_input_grad[:2], False),
        )  # fmt: skip
        return to_x, to_weight, None, None, None, None


class AggregationBN(nn.Module):
    """``BN(y) + BN_0(aggregate(y))``; ``BN_0`` starts at zero. No activation.

    Args:
        channels: C of ``y``.
        aggregation: called with ``(y, num_frames)``, preserves the shape; None: only ``BN(y)``.

    Attributes:
        filter: replaces both norms and the aggregation in a fused network, see ``VideoNetwork.fuse``.
    """

    filter: TemporalFilter | None

    def __init__(self, channels: int, aggregation: nn.Module | None = None) -> None:
        super().__init__()
        self.bn: nn.Module = nn.BatchNorm2d(channels)
        self.aggregation = aggregation
        self.filter = None
        self.pool_bn = None
        if aggregation is not None:
            self.pool_bn = nn.BatchNorm2d(channels)
            nn.init.zeros_(self.pool_bn.weight)

    def forward(self, y: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        if self.filter is not None:
            return self.filter(y, num_frames)
        if self.aggregation is None or self.pool_bn is None:
            return _batch_norm(y, self.bn)
        bn, pool_bn = self.bn, self.pool_bn
        if (
            isinstance(self.aggregation, TemporalAverage)
            and isinstance(bn, nn.BatchNorm2d)
            and can_inline(y, bn, pool_bn)
        ):
            return average_norm(y, num_frames, bn, pool_bn)
        return bn(y) + pool_bn(self.aggregation(y, num_frames))


class TemporalConvBN(AggregationBN):
    """A convolution over folded frames, then ``AggregationBN``. No activation.

    Args:
        conv: called with ``(x, num_frames)``.
        out_channels: channels of its output.
        aggregation: of ``AggregationBN``.
    """

    def __init__(self, conv: nn.Module, out_channels: int, aggregation: nn.Module | None = None) -> None:
        super().__init__(out_channels, aggregation)
        self.conv = conv

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        return super().forward(self.conv(x, num_frames), num_frames)
