"""Networks of the zoo as LightningModules, and the published recipes."""

from lit_modules.base import VideoClassifier
from lit_modules.checkpoint import export_checkpoint
from lit_modules.recipes import TAda2D, TANet
from lit_modules.report import TestReport

__all__ = ["TANet", "TAda2D", "TestReport", "VideoClassifier", "export_checkpoint"]
