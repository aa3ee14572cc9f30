"""STAM: a convolution whose kernel is calibrated for every frame, channel and tap, followed by an aggregation.

Source: "STAM: a spatio-temporal adaptive module for improving static convolutions in action recognition", The Visual
Computer 2023, doi 10.1007/s00371-023-03165-6. Only its abstract is public: no equations, code, weights or numbers. This
is our interpretation; we do not claim the accuracy of the paper. (Not the "STAM" of arXiv 2103.13915.)

From the abstract: a linear combination of N adaptive filters, computed by two lightweight parallel attention branches,
one with multi-scale spatial context and one with long-range temporal context; it modulates the static kernel for each
frame, differently for each tap; an omni-dimensional aggregation follows. Our choices: the layers and widths of both
branches, the encoding of frame order in the temporal branch, a learned bank of filters, the form ``1 + ...``, the
initialization as the static convolution, and the dimensions that the aggregation pools.

The calibration ``A_t`` has a value for every input channel and tap, ``Y_t = (A_t . W) * X_t``, but not for the output
channels. Therefore it can scale the input of each tap instead of the kernel; see ``zoo.ops.stam_conv``.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.ops.conv_unit import TemporalConvBN
from zoo.ops.frames import spatial_mean
from zoo.ops.operator import BlockModules, BlockPosition, Operator, register_operator
from zoo.ops.stam_aggregation import AGGREGATIONS, build_aggregation, hidden_width
from zoo.ops.stam_conv import stha_conv2d
from zoo.ops.stand_in import StandIn, pad_frames, replace_conv
from zoo.ops.tadaconv import Size2

HEADS = 4
SCALES = 3  # dilations 1, 2, 3: receptive fields of 3, 7 and 13 cells of the pooled grid
GRID = 7


class SpatialBranch(nn.Module):
    """Spatial context at three scales: pool to 7 x 7, project, three depthwise 3x3 convolutions of growing dilation.

    Args:
        channels: C of the frames.
        hidden: width d of the projection.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        # not nn.Conv2d, which networks initialize by fan-out: depthwise maps would shrink from scale to scale
        self.scales = nn.Parameter(nn.init.normal_(torch.empty(SCALES, hidden, 1, 3, 3), std=1 / 3))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> descriptors ``(N, 3 d)``; maps may be smaller than 7 x 7."""
        y = F.relu(self.bn(self.reduce(F.adaptive_avg_pool2d(x, GRID))))
        means = []
        for dilation, weight in enumerate(self.scales, start=1):
            y = F.conv2d(y, weight, padding=dilation, dilation=dilation, groups=len(weight))
            means.append(y.mean((2, 3)))
        return torch.cat(means, dim=1)


class TemporalBranch(nn.Module):
    """Temporal context: project frame descriptors, convolve over neighboring frames, then attend to all frames.

    ``z = GELU(LN(Linear(mean_HW x)))``, ``z += DepthwiseConv_3(z)``, ``z + MHSA_T(LN(z))``, for any T. The rest of
    STAM is invariant to the order of frames. The convolution encodes this order, like a conditional position encoding
    (arXiv 2102.10882); without it, a clip and its reverse would have the same logits.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.order = nn.Conv1d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm_attn = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> ``(B*T, d)``."""
        z = F.gelu(self.norm(self.reduce(spatial_mean(x, num_frames).transpose(1, 2))))  # (B, T, d)
        z = z + self.order(z.transpose(1, 2)).transpose(1, 2)
        q, k, v = (
            self.qkv(self.norm_attn(z)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        )  # (B, heads, T, d / heads)
        y = F.scaled_dot_product_attention(q, k, v)
        return (z + self.proj(y.transpose(1, 2).flatten(2))).flatten(0, 1)


class FilterMixture(nn.Module):
    """Calibration of every frame: ``A_t[c, u, v] = 1 + N sum_n a_t[n] p_t[n, c] F_n[c, u, v]``.

    ``a_t``, a softmax, is computed by the spatial branch, ``p_t`` by the temporal branch. ``p_t`` is initially zero, so
    ``A_t`` is one.

    Args:
        channels: C of the frames.
        kernel_size: height and width of the kernel to calibrate.
        num_filters: N.
        reduction: C / d, where d, at least 16, is the width of both branches.
        filters: "bank", N learned filters; or "outer", filters that the spatial branch generates for each frame, each
            the outer product of C and of kh x kw values.
        coefficients: of the temporal branch: one for each "channel" of a filter, or one "scalar".
    """

    def __init__(
        self,
        channels: int,
        kernel_size: tuple[int, int],
        num_filters: int = 4,
        reduction: int = 16,
        filters: str = "bank",
        coefficients: str = "channel",
    ) -> None:
        super().__init__()
        if not isinstance(num_filters, int) or num_filters < 1:
            raise ConfigError(f"STAM's num_filters is {num_filters!r}; it must be a whole number of at least 1.")
        hidden = hidden_width(channels, reduction, HEADS)
        for option, value, choices in (
            ("filters", filters, ("bank", "outer")),
            ("coefficients", coefficients, ("channel", "scalar")),
        ):
            if value not in choices:
                raise ConfigError(f"STAM's {option} is {value!r}; choose from {', '.join(choices)}.")
        self.channels, self.num_filters = channels, num_filters
        self.spatial = SpatialBranch(channels, hidden)
        self.temporal = TemporalBranch(channels, hidden)
        self.mix = nn.Linear(SCALES * hidden, num_filters)
        # with zeros, the spatial branch would have no gradient in the first two steps
        nn.init.normal_(self.mix.weight, std=0.01)
        nn.init.zeros_(self.mix.bias)
        self.modulate = nn.Linear(hidden, num_filters * (channels if coefficients == "channel" else 1), bias=False)
        nn.init.zeros_(self.modulate.weight)
        masks = tap_masks(num_filters, kernel_size)
        self.bank = self.generate = None
        if filters == "bank":
            self.bank = nn.Parameter(masks[:, None].repeat(1, channels, 1, 1))  # (N, C, kh, kw)
        else:
            self.generate = nn.Linear(SCALES * hidden, num_filters * (channels + masks[0].numel()))
            nn.init.normal_(self.generate.weight, std=0.01)
            with torch.no_grad():
                ones = torch.ones(num_filters, channels, device=masks.device)
                self.generate.bias.copy_(torch.cat([ones, masks.flatten(1)], dim=1).flatten())
        self.kernel_size = kernel_size

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> ``A`` of every frame, ``(B*T, C, kh, kw)``."""
        cells = F.adaptive_avg_pool2d(x, GRID)
        context = self.spatial(cells)  # (B*T, 3 d)
        a = self.num_filters * self.mix(context).softmax(1)
        # cells of equal size have the mean of the map, which saves a pass over it
        equal_cells = x.shape[2] % GRID == 0 and x.shape[3] % GRID == 0
        z = self.temporal(cells if equal_cells else x, num_frames)
        p = self.modulate(z).unflatten(1, (self.num_filters, -1))  # (B*T, N, C or 1)
        weights = (a[:, :, None] * p).expand(-1, -1, self.channels)
        if self.bank is not None:
            return 1 + torch.einsum("bnc,ncuv->bcuv", weights, self.bank)
        assert self.generate is not None
        generated = self.generate(context).unflatten(1, (self.num_filters, -1))
        channels, taps = generated.split([self.channels, generated.shape[2] - self.channels], dim=2)
        return 1 + torch.einsum("bnc,bnk->bck", weights * channels, taps).unflatten(2, self.kernel_size)


def tap_masks(count: int, kernel_size: tuple[int, int]) -> Tensor:
    """Distinct masks of a kernel's taps, ``(count, kh, kw)``: all, center, cross, corners, then random masks."""
    height, width = kernel_size
    masks = torch.rand(max(count, 4), height, width)
    masks[0] = 1
    masks[1:4] = 0
    masks[1, height // 2, width // 2] = 1
    masks[2, height // 2] = masks[2, :, width // 2] = 1
    masks[3, :: max(height - 1, 1), :: max(width - 1, 1)] = 1
    return masks[:count]


class STHAConv2d(nn.Conv2d):
    """Spatio-temporal hybrid adaptive convolution: a drop-in for ``nn.Conv2d`` on folded frames.

    ``weight`` and ``bias`` are those of the replaced convolution, so an image kernel loads unchanged, and
    the initial output is unchanged too. The bias is not calibrated.

    Args:
        calibration: options of FilterMixture.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        *,
        stride: Size2 = 1,
        padding: Size2 = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = False,
        **calibration: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.routing = FilterMixture(in_channels, tuple(self.weight.shape[2:]), **calibration)  # type: ignore[arg-type]

    def forward(self, x: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        calibration = self.routing(x, num_frames)
        geometry: Any = (self.stride, self.padding, self.dilation, self.groups)
        y = stha_conv2d(x, calibration, self.weight, *geometry)
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)

    def extra_macs(self, x: Tensor, num_frames: int) -> int:
        """Multiply-accumulates of the element-wise calibration: of windows, or of grouped kernels."""
        if self.groups > 1:
            return len(x) * self.weight.numel()
        left, right, top, bottom = self._reversed_padding_repeated_twice  # numbers, also if ``padding`` is a string
        positions = 1
        for size, padding, taps, stride, dilation in zip(
            x.shape[2:], (top + bottom, left + right), self.kernel_size, self.stride, self.dilation, strict=True
        ):
            positions *= (size + padding - dilation * (taps - 1) - 1) // stride + 1
        return len(x) * positions * self.weight[0].numel()


class STAM(TemporalConvBN):
    """STHAConv2d and the aggregation, instead of a convolution and its batch norm, with the same initial output.

    ``BN(Y) + BN_0(g . M')``, where ``Y`` is the output of the convolution and ``BN_0`` is initially zero.

    Args:
        aggregation: "omni" (OmniAggregation), "group_context" (GroupContext), or "none", only ``BN(Y)``.
        reduction: ratio of channels to the width of the attention branches and of the aggregation's gate.
        calibration: options of FilterMixture.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        aggregation: str = "omni",
        reduction: int = 16,
        **calibration: Any,
    ) -> None:
        if aggregation not in AGGREGATIONS:
            raise ConfigError(f"STAM's aggregation is {aggregation!r}; choose from {', '.join(AGGREGATIONS)}.")
        padding = kernel_size // 2
        conv = STHAConv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, reduction=reduction, **calibration
        )
        super().__init__(conv, out_channels, build_aggregation(aggregation, out_channels, reduction))


class STHAStandIn(StandIn, STHAConv2d):
    """Stand-in with STAM's convolution."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        calibration = self.routing(x, self.num_frames)
        x, padding = pad_frames(self, x)
        y = stha_conv2d(x, calibration, self.weight, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)

    def extra_macs(self, x: Tensor) -> int:  # type: ignore[override]
        """Multiply-accumulates of the element-wise calibration."""
        return super().extra_macs(x, self.num_frames)


def _block(position: BlockPosition, **options: Any) -> BlockModules:
    return BlockModules(spatial_conv=functools.partial(STAM, **options))


register_operator(
    Operator(
        "stam",
        block=_block,
        stand_in=functools.partial(replace_conv, STHAStandIn),
        pools_time_first=True,
        stem_pool=False,
        classifier_std=None,
    )
)
