"""Videos -> clips: frame-exact decoding, the samplers as released, pixels, and files that are no good."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import numbered_video

from datamodules.decoding import VideoReader
from datamodules.sampling import sample
from datamodules.transforms import normalise, resize_short_side, train_clip, view_crops
from zoo.errors import ConfigError, DataError
from zoo.protocol import DEFAULT_PROTOCOL, Protocol


def brightness(frames: torch.Tensor) -> list[int]:
    return [round(float(f.float().mean()) / 8) for f in frames]


# decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "with a space.avi"])
@pytest.mark.parametrize("wanted", [[0], [29], [5, 4, 3], [0, 0, 7, 7], [0, 13, 28], list(range(30)), [17, 2, 29]])
def test_frames_are_exact_in_any_order(name: str, wanted: list[int], tmp_path: Path) -> None:
    with VideoReader(numbered_video(tmp_path / name, 30)) as reader:
        assert len(reader) == 30
        assert reader.fps == 25
        frames = reader.frames(wanted)
    assert frames.shape == (len(wanted), 3, 48, 64)
    assert frames.dtype == torch.uint8
    assert brightness(frames) == wanted


def test_frames_out_of_range_are_a_programming_error(tmp_path: Path) -> None:
    with VideoReader(numbered_video(tmp_path / "v.mp4", 5)) as reader, pytest.raises(IndexError, match="5 frames"):
        reader.frames([5])


def test_phone_videos_stand_upright(tmp_path: Path) -> None:
    """A display matrix of 90 degrees turns frames, so that height and width trade places."""
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:, :32] = 255  # left half white
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    lying = path.read_bytes()
    # the 3x3 matrix in the track header, identity as written; turned by hand, as PyAV cannot write one
    one = (1 << 16).to_bytes(4, "big")
    zero, w = bytes(4), (1 << 30).to_bytes(4, "big")
    identity = one + zero + zero + zero + one + zero + zero + zero + w
    at = lying.index(identity, lying.index(b"tkhd"))
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    turned = zero + one + zero + minus + zero + zero + zero + zero + w
    path.write_bytes(lying[:at] + turned + lying[at + 36 :])
    with VideoReader(path) as reader:
        frame = reader.frames([0])[0].float().mean(0)
    assert frame.shape == (64, 48)
    assert frame[:32].mean() > 200 > 50 > frame[32:].mean()  # turned clockwise, left comes to be the top


def bad_files(folder: Path) -> dict[str, Path]:
    """One file of each kind that users have, by kind."""
    whole = numbered_video(folder / "whole.mp4", 30).read_bytes()
    kinds = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
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


def test_bad_files_are_errors_that_name_them(tmp_path: Path) -> None:
    for kind, file in bad_files(tmp_path).items():
        with pytest.raises(DataError, match=f"{kind}.mp4"), VideoReader(file) as reader:
            reader.frames([0, len(reader) - 1])
    with pytest.raises(DataError, match="There is no video"):
        VideoReader(tmp_path / "none.mp4")


def test_a_stream_cut_in_the_middle_is_damage_where_it_is_read(tmp_path: Path) -> None:
    """A container that survives truncation (its index comes first) still opens; its last frames do not decode."""
    path = numbered_video(tmp_path / "v.mkv", 30)
    path.write_bytes(path.read_bytes()[:-200])
    with VideoReader(path) as reader:
        assert brightness(reader.frames([0, 3])) == [0, 3]
        assert len(reader) <= 30


# sampling, against the published code's formulas -----------------------------------------------------------------


def protocol(**changes: Any) -> Protocol:
    return Protocol.from_dict(DEFAULT_PROTOCOL.to_dict() | changes)


def test_interval_sampling_as_released() -> None:
    """TAdaConv authors: 8 frames, rate 8, at 60 frames a second span 128 frames; clip k of 10 starts at k/10."""
    p = protocol(sampling="interval", interval=8, num_frames=8)
    for k in range(10):
        start = (300 - 128) * k / 10
        wanted = torch.linspace(start, start + 127, 8, dtype=torch.float64).clamp(0, 299).long()
        assert sample(p, 300, 60.0, (k, 10)).tolist() == wanted.tolist()
    assert sample(p, 300, 30.0, (0, 1)).tolist() == torch.linspace(118, 181, 8, dtype=torch.float64).long().tolist()
    assert sample(p, 3, 30.0, (0, 1)).tolist() == [0, 2, 2, 2, 2, 2, 2, 2]  # clamped, as released


def test_segment_sampling_as_released() -> None:
    """One view is the middle of each segment; view k of n the fraction (k+1)/n; halves round to even."""
    p = protocol(sampling="segment", interval=None, num_frames=8)
    assert sample(p, 80, 30.0, (0, 1)).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    assert sample(p, 80, 30.0, (0, 2)).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    assert sample(p, 80, 30.0, (1, 2)).tolist() == [10, 20, 30, 40, 50, 60, 70, 79]
    assert sample(p, 24, 30.0, (0, 1)).tolist() == [2, 4, 8, 10, 14, 16, 20, 22]


def test_dense_sampling_as_released() -> None:
    """TAM authors: 64 consecutive frames, stride 8, starts linspace(0, last, 10), modulo the length."""
    p = protocol(sampling="dense", interval=8, num_frames=8)
    starts = [int(x) for x in np.linspace(0, 300 - 64, 10)]
    for k, start in enumerate(starts):
        assert sample(p, 300, 30.0, (k, 10)).tolist() == [start + 8 * t for t in range(8)]
    assert sample(p, 20, 30.0, (9, 10)).tolist() == [0, 8, 16, 4, 12, 0, 8, 16]


def test_uniform_and_twice_sampling_as_released() -> None:
    p = protocol(sampling="uniform", interval=None, num_frames=8)
    assert sample(p, 100, 30.0, (0, 1)).tolist() == [int(100 / 8 / 2 + 100 / 8 * i) for i in range(8)]
    assert sample(p, 100, 30.0, (0, 2)).tolist() == [int(12.5 * i) for i in range(8)]
    assert sample(p, 100, 30.0, (1, 2)).tolist() == [int(11 + 12.5 * i) for i in range(8)]
    twice = protocol(sampling="twice", interval=None, num_frames=8)
    assert sample(twice, 100, 30.0, (0, 2)).tolist() == [int(6.25 + 12.5 * i) for i in range(8)]
    assert sample(twice, 100, 30.0, (1, 2)).tolist() == [int(12.5 * i) for i in range(8)]
    with pytest.raises(ConfigError, match="1 or 2 test clips, not 3"):
        sample(twice, 100, 30.0, (0, 3))


@pytest.mark.parametrize("sampling", ["interval", "segment", "dense", "uniform", "twice"])
@pytest.mark.parametrize("total", [1, 3, 8, 65, 500])
def test_training_clips_stay_inside_the_video_and_vary(sampling: str, total: int) -> None:
    p = protocol(sampling=sampling, interval=8 if sampling in ("interval", "dense") else None)
    clips = np.stack([sample(p, total, 30.0) for _ in range(200)])
    assert clips.shape == (200, 8)
    assert clips.min() >= 0
    assert clips.max() <= total - 1
    if total == 500:
        assert (np.diff(clips) > 0).all()
        assert len({tuple(clip) for clip in clips.tolist()}) > 100
        assert clips.min() < 25
        assert clips.max() > 475


# pixels ----------------------------------------------------------------------------------------------------------


def test_views_are_the_released_crops() -> None:
    frames = torch.arange(2 * 3 * 40 * 100).view(2, 3, 40, 100)
    left, centre, right = view_crops(frames, 40, 3)
    assert torch.equal(left, frames[..., :40])
    assert torch.equal(centre, frames[..., 30:70])
    assert torch.equal(right, frames[..., 60:])
    assert torch.equal(view_crops(frames, 40, 1)[0], centre)
    top, _, bottom = view_crops(frames.transpose(-1, -2), 40, 3)
    assert torch.equal(top, left.transpose(-1, -2))
    assert torch.equal(bottom, right.transpose(-1, -2))


def test_resize_keeps_the_ratio_and_truncates() -> None:
    assert resize_short_side(torch.zeros(1, 3, 240, 427, dtype=torch.uint8), 256, True).shape == (1, 3, 256, 455)
    assert resize_short_side(torch.zeros(1, 3, 427, 240, dtype=torch.uint8), 120, False).shape == (1, 3, 213, 120)


@pytest.mark.parametrize("augment", ["short_side", "multi_scale"])
def test_training_crops_vary_and_flip_half_of_the_time(augment: str) -> None:
    p = protocol(augment=augment, train_crop=32)
    ramp = torch.arange(80, dtype=torch.uint8).expand(2, 3, 50, 80).contiguous()
    clips = [train_clip(ramp, p, flip=True) for _ in range(100)]
    assert all(clip.shape == (2, 3, 32, 32) and clip.is_contiguous() for clip, _ in clips)
    assert all((clip[0, 0, 0, -1] < clip[0, 0, 0, 0]) == mirrored for clip, mirrored in clips)
    assert 30 < sum(mirrored for _, mirrored in clips) < 70
    assert len({int(clip[0, 0, 0].min()) for clip, _ in clips}) > 5
    assert not any(train_clip(ramp, p, flip=False)[1] for _ in range(20))


def test_normalisation_is_that_of_the_protocol() -> None:
    video = torch.randint(0, 256, (2, 4, 3, 5, 6), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    wanted = (video.float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(normalise(video, mean, std), wanted.transpose(1, 2))
    assert normalise(video, mean[:1], std[:1]).shape == (2, 1, 4, 5, 6)
