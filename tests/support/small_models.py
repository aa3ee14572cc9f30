"""Options of small networks, which are built in milliseconds."""

from __future__ import annotations

from typing import Any

import zoo
from zoo.models import has_option

SMALL = {"width": 8, "num_classes": 4, "num_frames": 4, "drop_rate": 0.0}
VIT = {"width": 48, "depth": 2, "patch": 8, "image_size": 32} | {k: SMALL[k] for k in SMALL if k != "width"}
FOUR = ("appears", "vanishes", "meets", "parts")


def small(arch: str, **options: Any) -> Any:
    """Create a small network for clips ``(B, 3, 4, 32, 32)`` and four classes; not for pytorchvideo architectures."""
    return zoo.create(arch, **((VIT if has_option(arch, "patch") else SMALL) | options))
