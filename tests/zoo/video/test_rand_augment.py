"""RandAugment: the operations of timm's rand-m9-n4-mstd0.5-inc1 (Pillow), with bicubic interpolation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from zoo.protocol import DEFAULT_PROTOCOL
from zoo.video import rand_augment, transforms
from zoo.video.rand_augment import OPERATIONS, posterize, warp

FILL = (115, 90, 30)


def picture_clip() -> Tensor:
    """Smooth frames, whose bicubic interpolation hardly depends on the parameter of the kernel."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    frames = [128 + 90 * torch.sin(x / (9 + c) + t) * torch.cos(y / (7 + t)) for t in range(2) for c in range(3)]
    return torch.stack(frames).unflatten(0, (2, 3)).to(torch.uint8)


def with_pillow(clip: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    pictures = [change(Image.fromarray(frame.permute(1, 2, 0).numpy())) for frame in clip]
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def assert_close(result: Tensor, expected: Tensor, tolerance: int) -> None:
    assert result.dtype == torch.uint8
    difference = (result.int() - expected.int()).abs()
    assert (difference > tolerance).float().mean() < 0.01  # Pillow rounds positions at the border of the frame
    assert difference.float().mean() < 1


def set_sign(monkeypatch: pytest.MonkeyPatch, sign: int) -> None:
    monkeypatch.setattr(rand_augment, "_signed", lambda value: sign * value)


def transform(*matrix: float) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL
    )


# timm's operations for a level of 0.9 and a random sign: auto_augment.py, LEVEL_TO_ARG and NAME_TO_OP
PILLOW: dict[str, Callable[[int], Callable[[Image.Image], Image.Image]]] = {
    "auto_contrast": lambda sign: ImageOps.autocontrast,
    "equalize": lambda sign: ImageOps.equalize,
    "invert": lambda sign: ImageOps.invert,
    "rotate": lambda sign: lambda picture: picture.rotate(sign * 27, Image.Resampling.BICUBIC, fillcolor=FILL),
    "posterize": lambda sign: lambda picture: ImageOps.posterize(picture, 1),
    "solarize": lambda sign: lambda picture: ImageOps.solarize(picture, 256 - 230),
    "solarize_add": lambda sign: lambda picture: picture.point([i + 99 if i < 128 else i for i in range(256)] * 3),
    "color": lambda sign: lambda picture: ImageEnhance.Color(picture).enhance(1 + sign * 0.81),
    "contrast": lambda sign: lambda picture: ImageEnhance.Contrast(picture).enhance(1 + sign * 0.81),
    "brightness": lambda sign: lambda picture: ImageEnhance.Brightness(picture).enhance(1 + sign * 0.81),
    "sharpness": lambda sign: lambda picture: ImageEnhance.Sharpness(picture).enhance(1 + sign * 0.81),
    "shear_x": lambda sign: transform(1, sign * 0.27, 0, 0, 1, 0),
    "shear_y": lambda sign: transform(1, 0, 0, sign * 0.27, 1, 0),
    "translate_x": lambda sign: transform(1, 0, sign * 0.405 * 60, 0, 1, 0),
    "translate_y": lambda sign: transform(1, 0, 0, 0, 1, sign * 0.405 * 40),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sign", [1, -1])
def test_operation_matches_pillow(name: str, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sign(monkeypatch, sign)
    clip = picture_clip()
    result = OPERATIONS[name](clip, 0.9, FILL)
    assert_close(result, with_pillow(clip, PILLOW[name](sign)), tolerance=4)
    assert not torch.equal(result, clip)


def test_operations_are_those_of_timm() -> None:
    assert set(OPERATIONS) == set(PILLOW)


@pytest.mark.parametrize(("level", "bits"), [(0.7, 2), (0.74, 2), (0.75, 1), (0.99, 1), (1.0, 0)])
def test_stronger_posterizing_keeps_fewer_bits(level: float, bits: int) -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    expected = (torch.arange(256) // 2 ** (8 - bits) * 2 ** (8 - bits)).reshape(1, 1, 16, 16)
    assert torch.equal(posterize(values, bits).long(), expected)
    assert torch.equal(OPERATIONS["posterize"](values, level, FILL).long(), expected)


def test_uncovered_pixels_have_the_fill_color_and_the_others_are_bicubic() -> None:
    clip = picture_clip()
    result = warp(clip, (1, 0, 20, 0, 1, 0), FILL)
    assert torch.equal(result[..., :40], clip[..., 20:])
    assert torch.equal(result[..., 40:], torch.tensor(FILL, dtype=torch.uint8)[:, None, None].expand(2, 3, 40, 20))
    step = torch.zeros(1, 1, 4, 16, dtype=torch.uint8)
    step[..., 8:] = 200
    shifted = warp(step, (1, 0, 0.5, 0, 1, 0), [0])
    assert shifted[0, 0, 0].max() > 200  # bicubic kernels overshoot at an edge, bilinear ones do not


def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, Sequence[int]]]:
    """Replace the operations by ones that record their name, level and fill color."""
    calls: list[tuple[str, float, Sequence[int]]] = []

    def recorder(name: str) -> Any:
        def operation(clip: Tensor, level: float, fill: Sequence[int]) -> Tensor:
            calls.append((name, level, fill))
            return clip

        return operation

    monkeypatch.setattr(rand_augment, "OPERATIONS", {name: recorder(name) for name in OPERATIONS})
    return calls


def test_operations_and_magnitudes_follow_the_published_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    calls = record(monkeypatch)
    clip = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for _ in range(1500):
        rand_augment.rand_augment(clip, FILL)
    assert len(calls) == pytest.approx(3000, abs=150)  # four operations, each with probability one half
    counts = Counter(name for name, _, _ in calls)
    assert len(counts) == 15
    assert all(140 < count < 260 for count in counts.values())  # 200 +- 14
    levels = np.array([level for _, level, _ in calls])
    assert np.median(levels) == pytest.approx(0.9, abs=0.005)
    assert np.std(levels) == pytest.approx(0.05, abs=0.005)
    assert levels.max() == 1.0


@pytest.mark.parametrize(
    ("mean", "fill"),
    [((0.45, 0.45, 0.45), [115, 115, 115]), ((0.48145466, 0.4578275, 0.40821073), [123, 117, 104])],
)
def test_training_clips_are_cropped_first_and_filled_with_the_mean(
    mean: tuple[float, float, float], fill: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    fills = []

    def operation(clip: Tensor, level: float, fill: Sequence[int]) -> Tensor:
        shapes.append(tuple(clip.shape))
        fills.append(fill)
        return clip

    monkeypatch.setattr(rand_augment, "OPERATIONS", {"only": operation})
    protocol = replace(DEFAULT_PROTOCOL, augment="rand_augment", train_crop=32, mean=mean)
    frames = torch.zeros(2, 3, 50, 70, dtype=torch.uint8)
    for _ in range(8):
        transforms.train_clip(frames, protocol, flip=False)
    assert set(shapes) == {(2, 3, 32, 32)}
    assert all(color == fill for color in fills)


def test_rotation_keeps_the_center(monkeypatch: pytest.MonkeyPatch) -> None:
    set_sign(monkeypatch, 1)
    clip = torch.zeros(1, 1, 41, 61, dtype=torch.uint8)
    clip[..., 19:22, 29:32] = 255
    result = OPERATIONS["rotate"](clip, 0.5, [0])
    y, x = (result[0, 0] > 128).nonzero().float().mean(0).tolist()
    assert math.hypot(y - 20, x - 30) < 0.3
