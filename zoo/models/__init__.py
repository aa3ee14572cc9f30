"""Architectures by name. ``create`` builds one with random weights.

To add an architecture: write its network in a module of this folder and register a builder below.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from zoo.errors import ConfigError, UnknownNameError, ZooError
from zoo.models import convnext, hosts, mvit, plugins, pytorchvideo, vit
from zoo.models.network import VideoNetwork, layer_depths
from zoo.models.resnet import DEPTHS, VideoResNet
from zoo.ops.operator import OPERATORS
from zoo.text import brief

__all__ = ["ARCHITECTURES", "VideoNetwork", "build", "layer_depths", "outline", "register_architecture", "takes"]

# family of ResNets -> its temporal operator
RESNETS = {
    "c2d": "none",
    "c2d_pool": "pool",
    "c2d_tconv": "tconv",
    "i3d": "i3d",
    "tsm": "tsm",
    "teinet": "tei",
    "tanet": "tam",
    "tada2d": "tadaconv",
    "tada2dv2": "tadaconv_v2",
    "stam": "stam",
}
ARCHITECTURES: dict[str, Callable[..., VideoNetwork]] = {
    f"{family}_r{depth}": functools.partial(VideoResNet, op, depth, stem_pool=OPERATORS[op].stem_pool)
    for family, op in RESNETS.items()
    for depth in DEPTHS
}
ARCHITECTURES |= {f"nonlocal_r{depth}": functools.partial(VideoResNet, "none", depth, non_local={}) for depth in DEPTHS}
ARCHITECTURES |= convnext.ARCHITECTURES
ARCHITECTURES |= vit.ARCHITECTURES
ARCHITECTURES |= pytorchvideo.ARCHITECTURES
ARCHITECTURES |= mvit.ARCHITECTURES
ARCHITECTURES |= plugins.ARCHITECTURES
ARCHITECTURES |= hosts.ARCHITECTURES


def register_architecture(name: str, builder: Callable[..., VideoNetwork]) -> None:
    """Add an architecture, so that ``zoo.create(name, **options)`` and the index can use it.

    Args:
        name: new name.
        builder: takes ``num_classes``, ``num_frames``, ``in_channels`` and further options by keyword.

    Raises:
        ConfigError: the name is taken.
    """
    if name in ARCHITECTURES:
        raise ConfigError(f"An architecture named {name!r} is already registered; choose another name.")
    ARCHITECTURES[name] = builder


def options_of(arch: str) -> list[str]:
    """Names of an architecture's options, those of the network that its builder passes others on to included."""
    builder: Any = ARCHITECTURES[arch]
    made = getattr(builder, "func", builder)
    names: dict[str, None] = {}
    for step in (builder, *(made.__mro__[1:] if isinstance(made, type) else (pytorchvideo.PTVNet,))):
        parameters = inspect.signature(step).parameters.values()
        names.update({each.name: None for each in parameters if each.kind is each.KEYWORD_ONLY})
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return list(names)


def takes(arch: str, option: str) -> bool:
    """Whether an architecture's builder has an option of that name."""
    return arch in ARCHITECTURES and option in inspect.signature(ARCHITECTURES[arch]).parameters


class _Undrawn(TorchFunctionMode):
    """Within it, no random numbers are drawn in place: drawing them for meta tensors would import a compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def outline(arch: str, **options: Any) -> VideoNetwork:
    """A network without memory: its keys and shapes, on the meta device."""
    with torch.device("meta"), _Undrawn():
        return build(arch, **options)


def build(arch: str, **options: Any) -> VideoNetwork:
    """The bare network of an architecture; see ``zoo.create``."""
    if arch not in ARCHITECTURES:
        raise UnknownNameError.of("architecture", arch, ARCHITECTURES, "zoo.models.ARCHITECTURES holds them all.")
    try:
        return ARCHITECTURES[arch](**options)
    except ZooError:  # it names the option already
        raise
    except (TypeError, RuntimeError, OverflowError, MemoryError) as error:  # the last three: numbers too large
        known = options_of(arch)
        for name in options:
            if name not in known and f"argument {name!r}" in str(error):
                raise ConfigError(f"{arch} has no option {name!r}; it has {', '.join(known)}.") from error
        raise ConfigError(f"{arch} cannot be built with {brief(options)}: {error}") from error
