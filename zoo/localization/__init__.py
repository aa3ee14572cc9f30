"""Temporal action localization: segments of an untrimmed video with a label and a score, in plain PyTorch.

``load`` and ``save`` read and write localizers. They are imported, with torch, at their first use.
"""

from typing import TYPE_CHECKING

from zoo.lazy import lazy_attributes

if TYPE_CHECKING:
    from zoo.localization.localizer_files import load, save
    from zoo.localization.point_model import PointLocalizer
    from zoo.localization.segments import Segment

__all__ = ["PointLocalizer", "Segment", "load", "save"]

_MODULES = {
    "PointLocalizer": "zoo.localization.point_model",
    "Segment": "zoo.localization.segments",
    "load": "zoo.localization.localizer_files",
    "save": "zoo.localization.localizer_files",
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)
