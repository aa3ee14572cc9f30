"""Networks of the zoo as LightningModules, and the published recipes.

The modules, which import Lightning, are imported at their first use.
"""

from typing import TYPE_CHECKING

from zoo.lazy import lazy_attributes

if TYPE_CHECKING:
    from lit_modules.base import VideoClassifier
    from lit_modules.localization.localizer import ActionLocalizer
    from lit_modules.push_to_hub import PushToHub
    from lit_modules.recipe_options import OptimizerOptions, Recipe, RegularizationOptions, ScheduleOptions
    from lit_modules.recipes import STAM, MoSI, TAda2D, TAdaConvNeXt, TAdaConvNeXtV2, TAdaFormer, TANet
    from lit_modules.report import TestReport

__all__ = [
    "STAM",
    "ActionLocalizer",
    "MoSI",
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

_MODULES = {
    "STAM": "lit_modules.recipes",
    "ActionLocalizer": "lit_modules.localization.localizer",
    "MoSI": "lit_modules.recipes",
    "OptimizerOptions": "lit_modules.recipe_options",
    "PushToHub": "lit_modules.push_to_hub",
    "Recipe": "lit_modules.recipe_options",
    "RegularizationOptions": "lit_modules.recipe_options",
    "ScheduleOptions": "lit_modules.recipe_options",
    "TANet": "lit_modules.recipes",
    "TAda2D": "lit_modules.recipes",
    "TAdaConvNeXt": "lit_modules.recipes",
    "TAdaConvNeXtV2": "lit_modules.recipes",
    "TAdaFormer": "lit_modules.recipes",
    "TestReport": "lit_modules.report",
    "VideoClassifier": "lit_modules.base",
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES, together=True)
