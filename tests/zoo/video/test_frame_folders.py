"""Folders of frames, read like videos."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.errors import DataError
from zoo.video.decoding import open_video
from zoo.video.frame_reader import _list_numbered_frames
from zoo.video.source import Source


def make_image(number: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    video = np.zeros((*size, 3), dtype=np.uint8)
    video[..., 0], video[..., 1], video[: size[0] // 2, :, 2] = 10 * number, 5 * number, 90
    return video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "video"
    root.mkdir()
    for number in range(12):
        Image.fromarray(make_image(number)).save(root / f"img_{number}.png")
    return root


def test_frames_come_in_natural_order(folder: Path) -> None:
    expected = torch.from_numpy(np.stack([make_image(n) for n in range(12)])).permute(0, 3, 1, 2)
    with open_video(folder, frame_rate=12.0) as reader:
        assert (len(reader), reader.fps) == (12, 12.0)
        assert torch.equal(reader.frames([11, 0, 2, 2]), expected[[11, 0, 2, 2]])
        with pytest.raises(IndexError, match="12 frames"):
            reader.frames([12])
    with open_video(Source(str(folder), (3, 7))) as reader:
        assert torch.equal(reader.frames(range(4)), expected[3:7])
    for span in [(3, 13), (4, 4), (-1, 3)]:
        with pytest.raises(DataError, match=r"video has 12 frames; frames -?\d+ to \d+ are not among them"):
            open_video(Source(str(folder), span))
    with open_video(Source(str(folder), (3, 13), open_end=True)) as reader:
        assert torch.equal(reader.frames(range(len(reader))), expected[3:])
    with pytest.raises(DataError, match="frames 12 to 12 are not among them"):
        open_video(Source(str(folder), (12, 20), open_end=True))


@pytest.mark.parametrize("padded", [True, False])
def test_folders_are_listed_once_until_they_change(
    padded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(number: int) -> str:
        return f"v1_{number:05d}.jpg" if padded else f"v1_{number}.jpg"

    for number in range(8, 14):
        Image.fromarray(np.full((8, 8, 3), 16 * number, np.uint8)).save(tmp_path / name(number))
    scandir, listed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda folder: (listed.append(folder), scandir(folder))[1])

    def levels() -> list[int]:
        with open_video(tmp_path) as reader:
            return (reader.frames(range(len(reader))).float().mean((1, 2, 3)) / 16).round().int().tolist()

    for _ in range(3):
        assert levels() == list(range(8, 14))
    assert len(listed) == 1
    Image.new("RGB", (8, 8)).save(tmp_path / name(15))  # the numbers are no longer consecutive
    os.utime(tmp_path, ns=(1, 1))
    assert levels() == [*range(8, 14), 0]
    (tmp_path / name(9)).unlink()
    os.utime(tmp_path, ns=(2, 2))
    assert levels() == [8, *range(10, 14), 0]


def test_cache_of_frame_names_is_small(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"frame_{number:010d}.jpg").touch()
    cache_key = (str(tmp_path), tmp_path.stat().st_mtime_ns)
    names = _list_numbered_frames(*cache_key)
    assert names is not None and len(pickle.dumps(names)) < 200
    assert (len(names), names[0], names[1999]) == (2000, "frame_0000000000.jpg", "frame_0000001999.jpg")
    (tmp_path / "cover.jpg").touch()
    assert _list_numbered_frames(cache_key[0], cache_key[1] + 1) is None


def test_flow_hidden_and_other_files_are_ignored(folder: Path) -> None:
    for name in ("flow_x_00001.jpg", "x_00001.jpg", "Y_00001.jpg", ".img_3.png", "notes.txt", "n_frames"):
        (folder / name).write_bytes(b"no picture")
    with open_video(folder) as reader:
        assert len(reader) == 12
        assert len(reader.frames(range(12))) == 12


def test_grayscale_and_rotated_jpegs(tmp_path: Path) -> None:
    """Grayscale images get three channels, and EXIF orientation is not applied."""
    Image.fromarray(make_image(3)[..., 0]).save(tmp_path / "1.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    Image.fromarray(make_image(4)).save(tmp_path / "2.JPEG", exif=exif, quality=95)
    with open_video(tmp_path) as reader:
        frames = reader.frames([0, 1])
    assert frames.shape == (2, 3, 24, 32)
    assert (frames[0] == 30).all()
    assert (frames[1].permute(1, 2, 0).float() - torch.from_numpy(make_image(4)).float()).abs().mean() < 4


def test_errors_name_the_folder_or_image(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty is a folder without frames"):
        open_video(tmp_path / "empty")
    Image.fromarray(make_image(5, (32, 24))).save(folder / "img_5.png")
    with open_video(folder) as reader:
        assert reader.frames([4, 6]).shape == (2, 3, 24, 32)
        with pytest.raises(DataError, match=r"video differ in size: \(24, 32\) and \(32, 24\)"):
            reader.frames([4, 5])
    content = (folder / "img_7.png").read_bytes()
    (folder / "img_7.png").write_bytes(content[: len(content) // 2])
    (folder / "img_8.png").write_bytes(b"")
    (folder / "img_9.png").unlink()
    (folder / "img_9.png").symlink_to("nowhere")
    for number in (7, 8, 9):
        with open_video(folder) as reader, pytest.raises(DataError, match=f"img_{number}.png"):
            reader.frames([number])
    with (
        open_video(folder, deadline=0.0) as reader,
        pytest.raises(DataError, match="video took longer than 0 s"),
    ):
        reader.frames([0])


def test_truncated_jpeg_is_rejected(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.jpg")
    content = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(content[: len(content) // 2])
    with open_video(tmp_path) as reader, pytest.raises(DataError, match=r"1.jpg cannot be read as an image"):
        reader.frames([0])
