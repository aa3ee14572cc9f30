"""TAdaConv, version 1: a convolution whose kernel is calibrated for every frame.

Source: "TAda! Temporally-Adaptive Convolutions for Video Understanding", ICLR 2022, arXiv 2110.06178, section 3:
``y_t = (alpha_t . W) * x_t`` with ``alpha = 1 + F(x)``.

No kernel is built for individual frames. A calibration of the input channels can be applied to the input instead,
``conv(x, alpha W) == conv(alpha x, W)``, and a calibration of the output channels to the output,
``conv(x, alpha W) == alpha conv(x, W)``. Both are exact, so the gradients are equal as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.utils import _pair

from zoo.errors import ConfigError, check_counts, check_odd
from zoo.ops.average_norm import TemporalAverage
from zoo.ops.average_norm import temporal_average as temporal_average
from zoo.ops.conv3d import conv3d
from zoo.ops.conv_unit import AggregationBN, TemporalConvBN
from zoo.ops.frames import is_traced, with_spatial_mean
from zoo.ops.operator import BlockModules, BlockPosition, Operator, register_operator
from zoo.ops.recompute import load, save
from zoo.ops.stand_in import CalibratedConv2d, replace_conv

CalDim = Literal["cin", "cout"]
Size2 = int | tuple[int, int]


def _check_calibration(alpha: Tensor, weight: Tensor, cal_dim: str, groups: int) -> None:
    if cal_dim not in ("cin", "cout"):
        raise ConfigError(f"cal_dim is {cal_dim!r}; use 'cin' (input channels) or 'cout' (output channels).")
    if cal_dim == "cin" and groups != 1:
        raise ConfigError(f"cal_dim='cin' requires groups=1, got groups={groups}.")
    expected = weight.shape[1] if cal_dim == "cin" else weight.shape[0]
    if alpha.shape[1] != expected:
        raise ConfigError(f"alpha has {alpha.shape[1]} channels, the convolution's {cal_dim} has {expected}.")


def tada_conv2d(
    x: Tensor,
    alpha: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Size2 = 1,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    groups: int = 1,
    cal_dim: CalDim = "cin",
    beta: Tensor | None = None,
) -> Tensor:
    """Convolve every frame with its own calibrated kernel.

    Args:
        x: frames ``(N, C_in, H, W)``, N = clips x frames.
        alpha: calibration ``(N, C)``; C is C_in for ``cal_dim="cin"``, C_out for ``"cout"``.
        weight: base kernel ``(C_out, C_in / groups, kh, kw)``.
        bias: ``(C_out,)``, not calibrated without beta, as in version 1 of the operator.
        beta: calibration of the bias ``(N, C_out)``, as in version 2.

    Returns:
        ``(N, C_out, H', W')``.
    """
    _check_calibration(alpha, weight, cal_dim, groups)
    alpha = alpha[:, :, None, None]
    if cal_dim == "cin":
        y = _scaled_conv(x, alpha, weight, stride, padding, dilation)
    else:
        y = F.conv2d(x, weight, None, stride, padding, dilation, groups) * alpha
    if bias is None:
        return y
    return y + (bias if beta is None else bias * beta)[..., None, None]


# Scaled frames at a time on a CPU. The C library maps larger tensors (above 32 MiB) anew for every use, and a page
# fault takes longer than scaling the page.
PART_BYTES = 8 << 20


def _parts(x: Tensor) -> list[slice]:
    """Split the frames of ``x`` on a CPU, so that their products with alpha are small; one part on other devices."""
    count = -(-x.numel() * x.element_size() // PART_BYTES) if x.device.type == "cpu" else 1
    size = max(-(-len(x) // max(count, 1)), 1)
    return [slice(start, start + size) for start in range(0, len(x), size)]


def _scaled_conv(x: Tensor, alpha: Tensor, weight: Tensor, stride: Size2, padding: Size2, dilation: Size2) -> Tensor:
    """Compute ``conv2d(x * alpha, weight)`` without keeping the product for the backward pass."""
    inputs = (x, alpha, weight)
    geometry: Any = (stride, padding, dilation)
    if is_traced() or isinstance(padding, str) or len(x) == 0:
        return F.conv2d(x * alpha, weight, None, *geometry)
    if not (torch.is_grad_enabled() and any(v.requires_grad for v in inputs)):
        return _convolve_parts(*inputs, *geometry)
    return _ScaledConv.apply(*inputs, *map(_pair, geometry))


def _convolve_parts(x: Tensor, alpha: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    outputs = [F.conv2d(x[part] * alpha[part], weight, None, *geometry) for part in _parts(x)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class _ScaledConv(torch.autograd.Function):
    """``conv2d(x * alpha, weight)``; the backward pass computes the product again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, weight: Tensor, *geometry: tuple[int, int]) -> Tensor:
        save(ctx, x, alpha, weight)
        ctx.geometry = geometry
        return _convolve_parts(x, alpha, weight, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, weight = load(ctx)
        needs_x, needs_alpha, needs_weight = ctx.needs_input_grad[:3]
        to_x = torch.empty_like(x) if needs_x else None
        to_alpha = torch.empty_like(alpha) if needs_alpha else None
        to_weight = torch.zeros_like(weight) if needs_weight else None
        kernel = weight.to(grad.dtype)  # the dtype of the convolution, also with autocast
        for part in _parts(x):
            product = (x[part] * alpha[part]).to(grad.dtype)
            to_product, to_kernel, _ = torch.ops.aten.convolution_backward(
                grad[part], product, kernel, None, *ctx.geometry, False, (0, 0), 1,
                (needs_x or needs_alpha, needs_weight, False),
            )  # fmt: skip
            if to_x is not None:
                torch.mul(to_product, alpha[part], out=to_x[part])
            if to_alpha is not None:
                to_alpha[part] = to_product.mul_(x[part]).sum((2, 3), keepdim=True)
            if to_weight is not None:
                to_weight += to_kernel
        return to_x, to_alpha, to_weight, None, None, None


def tada_conv3d(
    x: Tensor,
    alpha: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Size2 = 1,
    padding: Size2 = 0,
    temporal_stride: int = 1,
    cal_dim: CalDim = "cin",
) -> Tensor:
    """Convolve with a 3D kernel that is calibrated for every output frame.

    Time is zero-padded so that T is preserved; ``stride`` and ``padding`` are spatial.

    Args:
        x: clip ``(B, C_in, T, H, W)``.
        alpha: calibration ``(B, C, T)``; C is C_in for ``cal_dim="cin"``, C_out for ``"cout"``.
        weight: ``(C_out, C_in, kt, kh, kw)``, kt odd.
        temporal_stride: stride over frames, from the first; alpha is subsampled in the same way.

    Returns:
        ``(B, C_out, ceil(T / temporal_stride), H', W')``.
    """
    _check_calibration(alpha, weight, cal_dim, groups=1)
    (sh, sw), (ph, pw) = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding))
    taps = weight.shape[2]
    check_odd("the temporal kernel size", taps)
    alpha = alpha[:, :, ::temporal_stride]
    if cal_dim == "cout":
        y = conv3d(x, weight, None, (temporal_stride, sh, sw), (taps // 2, ph, pw)) * alpha[..., None, None]
        return y if bias is None else y + bias[:, None, None, None]
    if taps == 1:
        y = x[:, :, ::temporal_stride] * alpha[..., None, None]
        return F.conv3d(y, weight, bias, (1, sh, sw), (0, ph, pw))
    # alpha_t belongs to the output frame, so the window is unfolded along T before it is scaled
    windows = F.pad(x, (0, 0, 0, 0, taps // 2, taps // 2)).unfold(2, taps, temporal_stride)  # (B, C, T', H, W, taps)
    windows = windows * alpha[..., None, None, None]
    folded = windows.permute(0, 2, 1, 5, 3, 4).flatten(2, 3).flatten(0, 1)  # (B*T', C*taps, H, W)
    y = F.conv2d(folded, weight.flatten(1, 2), bias, (sh, sw), (ph, pw))
    return y.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


class RouteMLP(nn.Module):
    """Routing function: frame descriptors of a clip -> calibration of every frame's kernel.

    ``alpha = 1 + Conv_b(ReLU(BN(Conv_a(xbar + Conv_g(g)))))`` with ``xbar`` the frame descriptors and ``g`` their
    mean over time (arXiv 2110.06178, equation 4). ``Conv_b`` is initially zero, so alpha is one. The other weights are
    Kaiming normal and their biases zero, as in the released networks.

    Args:
        channels: C of the descriptors.
        reduction: ratio of C to the hidden width.
        kernels: temporal sizes of ``Conv_a`` and ``Conv_b``, odd.
        out_channels: channels of alpha; default: C.
        norm: "batch" (BN and ReLU, TAda2D) or "layer" (LayerNorm and GELU, an option of TAdaConvNeXt).
        bias_channels: channels of the calibration of the bias, computed by a second ``Conv_b``; None: no calibration.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        kernels: tuple[int, int] = (3, 3),
        *,
        out_channels: int | None = None,
        norm: str = "batch",
        bias_channels: int | None = None,
    ) -> None:
        super().__init__()
        if norm not in ("batch", "layer"):
            raise ConfigError(f"norm of the routing function is {norm!r}; use 'batch' or 'layer'.")
        check_routing(reduction, kernels)
        hidden = max(channels // reduction, 1)
        self.g = nn.Conv1d(channels, channels, 1)
        self.a = nn.Conv1d(channels, hidden, kernels[0], padding=kernels[0] // 2)
        self.bn = nn.BatchNorm1d(hidden) if norm == "batch" else None
        self.ln = nn.LayerNorm(hidden, eps=1e-6) if norm == "layer" else None
        self.b = last_layer(hidden, out_channels or channels, kernels[1])
        self.b_bias = last_layer(hidden, bias_channels, kernels[1]) if bias_channels else None
        for layer in (self.g, self.a):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, xbar: Tensor) -> tuple[Tensor, Tensor | None]:
        """Frame descriptors ``(B, C, T)`` -> calibration of the kernel and of the bias (or None), ``(B, C_out, T)``."""
        # as published, the sum precedes the zero padding of `a`
        y = self.a(xbar + self.g(xbar.mean(2, keepdim=True)))
        if self.bn is not None:
            y = F.relu(self.bn(y))
        else:
            assert self.ln is not None
            y = F.gelu(self.ln(y.transpose(1, 2)).transpose(1, 2))
        return 1 + self.b(y), None if self.b_bias is None else 1 + self.b_bias(y)


def check_routing(reduction: int, kernels: Sequence[int]) -> None:
    """Raise a ConfigError for invalid options of a routing function."""
    check_counts(reduction=reduction)
    if len(kernels) != 2:
        raise ConfigError(f"kernels is {kernels}; it must have two sizes.")
    for size in kernels:
        check_odd("a size in kernels", size)


def last_layer(hidden: int, channels: int, kernel_size: int) -> nn.Conv1d:
    """Build the zero-initialized last layer of a routing function."""
    layer = nn.Conv1d(hidden, channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


class AdaptiveConv2d(nn.Conv2d):
    """A 2D convolution on folded frames; ``routing`` calibrates its kernel and optionally its bias.

    ``weight`` and ``bias`` are those of the replaced convolution, so image weights load unchanged. The
    input channels are calibrated, or the output channels of a grouped or depthwise convolution.
    """

    routing: nn.Module

    @property
    def cal_dim(self) -> CalDim:
        """Calibrated dimension of the kernel."""
        return "cin" if self.groups == 1 else "cout"

    def forward(self, x: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        x, descriptors = with_spatial_mean(x, num_frames)
        # scales (B, C, T) -> (B*T, C)
        alpha, beta = (
            None if scale is None else scale.transpose(1, 2).flatten(0, 1) for scale in self.routing(descriptors)
        )
        assert alpha is not None
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode), 0
        geometry: Any = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        return tada_conv2d(
            x, alpha, self.weight, self.bias, beta=beta, padding=padding, cal_dim=self.cal_dim, **geometry
        )


class TAdaConv2d(AdaptiveConv2d):
    """TAdaConv: a drop-in for ``nn.Conv2d`` on folded frames, with the same initial output.

    Args:
        calibrate_bias: also calibrate the bias, an option of TAdaConvNeXt; the published ResNets have no bias.
        routing: options of RouteMLP: reduction, kernels, norm.
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
        calibrate_bias: bool = False,
        **routing: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.routing = RouteMLP(
            in_channels,
            out_channels=in_channels if groups == 1 else out_channels,
            bias_channels=out_channels if bias and calibrate_bias else None,
            **routing,
        )


class TAdaConv3d(nn.Conv3d):
    """A 3D convolution with a routing function, a drop-in for ``nn.Conv3d`` with odd temporal size on clips.

    For 3D networks: the 3 x 3 x 3 convolutions of R3D, the 1 x 3 x 3 and 3 x 1 x 1 ones of R(2+1)D (arXiv 2110.06178,
    section 4.3). Time must be padded by half of the kernel size.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, **options: Any) -> None:
        routing = {key: options.pop(key) for key in ("reduction", "kernels", "norm") if key in options}
        super().__init__(in_channels, out_channels, kernel_size, **options)
        pad = cast(tuple[int, int, int], self.padding)
        keeps = pad[0] == self.kernel_size[0] // 2 and self.padding_mode == "zeros"
        if self.groups != 1 or set(self.dilation) != {1} or not keeps:
            raise ConfigError(
                f"TAdaConv3d requires groups=1, dilation=1 and zero padding that preserves T; got {self}."
            )
        self.routing = RouteMLP(in_channels, **routing)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, T, H, W)`` -> ``(B, C_out, T', H', W')``."""
        alpha, _ = self.routing(x.mean((3, 4)))
        stride, padding = cast(tuple[int, int, int], self.stride), cast(tuple[int, int, int], self.padding)
        (every, *space), (_, *pad) = stride, padding
        strides, pads = (space[0], space[1]), (pad[0], pad[1])
        return tada_conv3d(x, alpha, self.weight, self.bias, stride=strides, padding=pads, temporal_stride=every)


class TAdaAggregation(AggregationBN):
    """Temporal aggregation: ``BN(y) + BN_0(avgpool_3x1x1(y))``; ``BN_0`` starts at zero (section 3.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, TemporalAverage())


class TAdaConvBN(TemporalConvBN):
    """TAdaConv and temporal aggregation, a unit of TAda2D; initially equal to convolution and batch norm.

    Args:
        operator: TAdaConv2d, or TAdaConv2dV2.
        routing: options of the routing function.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        operator: Callable[..., AdaptiveConv2d] = TAdaConv2d,
        **routing: Any,
    ) -> None:
        padding = kernel_size // 2
        conv = operator(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False, **routing)
        super().__init__(conv, out_channels, TemporalAverage())


class TAdaStandIn(CalibratedConv2d, TAdaConv2d):  # type: ignore[misc]
    """Stand-in with TAdaConv."""


def _block(position: BlockPosition, **options: Any) -> BlockModules:
    return BlockModules(spatial_conv=functools.partial(TAdaConvBN, **options))


register_operator(
    Operator(
        "tadaconv",
        block=_block,
        stand_in=functools.partial(replace_conv, TAdaStandIn),
        pools_time_first=True,
        stem_pool=False,
        classifier_std=None,
    )
)
