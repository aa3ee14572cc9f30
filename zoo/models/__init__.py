"""Architectures by name. ``create`` builds one with random weights.

To add an architecture: write its network in a module of this folder and register a builder below.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from zoo.errors import ConfigError, UnknownNameError
from zoo.models.resnet import DEPTHS, VideoResNet

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {}
for _depth in DEPTHS:
    # C2D (TSN) and TANet keep the image network's max-pool, TAda2D strides its first block instead
    ARCHITECTURES[f"c2d_r{_depth}"] = functools.partial(VideoResNet, "none", _depth, stem_pool=True)
    ARCHITECTURES[f"tada2d_r{_depth}"] = functools.partial(VideoResNet, "tadaconv", _depth, stem_pool=False)
    ARCHITECTURES[f"tanet_r{_depth}"] = functools.partial(VideoResNet, "tam", _depth, stem_pool=True)


def build(arch: str, **options: Any) -> nn.Module:
    """The bare network of an architecture; see ``zoo.create``."""
    if arch not in ARCHITECTURES:
        raise UnknownNameError.of("architecture", arch, ARCHITECTURES, f"Known: {', '.join(ARCHITECTURES)}.")
    try:
        return ARCHITECTURES[arch](**options)
    except TypeError as error:
        raise ConfigError(f"{arch} cannot be built with {options}: {error}") from error
