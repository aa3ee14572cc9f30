"""Temporal action localization: segments of an untrimmed video with a label and a score, in plain PyTorch.

``load`` and ``save`` read and write localizers, ``convert`` reads published files. They are imported, with torch, at
their first use.
"""

from typing import TYPE_CHECKING

from zoo.lazy import lazy_attributes

if TYPE_CHECKING:
    from zoo.localization.boundary_conversion import convert
    from zoo.localization.boundary_matching import BoundaryLocalizer
    from zoo.localization.boundary_options import BoundaryOptions
    from zoo.localization.localizer_base import Localizer
    from zoo.localization.localizer_files import load, save
    from zoo.localization.point_model import PointLocalizer
    from zoo.localization.segments import Segment

__all__ = [
    "BoundaryLocalizer",
    "BoundaryOptions",
    "Localizer",
    "PointLocalizer",
    "Segment",
    "convert",
    "load",
    "save",
]

_MODULES = {
    "BoundaryLocalizer": "zoo.localization.boundary_matching",
    "BoundaryOptions": "zoo.localization.boundary_options",
    "Localizer": "zoo.localization.localizer_base",
    "PointLocalizer": "zoo.localization.point_model",
    "Segment": "zoo.localization.segments",
    "convert": "zoo.localization.boundary_conversion",
    "load": "zoo.localization.localizer_files",
    "save": "zoo.localization.localizer_files",
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)
