"""Scale and shift of every channel of every frame, in one pass over the feature map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.ops.frames import is_traced


def scale_and_shift(y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute ``y * scale + shift``; without gradients, ``y`` is overwritten.

    Args:
        y: frames ``(N, C, H, W)`` that the caller no longer needs, such as the output of a convolution.
        scale, shift: ``(N, C, 1, 1)``.
    """
    if is_traced() or not y.dtype == scale.dtype == shift.dtype:  # the types differ under autocast
        return y * scale + shift
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (y, scale, shift)):
        return _ScaleAndShift.apply(y, scale, shift)
    return torch.addcmul(shift, y, scale, out=y)


class _ScaleAndShift(torch.autograd.Function):
    """``scale_and_shift`` with one temporary map in the backward pass."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(y, scale)
        return torch.addcmul(shift, y, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        y, scale = ctx.saved_tensors
        to_y, to_scale, to_shift = None, None, None
        buffer = torch.empty_like(grad)
        if ctx.needs_input_grad[1]:
            to_scale = torch.mul(grad, y, out=buffer).sum((2, 3), keepdim=True)
        if ctx.needs_input_grad[2]:
            to_shift = grad.sum((2, 3), keepdim=True)
        if ctx.needs_input_grad[0]:
            to_y = torch.mul(grad, scale, out=buffer)
        return to_y, to_scale, to_shift
