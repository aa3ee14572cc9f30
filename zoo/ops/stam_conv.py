"""Convolution with a kernel that is scaled for every frame, input channel and tap, without a kernel for each frame.

In ``(A_t . W) * X_t``, ``A_t`` is the same for all output channels. Therefore the input of each tap can be scaled
instead of the kernel. The scaled windows of a frame are laid side by side as an image of kh x kw times the size, and
the unchanged kernel is applied with a stride of its own size. This is exact, has the multiply-accumulates of the static
convolution, and uses the fastest convolution of the device. In grouped and depthwise convolutions the kernel is small
compared with the windows; there the kernel is scaled.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.errors import ConfigError
from zoo.ops.tadaconv import Size2

Pair = tuple[int, int]

# values of scaled windows that are computed at once: few enough for the cache of a CPU, enough to use other devices
CHUNK = {"cpu": 2**21}
CHUNK_ELSEWHERE = 2**27


def stha_conv2d(
    x: Tensor,
    calibration: Tensor,
    weight: Tensor,
    stride: Size2 = 1,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve every frame with a kernel that is scaled for each input channel and tap.

    Args:
        x: frames ``(N, C_in, H, W)``, N = clips x frames.
        calibration: ``(N, C_in, kh, kw)``.
        weight: base kernel ``(C_out, C_in / groups, kh, kw)``.

    Returns:
        ``(N, C_out, H', W')``.
    """
    frames = x.shape[0]  # not len(x), which would fix the batch of an exported network
    expected = (frames, weight.shape[1] * groups, *weight.shape[2:])
    if calibration.shape != expected:
        raise ConfigError(
            f"the calibration is {tuple(calibration.shape)}; {frames} frames and the kernel {tuple(weight.shape)} in "
            f"{groups} group(s) require {expected}."
        )
    if isinstance(padding, str):
        raise ConfigError(f"padding is {padding!r}; STAM's convolution requires numbers, such as kernel_size // 2.")
    pairs: Any = tuple((v, v) if isinstance(v, int) else tuple(v) for v in (stride, padding, dilation))
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, calibration, weight = x.to(dtype), calibration.to(dtype), weight.to(dtype)
    if groups > 1:
        kernels = weight.unflatten(0, (groups, -1)) * calibration.unflatten(1, (groups, 1, -1))
        rows = x.reshape(1, -1, *x.shape[2:])
        y = F.conv2d(rows, kernels.flatten(0, 2), None, pairs[0], pairs[1], pairs[2], frames * groups)
        return y.unflatten(1, (frames, -1))[0]
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # the loop over chunks would fix the batch
        return _gathered_conv(x, calibration, weight, *pairs)
    if torch.is_grad_enabled() and any(v.requires_grad for v in (x, calibration, weight)):
        return _TapScaledConv.apply(x, calibration, weight, *pairs)
    return _tap_scaled_conv(x, calibration, weight, *pairs)


def _windows(x: Tensor, taps: Pair, stride: Pair, padding: Pair, dilation: Pair) -> tuple[Tensor, Tensor]:
    """Padded frames ``(N, H, W, C)``, and a view of them with the inputs of every tap ``(N, H', kh, W', kw, C)``."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    view = padded
    for axis in (0, 1):
        view = view.unfold(1 + axis, dilation[axis] * (taps[axis] - 1) + 1, stride[axis])
    view = view[..., :: dilation[0], :: dilation[1]]  # (N, H', W', C, kh, kw)
    return padded, view.permute(0, 1, 4, 2, 5, 3)


def _as_images(windows: Tensor) -> Tensor:
    """Windows side by side, ``(N, C, H' kh, W' kw)``, channels last, for a convolution with stride kh, kw."""
    return windows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _chunk(windows: Tensor) -> int:
    """Number of frames whose windows are scaled at once."""
    return max(CHUNK.get(windows.device.type, CHUNK_ELSEWHERE) // max(windows[0].numel(), 1), 1)


def _tap_scaled_conv(
    x: Tensor, calibration: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    taps: Any = tuple(weight.shape[2:])
    _, windows = _windows(x, taps, stride, padding, dilation)
    scale = calibration.permute(0, 2, 3, 1)[:, None, :, None]  # (N, 1, kh, 1, kw, C)
    n = _chunk(windows)
    buffer = torch.empty(windows[:n].shape, dtype=x.dtype, device=x.device)  # allocation takes longer than the product
    parts = []
    for chunk, factors in zip(windows.split(n), scale.split(n), strict=True):
        scaled = torch.mul(chunk, factors, out=buffer[: len(chunk)])
        parts.append(F.conv2d(_as_images(scaled), weight, stride=taps))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _gathered_conv(
    x: Tensor, calibration: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Implementation for compilers: a convolution with one-hot kernels gathers the inputs of each tap.

    Its gradients need no slices, which may be miscompiled; see ``zoo.ops.frames.compiles_for_cpu``.
    """
    taps = weight[0, 0].numel()
    one_hot = torch.eye(taps, dtype=x.dtype, device=x.device).view(taps, 1, *weight.shape[2:])
    gather = one_hot.repeat(weight.shape[1], 1, 1, 1)  # (C_in kh kw, 1, kh, kw)
    windows = F.conv2d(x, gather, None, stride, padding, dilation, weight.shape[1])  # (N, C_in kh kw, H', W')
    return F.conv2d(windows * calibration.flatten(1)[..., None, None], weight.flatten(1)[..., None, None])


class _TapScaledConv(torch.autograd.Function):
    """``_tap_scaled_conv`` that saves only its inputs; autograd would save the windows, kh x kw times as much."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, calibration: Tensor, weight: Tensor, *geometry: Pair) -> Tensor:
        ctx.save_for_backward(x, calibration, weight)
        ctx.geometry = geometry
        return _tap_scaled_conv(x, calibration, weight, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, calibration, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        taps = tuple(weight.shape[2:])
        padded, windows = _windows(x, taps, *ctx.geometry)
        scale = calibration.permute(0, 2, 3, 1)  # (N, kh, kw, C)
        (height, width), (kh, kw) = grad.shape[2:], taps
        to_padded, to_scale = torch.zeros_like(padded), torch.empty_like(scale, memory_format=torch.contiguous_format)
        to_weight = torch.zeros_like(weight)
        mask = [ctx.needs_input_grad[0] or ctx.needs_input_grad[1], ctx.needs_input_grad[2], False]
        n = _chunk(windows)
        buffer = torch.empty(windows[:n].shape, dtype=x.dtype, device=x.device)
        for first in range(0, len(x), n):
            here = slice(first, first + n)
            scaled = torch.mul(windows[here], scale[here, None, :, None], out=buffer[: len(grad[here])])
            to_images, part, _ = torch.ops.aten.convolution_backward(
                grad[here], _as_images(scaled), weight, None, taps, (0, 0), (1, 1), False, (0, 0), 1, mask
            )
            if mask[1]:
                to_weight += part
            if not mask[0]:
                continue
            to_windows = to_images.permute(0, 2, 3, 1).unflatten(2, (width, kw)).unflatten(1, (height, kh))
            for u in range(kh):
                for v in range(kw):
                    rows = slice(u * dilation[0], u * dilation[0] + stride[0] * (height - 1) + 1, stride[0])
                    columns = slice(v * dilation[1], v * dilation[1] + stride[1] * (width - 1) + 1, stride[1])
                    of_tap = to_windows[:, :, u, :, v]  # (n, H', W', C)
                    to_scale[here, u, v] = (of_tap * padded[here, rows, columns]).sum((1, 2))
                    to_padded[here, rows, columns].addcmul_(of_tap, scale[here, u, v][:, None, None])
        bottom, right = padding[0] + x.shape[2], padding[1] + x.shape[3]
        to_x = to_padded[:, padding[0] : bottom, padding[1] : right].permute(0, 3, 1, 2)
        return to_x, to_scale.permute(0, 3, 1, 2), to_weight, None, None, None
