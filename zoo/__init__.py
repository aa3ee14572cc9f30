"""Temporally-adaptive video networks with their published weights, in plain PyTorch.

from zoo import load
model = load("tanet_r18.motionclips8")     # bundled; list_models() names the others
logits = model(clips)                      # (B, 3, T, H, W) normalized floats -> (B, classes)
model = temporalize(image_network)         # the same for an image network of yours
print(profile(model, (8, 224, 224)))       # parameters and multiply-accumulates
"""

from importlib.metadata import PackageNotFoundError, version

from zoo.hub.push import push
from zoo.inference.api import features, predict, read_clip, timeline
from zoo.loading import create, info, list_models, load, save
from zoo.models.temporalize import temporalize
from zoo.profiling import profile
from zoo.weights.conversion import convert

try:
    __version__ = version("tempozoo")
except PackageNotFoundError:  # a clone that is not installed
    __version__ = "0+unknown"

__all__ = [
    "convert",
    "create",
    "features",
    "info",
    "list_models",
    "load",
    "predict",
    "profile",
    "push",
    "read_clip",
    "save",
    "temporalize",
    "timeline",
]
