"""Temporal average and the two batch norms after it, with the memory of one batch norm."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.ops.frames import compiles_for_cpu, is_traced, neighbor_frames
from zoo.ops.recompute import record


def temporal_average(y: Tensor, num_frames: int) -> Tensor:
    """Average ``(B*T, C, H, W)`` over frames t-1, t, t+1, with zero padding.

    As in the published networks, the sum is divided by three at the ends too (count_include_pad).
    """
    if compiles_for_cpu(y):
        previous, following = (neighbor_frames(y, num_frames, offset) for offset in (-1, 1))
        return (y + previous + following) / 3
    frames = y.unflatten(0, (-1, num_frames))  # (B, T, C, H, W)
    total = frames.clone()
    total[:, 1:] += frames[:, :-1]
    total[:, :-1] += frames[:, 1:]
    return (total / 3).flatten(0, 1)


class TemporalAverage(nn.Module):
    """``temporal_average`` as a module."""

    def forward(self, y: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        return temporal_average(y, num_frames)


def can_inline(y: Tensor, *norms: nn.Module) -> bool:
    """Whether a function may compute batch norms of ``y`` instead of calling the modules.

    False for subclasses such as SyncBatchNorm, norms with hooks, cumulative averages (``momentum=None``), norms without
    parameters or statistics, and while the network is compiled or traced.
    """
    if is_traced() or y.device.type not in ("cpu", "cuda"):
        return False
    if y.numel() <= y.shape[1]:  # one value per channel, an error in training
        return False
    return all(
        type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.weight.dtype in (torch.float32, torch.float64)
        and norm.running_mean is not None
        and norm.momentum is not None
        and not has_hooks(norm)
        for norm in norms
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks are registered on the module, which only a call of the module runs."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def average_norm(y: Tensor, num_frames: int, bn: nn.BatchNorm2d, pool_bn: nn.BatchNorm2d) -> Tensor:
    """Compute ``bn(y) + pool_bn(temporal_average(y, num_frames))``; updates the running statistics of both norms.

    Only ``y`` and statistics per channel are kept for the backward pass, which computes the average again.

    Args:
        y: ``(B*T, C, H, W)``.
        bn: a norm that passes ``can_inline``, in training or evaluation mode.
        pool_bn: the same; its mode may differ.
    """
    parameters = (bn.weight, bn.bias, pool_bn.weight, pool_bn.bias)
    out, *filters = _AverageNorm.apply(y, *parameters, bn, pool_bn, num_frames)
    return record(out, functools.partial(_filter, num_frames), y, *filters)


class _AverageNorm(torch.autograd.Function):
    """``average_norm`` with a manual backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        pool_weight: Tensor,
        pool_bias: Tensor,
        bn: nn.BatchNorm2d,
        pool_bn: nn.BatchNorm2d,
        num_frames: int,
    ) -> tuple[Tensor, ...]:
        mean, var = batch_statistics(bn, y) if bn.training else _running_statistics(bn)
        if pool_bn.training:
            pool_mean, pool_var = batch_statistics(pool_bn, _average(y, num_frames))
        else:
            pool_mean, pool_var = _running_statistics(pool_bn)
        ctx.save_for_backward(y, weight, pool_weight, mean, var, pool_mean, pool_var)
        ctx.num_frames, ctx.modes, ctx.eps = num_frames, (bn.training, pool_bn.training), (bn.eps, pool_bn.eps)
        # both norms and the average are one filter over time and one offset per channel
        scale, pool_scale = weight / (var + bn.eps).sqrt(), pool_weight / (pool_var + pool_bn.eps).sqrt()
        side = pool_scale / 3
        offset = bias + pool_bias - mean * scale - pool_mean * pool_scale
        ctx.mark_non_differentiable(center := scale + side, side, offset)
        return _filter(num_frames, y, center, side, offset), center, side, offset

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, pool_weight, mean, var, pool_mean, pool_var = ctx.saved_tensors
        needs_y, *needs = ctx.needs_input_grad[:5]
        (training, pool_training), (eps, pool_eps) = ctx.modes, ctx.eps
        grads = _norm_backward(grad, y, weight, mean, var, training, eps, [needs_y, *needs[:2]])
        average = _average(y, ctx.num_frames)
        pool_grads = _norm_backward(
            grad, average, pool_weight, pool_mean, pool_var, pool_training, pool_eps, [needs_y, *needs[2:]]
        )
        if needs_y:  # the matrix of the average over time is symmetric
            grads[0].add_(pool_grads[0], alpha=1 / 3)
            _add_neighbors(grads[0], pool_grads[0], 1 / 3, ctx.num_frames)
        return *grads, *pool_grads[1:], None, None, None


def _filter(num_frames: int, y: Tensor, center: Tensor, side: Tensor, offset: Tensor) -> Tensor:
    """Compute ``center * y_t + side * (y_{t-1} + y_{t+1}) + offset``; all factors are ``(C,)``."""
    # this kernel multiplies and adds in float32, also for frames of lower precision
    zeros, ones = torch.zeros_like(center), torch.ones_like(center)
    out = F.batch_norm(y, zeros, ones, center, offset, False, 0.0, 0.0)
    _add_neighbors(out, y, side, num_frames)
    return out


def batch_statistics(norm: nn.BatchNorm2d, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of ``y``, ``(C,)`` each; updates the running statistics of the norm."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return torch.batch_norm_update_stats(y, norm.running_mean, norm.running_var, norm.momentum)


def _running_statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def _norm_backward(
    grad: Tensor, y: Tensor, weight: Tensor, mean: Tensor, var: Tensor, training: bool, eps: float, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a batch norm's input, weight and bias."""
    invstd = (var + eps).rsqrt()
    return torch.ops.aten.native_batch_norm_backward(grad, y, weight, mean, var, mean, invstd, training, eps, needs)


def _average(y: Tensor, num_frames: int) -> Tensor:
    """``temporal_average`` with fewer copies, but not differentiable."""
    average = y / 3
    _add_neighbors(average, y, 1 / 3, num_frames)
    return average


def _add_neighbors(out: Tensor, y: Tensor, scale: Tensor | float, num_frames: int) -> None:
    """Add ``scale * (y_{t-1} + y_{t+1})`` to every frame of ``out``, in place; ``scale`` is a number or ``(C,)``."""
    target, frames = (v.unflatten(0, (-1, num_frames)) for v in (out, y))  # (B, T, C, H, W)
    for into, neighbor in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        if isinstance(scale, Tensor):
            target[:, into].addcmul_(frames[:, neighbor], scale.to(y.dtype)[:, None, None])
        else:
            target[:, into].add_(frames[:, neighbor], alpha=scale)
