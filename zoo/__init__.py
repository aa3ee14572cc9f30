"""Temporally-adaptive video networks with their published weights, in plain PyTorch.

from zoo import load
model = load("tanet_r18.motionclips8")     # bundled; list_models() names the others
logits = model(clips)                      # (B, 3, T, H, W) normalized floats -> (B, classes)
model = temporalize(image_network)         # the same for an image network of yours
print(profile(model, (8, 224, 224)))       # parameters and multiply-accumulates
"""

from typing import TYPE_CHECKING

from zoo.lazy import lazy_attributes

if TYPE_CHECKING:
    from zoo.hub.push import push
    from zoo.index import info, list_models
    from zoo.inference.api import explain, features, localize, predict, read_clip, timeline
    from zoo.loading import create, load, save
    from zoo.models.temporalize import temporalize
    from zoo.profiling import profile
    from zoo.version import __version__ as __version__
    from zoo.weights.conversion import convert

__all__ = [
    "convert",
    "create",
    "explain",
    "features",
    "info",
    "list_models",
    "load",
    "localize",
    "predict",
    "profile",
    "push",
    "read_clip",
    "save",
    "temporalize",
    "timeline",
]

# Most of these modules import torch. Commands such as `tempozoo list` do not need it.
_MODULES = {
    "__version__": "zoo.version",
    "convert": "zoo.weights.conversion",
    "create": "zoo.loading",
    "explain": "zoo.inference.api",
    "features": "zoo.inference.api",
    "info": "zoo.index",
    "list_models": "zoo.index",
    "load": "zoo.loading",
    "localize": "zoo.inference.api",
    "predict": "zoo.inference.api",
    "profile": "zoo.profiling",
    "push": "zoo.hub.push",
    "read_clip": "zoo.inference.api",
    "save": "zoo.loading",
    "temporalize": "zoo.models.temporalize",
    "timeline": "zoo.inference.api",
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)
