"""Publishers' tensors -> ours. Pure functions from dict to dict; one module of rules per publisher.

To add a publisher: write its table of rules in a module of this folder and name it in ``CONVERTERS``.
"""

from zoo.weights.converters import clip, convnext, hosts, mmaction2, pytorchvideo, tadaconv, tam, torchvision
from zoo.weights.converters.rules import Conversion, Rule, apply_rules

RULES_VERSION = 1  # to be raised with a change of what the rules give: older conversions are then made anew

CONVERTERS: dict[str, tuple[Rule, ...]] = {
    "tadaconv": tadaconv.RULES,
    "tam": tam.RULES,
    "mmaction2": mmaction2.RULES,
    "torchvision": torchvision.RULES,
    "torchvision_3d": pytorchvideo.FROM_IMAGES,
    "convnext": convnext.RULES,
    "clip": clip.RULES,
    "pytorchvideo": pytorchvideo.RULES,
    "hosts": hosts.RULES,
}

__all__ = ["CONVERTERS", "RULES_VERSION", "Conversion", "Rule", "apply_rules"]
