"""Pixels: resize, crop, flip and augmentation of whole clips, uint8 ``(T, C, H, W)`` in and out.

Normalisation is not here: it runs on the device, on the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from zoo.errors import ConfigError
from zoo.protocol import CROPS, Protocol

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)  # of the short side; TAM authors' training crops
SHORT_SIDE_RANGE = 340 / 224  # TAdaConv authors: short side 224 to 340 for a crop of 224
AREAS, RATIOS = (0.08, 1.0), (0.75, 1.333)  # of the box that "rand_augment" cuts: share of the frame, width / height
OPERATIONS, MAGNITUDE, DEVIATION, GREY = 4, 9.0, 0.5, 0.2  # timm's rand-m9-n4-mstd0.5-inc1, and how often clips go grey


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
    """The spatial views of a test video, squares of ``size`` pixels.

    1 is the centre; 3 are left, centre, right (or top, centre, bottom); 10 are the corners (upper left, upper right,
    lower left, lower right), the centre, and the mirror images of these five (MMAction2's TenCrop).

    Raises:
        ConfigError: another number of crops, or frames smaller than the crop.
    """
    height, width = frames.shape[-2:]
    if crops not in CROPS:
        raise ConfigError(f"crops is {crops!r}; choose from {', '.join(map(str, CROPS))}.")
    if min(height, width) < size:
        raise ConfigError(f"a crop of {size} does not fit into {height} x {width}; resize must be at least crop.")
    bottom, right = height - size, width - size
    centre = (bottom // 2, right // 2)
    if crops == 1:
        places = [centre]
    elif crops == 3:
        places = [(0, centre[1]), centre, (bottom, centre[1])]
        if width >= height:
            places = [(centre[0], 0), centre, (centre[0], right)]
    else:
        places = [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
    views = [frames[..., top : top + size, left : left + size] for top, left in places]
    return views if crops < 10 else views + [view.flip(-1) for view in views]


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


def _rand_augment(frames: Tensor, protocol: Protocol) -> Tensor:
    """A box of random size and shape, four operations of RandAugment, and grey at times; alike on every frame.

    The published runs name timm's "rand-m9-n4-mstd0.5-inc1": four operations drawn with replacement, each left out half
    of the time, each of a magnitude drawn around 9 of 10 with deviation .5. torchvision's RandAugment is asked for one
    operation at a time to keep this. What differs: it has "identity" where timm has "invert" and "solarise-add", it
    posterises to 4 bits where timm goes to 1, and it fills with grey. The published code augments before it crops; here
    the crop comes first, so that the cost does not grow with the size of the videos.
    """
    size = [protocol.train_crop, protocol.train_crop]
    clip = v2.RandomResizedCrop(size, AREAS, RATIOS, antialias=protocol.antialias)(frames)
    for _ in range(OPERATIONS):
        if _uniform(0, 1) < 0.5:
            magnitude = min(max(MAGNITUDE + DEVIATION * float(torch.randn(())), 0.0), 10.0)
            operation = v2.RandAugment(1, round(10 * magnitude), 101, v2.InterpolationMode.BILINEAR, fill=128)
            clip = operation(clip)
    if clip.shape[-3] == 3 and _uniform(0, 1) < GREY:
        clip = F.rgb_to_grayscale(clip, num_output_channels=3)
    return clip


AUGMENTATIONS = {"short_side": _short_side_crop, "multi_scale": _multi_scale_crop, "rand_augment": _rand_augment}


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
