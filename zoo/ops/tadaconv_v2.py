"""TAdaConv, version 2: attention over frames computes the calibration, which includes the bias.

Source: "Temporally-Adaptive Models for Efficient Video Understanding", arXiv 2308.05787, section 3:
``y_t = (alpha_t . W) * x_t + beta_t . bias``.
"""

from __future__ import annotations

import functools
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.ops.activation import quick_gelu
from zoo.ops.calibration import scale_and_shift
from zoo.ops.frames import is_traced, spatial_mean
from zoo.ops.operator import BlockModules, BlockPosition, Operator, register_operator
from zoo.ops.stand_in import CalibratedConv2d, replace_conv
from zoo.ops.tadaconv import AdaptiveConv2d, Size2, TAdaConvBN, check_routing


class TemporalConv1d(nn.Conv1d):
    """A convolution over the frames of descriptors with odd kernel and padding that preserves T.

    Computed as one matrix product, which takes about half the time of a convolution for this few frames.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, T)`` -> ``(B, C_out, T)``."""
        if is_traced():
            return super().forward(x)
        taps = self.kernel_size[0]
        windows = F.pad(x, (taps // 2, taps // 2)).unfold(2, taps, 1)  # (B, C_in, T, taps)
        return F.linear(windows.transpose(1, 2).flatten(2), self.weight.flatten(1), self.bias).transpose(1, 2)


def last_layer(hidden: int, channels: int, kernel_size: int) -> TemporalConv1d:
    """Build the zero-initialized last layer of a routing function."""
    layer = TemporalConv1d(hidden, channels, kernel_size, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


class RouteTransformer(nn.Module):
    """Routing function: ``z = QuickGELU(LN(Conv_a(xbar)))``, ``z += MHSA_T(LN(z))``, ``alpha = Conv_b(z)``.

    Args:
        channels: C of the frame descriptors.
        reduction: ratio of C to the hidden width.
        kernels: temporal sizes of ``Conv_a`` and ``Conv_b``, odd.
        out_channels: channels of alpha; default: C.
        bias_channels: channels of beta, the scale of the bias; None: no beta.
        head_dim: channels of an attention head, a divisor of the hidden width; default: 64 if possible, else all.
        zero_init: initialize the last layers to zero and add one, so that ``alpha = beta = 1``, as in TAdaConvNeXtV2.
            TAdaFormer does not, since its block ends in another zero-initialized layer; all its weights are truncated
            normal.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 2,
        kernels: tuple[int, int] = (3, 3),
        *,
        out_channels: int | None = None,
        bias_channels: int | None = None,
        head_dim: int | None = None,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        check_routing(reduction, kernels)
        hidden = channels // reduction
        if head_dim is None:
            head_dim = 64 if hidden and hidden % 64 == 0 else hidden
        if hidden < 1 or head_dim < 1 or hidden % head_dim:
            raise ConfigError(f"head_dim is {head_dim}; it must divide {channels} channels / {reduction} = {hidden}.")
        self.heads, self.zero_init = hidden // head_dim, zero_init
        self.a = TemporalConv1d(channels, hidden, kernels[0])
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.norm_attn = nn.LayerNorm(hidden, eps=1e-6)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.proj = nn.Linear(hidden, hidden)
        self.b = last_layer(hidden, out_channels or channels, kernels[1])
        self.b_bias = last_layer(hidden, bias_channels, kernels[1]) if bias_channels else None
        random = ("a.", "qkv.", "proj.") if zero_init else ("a.", "qkv.", "proj.", "b.", "b_bias.")
        for name, parameter in self.named_parameters():
            if name.startswith(random):
                nn.init.trunc_normal_(parameter, std=0.02) if parameter.ndim > 1 else nn.init.zeros_(parameter)

    def forward(self, xbar: Tensor) -> tuple[Tensor, Tensor | None]:
        """Frame descriptors ``(B, C, T)`` -> alpha and beta (None without bias), ``(B, C, T)``."""
        z = quick_gelu(self.norm(self.a(xbar).transpose(1, 2)))  # (B, T, hidden)
        # published weights number the channels of q, k, v as d * heads + h, and those of the output as h * head_dim + d
        qkv = self.qkv(self.norm_attn(z)).unflatten(2, (3, -1, self.heads))  # (B, T, 3, head_dim, heads)
        # contiguous: the float32 kernel of CUDA refuses the strides of a single head
        q, k, v = qkv.permute(2, 0, 4, 1, 3).contiguous()  # (B, heads, T, head_dim) each
        # scaled by the full width instead of the head's, as in the published networks
        y = F.scaled_dot_product_attention(q, k, v, scale=z.shape[2] ** -0.5)
        z = (z + self.proj(y.transpose(1, 2).flatten(2))).transpose(1, 2)  # (B, hidden, T)
        alpha = self.b(z)
        beta = None if self.b_bias is None else self.b_bias(z)
        if self.zero_init:
            alpha, beta = alpha + 1, None if beta is None else beta + 1
        return alpha, beta


class TAdaConv2dV2(AdaptiveConv2d):
    """TAdaConvV2: a drop-in for ``nn.Conv2d`` on folded frames, with calibrated bias.

    Args:
        routing: options of RouteTransformer: reduction, kernels, head_dim, zero_init.
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
        bias: bool = True,
        **routing: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.routing = RouteTransformer(
            in_channels,
            out_channels=in_channels if groups == 1 else out_channels,
            bias_channels=out_channels if bias else None,
            **routing,
        )

    def forward(self, x: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        if self.cal_dim == "cin" or self.bias is None or self.padding_mode != "zeros":
            return super().forward(x, num_frames)
        alpha, beta = (
            scale.transpose(1, 2).flatten(0, 1)[..., None, None]  # (B, C, T) -> (B*T, C, 1, 1)
            for scale in self.routing(spatial_mean(x, num_frames))
        )
        y = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        return scale_and_shift(y, alpha, beta * self.bias[:, None, None])


class TAdaV2StandIn(CalibratedConv2d, TAdaConv2dV2):  # type: ignore[misc]
    """Stand-in with TAdaConvV2."""


def _block(position: BlockPosition, **options: Any) -> BlockModules:
    return BlockModules(spatial_conv=functools.partial(TAdaConvBN, operator=TAdaConv2dV2, **options))


register_operator(
    Operator(
        "tadaconv_v2",
        block=_block,
        stand_in=functools.partial(replace_conv, TAdaV2StandIn),
        pools_time_first=True,
        stem_pool=False,
        classifier_std=None,
    )
)
