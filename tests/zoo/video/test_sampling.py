"""Samplers compared with tables of frame numbers, computed by hand from the formulas of the released code.

The rows were computed with exact fractions from the formula in the comment above them, not with the package. Symbols: L
frames at f frames per second, T frames in a clip, interval I, clip k of n.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import zoo
from zoo.errors import ConfigError
from zoo.protocol import CHOICES, DEFAULT_PROTOCOL, SPANS, Protocol
from zoo.video.sampling import SAMPLERS, sample

# fmt: off
TABLE: list[tuple[str, int, int | None, int, float, tuple[int, int], list[int]]] = [
    # TAdaConv datasets/base/base_dataset.py, _interval_based_sampling: c = T I f / 30; s = max(L - c, 0) k / n, with
    # one clip half of it; T numbers from s to s + c - 1, evenly; clamped to L - 1, truncated.
    # first row: c = 64, s = 0, step 63 / 7 = 9. third: c = 128, s = 172 * 3 / 10 = 51.6, step 127 / 7 = 18.14
    ("interval", 8, 8, 300, 30, (0, 10), [0, 9, 18, 27, 36, 45, 54, 63]),
    ("interval", 8, 8, 300, 30, (9, 10), [212, 221, 230, 239, 248, 257, 266, 275]),
    ("interval", 8, 8, 300, 60, (3, 10), [51, 69, 87, 106, 124, 142, 160, 178]),
    ("interval", 8, 8, 301, 50, (0, 1), [97, 112, 127, 142, 157, 172, 187, 202]),
    ("interval", 8, 8, 97, 25, (1, 4), [10, 18, 25, 33, 40, 48, 55, 63]),
    ("interval", 16, 5, 250, 25, (2, 4),
        [91, 96, 100, 104, 109, 113, 117, 122, 126, 131, 135, 139, 144, 148, 152, 157]),
    ("interval", 8, 8, 301, 29.97, (5, 10), [118, 127, 136, 145, 154, 163, 172, 181]),
    ("interval", 8, 8, 31, 12, (1, 2), [2, 6, 9, 13, 16, 20, 23, 27]),
    ("interval", 8, 8, 31, 30, (0, 1), [0, 9, 18, 27, 30, 30, 30, 30]),
    ("interval", 8, 8, 5, 30, (3, 4), [0, 4, 4, 4, 4, 4, 4, 4]),
    ("interval", 8, 8, 1, 30, (0, 1), [0, 0, 0, 0, 0, 0, 0, 0]),
    # the same, _segment_based_sampling: i L / T + (k + 1) / n of L / T, with one clip half of it; clamped, rounded,
    # halves to even. first row: 97 / 8 = 12.125; 6.0625, 18.1875, 30.3125, ... last of the third: 97 clamped to 96
    ("segment", 8, None, 97, 30, (0, 1), [6, 18, 30, 42, 55, 67, 79, 91]),
    ("segment", 8, None, 97, 30, (0, 2), [6, 18, 30, 42, 55, 67, 79, 91]),
    ("segment", 8, None, 97, 30, (1, 2), [12, 24, 36, 48, 61, 73, 85, 96]),
    ("segment", 16, None, 31, 12, (0, 1), [1, 3, 5, 7, 9, 11, 13, 15, 16, 18, 20, 22, 24, 26, 28, 30]),
    ("segment", 16, None, 300, 25, (3, 4), [19, 38, 56, 75, 94, 112, 131, 150, 169, 188, 206, 225, 244, 262, 281, 299]),
    ("segment", 8, None, 5, 30, (0, 1), [0, 1, 2, 2, 3, 3, 4, 4]),
    ("segment", 8, None, 5, 30, (1, 2), [1, 1, 2, 2, 3, 4, 4, 4]),
    ("segment", 8, None, 1, 30, (9, 10), [0, 0, 0, 0, 0, 0, 0, 0]),
    ("segment", 16, None, 301, 30, (0, 4), [5, 24, 42, 61, 80, 99, 118, 136, 155, 174, 193, 212, 230, 249, 268, 287]),
    # TAM ops/dataset.py, _get_test_indices, "dense": P = max(1, 1 + L - T I); s = linspace(0, P - 1, n) truncated, with
    # one clip P // 2; s + i I modulo L. MMAction2's DenseSampleFrames: the same for T that divide 64.
    # second row: P = 237, 236 * 4 / 9 = 104.9. fourth: P = 34, s = 17
    ("dense", 8, 8, 300, 30, (0, 10), [0, 8, 16, 24, 32, 40, 48, 56]),
    ("dense", 8, 8, 300, 30, (4, 10), [104, 112, 120, 128, 136, 144, 152, 160]),
    ("dense", 8, 8, 300, 30, (9, 10), [236, 244, 252, 260, 268, 276, 284, 292]),
    ("dense", 8, 8, 97, 25, (0, 1), [17, 25, 33, 41, 49, 57, 65, 73]),
    ("dense", 8, 8, 97, 25, (1, 4), [11, 19, 27, 35, 43, 51, 59, 67]),
    ("dense", 16, 4, 301, 60, (5, 10),
        [131, 135, 139, 143, 147, 151, 155, 159, 163, 167, 171, 175, 179, 183, 187, 191]),
    ("dense", 8, 8, 31, 30, (3, 10), [0, 8, 16, 24, 1, 9, 17, 25]),
    ("dense", 8, 8, 5, 30, (0, 1), [0, 3, 1, 4, 2, 0, 3, 1]),
    ("dense", 8, 8, 1, 30, (1, 2), [0, 0, 0, 0, 0, 0, 0, 0]),
    ("dense", 5, 12, 97, 30, (4, 10), [16, 28, 40, 52, 64]),
    # the same, "uniform": tick = L / T; s = linspace(0, tick - 1, n) truncated, with one clip tick / 2; s + i tick,
    # truncated, modulo L. third row: tick 12.125, s = 11; 11, 23.125, 35.25, ...
    ("uniform", 8, None, 97, 30, (0, 1), [6, 18, 30, 42, 54, 66, 78, 90]),
    ("uniform", 8, None, 97, 30, (0, 2), [0, 12, 24, 36, 48, 60, 72, 84]),
    ("uniform", 8, None, 97, 30, (1, 2), [11, 23, 35, 47, 59, 71, 83, 95]),
    ("uniform", 16, None, 31, 12, (1, 2), [0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29]),
    ("uniform", 8, None, 5, 30, (0, 1), [0, 0, 1, 2, 2, 3, 4, 4]),
    ("uniform", 8, None, 5, 30, (1, 2), [0, 0, 1, 1, 2, 3, 3, 4]),
    ("uniform", 8, None, 301, 30, (2, 4), [24, 61, 99, 136, 174, 212, 249, 287]),
    ("uniform", 16, None, 300, 30, (0, 1), [9, 28, 46, 65, 84, 103, 121, 140, 159, 178, 196, 215, 234, 253, 271, 290]),
    ("uniform", 8, None, 1, 30, (0, 1), [0, 0, 0, 0, 0, 0, 0, 0]),
    # MMAction2 SampleFrames of clip_len 1 with twice_sample: tick = L / T; (i + 1 / 2) tick, then i tick, truncated
    ("twice", 8, None, 97, 30, (0, 2), [6, 18, 30, 42, 54, 66, 78, 90]),
    ("twice", 8, None, 97, 30, (1, 2), [0, 12, 24, 36, 48, 60, 72, 84]),
    ("twice", 16, None, 31, 12, (0, 1), [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]),
    ("twice", 8, None, 5, 30, (1, 2), [0, 0, 1, 1, 2, 3, 3, 4]),
    ("twice", 8, None, 300, 50, (0, 1), [18, 56, 93, 131, 168, 206, 243, 281]),
    ("twice", 8, None, 1, 30, (1, 2), [0, 0, 0, 0, 0, 0, 0, 0]),
    # MMAction2 SampleFrames of clip_len 1 (TSN's 25 frames): tick = L / (n T); (j + 1 / 2) tick, truncated; clip k has
    # j = k, k + n, k + 2 n, ... first row: tick 12, j = 0, 5, 10, 15, 20
    ("spread", 5, None, 300, 30, (0, 5), [6, 66, 126, 186, 246]),
    ("spread", 5, None, 300, 30, (4, 5), [54, 114, 174, 234, 294]),
    ("spread", 3, None, 97, 30, (7, 8), [30, 62, 94]),
    ("spread", 8, None, 31, 30, (2, 3), [3, 7, 10, 14, 18, 22, 26, 30]),
    ("spread", 5, None, 5, 30, (1, 2), [0, 1, 2, 3, 4]),
    ("spread", 8, None, 301, 25, (0, 1), [18, 56, 94, 131, 169, 206, 244, 282]),
    ("spread", 3, None, 1, 30, (3, 4), [0, 0, 0]),
    # pytorchvideo ConstantClipsPerVideoSampler, EncodedVideo.get_clip, UniformTemporalSubsample: d = T I / 30 seconds;
    # s = max(L / f - d, 0) k / n, with one clip half of it (not published); of the t frames i with s <= i / f < s + d,
    # numbers i (t - 1) / (T - 1), truncated. first row: s = 7.08 s, frames 213 (212.4 rounded up) to 276
    ("duration", 8, 8, 300, 30, (9, 10), [213, 222, 231, 240, 249, 258, 267, 276]),
    ("duration", 8, 8, 300, 25, (1, 10), [25, 32, 39, 47, 54, 62, 69, 77]),
    ("duration", 8, 8, 301, 50, (3, 4), [146, 161, 176, 191, 206, 221, 236, 252]),
    ("duration", 16, 5, 300, 29.97, (1, 4), [56, 61, 66, 71, 76, 82, 87, 92, 97, 102, 108, 113, 118, 123, 128, 134]),
    ("duration", 8, 8, 97, 12, (1, 2), [36, 39, 43, 46, 50, 53, 57, 61]),
    ("duration", 8, 8, 31, 30, (0, 1), [0, 4, 8, 12, 17, 21, 25, 30]),
    ("duration", 8, 8, 5, 30, (9, 10), [0, 0, 1, 1, 2, 2, 3, 4]),
    ("duration", 8, 8, 1, 30, (0, 1), [0, 0, 0, 0, 0, 0, 0, 0]),
    ("duration", 4, 16, 300, 60, (7, 10), [121, 163, 205, 248]),
    # PySlowFast slowfast/datasets/decoder.py with USE_OFFSET_SAMPLING: as interval, but s = k floor((L - c) / (n - 1))
    ("offset", 16, 4, 300, 30, (0, 5), [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]),
    ("offset", 16, 4, 300, 30, (4, 5),
        [236, 240, 244, 248, 252, 257, 261, 265, 269, 273, 278, 282, 286, 290, 294, 299]),
    ("offset", 16, 4, 301, 25, (0, 1),
        [123, 126, 129, 133, 136, 140, 143, 147, 150, 154, 157, 161, 164, 168, 171, 175]),
    ("offset", 32, 3, 300, 60, (2, 5),
        [54, 60, 66, 72, 78, 84, 90, 97, 103, 109, 115, 121, 127, 134, 140, 146, 152, 158, 164, 171, 177, 183, 189,
        195, 201, 208, 214, 220, 226, 232, 238, 245]),
    ("offset", 16, 4, 31, 12, (4, 5), [4, 5, 7, 8, 10, 12, 13, 15, 17, 18, 20, 22, 23, 25, 26, 28]),
    ("offset", 16, 4, 5, 30, (1, 5), [0, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]),
    # pytorchvideo data/ssv2.py, _sample_clip_frames: g = (L - 1) / T; middle of round(g i) and round(g (i + 1)),
    # rounded down. first row: g = 12; 0 + 12, 12 + 24, ... over 2
    ("middle", 8, None, 97, 30, (0, 1), [6, 18, 30, 42, 54, 66, 78, 90]),
    ("middle", 8, None, 31, 12, (0, 1), [2, 6, 9, 13, 17, 20, 24, 28]),
    ("middle", 8, None, 301, 30, (0, 1), [19, 56, 93, 131, 169, 206, 243, 281]),
    ("middle", 8, None, 5, 30, (0, 1), [0, 0, 1, 2, 2, 2, 3, 4]),
    ("middle", 8, None, 1, 30, (0, 1), [0, 0, 0, 0, 0, 0, 0, 0]),
]
# fmt: on


def make_protocol(sampling: str, frames: int = 8, interval: int | None = 8) -> Protocol:
    interval = interval if sampling in SPANS else None
    return replace(DEFAULT_PROTOCOL, sampling=sampling, num_frames=frames, interval=interval)


@pytest.mark.parametrize(("sampling", "frames", "interval", "total", "fps", "view", "expected"), TABLE)
def test_test_clips_match_the_released_code(
    sampling: str, frames: int, interval: int | None, total: int, fps: float, view: tuple[int, int], expected: list[int]
) -> None:
    numbers = sample(make_protocol(sampling, frames, interval), total, fps, view)
    assert numbers.tolist() == expected
    assert numbers.dtype == np.int64


def test_tables_and_index_cover_every_sampler() -> None:
    assert {row[0] for row in TABLE} == set(SAMPLERS) == set(CHOICES["sampling"])
    assert {total for *_, total, _, _, _ in TABLE} >= {1, 5, 31, 97, 300, 301}
    assert {fps for *_, fps, _, _ in TABLE} >= {12, 25, 29.97, 50, 60}
    assert {view[1] for *_, view, _ in TABLE} >= {1, 2, 4, 10}
    used = {zoo.info(name).protocol.sampling for name in zoo.list_models()}
    assert used == set(SAMPLERS)


def test_invalid_views_are_rejected() -> None:
    with pytest.raises(ConfigError, match="1 or 2 test clips, not 3"):
        sample(make_protocol("twice"), 100, 30.0, (0, 3))
    with pytest.raises(ConfigError, match="A video without frames"):
        sample(make_protocol("segment"), 0, 30.0)


# training --------------------------------------------------------------------------------------------------------


def training_clips(protocol: Protocol, total: int, fps: float = 30.0, count: int = 400) -> np.ndarray:
    torch.manual_seed(0)
    return np.stack([sample(protocol, total, fps) for _ in range(count)])


@pytest.mark.parametrize("sampling", list(SAMPLERS))
@pytest.mark.parametrize("total", [1, 3, 8, 65, 500])
def test_training_clips_are_in_range_random_and_reproducible(sampling: str, total: int) -> None:
    clips = training_clips(make_protocol(sampling), total, count=200)
    assert clips.shape == (200, 8)
    assert clips.min() >= 0
    assert clips.max() <= total - 1
    assert (clips == training_clips(make_protocol(sampling), total, count=200)).all()
    if total == 500:
        assert (np.diff(clips) >= 0).all()
        assert len({tuple(clip) for clip in clips.tolist()}) > 100
        assert clips.min() < 25
        assert clips.max() > 475


@pytest.mark.parametrize("sampling", ["interval", "offset", "duration"])
def test_training_starts_are_uniform_and_clips_as_long_as_test_clips(sampling: str) -> None:
    starts = training_clips(make_protocol(sampling), 364, fps=60.0)[:, 0]  # c = 128: starts are from 0 to 236
    assert starts.min() < 6 and 230 < starts.max() <= 236
    assert abs(starts.mean() - 118) < 4 * 236 / 12**0.5 / 20  # four standard errors
    spans = {int(clip[-1] - clip[0]) for clip in training_clips(make_protocol(sampling), 364, fps=60.0)}
    assert spans <= {126, 127, 128}


def test_segment_positions_are_rounded_like_the_released_code() -> None:
    """Positions in [0, 10) are rounded: 0 and 10 are half as frequent as 1 to 9. Above 78.5, all become frame 79."""
    clips = training_clips(make_protocol("segment"), 80, count=4000)
    first = Counter(clips[:, 0].tolist())
    assert set(first) == set(range(11))
    assert all(320 < first[i] < 480 for i in range(1, 10))  # 400 +- 19
    assert 150 < first[0] < 250 and 150 < first[10] < 250  # 200 +- 14
    assert clips[:, -1].max() == 79


def test_dense_clip_never_starts_at_the_last_position() -> None:
    """randint(0, P - 1) excludes its upper end: of P = 11 starts, 10 are drawn."""
    starts = Counter(training_clips(make_protocol("dense"), 74, count=2000)[:, 0].tolist())
    assert set(starts) == set(range(10))
    assert all(140 < count < 260 for count in starts.values())  # 200 +- 13
    assert set(training_clips(make_protocol("dense"), 65, count=20)[:, 0]) == {0}


def test_dense_clips_of_five_frames_start_where_a_clip_of_64_frames_fits() -> None:
    """MMAction2's DenseSampleFrames: 5 frames, 64 // 5 = 12 apart, span 60; P = 74 - 64 + 1 = 11 starts."""
    protocol = replace(make_protocol("dense"), num_frames=5, interval=12)
    clips = training_clips(protocol, 74, count=500)
    assert set(clips[:, 0].tolist()) == set(range(10))
    assert set(np.diff(clips).ravel().tolist()) == {12}
    shorter = replace(protocol, interval=10)  # not the spacing of a clip of 64 frames: P = 74 - 50 + 1 = 25 starts
    assert set(training_clips(shorter, 74, count=1000)[:, 0].tolist()) == set(range(24))


@pytest.mark.parametrize("sampling", ["uniform", "twice", "spread"])
def test_training_parts_have_an_integer_number_of_frames(sampling: str) -> None:
    """Parts have L // T frames: the last 97 - 8 * 12 = 1 frame is never drawn."""
    clips = training_clips(make_protocol(sampling), 97)
    for i in range(8):
        assert set(clips[:, i].tolist()) == set(range(12 * i, 12 * i + 12))


def test_training_clips_of_short_videos_repeat_frames() -> None:
    """TAM: the first frame. MMAction2: round(i L / T) modulo L, here 0, .375, .75, 1.125, 1.5, 1.875, 2.25, 2.625."""
    assert sample(make_protocol("uniform"), 3, 30.0).tolist() == [0] * 8
    for sampling in ("twice", "spread"):
        assert sample(make_protocol(sampling), 3, 30.0).tolist() == [0, 0, 1, 1, 2, 2, 2, 0]


def test_neighboring_parts_of_middle_sampling_share_a_frame() -> None:
    """g = 12: a frame on the border of two parts may be drawn for both."""
    clips = training_clips(make_protocol("middle"), 97, count=1000)
    for i in range(8):
        assert set(clips[:, i].tolist()) == set(range(12 * i, 12 * i + 13))
