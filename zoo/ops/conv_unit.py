"""Convolutions with batch norm and, for adaptive operators, temporal aggregation."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.ops.average_norm import TemporalAverage, average_norm, can_inline
from zoo.ops.pointwise_norm import can_recompute, pointwise_norm
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
        return self.bn(self.conv(x))


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
            return self.bn(y)
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
