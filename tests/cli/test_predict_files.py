"""File types that ``tempozoo predict`` accepts: videos and animated GIFs, but no still images, text or sound."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import VideoFiles
from zoo.errors import DataError
from zoo.video.decoding import open_video


def make_images(count: int) -> list[Image.Image]:
    return [Image.fromarray(np.full((32, 48, 3), 20 * number, np.uint8)) for number in range(count)]


def write_animation(path: Path, frames: int = 6) -> Path:
    first, *others = make_images(frames)
    first.save(path, save_all=True, append_images=others, duration=100)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.bmp", "a.tiff", "a.webp", "one-frame.gif"])
def test_still_images_are_refused(name: str, tmp_path: Path) -> None:
    make_images(1)[0].save(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} is a still image\. Give videos, animated GIFs, folders of these"):
        VideoFiles([tmp_path / name])


def test_still_image_without_a_suffix_is_refused(tmp_path: Path) -> None:
    make_images(1)[0].save(tmp_path / "upload", "PNG")
    with pytest.raises(DataError, match="upload is a still image"):
        VideoFiles([tmp_path / "upload"])


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_animations_are_accepted_as_videos(name: str, tmp_path: Path) -> None:
    path = write_animation(tmp_path / name)
    assert VideoFiles([path]).split_records("predict").ids.tolist() == [str(path)]
    with open_video(path) as reader:
        assert len(reader) == 6


def test_gifs_in_folders_are_accepted_as_videos(tmp_path: Path) -> None:
    write_animation(tmp_path / "a.gif")
    make_images(1)[0].save(tmp_path / "b.png")
    assert VideoFiles([tmp_path]).split_records("predict").ids.tolist() == [str(tmp_path / "a.gif")]


def test_animated_webp_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is an animated WebP, which cannot be decoded\. Convert it to MP4 or GIF"):
        VideoFiles([write_animation(tmp_path / "a.webp")])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("list.txt", "list.txt is not a video. Give videos"),
        ("empty.bin", "empty.bin is empty (0 bytes). Give videos"),
        ("sound.wav", "sound.wav is not a video in a supported container"),
    ],
)
def test_text_sound_and_empty_files_are_refused_in_one_line(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4 1\n")
    (tmp_path / "empty.bin").touch()
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(DataError) as error:
        VideoFiles([tmp_path / name])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_error_of_a_folder_without_videos_explains_how_to_read_frames(tmp_path: Path) -> None:
    make_images(1)[0].save(tmp_path / "0001.jpg")
    with pytest.raises(
        DataError, match="for folders of frames, a list of them: --data MMActionList --data.kind frames"
    ):
        VideoFiles([tmp_path])
