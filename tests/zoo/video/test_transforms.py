"""Transforms: views of test videos, equal to the released code, and augmented training clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from zoo.errors import ConfigError
from zoo.protocol import CHOICES, DEFAULT_PROTOCOL, Protocol
from zoo.video import rand_augment, transforms
from zoo.video.transforms import AUGMENTATIONS, FLOAT_PIXELS, normalize, resize_short_side, train_clip, view_crops

SIZES = [(240, 320), (241, 427), (256, 340), (540, 959), (427, 241)]  # height, width
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # the smallest deviations in use


def noise(height: int, width: int, frames: int = 2) -> torch.Tensor:
    torch.manual_seed(height * width)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)


# views of a test video -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "size", "tadaconv", "tam", "mmaction2"),
    [
        (240, 320, 256, 341, 341, 341),  # 341.33
        (241, 427, 256, 453, 453, 454),  # 453.58
        (1080, 1920, 224, 398, 398, 398),  # 398.22
        (270, 480, 256, 455, 455, 455),  # 455.11
        (144, 176, 256, 312, 312, 313),  # 312.89
        (112, 115, 224, 229, 230, 230),  # 230; 115 / 112 * 224 falls short of it in floats
        (256, 455, 256, 455, 455, 455),
    ],
)
def test_long_side_matches_the_released_code(
    height: int, width: int, size: int, tadaconv: int, tam: int, mmaction2: int
) -> None:
    """TAdaConv int(w / h * s), as pytorchvideo; TAM int(s * w / h) (torchvision); MMAction2 int(w * (s / h) + .5)."""
    expected = {"plain": tadaconv, "tadaconv": tadaconv, "pytorchvideo": tadaconv, "tam": tam, "mmaction2": mmaction2}
    for pixels, long in expected.items():
        for frames, shape in ((noise(height, width, 1), (size, long)), (noise(width, height, 1), (long, size))):
            assert resize_short_side(frames, size, True, pixels).shape[-2:] == shape


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("pixels", FLOAT_PIXELS)
def test_resized_floats_are_not_rounded(height: int, width: int, pixels: str) -> None:
    """TAdaConv divides by 255, resizes without a filter, normalizes; pytorchvideo resizes last, equal within 1e-6."""
    frames, short = noise(height, width), min(height, width)
    target = [256 if side == short else int(side / short * 256) for side in (height, width)]
    resized = interpolate(frames.float() / 255, target, mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    expected = (resized - mean) / std
    result = resize_short_side(frames, 256, False, pixels)
    assert result.dtype == (torch.uint8 if short == 256 else torch.float32)
    torch.testing.assert_close(normalize(result, MEAN, STD), expected.transpose(0, 1), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tam_resizing_matches_pil(height: int, width: int) -> None:
    frames = noise(height, width, 1)
    result = resize_short_side(frames, 256, True, "tam")
    picture = Image.fromarray(frames[0].permute(1, 2, 0).numpy())
    expected = np.asarray(picture.resize((result.shape[3], result.shape[2]), Image.Resampling.BILINEAR))
    difference = np.abs(result[0].permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def bilinear(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize ``(H, W)`` in float64 by the definition: pixel centers at halves, two nearest pixels, repeated edges."""
    for axis, size in enumerate((height, width)):
        positions = ((np.arange(size) + 0.5) * frame.shape[axis] / size - 0.5).clip(0, frame.shape[axis] - 1)
        low = np.floor(positions).astype(int)
        high = np.minimum(low + 1, frame.shape[axis] - 1)
        weight = (positions - low)[:, None] if axis == 0 else positions - low
        frame = frame.take(low, axis) * (1 - weight) + frame.take(high, axis) * weight
    return frame


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("pixels", ["mmaction2", "tadaconv"])
def test_bilinear_resizing_matches_the_definition(height: int, width: int, pixels: str) -> None:
    """Floats of torch differ by less than 0.05 of 255, bytes of MMAction2 by about one, like those of OpenCV."""
    frames = noise(height, width, 1)
    result = resize_short_side(frames, 256, False, pixels)
    expected = bilinear(frames[0, 0].numpy().astype(float), *result.shape[-2:])
    assert np.abs(result[0, 0].numpy() - expected).max() < (0.05 if pixels == "tadaconv" else 1.01)


def view_corners(height: int, width: int, size: int, crops: int, pixels: str) -> list[tuple[int, int]]:
    """Row and column of the upper left pixel of each view."""
    frame = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    return [(int(view[0, 0, 0]), int(view[1, 0, 0])) for view in view_crops(frame, size, crops, pixels)]


@pytest.mark.parametrize(
    ("pixels", "stops"),
    [
        ("plain", (0, 99, 199)),
        ("tadaconv", (0, 99, 199)),  # datasets/utils/transformations.py: 0, m // 2, m
        ("pytorchvideo", (0, 100, 199)),  # transforms/functional.py, uniform_crop: ceil(m / 2)
        ("mmaction2", (0, 99, 198)),  # ThreeCrop: multiples of m // 2
        ("tam", (0, 98, 196)),  # ops/transforms.py, GroupFullResSample: multiples of m // 4 = 49
    ],
)
def test_positions_of_three_crops(pixels: str, stops: tuple[int, int, int]) -> None:
    """m = 455 - 256 = 199."""
    assert view_corners(256, 455, 256, 3, pixels) == [(0, stop) for stop in stops]
    portrait = [(0, 0)] * 3 if pixels == "tam" else [(stop, 0) for stop in stops]
    assert view_corners(455, 256, 256, 3, pixels) == ([(98, 0)] * 3 if pixels == "tam" else portrait)
    assert view_corners(256, 256, 256, 3, pixels) == [(0, 0)] * 3


@pytest.mark.parametrize(
    ("width", "tadaconv", "tam", "pytorchvideo"), [(341, 58, 58, 59), (343, 59, 60, 60), (344, 60, 60, 60)]
)
def test_position_of_one_crop(width: int, tadaconv: int, tam: int, pytorchvideo: int) -> None:
    """m = 117, 119, 120: m // 2 (MMAction2's CenterCrop too), round(m / 2) with halves to even, ceil(m / 2)."""
    for pixels, left in (("plain", tadaconv), ("tadaconv", tadaconv), ("mmaction2", tadaconv), ("tam", tam)):
        assert view_corners(256, width, 224, 1, pixels) == [(16, left)]
    assert view_corners(256, width, 224, 1, "pytorchvideo") == [(16, pytorchvideo)]


def test_ten_crops_are_corners_center_and_their_mirror_images() -> None:
    frames = noise(44, 100)
    views = view_crops(frames, 40, 10)
    assert len(views) == 10
    for view, mirrored, expected in zip(views[:5], views[5:], F.five_crop(frames, [40, 40]), strict=True):
        assert torch.equal(view, expected)
        assert torch.equal(mirrored, F.horizontal_flip(expected))
    # MMAction2's TenCrop: multiples of 231 // 4 = 57 and 32 // 4 = 8; mirrored views begin at their right edge
    released = [(0, 0), (0, 228), (32, 0), (32, 228), (16, 114)]
    mirrored = [(row, column + 223) for row, column in released]
    assert view_corners(256, 455, 224, 10, "mmaction2") == released + mirrored


def test_invalid_views_are_rejected() -> None:
    for crops in (0, 2, 5):
        with pytest.raises(ConfigError, match=f"crops is {crops}; choose from 1, 3, 10"):
            view_crops(noise(44, 100), 40, crops)
    with pytest.raises(ConfigError, match="a crop of 48 does not fit into 44 x 100"):
        view_crops(noise(44, 100), 48, 10)


def test_views_are_not_copied() -> None:
    frames = noise(64, 100)
    assert resize_short_side(frames, 64, True, "tadaconv") is frames
    for crops in (1, 3):
        for view in view_crops(frames, 64, crops):
            assert view.untyped_storage().data_ptr() == frames.untyped_storage().data_ptr()


def test_bytes_and_floats_share_a_batch() -> None:
    """Videos that need no resizing stay bytes; in a batch with resized ones, they become floats of the same values."""
    unchanged, resized = (
        resize_short_side(noise(*size), 64, False, "tadaconv")[..., :64] for size in ((64, 90), (80, 100))
    )
    batch = torch.stack([unchanged, resized])
    assert batch.dtype == torch.float32
    torch.testing.assert_close(normalize(batch, MEAN, STD)[0], normalize(unchanged, MEAN, STD))


def test_normalize_uses_mean_and_std_of_the_protocol() -> None:
    video = noise(5, 6, 8).view(2, 4, 3, 5, 6)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    expected = ((video.float() / 255 - mean) / std).transpose(1, 2)
    torch.testing.assert_close(normalize(video, MEAN, STD), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(normalize(video.float(), MEAN, STD), expected, rtol=0, atol=2e-6)
    assert normalize(video, MEAN[:1], STD[:1]).shape == (2, 1, 4, 5, 6)


# training --------------------------------------------------------------------------------------------------------


def augment_clip(frames: torch.Tensor, augment: str = "short_side", crop: int = 32, **options: float) -> torch.Tensor:
    return train_clip(frames, replace(DEFAULT_PROTOCOL, augment=augment, train_crop=crop), flip=False, **options)[0]


@pytest.mark.parametrize("augment", list(AUGMENTATIONS))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{}, {"erasing": 0.5, "color_jitter": 0.4}])
def test_augmentation_is_equal_for_all_frames_and_reproducible(augment: str, channels: int, options: dict) -> None:
    clip = noise(40, 60, 1)[:, :channels].expand(3, -1, -1, -1)
    original = clip.clone()
    first, second = (
        [(torch.manual_seed(seed), augment_clip(clip, augment, **options))[1] for seed in range(20)] for _ in range(2)
    )
    assert all(c.shape == (3, channels, 32, 32) and c.dtype == torch.uint8 and c.is_contiguous() for c in first)
    assert all(torch.equal(c[0], c[1]) and torch.equal(c[0], c[2]) for c in first)
    assert all(map(torch.equal, first, second))
    smallest = {"multi_scale": 15, "multi_scale_5": 12}  # of 130 and 50 boxes
    assert len({c.numpy().tobytes() for c in first}) >= smallest.get(augment, 20)
    assert torch.equal(clip, original)
    assert set(AUGMENTATIONS) == set(CHOICES["augment"])


@pytest.mark.parametrize("augment", ["short_side", "multi_scale", "multi_scale_5", "resized_crop"])
def test_crops_vary_and_are_mirrored_half_of_the_time(augment: str) -> None:
    torch.manual_seed(0)
    protocol = replace(DEFAULT_PROTOCOL, augment=augment, train_crop=32)
    ramp = torch.arange(80, dtype=torch.uint8).expand(2, 3, 50, 80).contiguous()
    clips = [train_clip(ramp, protocol, flip=True) for _ in range(100)]
    assert all((clip[0, 0, 0, -1] < clip[0, 0, 0, 0]) == mirrored for clip, mirrored in clips)
    assert 30 < sum(mirrored for _, mirrored in clips) < 70
    assert len({int(clip[0, 0, 0].min()) for clip, _ in clips}) > 5
    assert not any(train_clip(ramp, protocol, flip=False)[1] for _ in range(20))


def boxes(augment: str, height: int, width: int, count: int) -> np.ndarray:
    """Top, left, height and width of the boxes that an augmentation crops, from a frame whose pixels are positions."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frame = torch.stack([rows, columns, rows])[None].to(torch.uint8)
    result = []
    for _ in range(count):
        clip = augment_clip(frame, augment, 64).long()
        (top, left, _), (bottom, right, _) = clip.amin((0, 2, 3)).tolist(), clip.amax((0, 2, 3)).tolist()
        # antialiasing shortens each end of a ramp by about 1.5 pixels
        result.append((top, left, (bottom - top + 3) * 64 / 66, (right - left + 3) * 64 / 66))
    return np.array(result)


def only_crops(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rand_augment, "COUNT", 0)
    patch.setattr(transforms, "GRAY", 0.0)


@pytest.mark.parametrize("augment", list(AUGMENTATIONS))
@pytest.mark.parametrize(("height", "width"), [(1, 40), (40, 1), (1, 1), (2, 3)])
def test_single_pixel_frames_do_not_stop_a_run(augment: str, height: int, width: int) -> None:
    protocol = replace(DEFAULT_PROTOCOL, train_crop=32, augment=augment)
    for _ in range(20):
        assert train_clip(noise(height, width), protocol, flip=True)[0].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("augment", ["rand_augment", "resized_crop"])
def test_boxes_have_the_published_sizes(augment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 to 100 % of the area, 3:4 to 4:3 (TAdaConv V2's configurations)."""
    only_crops(monkeypatch)
    _, _, height, width = boxes(augment, 200, 250, 200).T
    areas, ratios = height * width / (200 * 250), width / height
    assert 0.07 < areas.min() < 0.15 and 0.85 < areas.max() < 1.03
    assert 0.70 < ratios.min() < 0.80 and 1.25 < ratios.max() < 1.42


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        (
            "multi_scale",
            [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)],
        ),
        ("multi_scale_5", [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]),
    ],
)
def test_multi_scale_boxes_match_the_released_code(augment: str, expected: list[tuple[int, int]]) -> None:
    """TAM GroupMultiScaleCrop: sides int(200 s) for s = 1, .875, .75, .66, equal or neighbors; 13 positions.

    MMAction2's MultiScaleCrop has the same, with num_fixed_crops of 13 or 5.
    """
    pairs, positions = set(), set()
    for top, left, height, width in boxes(augment, 200, 250, 600):
        h, w = (min((200, 175, 150, 132), key=lambda side: abs(side - length)) for length in (height, width))
        pairs.add((h, w))
        if (h, w) == (132, 132):  # steps of 68 // 4 = 17 and 118 // 4 = 29
            positions.add((round(top / 17), round(left / 29)))
    sides = [200, 175, 150, 132]
    assert pairs == {(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1}
    assert positions == set(expected)


def float_protocol(**options: object) -> Protocol:
    return replace(DEFAULT_PROTOCOL, pixels="tadaconv", antialias=False, augment="short_side", **options)


def test_short_side_crops_of_floats_are_crops_of_the_resized_clip() -> None:
    """TAdaConv's KineticsResizedCrop: floats are resized to a short side of 224 to 339, then cropped."""
    torch.manual_seed(0)
    clip = noise(60, 90)
    resized = {size: resize_short_side(clip, size, False, "tadaconv").float() for size in range(32, 49)}
    sizes = set()
    for _ in range(25):
        result, _ = train_clip(clip, float_protocol(train_crop=32), flip=False)
        assert result.dtype == torch.float32 and result.shape == (2, 3, 32, 32) and result.is_contiguous()
        windows = {size: frames.unfold(-2, 32, 1).unfold(-2, 32, 1)[0, 0] for size, frames in resized.items()}
        matches = [
            (size, *map(int, position))
            for size, window in windows.items()
            for position in (window == result[0, 0]).all(-1).all(-1).nonzero()
        ]
        assert len(matches) == 1
        size, top, left = matches[0]
        sizes.add(size)
        torch.testing.assert_close(result, resized[size][..., top : top + 32, left : left + 32], rtol=0, atol=0)
    assert min(sizes) < 35 and 45 < max(sizes) <= 48


def test_short_side_crops_of_unresized_floats_share_a_batch() -> None:
    """A clip whose short side happens to be the drawn size is not resized, but is a float tensor as well."""
    clip = noise(32, 40)
    crops = [train_clip(clip, float_protocol(train_crop=32), flip=True, color_jitter=0.4)[0] for _ in range(60)]
    assert {crop.dtype for crop in crops} == {torch.float32}
    assert max(float(crop.max()) for crop in crops) > 100
    assert min(float(crop.min()) for crop in crops) >= 0


def test_rand_augment_is_as_strong_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the clips are gray, half of the operations are not applied, brightness changes by up to 90 %."""
    torch.manual_seed(0)
    for name in ("AREAS", "RATIOS"):
        monkeypatch.setattr(transforms, name, (1.0, 1.0))
    square = noise(32, 32, 1)
    with monkeypatch.context() as patch:
        patch.setattr(rand_augment, "COUNT", 0)
        clips = [augment_clip(square, "rand_augment") for _ in range(400)]
        assert 50 < sum(bool((clip == clip[:, :1]).all()) for clip in clips) < 115  # 80 +- 8
    monkeypatch.setattr(transforms, "GRAY", 0.0)
    same = sum(torch.equal(augment_clip(square, "rand_augment"), square) for _ in range(400))
    assert 15 < same < 55  # 31 +- 5: (1/2 + 1/30)^4, because clips of full contrast have the autocontrast already
    monkeypatch.setattr(rand_augment, "COUNT", 1)
    plain = torch.full((1, 3, 33, 33), 100, dtype=torch.uint8)
    center = {int(augment_clip(plain, "rand_augment", 33)[0, 0, 16, 16]) for _ in range(400)}
    assert not {value for value in center if 40 < value < 90 or value > 210}
    assert {0, 155} <= center  # posterized to one bit; inverted
    assert min(center) < 40
    assert max(center) > 180  # brightness and "solarize-add"


def test_erased_boxes_are_zero_after_normalization() -> None:
    torch.manual_seed(0)
    white = torch.full((2, 3, 40, 40), 255, dtype=torch.uint8)
    clips = [augment_clip(white, erasing=0.25) for _ in range(400)]
    erased = [clip for clip in clips if (clip != 255).any()]
    assert 70 < len(erased) < 130  # 100 +- 9
    shares = [float((clip != 255).float().mean()) for clip in erased]
    assert 0.01 < min(shares) < 0.05 and 0.25 < max(shares) < 0.36
    assert {int(value) for clip in erased for value in clip.unique()} == {115, 255}  # 255 * .45 = 114.75
    gray = normalize(erased[0], DEFAULT_PROTOCOL.mean, DEFAULT_PROTOCOL.std)[erased[0].transpose(0, 1) != 255]
    assert gray.abs().max() < 0.005


def test_color_jitter_follows_its_strength_and_keeps_hues() -> None:
    torch.manual_seed(0)
    gray = torch.full((1, 3, 40, 40), 100, dtype=torch.uint8)
    levels = np.array([int(augment_clip(gray, color_jitter=0.4).float().mean()) for _ in range(300)])
    assert 58 <= levels.min() < 66 and 134 < levels.max() <= 141  # brightness 0.6 to 1.4; gray has no contrast
    red = gray * torch.tensor([2, 1, 1], dtype=torch.uint8)[:, None, None]
    for _ in range(50):
        channels = augment_clip(red, color_jitter=0.4)[0].float().mean((1, 2))
        assert channels[0] > channels[1] and abs(channels[1] - channels[2]) < 1.5
