"""A 1x1 convolution and its batch norm in training, without keeping the output of the convolution.

The gradients need the output ``y = W x`` only in sums over all pixels and in products with ``W``, which follow from
``x``: ``sum(g y) = W sum(g x)`` and ``sum(y x) = W sum(x x)``. The last convolution of a bottleneck has four times as
many output channels as input channels, so its input, which autograd keeps anyway, is much smaller than its output.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.ops.average_norm import batch_statistics, can_inline, has_hooks
from zoo.ops.recompute import load, save


def can_recompute(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> bool:
    """Whether ``pointwise_norm`` can replace ``bn(conv(x))``, saves memory and costs no more time.

    It requires full precision, because it subtracts sums of similar size: a GPU may convolve float32 in TF32.
    """
    if not (bn.training and torch.is_grad_enabled() and x.device.type == "cpu" and can_inline(x, bn)):
        return False
    if (
        x.dtype not in (torch.float32, torch.float64)
        or x.dtype != conv.weight.dtype
        or torch.is_autocast_enabled("cpu")
    ):
        return False
    pixels = x.shape[0] * (x.shape[2] // conv.stride[0]) * (x.shape[3] // conv.stride[1])
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and conv.bias is None
        and conv.in_channels <= conv.out_channels <= pixels
        and not has_hooks(conv)
    )


def pointwise_norm(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> Tensor:
    """Compute ``bn(conv(x))``; ``(N, C_in, H, W)`` -> ``(N, C_out, H', W')``. Requires ``can_recompute``."""
    return _PointwiseNorm.apply(x, conv.weight, bn.weight, bn.bias, conv.stride, bn)


class _PointwiseNorm(torch.autograd.Function):
    """``pointwise_norm`` with a manual backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int], bn: nn.BatchNorm2d
    ) -> Tensor:
        y = F.conv2d(x, kernel, None, stride)
        mean, var = batch_statistics(bn, y)
        save(ctx, x, kernel, weight, mean, (var + bn.eps).rsqrt())
        ctx.stride = stride
        scale = weight / (var + bn.eps).sqrt()
        offset = bias - mean * scale
        return torch.addcmul(offset[:, None, None], y, scale[:, None, None], out=y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel, weight, mean, invstd = load(ctx)
        rows, columns = ctx.stride
        scaled_kernel = kernel * (weight * invstd)[:, None, None, None]
        geometry = ((0, 0), (1, 1), False, (0, 0), 1)  # padding, dilation, not transposed, output padding, groups
        to_x, grad_x, _ = torch.ops.aten.convolution_backward(
            grad, x, scaled_kernel, None, ctx.stride, *geometry, (ctx.needs_input_grad[0], True, False)
        )
        x = x[:, :, ::rows, ::columns]  # the pixels that the convolution reads
        pixels, matrix, grad_x = x.numel() // x.shape[1], kernel.flatten(1), grad_x.flatten(1)
        sum_x, to_bias = x.sum((0, 2, 3)), grad.sum((0, 2, 3))
        square = x.new_empty(x.shape[1], x.shape[1], 1, 1)
        _, sum_xx, _ = torch.ops.aten.convolution_backward(x, x, square, None, (1, 1), *geometry, (False, True, False))
        to_weight = invstd * ((grad_x * matrix).sum(1) - mean * to_bias)
        # sum over pixels of the normalized output times x, (C_out, C_in)
        normalized_x = invstd[:, None] * (matrix @ sum_xx.flatten(1) - torch.outer(mean, sum_x))
        to_kernel = grad_x - (torch.outer(to_bias, sum_x) + to_weight[:, None] * normalized_x) / pixels
        to_kernel = (weight * invstd)[:, None] * to_kernel
        if to_x is not None:
            slope = weight * invstd.square() * to_weight / pixels
            product = matrix.T @ (slope[:, None] * matrix)
            offset = matrix.T @ (slope * mean - weight * invstd * to_bias / pixels)
            to_x[:, :, ::rows, ::columns] += F.conv2d(x, -product[:, :, None, None], offset)
        return to_x, to_kernel.view_as(kernel), to_weight, to_bias, None, None
