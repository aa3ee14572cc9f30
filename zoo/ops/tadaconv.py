"""TAdaConv, version 1: a convolution whose kernel is recalibrated for every frame.

Source: "TAda! Temporally-Adaptive Convolutions for Video Understanding", ICLR 2022, arXiv 2110.06178, section 3:
``y_t = (alpha_t . W) * x_t`` with ``alpha = 1 + F(x)``.

No kernel is ever built for a frame. A calibration of the input channels commutes with the convolution onto its
input, ``conv(x, alpha W) == conv(alpha x, W)``; one of the output channels onto its output,
``conv(x, alpha W) == alpha conv(x, W)``. Both are identities, so the gradients agree as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_counts, check_odd
from zoo.ops.temporal import check_frames, compiles_for_cpu, temporal_product

CalDim = Literal["cin", "cout"]
Size2 = int | tuple[int, int]


def _check_calibration(alpha: Tensor, weight: Tensor, cal_dim: str, groups: int) -> None:
    if cal_dim not in ("cin", "cout"):
        raise ConfigError(f"cal_dim is {cal_dim!r}; use 'cin' (input channels) or 'cout' (output channels).")
    if cal_dim == "cin" and groups != 1:
        raise ConfigError(f"cal_dim='cin' calibrates all input channels and needs groups=1, got groups={groups}.")
    wanted = weight.shape[1] if cal_dim == "cin" else weight.shape[0]
    if alpha.shape[1] != wanted:
        raise ConfigError(f"alpha has {alpha.shape[1]} channels, the convolution's {cal_dim} has {wanted}.")


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
    """Convolve every frame with its own recalibrated kernel.

    Args:
        x: frames ``(N, C_in, H, W)``, N = clips x frames.
        alpha: calibration ``(N, C)``; C is C_in for ``cal_dim="cin"``, C_out for ``"cout"``.
        weight: base kernel ``(C_out, C_in / groups, kh, kw)``.
        bias: ``(C_out,)``, added uncalibrated, as in version 1 of the operator, if there is no beta.
        beta: calibration of the bias ``(N, C_out)``, as in version 2.

    Returns:
        ``(N, C_out, H', W')``.
    """
    _check_calibration(alpha, weight, cal_dim, groups)
    alpha = alpha[:, :, None, None]
    if cal_dim == "cin":
        y = F.conv2d(x * alpha, weight, None, stride, padding, dilation, groups)
    else:
        y = F.conv2d(x, weight, None, stride, padding, dilation, groups) * alpha
    if bias is None:
        return y
    return y + (bias if beta is None else bias * beta)[..., None, None]


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
    """Calibrate a kernel that also spans time: an output frame's ``alpha`` scales all of its input frames.

    Time is zero-padded to keep T; ``stride`` and ``padding`` are spatial.

    Args:
        x: clip ``(B, C_in, T, H, W)``.
        alpha: calibration ``(B, C, T)``; C is C_in for ``cal_dim="cin"``, C_out for ``"cout"``.
        weight: ``(C_out, C_in, kt, kh, kw)``, kt odd.
        temporal_stride: every how many frames there is an output, from the first on; it uses its frame's alpha.

    Returns:
        ``(B, C_out, ceil(T / temporal_stride), H', W')``.
    """
    _check_calibration(alpha, weight, cal_dim, groups=1)
    (sh, sw), (ph, pw) = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding))
    taps = weight.shape[2]
    check_odd("the temporal kernel size", taps)
    alpha = alpha[:, :, ::temporal_stride]
    if cal_dim == "cout":
        y = F.conv3d(x, weight, None, (temporal_stride, sh, sw), (taps // 2, ph, pw)) * alpha[..., None, None]
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


def spatial_mean(x: Tensor, num_frames: int) -> Tensor:
    """Frame descriptors: ``(B*T, C, H, W)`` -> ``(B, C, T)``."""
    check_frames(x, num_frames)
    return x.mean((2, 3)).unflatten(0, (-1, num_frames)).transpose(1, 2)


class RouteMLP(nn.Module):
    """The routing function: what a clip looks like -> how each frame's kernel is scaled.

    ``alpha = 1 + Conv_b(ReLU(BN(Conv_a(xbar + Conv_g(g)))))`` with ``xbar`` the frame descriptors and ``g`` their
    mean over time (arXiv 2110.06178, equation 4). ``Conv_b`` starts at zero, so alpha starts at one.

    Args:
        channels: C of the descriptors.
        reduction: C over the hidden width.
        kernels: temporal sizes of ``Conv_a`` and ``Conv_b``, odd.
        out_channels: of alpha, if not C.
        norm: "batch" (BN and ReLU, TAda2D) or "layer" (LayerNorm and GELU, an option of TAdaConvNeXt).
        bias_channels: also return a scale for a bias of so many channels, from a second ``Conv_b``.
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

    def forward(self, xbar: Tensor) -> tuple[Tensor, Tensor | None]:
        """Frame descriptors ``(B, C, T)`` -> scales of the kernel and, if asked for, of the bias, ``(B, C_out, T)``."""
        # the zero padding of `a` must not contain Conv_g's share: the sum comes first, as published
        y = self.a(xbar + self.g(xbar.mean(2, keepdim=True)))
        if self.bn is not None:
            y = F.relu(self.bn(y))
        else:
            assert self.ln is not None
            y = F.gelu(self.ln(y.transpose(1, 2)).transpose(1, 2))
        return 1 + self.b(y), None if self.b_bias is None else 1 + self.b_bias(y)


def check_routing(reduction: int, kernels: Sequence[int]) -> None:
    """Refuse options that a routing function cannot be built with."""
    check_counts(reduction=reduction)
    if len(kernels) != 2:
        raise ConfigError(f"kernels is {kernels}; a routing function has two.")
    for size in kernels:
        check_odd("a size in kernels", size)


def last_layer(hidden: int, channels: int, kernel_size: int) -> nn.Conv1d:
    """The layer of a routing function that gives the scales, zero at first."""
    layer = nn.Conv1d(hidden, channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


class AdaptiveConv2d(nn.Conv2d):
    """A 2D convolution on folded frames whose ``routing`` scales the kernel, and perhaps the bias, for every frame.

    ``weight`` and ``bias`` are those of the convolution it replaces, so an image network's tensors load unchanged.
    Calibrated are the input channels, or the output channels of a grouped or depthwise convolution.
    """

    routing: nn.Module

    @property
    def cal_dim(self) -> CalDim:
        """Which channels of the kernel are scaled."""
        return "cin" if self.groups == 1 else "cout"

    def forward(self, x: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        # scales (B, C, T) -> (B*T, C)
        alpha, beta = (
            None if scale is None else scale.transpose(1, 2).flatten(0, 1)
            for scale in self.routing(spatial_mean(x, num_frames))
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
    """TAdaConv: a drop-in for ``nn.Conv2d`` on folded frames that starts as the convolution it replaces.

    Args:
        calibrate_bias: scale the bias as well (an option of TAdaConvNeXt); the published ResNets have none.
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
    section 4.3). Time must be padded by half the kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, **options: Any) -> None:
        routing = {key: options.pop(key) for key in ("reduction", "kernels", "norm") if key in options}
        super().__init__(in_channels, out_channels, kernel_size, **options)
        pad = cast(tuple[int, int, int], self.padding)
        keeps = pad[0] == self.kernel_size[0] // 2 and self.padding_mode == "zeros"
        if self.groups != 1 or set(self.dilation) != {1} or not keeps:
            raise ConfigError(f"TAdaConv3d needs groups=1, dilation=1 and zeros that keep the frames; got {self}.")
        self.routing = RouteMLP(in_channels, **routing)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, T, H, W)`` -> ``(B, C_out, T', H', W')``."""
        alpha, _ = self.routing(x.mean((3, 4)))
        stride, padding = cast(tuple[int, int, int], self.stride), cast(tuple[int, int, int], self.padding)
        (every, *space), (_, *pad) = stride, padding
        strides, pads = (space[0], space[1]), (pad[0], pad[1])
        return tada_conv3d(x, alpha, self.weight, self.bias, stride=strides, padding=pads, temporal_stride=every)


class TAdaAggregation(nn.Module):
    """Temporal aggregation: ``BN(y) + BN_0(avgpool_3x1x1(y))``; ``BN_0`` starts at zero (section 3.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.pool_bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.pool_bn.weight)

    def forward(self, y: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape; no activation."""
        return self.bn(y) + self.pool_bn(temporal_average(y, num_frames))


class TAdaConvBN(TAdaAggregation):
    """TAdaConv and the temporal aggregation: a unit of TAda2D, which starts as convolution + batch norm.

    Args:
        operator: TAdaConv2d, or TAdaConv2dV2. routing: options of its routing function.
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
        super().__init__(out_channels)
        padding = kernel_size // 2
        self.conv = operator(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False, **routing
        )

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``; no activation."""
        return super().forward(self.conv(x, num_frames), num_frames)


def temporal_average(y: Tensor, num_frames: int) -> Tensor:
    """Mean over frames t-1, t, t+1 of ``(B*T, C, H, W)``; the missing frames at both ends count as zeros.

    Dividing by three at the ends too is what the published weights were trained with (count_include_pad).
    """
    frames = y.unflatten(0, (-1, num_frames))  # (B, T, C, H, W)
    if compiles_for_cpu(y):
        return temporal_product(frames, y.new_full((1, 1, 3), 1 / 3)).flatten(0, 1)
    total = frames.clone()
    total[:, 1:] += frames[:, :-1]
    total[:, :-1] += frames[:, 1:]
    return (total / 3).flatten(0, 1)
