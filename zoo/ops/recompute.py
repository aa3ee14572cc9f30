"""ReLUs whose output is computed again in the backward pass instead of being kept.

After ``relu(norm(y))``, autograd keeps ``y`` for the norm, and the output of the ReLU for the ReLU and for the next
convolution. Both have the same size, and the output follows from ``y`` and two values per channel in one pass.
``record`` notes for the output of a norm how to compute it again, and ``relu`` does so for its own output. Operations
with a manual backward pass then call ``save`` and ``load``, which keep ``y`` and compute the output when it is needed.
Other operations keep the output as before. The values are computed by the kernels of the forward pass, so they are
identical.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary


class _Function:
    """Computes a tensor again, once for all operations that need it in a backward pass.

    The graph refers to this object, which therefore must not refer to the tensors of the recipe.
    """

    def __init__(self, compute: Callable[..., Tensor]) -> None:
        self.compute = compute
        self.value: Tensor | None = None

    def __call__(self, tensors: tuple[Tensor, ...]) -> Tensor:
        value = self.compute(*tensors) if self.value is None else self.value
        self.value = value
        return value


class _Recipe(NamedTuple):
    """How to compute a tensor again, as long as its version is ``version``."""

    function: _Function
    tensors: tuple[Tensor, ...]
    version: int


_recipes = WeakTensorKeyDictionary()


def _recipe(x: Tensor) -> _Recipe | None:
    if torch.compiler.is_compiling():
        return None
    recipe = _recipes.get(x)
    return recipe if recipe is not None and recipe.version == x._version else None


def has_recipe(x: Tensor) -> bool:
    """Whether ``x`` can be computed again."""
    return _recipe(x) is not None


def record(x: Tensor, compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Note that ``compute(*tensors)`` is ``x``; returns ``x``.

    Only on a CPU. The tensors should be kept anyway, or be small.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled() and x.requires_grad:
        _recipes[x] = _Recipe(_Function(compute), tuple(v.detach() for v in tensors), x._version)
    return x


def record_alias(alias: Tensor, x: Tensor) -> Tensor:
    """Note that ``alias`` is a view of all of ``x``, in the same shape; returns ``alias``."""
    if (recipe := _recipe(x)) is not None:
        _recipes[alias] = recipe
    return alias


def save(ctx: Any, x: Tensor, *tensors: Tensor) -> None:
    """Call ``ctx.save_for_backward``, with the tensors of the recipe of ``x`` instead of ``x`` if it has one."""
    recipe = _recipe(x)
    ctx.function, inputs = (None, (x,)) if recipe is None else (recipe.function, recipe.tensors)
    ctx.num_inputs = len(inputs)
    ctx.save_for_backward(*inputs, *tensors)


def load(ctx: Any) -> tuple[Tensor, ...]:
    """Return the tensors that were passed to ``save``. They may be shared, so they must not be modified."""
    saved = ctx.saved_tensors  # may be read only once, with gradient checkpointing
    inputs, tensors = saved[: ctx.num_inputs], saved[ctx.num_inputs :]
    return inputs[0] if ctx.function is None else ctx.function(inputs), *tensors


def relu(y: Tensor) -> Tensor:
    """Compute the ReLU of ``y`` in place."""
    recipe = _recipe(y)
    if recipe is None:
        return F.relu(y, inplace=True)
    compute, tensors = recipe.function.compute, recipe.tensors
    function = _Function(lambda *inputs: compute(*inputs).relu_())
    z = _ReLU.apply(y, function, *tensors)
    _recipes[z] = _Recipe(function, tensors, z._version)
    return z


class _ReLU(torch.autograd.Function):
    """``relu`` of a tensor with a recipe."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, function: _Function, *tensors: Tensor) -> Tensor:
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
