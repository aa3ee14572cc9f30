"""RandAugment on video clips, with the operations and magnitudes of timm's "rand-m9-n4-mstd0.5-inc1".

The TAdaConv authors train TAdaConvNeXtV2 and TAdaFormer with it. torchvision's RandAugment has other operations, and
its bicubic interpolation does not support tensors. Every operation maps a clip, uint8 ``(T, C, H, W)``, to a new one
and changes all frames in the same way. ``level`` is the magnitude divided by 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms.v2 import functional as F

COUNT, PROBABILITY = 4, 0.5  # operations that are drawn with replacement, each of which is applied with PROBABILITY
MAGNITUDE, DEVIATION = 9.0, 0.5  # of 10
Matrix = tuple[float, float, float, float, float, float]  # x' = a x + b y + c, y' = d x + e y + f


def _uniform() -> float:
    return float(torch.rand(()))


def _signed(value: float) -> float:
    return value if _uniform() < 0.5 else -value


def warp(clip: Tensor, matrix: Matrix, fill: Sequence[int]) -> Tensor:
    """Transform every frame with bicubic interpolation, like PIL's ``Image.transform``.

    Args:
        clip: uint8 ``(T, C, H, W)``.
        matrix: maps a position in the result to a position in the frame, in pixels from the upper left corner.
        fill: value of each channel where the position is outside of the frame.
    """
    (height, width), (a, b, c, d, e, f) = clip.shape[-2:], matrix
    down, right = height / width, width / height
    theta = torch.tensor(  # the same map for coordinates from -1 to 1
        [[a, b * down, a + b * down + 2 * c / width - 1], [d * right, e, d * right + e + 2 * f / height - 1]]
    )
    grid = affine_grid(theta[None], [1, 1, height, width], align_corners=False)
    frames = clip.flatten(0, 1)[None].float()  # one picture with T * C channels
    warped = grid_sample(frames, grid, "bicubic", "border", align_corners=False)[0].unflatten(0, clip.shape[:2])
    outside = (grid.abs() > 1).any(-1)[0]  # (H, W)
    color = torch.tensor(fill, dtype=warped.dtype)[:, None, None]
    return torch.where(outside, color, warped).round().clamp(0, 255).to(torch.uint8)


def _rotate(clip: Tensor, level: float, fill: Sequence[int]) -> Tensor:
    angle = -math.radians(_signed(30 * level))
    (height, width), sin, cos = clip.shape[-2:], math.sin(angle), math.cos(angle)
    x, y = width / 2, height / 2
    return warp(clip, (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y), fill)


def _shear_x(clip: Tensor, level: float, fill: Sequence[int]) -> Tensor:
    return warp(clip, (1, _signed(0.3 * level), 0, 0, 1, 0), fill)


def _shear_y(clip: Tensor, level: float, fill: Sequence[int]) -> Tensor:
    return warp(clip, (1, 0, 0, _signed(0.3 * level), 1, 0), fill)


def _translate_x(clip: Tensor, level: float, fill: Sequence[int]) -> Tensor:
    return warp(clip, (1, 0, _signed(0.45 * level) * clip.shape[-1], 0, 1, 0), fill)


def _translate_y(clip: Tensor, level: float, fill: Sequence[int]) -> Tensor:
    return warp(clip, (1, 0, 0, 0, 1, _signed(0.45 * level) * clip.shape[-2]), fill)


def posterize(clip: Tensor, bits: int) -> Tensor:
    """Keep the highest bits of every value; 0 bits give black, which torchvision's function does not accept."""
    return clip & (256 - 2 ** (8 - bits))


def solarize_add(clip: Tensor, addend: int) -> Tensor:
    """Add ``addend``, at most 127, to values below 128."""
    return torch.where(clip < 128, clip + addend, clip)


def _enhancement(level: float) -> float:
    """Factor from 0.1 to 1.9; 1 does not change a clip."""
    return max(0.1, 1 + _signed(0.9 * level))


OPERATIONS: dict[str, Callable[[Tensor, float, Sequence[int]], Tensor]] = {
    "auto_contrast": lambda clip, level, fill: F.autocontrast(clip),
    "equalize": lambda clip, level, fill: F.equalize(clip),
    "invert": lambda clip, level, fill: F.invert(clip),
    "rotate": _rotate,
    "posterize": lambda clip, level, fill: posterize(clip, 4 - int(4 * level)),
    "solarize": lambda clip, level, fill: F.solarize(clip, min(256 - int(256 * level), 255)),
    "solarize_add": lambda clip, level, fill: solarize_add(clip, int(110 * level)),
    "color": lambda clip, level, fill: F.adjust_saturation(clip, _enhancement(level)),
    "contrast": lambda clip, level, fill: F.adjust_contrast(clip, _enhancement(level)),
    "brightness": lambda clip, level, fill: F.adjust_brightness(clip, _enhancement(level)),
    "sharpness": lambda clip, level, fill: F.adjust_sharpness(clip, _enhancement(level)),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}


def rand_augment(clip: Tensor, fill: Sequence[int]) -> Tensor:
    """Apply random operations to a clip, drawn with torch's global generator.

    Args:
        clip: uint8 ``(T, C, H, W)``.
        fill: value of each channel, from 0 to 255, of the pixels that a shifted frame does not cover.
    """
    names = list(OPERATIONS)
    for _ in range(COUNT):
        name = names[int(torch.randint(len(names), ()))]
        if _uniform() < PROBABILITY:
            magnitude = min(max(MAGNITUDE + DEVIATION * float(torch.randn(())), 0.0), 10.0)
            clip = OPERATIONS[name](clip, magnitude / 10, fill)
    return clip
