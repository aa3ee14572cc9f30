"""Build networks of the registry, with values or on the meta device."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from zoo.errors import ConfigError, UnknownNameError, ZooError
from zoo.models.network import VideoNetwork
from zoo.models.pytorchvideo import PTVNet
from zoo.models.registry import ALL_ARCHITECTURES, ARCHITECTURES
from zoo.text import brief


def options_of(arch: str) -> list[str]:
    """List the option names of an architecture, including those that its class passes on to its base classes."""
    builder: Any = ARCHITECTURES[arch]
    function = getattr(builder, "func", builder)
    bases = function.__mro__[1:] if isinstance(function, type) else (PTVNet,)
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
    if arch in ARCHITECTURES:
        ARCHITECTURES[arch]  # imports its module outside of the contexts below, which change the creation of tensors
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
