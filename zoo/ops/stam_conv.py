"""Convolution with a kernel that is scaled for every frame, input channel and tap.

In ``(A_t . W) * X_t``, ``A_t`` is the same for all output channels. Therefore the input of each tap can be scaled
instead of the kernel. The scaled windows of a frame are laid side by side as an image of kh x kw times the size, and
the unchanged kernel is applied with a stride of its own size. This is exact, has the multiply-accumulates of the static
convolution, and uses the fastest convolution of the device. The kernel is scaled where it is small compared with the
windows: in grouped and depthwise convolutions and, on a CPU, for large feature maps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.errors import ConfigError
from zoo.ops.frames import compiles_for_cpu, is_exported, is_traced
from zoo.ops.tadaconv import Size2

Pair = tuple[int, int]

# values of scaled windows that are computed at once; for a CPU 32 MiB, at least 16 frames of a ResNet-50 at 224 x 224:
# with fewer frames and one thread, PyTorch selects a 1x1 convolution that takes twice the time
CHUNK = {"cpu": 2**23}
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
    if compiles_for_cpu(x) and not is_exported():
        return _compiled_conv(x, calibration, weight, [value for pair in pairs for value in pair])
    if is_traced():  # the loop over chunks would fix the batch
        return _gathered_conv(x, calibration, weight, *pairs)
    if torch.is_grad_enabled() and any(v.requires_grad for v in (x, calibration, weight)):
        return _ScaledConv.apply(x, calibration, weight, *pairs)
    return _scaled_conv(x, calibration, weight, *pairs)


def _output_size(x: Tensor, taps: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    height, width = (
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (taps[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    return height, width


def _scales_kernels(x: Tensor, weight: Tensor, *geometry: Pair) -> bool:
    """Whether to scale a kernel for each frame: on a CPU, if it is much smaller than the windows of a frame.

    Other devices are faster with few large operations.
    """
    height, width = _output_size(x, (weight.shape[2], weight.shape[3]), *geometry)
    return x.device.type == "cpu" and 2 * weight.shape[0] <= height * width


def _windows(x: Tensor, taps: Pair, stride: Pair, padding: Pair, dilation: Pair) -> tuple[Tensor, Tensor]:
    """Padded frames ``(N, H, W, C)``, and a view of them with the inputs of every tap ``(N, H', W', kh, kw, C)``."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    view = padded
    for axis in (0, 1):
        view = view.unfold(1 + axis, dilation[axis] * (taps[axis] - 1) + 1, stride[axis])
    view = view[..., :: dilation[0], :: dilation[1]]  # (N, H', W', C, kh, kw)
    return padded, view.permute(0, 1, 2, 4, 5, 3)


def _as_images(windows: Tensor) -> Tensor:
    """Windows side by side, ``(N, C, H' kh, W' kw)``, channels last, for a convolution with stride kh, kw."""
    return windows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _as_channels(windows: Tensor) -> Tensor:
    """Windows as an image ``(N, kh kw C, H', W')``, channels last."""
    return windows.flatten(3).permute(0, 3, 1, 2)


def _as_pointwise(weight: Tensor) -> Tensor:
    """Kernel as a 1x1 kernel for ``_as_channels``, ``(C_out, kh kw C, 1, 1)``."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1, 1, 1)


def _chunk(windows: Tensor) -> int:
    """Number of frames whose windows are scaled at once."""
    return max(CHUNK.get(windows.device.type, CHUNK_ELSEWHERE) // max(windows[0].numel(), 1), 1)


def _scaled_conv(x: Tensor, calibration: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    taps = (weight.shape[2], weight.shape[3])
    size = (x.shape[0], weight.shape[0], *_output_size(x, taps, *geometry))
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if _scales_kernels(x, weight, *geometry):
        for n in range(x.shape[0]):
            y[n : n + 1] = F.conv2d(x[n : n + 1], weight * calibration[n], None, *geometry)
        return y
    _, windows = _windows(x, taps, *geometry)
    windows = windows.transpose(2, 3)  # (N, H', kh, W', kw, C)
    scale = calibration.permute(0, 2, 3, 1)[:, None, :, None]  # (N, 1, kh, 1, kw, C)
    n = _chunk(windows)
    buffer = torch.empty(windows[:n].shape, dtype=x.dtype, device=x.device)  # allocation takes longer than the product
    for chunk, factors, part in zip(windows.split(n), scale.split(n), y.split(n), strict=True):
        scaled = torch.mul(chunk, factors, out=buffer[: len(chunk)])
        part.copy_(F.conv2d(_as_images(scaled), weight, stride=taps))
    return y


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


class _ScaledConv(torch.autograd.Function):
    """``_scaled_conv`` that saves only its inputs; autograd would save the windows, kh x kw times as much."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, calibration: Tensor, weight: Tensor, *geometry: Pair) -> Tensor:
        ctx.save_for_backward(x, calibration, weight)
        ctx.geometry = geometry
        return _scaled_conv(x, calibration, weight, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, calibration, weight = ctx.saved_tensors
        return *_gradients(grad, x, calibration, weight, *ctx.geometry), None, None, None


def _gradients(
    grad: Tensor, x: Tensor, calibration: Tensor, weight: Tensor, *geometry: Pair
) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad.contiguous(memory_format=torch.channels_last)
    if _scales_kernels(x, weight, *geometry):
        return _kernel_gradients(grad, x, calibration, weight, *geometry)
    return _window_gradients(grad, x, calibration, weight, *geometry)


def _convolution_gradients(grad: Tensor, x: Tensor, weight: Tensor, *geometry: Pair) -> tuple[Tensor, Tensor]:
    mask = (True, True, False)
    to_x, to_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, False, (0, 0), 1, mask)
    return to_x, to_weight


def _kernel_gradients(
    grad: Tensor, x: Tensor, calibration: Tensor, weight: Tensor, *geometry: Pair
) -> tuple[Tensor, Tensor, Tensor]:
    to_x, to_calibration, to_weight = torch.empty_like(x), torch.empty_like(calibration), torch.zeros_like(weight)
    for n in range(x.shape[0]):
        one = slice(n, n + 1)
        to_x[one], to_kernel = _convolution_gradients(grad[one], x[one], weight * calibration[n], *geometry)
        to_weight.addcmul_(to_kernel, calibration[n])
        to_calibration[n] = to_kernel.mul_(weight).sum(0)
    return to_x, to_calibration, to_weight


def _window_gradients(
    grad: Tensor, x: Tensor, calibration: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tensor, Tensor, Tensor]:
    kh, kw = weight.shape[2:]
    height, width = grad.shape[2:]
    padded, windows = _windows(x, (kh, kw), stride, padding, dilation)
    scale = calibration.permute(0, 2, 3, 1)  # (N, kh, kw, C)
    to_padded, to_scale = torch.zeros_like(padded), torch.empty_like(scale, memory_format=torch.contiguous_format)
    # as a 1x1 convolution, the gradients take two thirds of the time of those of `_as_images`
    pointwise, n = _as_pointwise(weight), _chunk(windows)
    to_pointwise = torch.zeros_like(pointwise)
    buffer = torch.empty(windows[:n].shape, dtype=x.dtype, device=x.device)
    for first in range(0, x.shape[0], n):
        part = slice(first, first + n)
        product = torch.mul(windows[part], scale[part, None, None], out=buffer[: len(grad[part])])
        to_product, to_part = _convolution_gradients(
            grad[part], _as_channels(product), pointwise, (1, 1), (0, 0), (1, 1)
        )
        to_pointwise += to_part
        to_windows = to_product.permute(0, 2, 3, 1).unflatten(3, (kh, kw, -1))  # before scaling of the inputs
        to_scale[part] = torch.mul(to_windows, windows[part], out=product).sum((1, 2))
        for u in range(kh):
            for v in range(kw):
                rows = slice(u * dilation[0], u * dilation[0] + stride[0] * (height - 1) + 1, stride[0])
                columns = slice(v * dilation[1], v * dilation[1] + stride[1] * (width - 1) + 1, stride[1])
                to_padded[part, rows, columns].addcmul_(to_windows[:, :, :, u, v], scale[part, u, v][:, None, None])
    bottom, right = padding[0] + x.shape[2], padding[1] + x.shape[3]
    to_x = to_padded[:, padding[0] : bottom, padding[1] : right].permute(0, 3, 1, 2)
    to_weight = to_pointwise.view(weight.shape[0], kh, kw, -1).permute(0, 3, 1, 2)
    return to_x, to_scale.permute(0, 3, 1, 2), to_weight


# custom operations accept no pairs in lists, so geometry has six numbers: stride, padding and dilation


@torch.library.custom_op("tempozoo::scaled_conv", mutates_args=())
def _compiled_conv(x: Tensor, calibration: Tensor, weight: Tensor, geometry: list[int]) -> Tensor:
    """``_scaled_conv`` as a single operation for compilers, which cannot trace its loops for any batch."""
    return _scaled_conv(x, calibration, weight, *_split(geometry))


@_compiled_conv.register_fake
def _(x: Tensor, calibration: Tensor, weight: Tensor, geometry: list[int]) -> Tensor:
    size = _output_size(x, (weight.shape[2], weight.shape[3]), *_split(geometry))
    return x.new_empty((x.shape[0], weight.shape[0], *size)).contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("tempozoo::scaled_conv_gradients", mutates_args=())
def _compiled_gradients(
    grad: Tensor, x: Tensor, calibration: Tensor, weight: Tensor, geometry: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``_compiled_conv``, in the memory formats that the function below declares."""
    to_x, to_scale, to_weight = _gradients(grad, x, calibration, weight, *_split(geometry))
    return to_x.contiguous(memory_format=torch.channels_last), to_scale.contiguous(), to_weight.contiguous()


@_compiled_gradients.register_fake
def _(
    grad: Tensor, x: Tensor, calibration: Tensor, weight: Tensor, geometry: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    to_x, to_scale, to_weight = (v.new_empty(v.shape) for v in (x, calibration, weight))
    return to_x.contiguous(memory_format=torch.channels_last), to_scale, to_weight


def _split(geometry: list[int]) -> tuple[Pair, Pair, Pair]:
    stride, padding, dilation = zip(geometry[::2], geometry[1::2], strict=True)
    return stride, padding, dilation


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.geometry = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_compiled_gradients(grad, *ctx.saved_tensors, ctx.geometry), None


_compiled_conv.register_autograd(_backward, setup_context=_save_inputs)
