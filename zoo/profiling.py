"""profile(): count parameters and multiply-accumulates of a network on the meta device.

Counted are convolutions and matrix products (including attention), but not element-wise operations, norms and pooling,
as in the papers. Adaptive operators that are convolutions in the papers but element-wise here are counted as well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.errors import ConfigError, ZooError
from zoo.wrappers import check_module, unwrap, unwrap_children

ITSELF = "(itself)"


@dataclass(frozen=True)
class Profile:
    """Cost of one forward pass of a network.

    Attributes:
        params: number of parameters.
        trainable: number of parameters that require gradients.
        macs: multiply-accumulates for the whole input; "GFLOPs" in the papers are ``gmacs``.
        input_shape: of the tensor that was profiled, batch first.
        by_module: multiply-accumulates of the network's children by name; "(itself)": of all other operations.
        training: whether the network was in training mode, in which some networks compute more.
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
    """Count a network's parameters and multiply-accumulates in its current mode (training or evaluation).

    Runs a copy on the meta device, which takes a second for the largest networks. A network whose operations depend on
    values cannot run there; a copy then runs on the network's device, with zeros if ``input`` is a shape.

    Args:
        model: any module with one input tensor. A submodule can define ``extra_macs(*args) -> int``, which is called
            with the arguments of its ``forward`` and added.
        input: a tensor; a shape with batch, such as (1, 3, 8, 224, 224); or frames, height and width of one clip.

    Raises:
        ConfigError: ``model`` is not a module, or ``input`` is invalid.
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
            f"the input to profile is {shape!r}; it must be a tensor, a shape such as (1, 3, 8, 224, 224), or frames, "
            "height and width, such as (8, 224, 224)."
        )
    return (1, getattr(model, "in_channels", 3), *sizes) if len(sizes) == 3 else sizes


def _on_meta(model: nn.Module) -> nn.Module:
    """Copy a network to the meta device; deepcopy receives the meta tensors as its memo, so no memory is used."""
    copied: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        copied[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return unwrap_children(copy.deepcopy(model, copied))


def _called_children(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module, or the modules in a ModuleList or ModuleDict, which are not called themselves."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        for child in module.children():
            yield from _called_children(child)
    else:
        yield module


def _count(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Run a copy of a network, and return its multiply-accumulates by child."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, too slow for `import zoo`

    counter = FlopCounterMode(display=False)
    extra, by_module = 0, {name: 0 for name, _ in model.named_children()}
    count_at_entry: dict[str, int] = {}  # child -> count when it was entered

    def so_far() -> int:
        return counter.get_total_flops() // 2 + extra

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            count_at_entry.setdefault(name, so_far())

        return hook

    def leave(name: str) -> Any:
        def hook(*_: Any) -> None:
            by_module[name] += so_far() - count_at_entry.pop(name, so_far())

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
    # FlopCounterMode does not count all fused attention kernels
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    rest = so_far() - sum(by_module.values())
    return by_module | ({ITSELF: rest} if rest else {})
