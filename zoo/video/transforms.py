"""Pixels: resize, crop, flip and augmentation of whole clips, uint8 ``(T, C, H, W)`` in and out.

Only the views of a test video may come out as floats, where the published code resized floats. ``normalize`` runs on
the device, on the batch. All that is random is drawn from torch's global generator.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from zoo.errors import ConfigError
from zoo.protocol import CROPS, Protocol

FLOATS = ("tadaconv", "pytorchvideo")  # pixels that are resized as floats
STEPS = {
    ("mmaction2", 3): 2,
    ("mmaction2", 10): 4,
    ("tam", 3): 4,
    ("tam", 10): 4,
}  # crop positions are multiples of this
MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)  # of the short side; TAM authors' training crops
SHORT_SIDE_RANGE = 340 / 224  # TAdaConv authors: short side 224 to 340 for a crop of 224
AREAS, RATIOS = (0.08, 1.0), (0.75, 1.333)  # of the boxes of _resized_crop: share of the frame, width / height
OPERATIONS, MAGNITUDE, DEVIATION, GRAY = 4, 9.0, 0.5, 0.2  # timm's rand-m9-n4-mstd0.5-inc1, and how often clips go gray


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _choice(count: int) -> int:
    return int(torch.randint(count, ()))


def resize_short_side(frames: Tensor, size: int, antialias: bool, pixels: str = "plain") -> Tensor:
    """Resize frames bilinearly to a short side of ``size`` pixels, like the published code named by ``pixels``.

    The TAdaConv authors' and pytorchvideo's code resizes floats, so the result is float32 ``(T, C, H, W)`` from 0 to
    255, not rounded; otherwise it is uint8. Frames of this size are returned unchanged, as uint8. "tam" is equal to
    PIL's filter and "mmaction2" to OpenCV's, up to 1 of 255, because the libraries round filter weights differently.
    """
    height, width = frames.shape[-2:]
    short, long = min(height, width), max(height, width)
    if short == size:
        return frames
    if pixels == "mmaction2":
        other = int(long * (size / short) + 0.5)
    elif pixels == "tam":
        other = int(size * long / short)  # an exact multiple stays one here, and not always below
    else:
        other = int(long / short * size)
    target = [size, other] if height <= width else [other, size]
    if pixels not in FLOATS:
        return F.resize(frames, target, antialias=antialias)
    out = torch.empty((*frames.shape[:-2], *target))
    for frame, target_frame in zip(frames, out, strict=True):  # one by one: all frames as floats would take gigabytes
        target_frame.copy_(interpolate(frame[None].float(), target, mode="bilinear", antialias=antialias)[0])
    return out


def _stops(room: int, crops: int, pixels: str) -> tuple[int, int, int]:
    """Return the first, middle and last position of a crop along a side that is ``room`` pixels longer."""
    if pixels == "pytorchvideo":
        return 0, -(-room // 2), room
    if pixels == "tam" and crops == 1:  # torchvision's center crop
        return 0, round(room / 2), room
    steps = STEPS.get((pixels, crops), 1)
    last = room // steps * steps
    return 0, last // 2, last


def view_crops(frames: Tensor, size: int, crops: int, pixels: str = "plain") -> list[Tensor]:
    """Return the spatial views of a test video, squares of ``size`` pixels that share the memory of ``frames``.

    One crop is the center. Three are left, center, right (or top, center, bottom). Ten are the corners (upper left,
    upper right, lower left, lower right), the center, and the mirror images of these five (MMAction2's TenCrop).
    Positions are those of the published code named by ``pixels``. The TAM authors' code positions three crops along the
    width of portrait videos too, where they coincide.

    Raises:
        ConfigError: ``crops`` is not 1, 3 or 10, or the frames are smaller than the crop.
    """
    height, width = frames.shape[-2:]
    if crops not in CROPS:
        raise ConfigError(f"crops is {crops!r}; choose from {', '.join(map(str, CROPS))}.")
    if min(height, width) < size:
        raise ConfigError(f"a crop of {size} does not fit into {height} x {width}; resize must be at least crop.")
    (top, middle, bottom), (left, center, right) = (_stops(side - size, crops, pixels) for side in (height, width))
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
    """A square of ``train_crop`` pixels from the clip resized to a random short side; cut first, resized after."""
    height, width = frames.shape[-2:]
    short = min(height, width)
    side = max(1, round(short / _uniform(1.0, SHORT_SIDE_RANGE)))
    top, left = _choice(height - side + 1), _choice(width - side + 1)
    size = [protocol.train_crop, protocol.train_crop]
    return F.resized_crop(frames, top, left, side, side, size, antialias=protocol.antialias)


def _multi_scale_crop(frames: Tensor, protocol: Protocol) -> Tensor:
    """A box of one of four scales, slightly stretched at most, at one of 13 fixed positions, resized to a square.

    As the TAM authors', it cuts videos of any size; they kept them at short side 256, MMAction2 resizes them to it
    first, which comes to the same but for rounding. Both take 222 to 226 pixels for 224; here they stay what they are.
    """
    height, width = frames.shape[-2:]
    sides = [max(1, int(min(height, width) * scale)) for scale in MULTI_SCALES]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    box_h, box_w = pairs[_choice(len(pairs))]
    positions = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    row, column = positions[_choice(len(positions))]
    top, left = row * ((height - box_h) // 4), column * ((width - box_w) // 4)
    size = [protocol.train_crop, protocol.train_crop]
    return F.resized_crop(frames, top, left, box_h, box_w, size, antialias=protocol.antialias)


def _resized_crop(frames: Tensor, protocol: Protocol) -> Tensor:
    """A box of random size and shape, resized to a square."""
    size = [protocol.train_crop, protocol.train_crop]
    return v2.RandomResizedCrop(size, AREAS, RATIOS, antialias=protocol.antialias)(frames)


def _rand_augment(frames: Tensor, protocol: Protocol) -> Tensor:
    """A box of random size and shape, four operations of RandAugment, and gray at times; alike on every frame.

    The published runs name timm's "rand-m9-n4-mstd0.5-inc1": four operations drawn with replacement, each left out half
    of the time, each of a magnitude drawn around 9 of 10 with deviation .5. torchvision's RandAugment is used for one
    operation at a time to keep this. What differs: it has "identity" where timm has "invert" and "solarise-add", it
    posterises to 4 bits where timm goes to 1, and it fills with gray. The published code augments before it crops; here
    the crop comes first, so that the cost does not grow with the size of the videos.
    """
    clip = _resized_crop(frames, protocol)
    for _ in range(OPERATIONS):
        if _uniform(0, 1) < 0.5:
            magnitude = min(max(MAGNITUDE + DEVIATION * float(torch.randn(())), 0.0), 10.0)
            operation = v2.RandAugment(1, round(10 * magnitude), 101, v2.InterpolationMode.BILINEAR, fill=128)
            clip = operation(clip)
    if clip.shape[-3] == 3 and _uniform(0, 1) < GRAY:
        clip = F.rgb_to_grayscale(clip, num_output_channels=3)
    return clip


AUGMENTATIONS = {
    "short_side": _short_side_crop,
    "multi_scale": _multi_scale_crop,
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
        flip: mirror half of the clips.
        erasing: probability that a box of 2 to 33 % of the area becomes the gray of the protocol's mean, which is 0
            after normalization (Random Erasing, arXiv 1708.04896).
        color_jitter: brightness, contrast and saturation are multiplied by 1 - color_jitter to 1 + color_jitter; the
            hue is not changed (like the option of timm and PySlowFast; 0.4 is usual).

    Returns:
        The clip, uint8 ``(T, C, train_crop, train_crop)``, and whether it is mirrored.
    """
    clip = AUGMENTATIONS[protocol.augment](frames, protocol)
    if color_jitter:
        clip = v2.ColorJitter(color_jitter, color_jitter, color_jitter)(clip)
    if erasing:
        gray = round(255 * sum(protocol.mean) / len(protocol.mean))
        clip = v2.RandomErasing(erasing, value=gray)(clip)
    mirrored = flip and float(torch.rand(())) < 0.5
    return (clip.flip(-1) if mirrored else clip).contiguous(), mirrored


def normalize(video: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalize frames from 0 to 255, uint8 or float ``(..., T, C, H, W)``, to floats ``(..., C, T, H, W)``.

    Published code divides by 255 first. In single precision, the difference is at most 1e-6 for the means and standard
    deviations in use.
    """
    if video.shape[-3] != len(mean):  # other channel counts repeat R, G, B cyclically
        video = video[..., [i % video.shape[-3] for i in range(len(mean))], :, :]
    shift = torch.tensor(mean, device=video.device)[:, None, None] * 255
    scale = torch.tensor(std, device=video.device)[:, None, None] * 255
    # the transpose is a view: networks fold frames into the batch, which undoes it without a copy
    return (video - shift).div_(scale).transpose(-4, -3)
