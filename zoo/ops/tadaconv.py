"""TAdaConv, version 1: a convolution whose kernel is recalibrated for every frame.

Source: "TAda! Temporally-Adaptive Convolutions for Video Understanding", ICLR 2022, arXiv 2110.06178, section 3:
``y_t = (alpha_t . W) * x_t`` with ``alpha = 1 + F(x)``.

No kernel is ever built for a frame. A calibration of the input channels commutes with the convolution onto its
input, ``conv(x, alpha W) == conv(alpha x, W)``; one of the output channels onto its output,
``conv(x, alpha W) == alpha conv(x, W)``. Both are identities, so the gradients agree as well.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError

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
) -> Tensor:
    """Convolve every frame with its own recalibrated kernel.

    Args:
        x: frames ``(N, C_in, H, W)``, N = clips x frames.
        alpha: calibration ``(N, C)``; C is C_in for ``cal_dim="cin"``, C_out for ``"cout"``.
        weight: base kernel ``(C_out, C_in / groups, kh, kw)``.
        bias: ``(C_out,)``, added uncalibrated as in version 1 of the operator.

    Returns:
        ``(N, C_out, H', W')``.
    """
    _check_calibration(alpha, weight, cal_dim, groups)
    alpha = alpha[:, :, None, None]
    if cal_dim == "cin":
        return F.conv2d(x * alpha, weight, bias, stride, padding, dilation, groups)
    y = F.conv2d(x, weight, None, stride, padding, dilation, groups) * alpha
    return y if bias is None else y + bias[:, None, None]


def tada_conv3d(
    x: Tensor,
    alpha: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Size2 = 1,
    padding: Size2 = 0,
    cal_dim: CalDim = "cin",
) -> Tensor:
    """Calibrate a kernel that also spans time: output frame t uses ``alpha_t`` on all of its input frames.

    The temporal stride is 1 and time is zero-padded to keep T. ``stride`` and ``padding`` are spatial.

    Args:
        x: clip ``(B, C_in, T, H, W)``.
        alpha: calibration ``(B, C, T)``.
        weight: ``(C_out, C_in, kt, kh, kw)``, kt odd.

    Returns:
        ``(B, C_out, T, H', W')``.
    """
    _check_calibration(alpha, weight, cal_dim, groups=1)
    (sh, sw), (ph, pw) = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding))
    taps = weight.shape[2]
    if taps % 2 == 0:
        raise ConfigError(f"the temporal kernel size is {taps}; it must be odd so that frames keep their place.")
    if cal_dim == "cout":
        y = F.conv3d(x, weight, None, (1, sh, sw), (taps // 2, ph, pw)) * alpha[..., None, None]
        return y if bias is None else y + bias[:, None, None, None]
    # alpha_t belongs to the output frame, so the window is unfolded along T before it is scaled
    frames = x.shape[2]
    windows = F.pad(x, (0, 0, 0, 0, taps // 2, taps // 2)).unfold(2, frames, 1)  # (B, C, taps, H, W, T)
    windows = windows * alpha[:, :, None, None, None, :]
    folded = windows.permute(0, 5, 1, 2, 3, 4).flatten(2, 3).flatten(0, 1)  # (B*T, C*taps, H, W)
    y = F.conv2d(folded, weight.flatten(1, 2), bias, (sh, sw), (ph, pw))
    return y.unflatten(0, (x.shape[0], frames)).transpose(1, 2)


def spatial_mean(x: Tensor, num_frames: int) -> Tensor:
    """Frame descriptors: ``(B*T, C, H, W)`` -> ``(B, C, T)``."""
    return x.mean((2, 3)).unflatten(0, (-1, num_frames)).transpose(1, 2)


class RouteMLP(nn.Module):
    """The routing function: what a clip looks like -> how each frame's kernel is scaled.

    ``alpha = 1 + Conv_b(ReLU(BN(Conv_a(xbar + Conv_g(g)))))`` with ``xbar`` the frame descriptors and ``g`` their
    mean over time (arXiv 2110.06178, equation 4). ``Conv_b`` starts at zero, so alpha starts at one.
    """

    def __init__(self, channels: int, reduction: int = 4, kernels: tuple[int, int] = (3, 3)) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.g = nn.Conv1d(channels, channels, 1)
        self.a = nn.Conv1d(channels, hidden, kernels[0], padding=kernels[0] // 2)
        self.bn = nn.BatchNorm1d(hidden)
        self.b = nn.Conv1d(hidden, channels, kernels[1], padding=kernels[1] // 2, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> alpha ``(B, C, T)``."""
        xbar = spatial_mean(x, num_frames)
        # the zero padding of `a` must not contain Conv_g's share: the sum comes first, as published
        descriptor = xbar + self.g(xbar.mean(2, keepdim=True))
        return 1 + self.b(F.relu(self.bn(self.a(descriptor))))


class TAdaConv2d(nn.Conv2d):
    """A 2D convolution with a routing function: a drop-in for ``nn.Conv2d(..., groups=1)`` on folded frames.

    ``weight`` is that of the convolution it replaces, so an image network's kernel loads unchanged, and at
    initialisation (alpha = 1) the output is unchanged too.
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
        bias: bool = False,
        reduction: int = 4,
        kernels: tuple[int, int] = (3, 3),
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias)
        self.routing = RouteMLP(in_channels, reduction, kernels)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        alpha = self.routing(x, num_frames).transpose(1, 2).flatten(0, 1)  # (B*T, C)
        return self._conv_forward(x * alpha[:, :, None, None], self.weight, self.bias)


class TAdaConvBN(nn.Module):
    """TAdaConv followed by the temporal aggregation of TAda2D: ``BN(y) + BN_0(avgpool_3x1x1(y))``.

    ``BN_0`` starts at zero (arXiv 2110.06178, section 3.3), so the unit starts as convolution + batch norm.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, reduction: int = 4) -> None:
        super().__init__()
        self.conv = TAdaConv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, reduction=reduction
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.pool_bn = nn.BatchNorm2d(out_channels)
        nn.init.zeros_(self.pool_bn.weight)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``; no activation."""
        y = self.conv(x, num_frames)
        return self.bn(y) + self.pool_bn(temporal_average(y, num_frames))


def temporal_average(y: Tensor, num_frames: int) -> Tensor:
    """Mean over frames t-1, t, t+1 of ``(B*T, C, H, W)``; the missing frames at both ends count as zeros.

    Dividing by three at the ends too is what the published weights were trained with (count_include_pad).
    """
    frames = y.unflatten(0, (-1, num_frames))  # (B, T, C, H, W)
    total = frames.clone()
    total[:, 1:] += frames[:, :-1]
    total[:, :-1] += frames[:, 1:]
    return (total / 3).flatten(0, 1)
