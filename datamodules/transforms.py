"""Pixels: resize, crop and flip of whole clips, uint8 ``(T, C, H, W)`` in and out.

Normalisation is not here: it runs on the device, on the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from zoo.protocol import Protocol

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)  # of the short side; TAM authors' training crops
SHORT_SIDE_RANGE = 340 / 224  # TAdaConv authors: short side 224 to 340 for a crop of 224


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _choice(count: int) -> int:
    return int(torch.randint(count, ()))


def resize_short_side(frames: Tensor, size: int, antialias: bool) -> Tensor:
    """Resize so that the short side is ``size`` pixels, bilinear; the other side is truncated, as released."""
    height, width = frames.shape[-2:]
    if min(height, width) == size:
        return frames
    target = [size, int(width / height * size)] if height <= width else [int(height / width * size), size]
    return F.resize(frames, target, antialias=antialias)


def view_crops(frames: Tensor, size: int, crops: int) -> list[Tensor]:
    """Squares spread along the long side: 1 is the centre, 3 are left, centre, right (or top, centre, bottom)."""
    height, width = frames.shape[-2:]
    if min(height, width) < size:
        raise ValueError(f"a crop of {size} does not fit into {height} x {width}")
    top, left = (height - size) // 2, (width - size) // 2
    views = []
    for k in range(crops):
        if crops > 1 and width >= height:
            left = (width - size) * k // (crops - 1)
        elif crops > 1:
            top = (height - size) * k // (crops - 1)
        views.append(frames[..., top : top + size, left : left + size])
    return views


def _short_side_crop(frames: Tensor, protocol: Protocol) -> Tensor:
    """A square of ``train_crop`` pixels from the clip resized to a random short side; cut first, resized after."""
    height, width = frames.shape[-2:]
    short = min(height, width)
    side = max(1, round(short / _uniform(1.0, SHORT_SIDE_RANGE)))
    top, left = _choice(height - side + 1), _choice(width - side + 1)
    size = [protocol.train_crop, protocol.train_crop]
    return F.resized_crop(frames, top, left, side, side, size, antialias=protocol.antialias)


def _multi_scale_crop(frames: Tensor, protocol: Protocol) -> Tensor:
    """A box of one of four scales, slightly stretched at most, at one of 13 fixed places, resized to a square."""
    height, width = frames.shape[-2:]
    sides = [int(min(height, width) * scale) for scale in MULTI_SCALES]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    box_h, box_w = pairs[_choice(len(pairs))]
    places = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    row, column = places[_choice(len(places))]
    top, left = row * ((height - box_h) // 4), column * ((width - box_w) // 4)
    size = [protocol.train_crop, protocol.train_crop]
    return F.resized_crop(frames, top, left, box_h, box_w, size, antialias=protocol.antialias)


AUGMENTATIONS = {"short_side": _short_side_crop, "multi_scale": _multi_scale_crop}


def train_clip(frames: Tensor, protocol: Protocol, flip: bool) -> tuple[Tensor, bool]:
    """A training clip ``(T, C, train_crop, train_crop)`` and whether it was mirrored."""
    clip = AUGMENTATIONS[protocol.augment](frames, protocol)
    mirrored = flip and float(torch.rand(())) < 0.5
    return (clip.flip(-1) if mirrored else clip).contiguous(), mirrored


def normalise(video: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 ``(..., T, C, H, W)`` -> floats ``(..., C, T, H, W)``, on the device of the batch."""
    if video.shape[-3] != len(mean):  # networks for 1 or more than 3 channels see RGB cycled to their number
        video = video[..., [i % video.shape[-3] for i in range(len(mean))], :, :]
    shift = torch.tensor(mean, device=video.device)[:, None, None] * 255
    scale = torch.tensor(std, device=video.device)[:, None, None] * 255
    # the transpose is a view: networks fold frames into the batch, which undoes it for nothing
    return ((video.float() - shift) / scale).transpose(-4, -3)
