"""Files that ``tempozoo predict`` is given by name: videos and animated GIFs, but no still images, text or sound."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import VideoFiles
from zoo.errors import DataError
from zoo.video.decoding import open_video


def pictures(count: int) -> list[Image.Image]:
    return [Image.fromarray(np.full((32, 48, 3), 20 * number, np.uint8)) for number in range(count)]


def write_animation(path: Path, frames: int = 6) -> Path:
    first, *others = pictures(frames)
    first.save(path, save_all=True, append_images=others, duration=100)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.bmp", "a.tiff", "a.webp", "one-frame.gif"])
def test_still_images_are_refused(name: str, tmp_path: Path) -> None:
    pictures(1)[0].save(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} is a still image\. Give videos, animated GIFs, folders of these"):
        VideoFiles([tmp_path / name])


def test_still_images_are_recognized_without_their_ending(tmp_path: Path) -> None:
    pictures(1)[0].save(tmp_path / "upload", "PNG")
    with pytest.raises(DataError, match="upload is a still image"):
        VideoFiles([tmp_path / "upload"])


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_animations_are_videos(name: str, tmp_path: Path) -> None:
    path = write_animation(tmp_path / name)
    assert VideoFiles([path]).split_records("predict").ids.tolist() == [str(path)]
    with open_video(path) as reader:
        assert len(reader) == 6


def test_gifs_in_folders_are_videos(tmp_path: Path) -> None:
    write_animation(tmp_path / "a.gif")
    pictures(1)[0].save(tmp_path / "b.png")
    assert VideoFiles([tmp_path]).split_records("predict").ids.tolist() == [str(tmp_path / "a.gif")]


def test_animated_webp_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is an animated WebP, which cannot be decoded\. Convert it to MP4 or GIF"):
        VideoFiles([write_animation(tmp_path / "a.webp")])


def test_text_sound_and_empty_files_are_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4 1\n")
    (tmp_path / "empty.bin").touch()
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    for name, reason in (
        ("list.txt", "list.txt is not a video. Give videos"),
        ("empty.bin", "empty.bin is empty (0 bytes). Give videos"),
        ("sound.wav", "sound.wav is not a video in a supported container"),
    ):
        with pytest.raises(DataError) as caught:
            VideoFiles([tmp_path / name])
        assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_folders_without_videos_say_how_to_read_frames(tmp_path: Path) -> None:
    pictures(1)[0].save(tmp_path / "0001.jpg")
    with pytest.raises(
        DataError, match="for folders of frames, a list of them: --data MMActionList --data.kind frames"
    ):
        VideoFiles([tmp_path])
