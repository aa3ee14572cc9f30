"""Options of small networks, which are built in milliseconds."""

from __future__ import annotations

from typing import Any

import torch

import zoo
from zoo.models import has_option

SMALL = {"width": 8, "num_classes": 4, "num_frames": 4, "drop_rate": 0.0}
VIT = {"width": 48, "depth": 2, "patch": 8, "image_size": 32} | {k: SMALL[k] for k in SMALL if k != "width"}
FOUR = ("appears", "vanishes", "meets", "parts")


def small(arch: str, **options: Any) -> Any:
    """Create a small network for clips ``(B, 3, 4, 32, 32)`` and four classes; not for pytorchvideo architectures."""
    return zoo.create(arch, **((VIT if has_option(arch, "patch") else SMALL) | options))


def small_trained(arch: str = "tanet_r18", seed: int = 0, **options: Any) -> Any:
    """Create a small network for 32 x 32 pixels whose parameters all differ from their initial values.

    Changed parameters count as trained.
    """
    torch.manual_seed(seed)
    network = small(arch, **{"image_size": 32, **options})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return network
