"""Networks by family, and their registry. The modules of the networks are imported at their first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.lazy import lazy_attributes
from zoo.models.registry import ARCHITECTURES, register_architecture

if TYPE_CHECKING:
    from zoo.models.building import build, build_on_meta, has_option, options_of
    from zoo.models.network import VideoNetwork, layer_depths

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

_MODULES = {
    "VideoNetwork": "zoo.models.network",
    "build": "zoo.models.building",
    "build_on_meta": "zoo.models.building",
    "has_option": "zoo.models.building",
    "layer_depths": "zoo.models.network",
    "options_of": "zoo.models.building",
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)
