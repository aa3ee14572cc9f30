"""Conversion rules from publishers' key names and tensor shapes to ours, one module per publisher.

To add a publisher, write its table of rules in a module of this package and add it to ``CONVERTERS``.
"""

from zoo.weights.converters import (
    clip,
    convnext,
    hosts,
    mmaction2,
    mmaction2_hosts,
    pytorchvideo,
    tadaconv,
    tam,
    torchvision,
)
from zoo.weights.converters.rules import Conversion, Rule, apply_rules

RULES_VERSION = 1  # increase it whenever the rules' results change, so that cached conversions are repeated

CONVERTERS: dict[str, tuple[Rule, ...]] = {
    "tadaconv": tadaconv.RULES,
    "tadaconv_3d": tadaconv.RESNET3D,
    "tam": tam.RULES,
    "mmaction2": mmaction2.RULES,
    "mmaction2_mobilenet": mmaction2_hosts.MOBILENET,
    "mmaction2_resnext": mmaction2_hosts.RESNEXT,
    "torchvision": torchvision.RULES,
    "torchvision_3d": pytorchvideo.FROM_IMAGES,
    "convnext": convnext.RULES,
    "clip": clip.RULES,
    "pytorchvideo": pytorchvideo.RULES,
    "hosts": hosts.RULES,
}

__all__ = ["CONVERTERS", "RULES_VERSION", "Conversion", "Rule", "apply_rules"]
