"""Networks of the zoo as LightningModules, and the published recipes."""

from lit_modules.base import VideoClassifier
from lit_modules.push_to_hub import PushToHub
from lit_modules.recipe_options import OptimizerOptions, Recipe, RegularizationOptions, ScheduleOptions
from lit_modules.recipes import STAM, TAda2D, TAdaConvNeXt, TAdaConvNeXtV2, TAdaFormer, TANet
from lit_modules.report import TestReport

__all__ = [
    "STAM",
    "OptimizerOptions",
    "PushToHub",
    "Recipe",
    "RegularizationOptions",
    "ScheduleOptions",
    "TANet",
    "TAda2D",
    "TAdaConvNeXt",
    "TAdaConvNeXtV2",
    "TAdaFormer",
    "TestReport",
    "VideoClassifier",
]
