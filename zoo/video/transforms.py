"""Resize, crop, flip and augment whole clips, uint8 ``(T, C, H, W)``.

The result is uint8, or float32 from 0 to 255 if the published code resizes floats. ``normalize`` runs on the device, on
a batch. Random numbers are drawn with torch's global generator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from zoo.errors import ConfigError
from zoo.protocol import CROPS, Protocol
from zoo.video.rand_augment import rand_augment

FLOAT_PIXELS = ("tadaconv", "pytorchvideo")  # values of `pixels` whose code resizes floats
# Number of equal steps, in whole pixels, between the first and the last crop position.
CROP_STEPS = {
    ("mmaction2", 3): 2,
    ("mmaction2", 10): 4,
    ("tam", 3): 4,
    ("tam", 10): 4,
}
MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)  # fractions of the short side in the TAM authors' training crops
# Positions of these crops, row and column in quarters of the free space. MMAction2's TSN uses only the corners and the
# center, its default.
FEW_POSITIONS = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))
POSITIONS = (*FEW_POSITIONS, (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3))
SHORT_SIDE_RANGE = 340 / 224  # the TAdaConv authors resize to a short side of 224 to 340 for a crop of 224
AREAS, RATIOS = (0.08, 1.0), (0.75, 1.333)  # boxes of _resized_crop: fraction of the frame's area, width / height
GRAY = 0.2  # probability of grayscale clips in _rand_augment


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _choice(count: int) -> int:
    return int(torch.randint(count, ()))


def resize_short_side(frames: Tensor, size: int, antialias: bool, pixels: str = "plain") -> Tensor:
    """Resize frames bilinearly to a short side of ``size`` pixels, like the published code named by ``pixels``.

    The TAdaConv authors' and pytorchvideo's code resizes floats, so the result is float32 ``(T, C, H, W)`` from 0 to
    255, not rounded; otherwise it is uint8. Frames that already have this size are returned unchanged, as uint8. "tam"
    matches PIL's filter and "mmaction2" OpenCV's, up to 1 of 255, as the libraries round filter weights differently.
    """
    height, width = frames.shape[-2:]
    short, long = min(height, width), max(height, width)
    if short == size:
        return frames
    if pixels == "mmaction2":
        resized_long = int(long * (size / short) + 0.5)
    elif pixels == "tam":
        resized_long = int(size * long / short)  # exact if the result is an integer, unlike the formula below
    else:
        resized_long = int(long / short * size)
    target = [size, resized_long] if height <= width else [resized_long, size]
    if pixels not in FLOAT_PIXELS:
        return F.resize(frames, target, antialias=antialias)
    result = torch.empty((*frames.shape[:-2], *target))
    for frame, resized in zip(frames, result, strict=True):  # one by one: all frames as floats would take gigabytes
        resized.copy_(interpolate(frame[None].float(), target, mode="bilinear", antialias=antialias)[0])
    return result


def _crop_positions(excess: int, crops: int, pixels: str) -> tuple[int, int, int]:
    """Return the first, middle and last position of a crop along a side that is ``excess`` pixels longer."""
    if pixels == "pytorchvideo":
        return 0, -(-excess // 2), excess
    if pixels == "tam" and crops == 1:  # torchvision's center crop
        return 0, round(excess / 2), excess
    steps = CROP_STEPS.get((pixels, crops), 1)
    last = excess // steps * steps
    return 0, last // 2, last


def view_crops(frames: Tensor, size: int, crops: int, pixels: str = "plain") -> list[Tensor]:
    """Return the spatial views of a test video, squares of ``size`` pixels that share the memory of ``frames``.

    A single crop is the center. Three crops are left, center, right (portrait videos: top, center, bottom). Ten crops
    are the corners (upper left, upper right, lower left, lower right), the center, and the mirror images of these five,
    like MMAction2's TenCrop. ``pixels`` names the published code whose positions are used. The TAM authors' code
    spreads three crops over the width of portrait videos too, where they coincide.

    Raises:
        ConfigError: ``crops`` is not 1, 3 or 10, or the frames are smaller than the crop.
    """
    height, width = frames.shape[-2:]
    if crops not in CROPS:
        raise ConfigError(f"crops is {crops!r}; choose from {', '.join(map(str, CROPS))}.")
    if min(height, width) < size:
        raise ConfigError(f"a crop of {size} does not fit into {height} x {width}; resize must be at least crop.")
    (top, middle, bottom), (left, center, right) = (
        _crop_positions(side - size, crops, pixels) for side in (height, width)
    )
    if crops == 1:
        positions = [(middle, center)]
    elif crops == 3:
        positions = [(middle, left), (middle, center), (middle, right)]
        if height > width and pixels != "tam":
            positions = [(top, center), (middle, center), (bottom, center)]
    else:
        positions = [(top, left), (top, right), (bottom, left), (bottom, right), (middle, center)]
    views = [frames[..., y : y + size, x : x + size] for y, x in positions]
    return views if crops < 10 else views + [view.flip(-1) for view in views]


def _short_side_crop(frames: Tensor, protocol: Protocol) -> Tensor:
    """Crop a square of ``train_crop`` pixels from the clip at a random short side.

    If the protocol resizes floats, the clip is resized to a whole number of pixels and then cropped, as in the released
    code, which never draws the largest size and the last position; the result is float32 from 0 to 255. Bytes are
    cropped before they are resized, which is cheaper.
    """
    height, width = frames.shape[-2:]
    short, crop = min(height, width), protocol.train_crop
    if protocol.pixels in FLOAT_PIXELS:
        resized_short = int(_uniform(crop, crop * SHORT_SIDE_RANGE))
        resized = resize_short_side(frames, resized_short, protocol.antialias, protocol.pixels)
        top, left = (int(_uniform(0, side - crop)) for side in resized.shape[-2:])
        return resized[..., top : top + crop, left : left + crop].float()
    side = max(1, round(short / _uniform(1.0, SHORT_SIDE_RANGE)))
    top, left = _choice(height - side + 1), _choice(width - side + 1)
    return F.resized_crop(frames, top, left, side, side, [crop, crop], antialias=protocol.antialias)


def _multi_scale_crop(frames: Tensor, protocol: Protocol, positions: Sequence[tuple[int, int]] = POSITIONS) -> Tensor:
    """Crop a box at one of several fixed positions and resize it to a square.

    The sides of the box are one of four scales of the short side, or two neighboring ones. Like the TAM authors' code,
    this crops videos of any size. Their videos have a short side of 256, and MMAction2 first resizes to it, which is
    the same except for rounding. Unlike in both, sides of 222 to 226 pixels are not rounded to 224.
    """
    height, width = frames.shape[-2:]
    sides = [max(1, int(min(height, width) * scale)) for scale in MULTI_SCALES]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    box_h, box_w = pairs[_choice(len(pairs))]
    row, column = positions[_choice(len(positions))]
    top, left = row * ((height - box_h) // 4), column * ((width - box_w) // 4)
    size = [protocol.train_crop, protocol.train_crop]
    return F.resized_crop(frames, top, left, box_h, box_w, size, antialias=protocol.antialias)


def _resized_crop(frames: Tensor, protocol: Protocol) -> Tensor:
    """Crop a box of random size and aspect ratio and resize it to a square."""
    size = [protocol.train_crop, protocol.train_crop]
    return v2.RandomResizedCrop(size, AREAS, RATIOS, antialias=protocol.antialias)(frames)


def _rand_augment(frames: Tensor, protocol: Protocol) -> Tensor:
    """Apply a random resized crop, RandAugment and random grayscale, the same for every frame.

    As in the released code, the crop comes first, and pixels that a shifted frame does not cover get the mean of the
    protocol.
    """
    clip = _resized_crop(frames, protocol)
    channels, mean = clip.shape[-3], protocol.mean
    clip = rand_augment(clip, [min(255, round(255 * mean[i % len(mean)])) for i in range(channels)])
    if clip.shape[-3] == 3 and _uniform(0, 1) < GRAY:
        clip = F.rgb_to_grayscale(clip, num_output_channels=3)
    return clip


AUGMENTATIONS: dict[str, Callable[[Tensor, Protocol], Tensor]] = {
    "short_side": _short_side_crop,
    "multi_scale": _multi_scale_crop,
    "multi_scale_5": functools.partial(_multi_scale_crop, positions=FEW_POSITIONS),
    "rand_augment": _rand_augment,
    "resized_crop": _resized_crop,
}


def train_clip(
    frames: Tensor, protocol: Protocol, flip: bool, erasing: float = 0.0, color_jitter: float = 0.0
) -> tuple[Tensor, bool]:
    """Augment a training clip; all frames change in the same way.

    Args:
        frames: uint8 ``(T, C, H, W)``.
        protocol: ``augment`` and ``train_crop``.
        flip: whether to mirror half of the clips.
        erasing: probability of filling a box of 2 to 33 % of the area with the gray of the protocol's mean, which is 0
            after normalization (Random Erasing, arXiv 1708.04896).
        color_jitter: multiplies brightness, contrast and saturation by 1 - color_jitter to 1 + color_jitter. The hue
            does not change, as with the option of timm and PySlowFast; 0.4 is usual.

    Returns:
        The clip ``(T, C, train_crop, train_crop)``, uint8 or, with "short_side" if the protocol resizes floats, float32
        from 0 to 255; and whether it is mirrored.
    """
    clip = AUGMENTATIONS[protocol.augment](frames, protocol)
    if color_jitter:
        jitter = v2.ColorJitter(color_jitter, color_jitter, color_jitter)
        clip = jitter(clip / 255) * 255 if clip.is_floating_point() else jitter(clip)
    if erasing:
        gray = round(255 * sum(protocol.mean) / len(protocol.mean))
        clip = v2.RandomErasing(erasing, value=gray)(clip)
    mirrored = flip and float(torch.rand(())) < 0.5
    return (clip.flip(-1) if mirrored else clip).contiguous(), mirrored


def normalize(video: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalize frames ``(..., T, C, H, W)``, uint8 or float from 0 to 255, to floats ``(..., C, T, H, W)``.

    Published code divides by 255 first. For the means and standard deviations in use, the results differ by at most
    1e-6 in single precision.
    """
    if video.shape[-3] != len(mean):  # networks with other channel counts get R, G, B repeated cyclically
        video = video[..., [i % video.shape[-3] for i in range(len(mean))], :, :]
    shift = torch.tensor(mean, device=video.device)[:, None, None] * 255
    scale = torch.tensor(std, device=video.device)[:, None, None] * 255
    # The transpose is a view: networks fold frames into the batch, which undoes it without a copy.
    return (video - shift).div_(scale).transpose(-4, -3)
