"""QuickGELU, with few passes over the feature map and little memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.ops.frames import is_traced

SLOPE = 1.702


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``, the activation of CLIP and of the published weights."""
    if is_traced():
        return x * torch.sigmoid(SLOPE * x)
    if torch.is_grad_enabled() and x.requires_grad:
        return _QuickGELU.apply(x)
    return _quick_gelu(x)


def _quick_gelu(x: Tensor) -> Tensor:
    # in place, because allocating a large tensor takes longer than computing it
    return (SLOPE * x).sigmoid_().mul_(x)


class _QuickGELU(torch.autograd.Function):
    """``_quick_gelu`` that saves only its input; autograd would also save the sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _quick_gelu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        scaled = SLOPE * x  # QuickGELU(x) = SiLU(1.702 x) / 1.702, so both have the same derivative
        return torch.ops.aten.silu_backward.grad_input(grad, scaled, grad_input=scaled)
