"""ReLUs whose output is computed again in the backward pass instead of being kept.

After ``relu(norm(y))``, autograd keeps ``y`` for the norm, and the output of the ReLU for the ReLU and for the next
convolution. Both have the same size, and the output follows from ``y`` and two values per channel in one pass.
``record`` stores how to compute the output of a norm again, and ``relu`` does so for its own output. Operations with a
manual backward pass call ``save`` and ``load``, which keep ``y`` and compute the output when it is needed.
Other operations keep the output. The kernels are those of the forward pass, so the values are identical.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary


class _ComputeOnce:
    """Computes a tensor again, once for all operations that need it in a backward pass.

    The graph refers to this object, which therefore must not refer to the tensors of the computation.
    """

    def __init__(self, compute: Callable[..., Tensor]) -> None:
        self.compute = compute
        self.value: Tensor | None = None

    def __call__(self, tensors: tuple[Tensor, ...]) -> Tensor:
        value = self.compute(*tensors) if self.value is None else self.value
        self.value = value
        return value


class _Computation(NamedTuple):
    """How to compute a tensor again, as long as its version is ``version``."""

    function: _ComputeOnce
    tensors: tuple[Tensor, ...]
    version: int


_computations = WeakTensorKeyDictionary()


def _computation(x: Tensor) -> _Computation | None:
    if torch.compiler.is_compiling():
        return None
    computation = _computations.get(x)
    return computation if computation is not None and computation.version == x._version else None


def is_recomputable(x: Tensor) -> bool:
    """Whether ``x`` can be computed again."""
    return _computation(x) is not None


def record(x: Tensor, compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Store that ``compute(*tensors)`` equals ``x``, on a CPU; returns ``x``.

    The tensors should be kept for the backward pass anyway, or be small.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled() and x.requires_grad:
        _computations[x] = _Computation(_ComputeOnce(compute), tuple(v.detach() for v in tensors), x._version)
    return x


def record_alias(alias: Tensor, x: Tensor) -> Tensor:
    """Store that ``alias`` is a view of ``x`` with the same shape, so that it is computed alike; returns ``alias``."""
    if (computation := _computation(x)) is not None:
        _computations[alias] = computation
    return alias


def save(ctx: Any, x: Tensor, *tensors: Tensor) -> None:
    """Call ``ctx.save_for_backward``, with the tensors of the computation of ``x`` instead of ``x`` if it has one."""
    computation = _computation(x)
    ctx.function, inputs = (None, (x,)) if computation is None else (computation.function, computation.tensors)
    ctx.num_inputs = len(inputs)
    ctx.save_for_backward(*inputs, *tensors)


def load(ctx: Any) -> tuple[Tensor, ...]:
    """Return the tensors that were passed to ``save``. They may be shared, so they must not be modified."""
    saved = ctx.saved_tensors  # may be read only once, with gradient checkpointing
    inputs, tensors = saved[: ctx.num_inputs], saved[ctx.num_inputs :]
    return inputs[0] if ctx.function is None else ctx.function(inputs), *tensors


def relu(y: Tensor) -> Tensor:
    """Compute the ReLU of ``y`` in place."""
    computation = _computation(y)
    if computation is None:
        return F.relu(y, inplace=True)
    compute, tensors = computation.function.compute, computation.tensors
    function = _ComputeOnce(lambda *inputs: compute(*inputs).relu_())
    z = _ReLU.apply(y, function, *tensors)
    _computations[z] = _Computation(function, tensors, z._version)
    return z


class _ReLU(torch.autograd.Function):
    """``relu`` of a tensor with a computation."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, function: _ComputeOnce, *tensors: Tensor) -> Tensor:
        ctx.mark_dirty(y)
        ctx.save_for_backward(*tensors)
        ctx.function = function
        return y.relu_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        z = ctx.function(tensors)
        ctx.function.value = None  # the operations after the ReLU no longer need it
        return torch.ops.aten.threshold_backward(grad, z, 0), *[None] * (1 + len(tensors))
