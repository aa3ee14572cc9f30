"""STAM's aggregation: feature maps pooled over time and space, gated by channel.

The abstract of doi 10.1007/s00371-023-03165-6 mentions an omni-dimensional aggregation without details; see
``zoo.ops.stam``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.ops.frames import with_spatial_mean
from zoo.ops.tadaconv import temporal_average
from zoo.ops.tam import adaptive_temporal_conv

AGGREGATIONS = ("omni", "group_context", "none")


def hidden_width(channels: int, reduction: int, multiple: int = 1) -> int:
    """Compute ``channels / reduction``, at least 16, rounded down to a multiple of ``multiple``."""
    if not isinstance(reduction, int) or reduction < 1:
        raise ConfigError(f"STAM's reduction is {reduction!r}; it must be a whole number of at least 1.")
    return max(channels // reduction, 16) // multiple * multiple


def build_aggregation(name: str, channels: int, reduction: int) -> nn.Module | None:
    """Build an aggregation by name; None for "none"."""
    if name == "none":
        return None
    if channels < 4:
        raise ConfigError(f"aggregation={name!r} requires 4 channels or more, got {channels}; use 'none'.")
    return OmniAggregation(channels, reduction) if name == "omni" else GroupContext(channels)


class OmniAggregation(nn.Module):
    """``g . M'``: quarters of the channels pooled over different dimensions, with a gate for each channel.

    All quarters are averaged over frames t-1, t, t+1; the second also over three rows, the third over three columns,
    the fourth over both, with zero padding. ``g = sigmoid(Linear(ReLU(Linear(mean_THW Y))))``,
    for each clip and channel.

    Args:
        channels: C of the maps, at least 4.
        reduction: ratio of C to the gate's hidden width, which is at least 16.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))

    def forward(self, y: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        y, descriptor = with_spatial_mean(y, num_frames)  # (B, C, T)
        gate = self.gate(descriptor.mean(2)).sigmoid()  # (B, C)
        # the gate commutes with the pooling over space
        kernel = (gate / 3)[:, :, None].expand(-1, -1, 3)
        average = adaptive_temporal_conv(y, torch.ones_like(descriptor), kernel)
        return F.conv2d(average, box_kernels(average), padding=1, groups=y.shape[1])

    def extra_macs(self, y: Tensor, num_frames: int) -> int:
        """Subtract the convolution, which only averages: pooling is not counted."""
        return -9 * y.numel()


def box_kernels(y: Tensor) -> Tensor:
    """Build the kernels ``(C, 1, 3, 3)`` that average quarters of the channels of ``y`` over rows and columns."""
    center, rows, columns, both = (y.shape[1] // 4 + (i < y.shape[1] % 4) for i in range(4))
    kernels = [
        F.pad(y.new_ones(center, 1, 1, 1), (1, 1, 1, 1)),
        F.pad(y.new_full((rows, 1, 3, 1), 1 / 3), (1, 1, 0, 0)),
        F.pad(y.new_full((columns, 1, 1, 3), 1 / 3), (0, 0, 1, 1)),
        y.new_full((both, 1, 3, 3), 1 / 9),
    ]
    return torch.cat(kernels)


class GroupContext(nn.Module):
    """``sigmoid(Linear(context)) . Y`` for quarters of the channels, each with its own context.

    The contexts are the means over the clip, over each frame and over time, and the average over frames t-1, t, t+1: a
    simplified form of the group contextualization of arXiv 2203.09694.

    Args:
        channels: C of the maps, at least 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        sizes = [len(quarter) for quarter in torch.empty(channels, device="cpu").tensor_split(4)]
        self.gates = nn.ModuleList(nn.Linear(size, size) for size in sizes)

    def forward(self, y: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        clip = y.unflatten(0, (-1, num_frames)).permute(0, 1, 3, 4, 2)  # (B, T, H, W, C)
        quarters = clip.tensor_split(4, dim=4)
        near = temporal_average(y, num_frames).unflatten(0, (-1, num_frames)).permute(0, 1, 3, 4, 2)
        contexts = [
            quarters[0].mean((1, 2, 3), keepdim=True),
            quarters[1].mean((2, 3), keepdim=True),
            quarters[2].mean(1, keepdim=True),
            near.tensor_split(4, dim=4)[3],
        ]
        gated = [q * g(c).sigmoid() for q, g, c in zip(quarters, self.gates, contexts, strict=True)]
        return torch.cat(gated, dim=4).permute(0, 1, 4, 2, 3).flatten(0, 1)
