"""The benchmark of localization: concatenated clips with exact bounds, and the baseline of sliding windows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from numbered_videos import numbered_video

from benchmarks.localization import Composer, read_frames, split_clips
from benchmarks.sliding_windows import METRICS, SlidingWindows, measure, read_measured
from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.segments import Segment
from zoo.video.decoding import open_video


class Video(NamedTuple):
    name: str
    duration: float
    truth: list[tuple[float, float, str]]


def features_of(video: Video, grid: FeatureGrid) -> torch.Tensor:
    """Return features ``(2, T)`` that are 1 in the segments of "a" or "b"."""
    count = round((video.duration - grid.window) / grid.stride) + 1
    centers = grid.to_seconds(torch.arange(count))
    rows = torch.zeros(2, count)
    for start, end, label in video.truth:
        rows["ab".index(label), (centers >= start) & (centers < end)] = 1
    return rows + 0.01 * torch.randn(2, count, generator=torch.Generator().manual_seed(0))


def test_sliding_windows_merge_windows_into_segments() -> None:
    grid = FeatureGrid(1.0, 0.25)
    videos = [Video("x", 20.0, [(2.0, 6.0, "a"), (9.0, 15.0, "b")]), Video("y", 12.0, [(4.0, 8.0, "b")])]
    items = [(video, features_of(video, grid)) for video in videos]
    windows = SlidingWindows(items, grid)
    best = windows.localize(items[1][1], 12.0)[0]
    assert best.label == "b"
    assert (best.start, best.end) == pytest.approx((4.0, 8.0), abs=0.25)
    assert windows.test(items)[METRICS[0]] > 90


def test_metrics_are_those_of_the_report() -> None:
    truth = {"x": [(0.0, 4.0, "a")]}
    values = measure(truth, {"x": [Segment(0.0, 4.0, "a", 0.5)]})
    assert list(values.values()) == pytest.approx([100, 100, 100])
    report = {"0.3:0.1:0.7": {"average": 0.5}, "0.5:0.05:0.95": {"average": 0.25}, "recall": {"AR@10": 0.75}}
    assert list(read_measured(report).values()) == [50, 25, 75]


def test_clips_are_concatenated_with_exact_bounds(tmp_path: Path) -> None:
    clips = {
        label: [numbered_video(tmp_path / label / f"{number}.mp4", 20, (32, 40)) for number in range(5)]
        for label in ("run", "zap")
    }
    train, val = split_clips(clips)
    assert [len(part["run"]) for part in (train, val)] == [4, 1] and not set(train["run"]) & set(val["run"])
    seconds = len(read_frames(clips["run"][0], 32, 10)) / 10
    composer = Composer(clips, {"zap"}, 32, 10, seed=0)
    segments = composer.write(tmp_path / "long.mp4", 6)
    with open_video(tmp_path / "long.mp4") as reader:
        assert len(reader) / reader.fps >= 6
        assert len(reader) % round(seconds * 10) == 0
    assert segments and all(label == "run" for _, _, label in segments)
    assert all(float(end) - float(start) == pytest.approx(seconds) for start, end, _ in segments)
