"""Registry of architectures by name.

To add an architecture, write its network in a module of this folder and add a builder below.
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

__all__ = [
    "ARCHITECTURES",
    "VideoNetwork",
    "build",
    "build_on_meta",
    "has_option",
    "layer_depths",
    "options_of",
    "register_architecture",
]

# end of the message for an unknown architecture
ALL_ARCHITECTURES = "zoo.models.ARCHITECTURES lists all names."

# family of video ResNets -> its temporal operator
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
    """Add an architecture for ``zoo.create(name, **options)`` and for index entries.

    Args:
        name: a name that is not registered yet.
        builder: function with the keyword arguments ``num_classes``, ``num_frames``, ``in_channels``, and any others.

    Raises:
        ConfigError: the name is already registered.
    """
    if name in ARCHITECTURES:
        raise ConfigError(f"An architecture named {name!r} is already registered; choose another name.")
    ARCHITECTURES[name] = builder


def options_of(arch: str) -> list[str]:
    """List the option names of an architecture, including those that its class passes on to its base classes."""
    builder: Any = ARCHITECTURES[arch]
    function = getattr(builder, "func", builder)
    bases = function.__mro__[1:] if isinstance(function, type) else (pytorchvideo.PTVNet,)
    names: dict[str, None] = {}
    for signature_of in (builder, *bases):
        parameters = inspect.signature(signature_of).parameters.values()
        names.update({each.name: None for each in parameters if each.kind is each.KEYWORD_ONLY})
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return list(names)


def has_option(arch: str, option: str) -> bool:
    """Whether the builder of an architecture has an option of this name."""
    return arch in ARCHITECTURES and option in inspect.signature(ARCHITECTURES[arch]).parameters


class _SkipRandomInit(TorchFunctionMode):
    """Skip in-place random initialization: on the meta device it has no effect, but would import a compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build_on_meta(arch: str, **options: Any) -> VideoNetwork:
    """Build a network on the meta device: it has keys and shapes, but no values and no memory."""
    with torch.device("meta"), _SkipRandomInit():
        return build(arch, **options)


def build(arch: str, **options: Any) -> VideoNetwork:
    """Build a network without spec or report; ``zoo.create`` adds both.

    Raises:
        UnknownNameError: there is no such architecture.
        ConfigError: an option that the architecture does not have, or an invalid value.
    """
    if arch not in ARCHITECTURES:
        raise UnknownNameError.of("architecture", arch, ARCHITECTURES, ALL_ARCHITECTURES)
    try:
        return ARCHITECTURES[arch](**options)
    except ZooError:  # its message names the option
        raise
    except (TypeError, RuntimeError, OverflowError, MemoryError) as error:  # the last three: sizes too large
        names = options_of(arch)
        for name in options:
            if name not in names and f"argument {name!r}" in str(error):
                raise ConfigError(f"{arch} has no option {name!r}; its options are {', '.join(names)}.") from error
        raise ConfigError(f"{arch} cannot be built with {brief(options)}: {error}") from error
