"""Find the stem, classifier, dropout, blocks and last pooling of any image network."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.errors import ConfigError
from zoo.models.network import Feature

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
HEADS = ("fc", "classifier", "head", "heads")  # torchvision's names of the module with the classifier
POOLINGS = ("mean", "adaptive_avg_pool2d")
RESHAPES = ("flatten", "view", "reshape", "squeeze", "dropout", "contiguous")


def find_stem(host: nn.Module) -> str:
    """Return the name of the first convolution with three input channels, or else of the first convolution."""
    convs = {name: m for name, m in host.named_modules() if isinstance(m, nn.Conv2d)}
    if not convs:
        raise ConfigError(f"{type(host).__name__} has no nn.Conv2d; only 2D convolutional networks can be converted.")
    return next((name for name, conv in convs.items() if conv.in_channels == 3), next(iter(convs)))


def find_classifier(host: nn.Module) -> str:
    """Return the name of the last linear layer in ``fc``, ``classifier`` or ``head``, or else in the network."""
    linear = [name for name, m in host.named_modules() if isinstance(m, nn.Linear)]
    for head in HEADS:
        if matches := [name for name in linear if name == head or name.startswith(f"{head}.")]:
            return matches[-1]
    if not linear:
        raise ConfigError(
            f"{type(host).__name__} has no nn.Linear that computes its logits; add one after its pooling."
        )
    return linear[-1]


def find_dropout(host: nn.Module, classifier: str) -> nn.Dropout | None:
    """Return the dropout before the classifier, with no parameters in between, or None."""
    names = [name for name, _ in host.named_modules()]
    for name in reversed(names[: names.index(classifier)]):
        module = host.get_submodule(name)
        if isinstance(module, nn.Dropout) and f"{classifier}.".startswith(name.rpartition(".")[0]):
            return module
        if next(module.parameters(recurse=False), None) is not None:
            return None
    return None


def find_head(host: nn.Module, classifier: str) -> str:
    """Return the name of the ``nn.Sequential`` that ends with the classifier, or else of the classifier itself."""
    parent, _, last = classifier.rpartition(".")
    head = host.get_submodule(parent)
    is_last = parent and isinstance(head, nn.Sequential) and next(reversed(head._modules)) == last
    return parent if is_last and not any(isinstance(m, nn.Conv2d) for m in head.modules()) else classifier


def is_block(module: nn.Module) -> bool:
    """Whether a module consists of others; a subclass of a convolution or linear layer counts as one layer."""
    return not isinstance(module, (nn.Conv2d, nn.Linear)) and next(module.children(), None) is not None


def find_units(host: nn.Module, stem: str, prefix: str = "") -> Iterator[str]:
    """Yield the names of the blocks and single layers of a host, in order.

    Containers, and modules that contain both the stem and blocks (such as a backbone), are replaced by their children.
    """
    for name, child in host.named_children():
        path = prefix + name
        if next(child.parameters(), None) is None:
            continue
        has_blocks = any(is_block(grandchild) for grandchild in child.children())
        if has_blocks and (isinstance(child, CONTAINERS) or stem.startswith(f"{path}.")):
            yield from find_units(child, stem, f"{path}.")
        else:
            yield path


def match_groups(host: nn.Module, stem: str, head: str, prefix: str, coarse: bool) -> dict[str, Any]:
    """Return timm's ``group_matcher`` for a host whose keys begin with ``prefix``.

    A single norm belongs to the group before it. Blocks are distinguished by the last number in their names; blocks
    without a number belong to the group of the classifier.

    Args:
        coarse: one group for each container instead of each block.
    """
    stems: list[str] = []
    blocks: list[tuple[str, int]] = []
    position, last, before_stem = -1, "", True
    for unit in find_units(host, stem):
        if f"{unit}.".startswith(f"{head}."):
            continue
        module = host.get_submodule(unit)
        starts_group = is_block(module) or isinstance(module, (nn.Conv2d, nn.Linear))
        if before_stem or (position < 0 and not starts_group):
            stems.append(re.escape(f"{prefix}{unit}."))
            before_stem = before_stem and not f"{stem}.".startswith(f"{unit}.")
            continue
        container = unit.rpartition(".")[0] or unit
        if starts_group and not (coarse and container == last):
            position += 1
        last = container
        if number := re.search(r"\d+(?=\D*$)", unit):
            start, end = re.escape(prefix + unit[: number.start()]), re.escape(unit[number.end() :] + ".")
            blocks.append((f"{start}({number[0]}){end}", position - int(number[0])))
    return {"stem": "|".join(stems), "blocks": blocks}


def measure_stages(host: nn.Module, stem: str, head: str, frames: Tensor) -> list[Feature]:
    """Return the last module of each resolution, for frames ``(N, C, H, H)`` on the meta device.

    The forward pass computes shapes only: parameters and buffers are replaced by meta tensors.
    """
    stages: dict[int, Feature] = {}

    def make_hook(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, y: Any) -> None:
            if isinstance(y, Tensor) and y.ndim == 4 and y.shape[2] > 1:
                # the nearest power of two: convolutions without padding lose a few pixels
                reduction = 2 ** round(math.log2(frames.shape[2] / y.shape[2]))
                stages[reduction] = Feature(name, y.shape[1], reduction)

        return record

    names = set()
    for unit in find_units(host, stem):
        parts = unit.split(".")
        names |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    handles = [
        host.get_submodule(name).register_forward_hook(make_hook(name))
        for name in names
        if not f"{name}.".startswith(f"{head}.")
    ]
    tensors = {name: value.to("meta") for name, value in (*host.named_parameters(), *host.named_buffers())}
    try:
        torch.func.functional_call(host, tensors, (frames,))
    finally:
        for handle in handles:
            handle.remove()
    return [stages[reduction] for reduction in sorted(stages)]


class LastPooling(TorchFunctionMode):
    """While active, records the input of each global average pooling and follows its output through reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self._input: Tensor | None = None
        self._output: Tensor | None = None

    def source(self, x: Tensor) -> Tensor | None:
        """Return the feature maps ``(N, C, H, W)`` whose mean is ``x``, or None.

        Dropout may lie in between. If ``x`` is the output of a dropout only, return the dropout's input ``(N, C)``.
        """
        return self._input if x is self._output else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        name, x = getattr(func, "__name__", ""), args[0] if args else None
        if not isinstance(x, Tensor):
            return y
        if name in POOLINGS and x.ndim == 4 and y.shape[:2] == x.shape[:2] and y.numel() == len(x) * x.shape[1]:
            self._input, self._output = x, y
        elif name in RESHAPES and x is self._output:
            self._output = y
        elif name == "dropout":
            self._input, self._output = x.flatten(1), y
        return y
