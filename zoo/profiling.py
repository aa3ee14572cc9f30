"""What a network costs: parameters and multiply-accumulates, counted without computing anything.

The convention of the papers: convolutions and matrix products count, attention's included, element-wise work, norms and
pooling do not. To that come the dynamic operators that are convolutions in the papers and run value by value here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.arguments import check_module
from zoo.errors import ConfigError, ZooError
from zoo.wrappers import unwrap, unwrap_children

ITSELF = "(itself)"


@dataclass(frozen=True)
class Profile:
    """Costs of one forward pass of a network.

    Attributes:
        params: number of parameters, of which ``trainable`` require gradients.
        macs: multiply-accumulates for the whole input; "GFLOPs" in the papers are ``gmacs``.
        input_shape: of the tensor that was profiled, batch first.
        by_module: multiply-accumulates of the network's children by name, and of what it does between them, "(itself)".
        training: whether the network was in training mode, in which some compute more.
    """

    params: int
    trainable: int
    macs: int
    input_shape: tuple[int, ...]
    by_module: dict[str, int] = field(default_factory=dict)
    training: bool = False

    @property
    def gmacs(self) -> float:
        """Multiply-accumulates in 1e9."""
        return self.macs / 1e9

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.input_shape))
        frozen = "" if self.trainable == self.params else f" ({self.trainable / 1e6:.2f} M trainable)"
        mode = ", in training mode" if self.training else ""
        lines = [f"{self.params / 1e6:.2f} M parameters{frozen}, {self.gmacs:.2f} GMACs for {shape}{mode}"]
        width = max((len(name) for name in self.by_module), default=0)
        for name, macs in self.by_module.items():
            lines.append(f"  {name:<{width}}  {macs / 1e9:10.3f}  {100 * macs / max(self.macs, 1):5.1f} %")
        return "\n".join(lines)


def profile(model: nn.Module, input: Tensor | Sequence[int]) -> Profile:
    """Count a network's parameters and multiply-accumulates, in the mode (training or not) that it is in.

    A copy on the meta device is run, which takes a second for the largest networks; the network itself is not touched.
    One that cannot run there, because what it does depends on its values, is copied and run on its own device, with
    zeros for a shape.

    Args:
        model: any module that takes one tensor. A module inside it that has ``extra_macs(*args) -> int``, called with
            the arguments of its ``forward``, adds what that returns.
        input: a tensor, or a shape with the batch, such as (1, 3, 8, 224, 224); three numbers are frames, height and
            width of one clip.

    Raises:
        ConfigError: ``model`` is no module.
        ConfigError: ``input`` is neither, or not what the network takes.
    """
    check_module("model", model)
    model = unwrap(model)
    parameters = list(model.parameters())
    if isinstance(input, Tensor):
        shape, dtype = tuple(input.shape), input.dtype
    else:
        shape = _full_shape(model, input)
        dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
    try:
        by_module = _count(_on_meta(model), torch.empty(shape, dtype=dtype, device="meta"))
    except ZooError:
        raise
    except (RuntimeError, NotImplementedError):
        device = parameters[0].device if parameters else torch.device("cpu")
        clip = input.to(device) if isinstance(input, Tensor) else torch.zeros(shape, dtype=dtype, device=device)
        with torch.random.fork_rng():
            by_module = _count(unwrap_children(copy.deepcopy(model)), clip)
    return Profile(
        params=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        macs=sum(by_module.values()),
        input_shape=shape,
        by_module=by_module,
        training=model.training,
    )


def _full_shape(model: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, Sequence) else ()
    if len(sizes) < 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ConfigError(
            f"the input to profile is {shape!r}; give a tensor, a shape such as (1, 3, 8, 224, 224), or frames, height "
            "and width, such as (8, 224, 224)."
        )
    return (1, getattr(model, "in_channels", 3), *sizes) if len(sizes) == 3 else sizes


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy without values. Its tensors are given to deepcopy as copied already, so they take no memory."""
    copied: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        copied[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return unwrap_children(copy.deepcopy(model, copied))


def _called_children(module: nn.Module) -> Iterator[nn.Module]:
    """A module, or in place of a list of modules, which is never called, those in it."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        for child in module.children():
            yield from _called_children(child)
    else:
        yield module


def _count(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Run a network that nobody else uses; its multiply-accumulates by child."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, which `import zoo` can do without

    counter = FlopCounterMode(display=False)
    extra, by_module = 0, {name: 0 for name, _ in model.named_children()}
    open_at: dict[str, int] = {}  # child -> count when it was entered

    def so_far() -> int:
        return counter.get_total_flops() // 2 + extra

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            open_at.setdefault(name, so_far())

        return hook

    def leave(name: str) -> Any:
        def hook(*_: Any) -> None:
            by_module[name] += so_far() - open_at.pop(name, so_far())

        return hook

    def add(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal extra
        extra += module.extra_macs(*args)  # type: ignore[operator]

    for name, child in model.named_children():
        for part in _called_children(child):
            part.register_forward_pre_hook(enter(name), prepend=True)
            part.register_forward_hook(leave(name))
    for module in model.modules():
        if callable(getattr(module, "extra_macs", None)):
            module.register_forward_pre_hook(add)
    # the fused kernels of attention, of scaled_dot_product_attention and of nn.MultiheadAttention, are not all counted
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    rest = so_far() - sum(by_module.values())
    return by_module | ({ITSELF: rest} if rest else {})
