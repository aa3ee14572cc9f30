"""Patterns of image files as one video: the frames of the folder, and clear errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import small

import zoo
from zoo.errors import DataError
from zoo.video.image_sequence import is_image_pattern, list_images


def write_frames(folder: Path, name: str, numbers: range, size: tuple[int, int] = (48, 40)) -> Path:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / (name % number))
    return folder


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("img_%05d.png", ["img_%05d.png", "img_*.png", "*.png", "img_0000?.png"]),
        ("%d.PNG", ["%d.PNG", "*.PNG"]),
        ("50%% of %03d [a].png", ["50% of %03d [a].png", "*.png"]),
    ],
)
def test_image_sequence_equals_the_folder_of_frames(name: str, patterns: list[str], tmp_path: Path) -> None:
    count = 9 if "img_0000?.png" in patterns else 12
    folder = write_frames(tmp_path / "frames", name, range(1, 1 + count))
    model = small("tanet_r18")
    model.protocol = model.protocol.with_size(32)
    expected = zoo.predict(model, folder).probabilities
    for pattern in patterns:
        path = folder / pattern
        assert torch.equal(zoo.predict(model, path).probabilities, expected)
        assert torch.equal(zoo.features(model, str(path)), zoo.features(model, folder))
        assert torch.equal(zoo.read_clip(path, model.protocol), zoo.read_clip(folder, model.protocol))
        windows = list(zoo.timeline(model, str(path), window=0.2))
        for window, other in zip(windows, zoo.timeline(model, folder, window=0.2), strict=True):
            assert torch.equal(window.probabilities, other.probabilities)
            assert window.source == str(path)


def test_numbers_are_in_natural_order(tmp_path: Path) -> None:
    write_frames(tmp_path, "a%d.png", range(8, 12))
    names = ["a8.png", "a9.png", "a10.png", "a11.png"]
    for pattern in ("a%d.png", "a*.png"):
        assert [Path(path).name for path in list_images(str(tmp_path / pattern))] == names


def test_a_file_with_the_name_of_a_pattern_is_no_pattern(tmp_path: Path) -> None:
    write_frames(tmp_path, "a%d.png", range(2))
    assert is_image_pattern(str(tmp_path / "a%d.png")) and is_image_pattern(str(tmp_path / "a?.png"))
    assert not is_image_pattern(str(tmp_path / "a1.png")) and not is_image_pattern(str(tmp_path / "*.mp4"))
    (tmp_path / "a%d.png").touch()
    assert not is_image_pattern(str(tmp_path / "a%d.png"))


def test_missing_numbers_are_listed(tmp_path: Path) -> None:
    write_frames(tmp_path, "a%04d.png", range(1, 20))
    (tmp_path / "a0005.png").unlink()
    with pytest.raises(DataError, match=r"a%04d\.png: image 5 is missing between 1 and 19\. .* give .*a\*\.png"):
        list_images(str(tmp_path / "a%04d.png"))
    (tmp_path / "a0006.png").unlink()
    with pytest.raises(DataError, match="images 5 to 6 are missing"):
        zoo.predict(small("tanet_r18"), tmp_path / "a%04d.png")
    assert len(list_images(str(tmp_path / "a*.png"))) == 17


@pytest.mark.parametrize("pattern", ["b%d.png", "b*.png", "a%03d.png"])
def test_patterns_without_matches_are_errors(pattern: str, tmp_path: Path) -> None:
    write_frames(tmp_path, "a%d.png", range(3))
    with pytest.raises(DataError, match="No image matches") as caught:
        zoo.predict(small("tanet_r18"), tmp_path / pattern)
    assert caught.value.reason == "missing"
    with pytest.raises(DataError, match="The folder of .* cannot be read"):
        list_images(str(tmp_path / "absent" / "a%d.png"))
    with pytest.raises(DataError, match="contains several numbers"):
        list_images(str(tmp_path / "a%d_%d.png"))


def test_frames_of_several_sizes_are_an_error(tmp_path: Path) -> None:
    write_frames(tmp_path, "a%d.png", range(4))
    write_frames(tmp_path, "a%d.png", range(4, 8), size=(60, 40))
    with pytest.raises(DataError, match=r"the frames of .*a%d\.png differ in size: \(40, 48\) and \(40, 60\)"):
        zoo.predict(small("tanet_r18"), tmp_path / "a%d.png")
