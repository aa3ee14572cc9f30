"""Where things are in an image network that the zoo did not write: stem, classifier, dropout, blocks, last pooling."""

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
HEADS = ("fc", "classifier", "head", "heads")  # what torchvision calls the part with the classifier
POOLINGS = ("mean", "adaptive_avg_pool2d")
RESHAPES = ("flatten", "view", "reshape", "squeeze", "dropout", "contiguous")


def find_stem(host: nn.Module) -> str:
    """Name of the convolution that reads the pixels: the first with three input channels, or else the first."""
    convs = {name: m for name, m in host.named_modules() if isinstance(m, nn.Conv2d)}
    if not convs:
        raise ConfigError(
            f"{type(host).__name__} has no nn.Conv2d; only 2D convolutional networks become video networks."
        )
    return next((name for name, conv in convs.items() if conv.in_channels == 3), next(iter(convs)))


def find_classifier(host: nn.Module) -> str:
    """Name of the last linear layer of ``fc``, ``classifier`` or ``head``, or else of the whole network."""
    linear = [name for name, m in host.named_modules() if isinstance(m, nn.Linear)]
    for head in HEADS:
        if inside := [name for name in linear if name == head or name.startswith(f"{head}.")]:
            return inside[-1]
    if not linear:
        raise ConfigError(f"{type(host).__name__} has no nn.Linear that gives its logits; put one behind its pooling.")
    return linear[-1]


def find_dropout(host: nn.Module, classifier: str) -> nn.Dropout | None:
    """The dropout in front of the classifier, with no parameters in between, if there is one."""
    names = [name for name, _ in host.named_modules()]
    for name in reversed(names[: names.index(classifier)]):
        module = host.get_submodule(name)
        if isinstance(module, nn.Dropout) and f"{classifier}.".startswith(name.rpartition(".")[0]):
            return module
        if next(module.parameters(recurse=False), None) is not None:
            return None
    return None


def find_head(host: nn.Module, classifier: str) -> str:
    """Name of the ``nn.Sequential`` that the classifier ends, or of the classifier itself."""
    parent, _, last = classifier.rpartition(".")
    head = host.get_submodule(parent)
    ends = parent and isinstance(head, nn.Sequential) and next(reversed(head._modules)) == last
    return parent if ends and not any(isinstance(m, nn.Conv2d) for m in head.modules()) else classifier


def is_block(module: nn.Module) -> bool:
    """Whether it is made of other modules; a convolution or linear layer with something added counts as one layer."""
    return not isinstance(module, (nn.Conv2d, nn.Linear)) and next(module.children(), None) is not None


def find_units(host: nn.Module, stem: str, prefix: str = "") -> Iterator[str]:
    """Names of the blocks and single layers that a host is a sequence of.

    They are its children, what its containers hold, and what else holds the stem beside blocks, such as a backbone.
    """
    for name, child in host.named_children():
        path = prefix + name
        if next(child.parameters(), None) is None:
            continue
        holds_blocks = any(is_block(grandchild) for grandchild in child.children())
        if holds_blocks and (isinstance(child, CONTAINERS) or stem.startswith(f"{path}.")):
            yield from find_units(child, stem, f"{path}.")
        else:
            yield path


def match_groups(host: nn.Module, stem: str, head: str, prefix: str, coarse: bool) -> dict[str, Any]:
    """timm's ``group_matcher`` for a host whose keys begin with ``prefix``.

    A norm that stands alone goes with what is before it. Blocks are told apart by a number in their names; one without
    any goes with the classifier.

    Args:
        coarse: by container rather than by block.
    """
    stems: list[str] = []
    blocks: list[tuple[str, int]] = []
    position, last, before_stem = -1, "", True
    for unit in find_units(host, stem):
        if f"{unit}.".startswith(f"{head}."):
            continue
        module = host.get_submodule(unit)
        layer = is_block(module) or isinstance(module, (nn.Conv2d, nn.Linear))
        if before_stem or (position < 0 and not layer):
            stems.append(re.escape(f"{prefix}{unit}."))
            before_stem = before_stem and not f"{stem}.".startswith(f"{unit}.")
            continue
        container = unit.rpartition(".")[0] or unit
        if layer and not (coarse and container == last):
            position += 1
        last = container
        if number := re.search(r"\d+(?=\D*$)", unit):
            start, end = re.escape(prefix + unit[: number.start()]), re.escape(unit[number.end() :] + ".")
            blocks.append((f"{start}({number[0]}){end}", position - int(number[0])))
    return {"stem": "|".join(stems), "blocks": blocks}


def measure_stages(host: nn.Module, stem: str, head: str, frames: Tensor) -> list[Feature]:
    """What a host makes of frames ``(N, C, H, H)``: for every resolution, the last module that has it.

    Nothing is computed: ``frames`` are on the meta device, and so are the parameters they meet.
    """
    found: dict[int, Feature] = {}

    def watch(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, y: Any) -> None:
            if isinstance(y, Tensor) and y.ndim == 4 and y.shape[2] > 1:
                # the nearest power of two: convolutions without padding lose a few pixels more
                reduction = 2 ** round(math.log2(frames.shape[2] / y.shape[2]))
                found[reduction] = Feature(name, y.shape[1], reduction)

        return note

    names = set()
    for unit in find_units(host, stem):
        parts = unit.split(".")
        names |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    handles = [
        host.get_submodule(name).register_forward_hook(watch(name))
        for name in names
        if not f"{name}.".startswith(f"{head}.")
    ]
    named = [*host.named_parameters(), *host.named_buffers()]
    tensors = {name: value.to("meta") for name, value in named}
    try:
        torch.func.functional_call(host, tensors, (frames,))
    finally:
        for handle in handles:
            handle.remove()
    return [found[reduction] for reduction in sorted(found)]


class LastPooling(TorchFunctionMode):
    """While it is active, sees what is averaged over all of a map, and follows the mean while it is only reshaped."""

    def __init__(self) -> None:
        super().__init__()
        self._read: Tensor | None = None
        self._out: Tensor | None = None

    def source(self, x: Tensor) -> Tensor | None:
        """The maps ``(N, C, H, W)`` that x is the mean of, or None.

        Dropout may lie in between. Of what is only a dropout's output this is its input, ``(N, C)``.
        """
        return self._read if x is self._out else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        name, x = getattr(func, "__name__", ""), args[0] if args else None
        if not isinstance(x, Tensor):
            return y
        if name in POOLINGS and x.ndim == 4 and y.shape[:2] == x.shape[:2] and y.numel() == len(x) * x.shape[1]:
            self._read, self._out = x, y
        elif name in RESHAPES and x is self._out:
            self._out = y
        elif name == "dropout":
            self._read, self._out = x.flatten(1), y
        return y
