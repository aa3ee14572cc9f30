"""Frame-exact decoding with PyAV, and damaged files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numbered_videos import frame_numbers, numbered_video

from zoo.errors import DataError
from zoo.video.decoding import VideoReader

# decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "with a space.avi"])
@pytest.mark.parametrize("numbers", [[0], [29], [5, 4, 3], [0, 0, 7, 7], [0, 13, 28], list(range(30)), [17, 2, 29]])
def test_frames_are_exact_in_any_order(name: str, numbers: list[int], tmp_path: Path) -> None:
    with VideoReader(numbered_video(tmp_path / name, 30)) as reader:
        assert len(reader) == 30
        assert reader.fps == 25
        frames = reader.frames(numbers)
    assert frames.shape == (len(numbers), 3, 48, 64)
    assert frames.dtype == torch.uint8
    assert frame_numbers(frames) == numbers


def test_out_of_range_frames_raise_index_error(tmp_path: Path) -> None:
    with VideoReader(numbered_video(tmp_path / "v.mp4", 5)) as reader, pytest.raises(IndexError, match="5 frames"):
        reader.frames([5])


def test_rotated_phone_videos_are_decoded_upright(tmp_path: Path) -> None:
    """A display matrix of 90 degrees swaps height and width."""
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[:, :32] = 255  # left half white
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    original = path.read_bytes()
    # Replace the identity matrix in the track header by a rotation, because PyAV cannot write one.
    one = (1 << 16).to_bytes(4, "big")
    zero, w = bytes(4), (1 << 30).to_bytes(4, "big")
    identity = one + zero + zero + zero + one + zero + zero + zero + w
    offset = original.index(identity, original.index(b"tkhd"))
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    rotation = zero + one + zero + minus + zero + zero + zero + zero + w
    path.write_bytes(original[:offset] + rotation + original[offset + 36 :])
    with VideoReader(path) as reader:
        frame = reader.frames([0])[0].float().mean(0)
    assert frame.shape == (64, 48)
    assert frame[:32].mean() > 200 > 50 > frame[32:].mean()  # after a clockwise turn, the left half is at the top


def bad_files(folder: Path) -> dict[str, Path]:
    """Write one unreadable file of each kind."""
    complete = numbered_video(folder / "whole.mp4", 30).read_bytes()
    kinds = {
        "empty": b"",
        "half": complete[: len(complete) // 2],
        "text": b"this is not a video" * 50,
        "noise": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
    }
    (folder / "whole.mp4").unlink()
    files = {}
    for kind, content in kinds.items():
        files[kind] = folder / f"{kind}.mp4"
        files[kind].write_bytes(content)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
        frame.planes[0].update(bytes(4096))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    files["sound"] = folder / "sound.mp4"
    return files


def test_errors_name_the_damaged_file(tmp_path: Path) -> None:
    for kind, file in bad_files(tmp_path).items():
        with pytest.raises(DataError, match=f"{kind}.mp4"), VideoReader(file) as reader:
            reader.frames([0, len(reader) - 1])
    with pytest.raises(DataError, match="Video .* does not exist"):
        VideoReader(tmp_path / "none.mp4")


def test_truncated_file_is_refused_on_opening(tmp_path: Path) -> None:
    """The start of the file could be decoded, but clips of half a video differ from those of the video."""
    path = numbered_video(tmp_path / "v.mkv", 30)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"v.mkv is truncated: it has \d+ of \d+ bytes"):
        VideoReader(path)
