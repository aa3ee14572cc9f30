"""Temporal aggregation with layer norms: ``LN(y) + LN_0(avgpool_3x1x1(y))``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.ops.frames import is_traced
from zoo.ops.tadaconv import temporal_average


def norm_with_average(y: Tensor, norm: nn.LayerNorm, average_norm: nn.LayerNorm, num_frames: int) -> Tensor:
    """Add the norms over channels of frames and of their averages over frames t-1, t, t+1.

    Args:
        y: frames ``(B*T, C, H, W)``.
        norm: layer norm of the frames.
        average_norm: layer norm of the averages.

    Returns:
        ``(B*T, H, W, C)``.
    """
    parameters = (norm.weight, norm.bias, average_norm.weight, average_norm.bias)
    mixed = any(p.dtype != y.dtype for p in parameters)
    if is_traced() or mixed or y.device.type not in ("cpu", "cuda") or torch.is_autocast_enabled(y.device.type):
        return norm(y.permute(0, 2, 3, 1)) + average_norm(temporal_average(y, num_frames).permute(0, 2, 3, 1))
    frames = y.permute(0, 2, 3, 1).unflatten(0, (-1, num_frames))  # (B, T, H, W, C)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (y, *parameters)):
        z = _NormWithAverage.apply(frames, *parameters, norm.eps, average_norm.eps)
    else:
        z = F.layer_norm(frames, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        # the norm of a sum of three with nine times epsilon equals that of the average
        z += F.layer_norm(
            _sum_of_neighbors(frames), norm.weight.shape, average_norm.weight, average_norm.bias, 9 * average_norm.eps
        )
    return z.flatten(0, 1)


def _sum_of_neighbors(frames: Tensor) -> Tensor:
    """Sum ``(B, T, H, W, C)`` over frames t-1, t, t+1."""
    total = torch.empty_like(frames)
    torch.add(frames[:, :-1], frames[:, 1:], out=total[:, :-1])
    total[:, -1] = frames[:, -1]
    total[:, 1:] += frames[:, :-1]
    return total


class _NormWithAverage(torch.autograd.Function):
    """``norm_with_average`` that saves only its input; the backward pass recomputes the sum of three frames."""

    @staticmethod
    def forward(
        ctx: Any,
        frames: Tensor,
        weight: Tensor,
        bias: Tensor,
        average_weight: Tensor,
        average_bias: Tensor,
        eps: float,
        average_eps: float,
    ) -> Tensor:
        shape = weight.shape
        z, *statistics = torch.native_layer_norm(frames, shape, weight, bias, eps)
        averages, *average_statistics = torch.native_layer_norm(
            _sum_of_neighbors(frames), shape, average_weight, average_bias, 9 * average_eps
        )
        tensors = (frames, weight, bias, average_weight, average_bias)
        ctx.save_for_backward(*tensors, *statistics, *average_statistics)
        return z.add_(averages)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        frames, weight, bias, average_weight, average_bias, *statistics = ctx.saved_tensors
        to_frames, *needs = ctx.needs_input_grad[:5]
        layer_norm_backward, shape = torch.ops.aten.native_layer_norm_backward, weight.shape
        sums = _sum_of_neighbors(frames)
        to_sums, to_average_weight, to_average_bias = layer_norm_backward(
            grad, sums, shape, *statistics[2:], average_weight, average_bias, [to_frames, *needs[2:]]
        )
        total, to_weight, to_bias = layer_norm_backward(
            grad, frames, shape, *statistics[:2], weight, bias, [to_frames, *needs[:2]]
        )
        if to_frames:
            total += to_sums
            total[:, 1:] += to_sums[:, :-1]
            total[:, :-1] += to_sums[:, 1:]
        return total, to_weight, to_bias, to_average_weight, to_average_bias, None, None
