"""Temporally-adaptive video networks with their published weights, in plain PyTorch.

from zoo import load
model = load("tanet_r18.motionclips8")     # bundled; list_models() names the others
logits = model(clips)                      # (B, 3, T, H, W) normalised floats -> (B, classes)
"""

from zoo.loading import convert, create, info, list_models, load, save

__all__ = ["convert", "create", "info", "list_models", "load", "save"]
