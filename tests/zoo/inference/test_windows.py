"""zoo.timeline: every window is predicted as a video of its own, from one pass over the file."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_videos import numbered_video, remux
from small_models import small

import zoo
from zoo.errors import ConfigError, DataError
from zoo.inference.api import window_features
from zoo.inference.predictor import Predictor
from zoo.inference.windows import spans
from zoo.models import VideoNetwork
from zoo.video.source import Source


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames at 25 frames per second: 2.4 seconds."""
    return numbered_video(tmp_path_factory.mktemp("videos") / "clip.mp4", frames=60)


def network(sampling: str = "segment", interval: int | None = None) -> VideoNetwork:
    model = small("tanet_r18")
    protocol = replace(model.protocol.with_size(32), sampling=sampling, interval=interval, clips=2, crops=3)
    model.protocol = protocol
    return model


@pytest.mark.parametrize(
    ("sampling", "interval"), [("segment", None), ("dense", 2), ("interval", 4), ("uniform", None)]
)
@pytest.mark.parametrize("views", ["1x1", "published"])
def test_windows_equal_predictions_of_their_parts(sampling: str, interval: int | None, views: str, video: Path) -> None:
    model = network(sampling, interval)
    windows = list(zoo.timeline(model, video, window=0.8, stride=0.5, views=views))
    assert [(round(w.start, 3), round(w.end, 3)) for w in windows] == [
        (0, 0.8),
        (0.5, 1.3),
        (1, 1.8),
        (1.5, 2.3),
        (2, 2.4),
    ]
    for window in windows:
        part = Source(str(video), span=(window.start, window.end))
        expected = zoo.predict(model, part, views=views).probabilities
        torch.testing.assert_close(window.probabilities, expected, atol=1e-6, rtol=0)


def test_start_resumes_a_timeline(video: Path) -> None:
    model = network()
    whole = list(zoo.timeline(model, video, window=0.5))
    rest = list(zoo.timeline(model, video, window=0.5, start=1.0))
    assert [w.start for w in rest] == [w.start for w in whole[2:]]
    for resumed, window in zip(rest, whole[2:], strict=True):
        torch.testing.assert_close(resumed.probabilities, window.probabilities)


def test_spans_cover_the_video_and_skip_gaps() -> None:
    times = np.array([0, 0.1, 0.2, 0.3, 2.0, 2.1])  # a gap of 1.7 seconds
    result = spans(times, fps=10, window=0.5, stride=0.5)
    assert [(s.start, s.first, s.stop) for s in result] == [(0.0, 0, 4), (2.0, 4, 6)]
    assert result[-1].end == pytest.approx(2.2)
    assert spans(np.array([0.0]), fps=10, window=5, stride=1) == [(0.0, 0.1, 0, 1)]


def test_a_closed_timeline_ends_its_threads(video: Path) -> None:
    before = threading.active_count()
    with Predictor(network(), batch_size=1) as predictor:
        iterator = zoo.timeline(predictor, video, window=0.1)
        next(iterator)
        iterator.close()
    assert threading.active_count() <= before + 1


def test_errors_come_after_the_windows_before_them(video: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.mp4"):
        list(zoo.timeline(network(), tmp_path / "missing.mp4"))
    with pytest.raises(ConfigError, match="window is 0; it must be"):
        zoo.timeline(network(), video, window=0)
    with pytest.raises(ConfigError, match="stride is -1; it must be"):
        zoo.timeline(network(), video, window=1, stride=-1)


def test_window_features_are_those_of_their_parts(video: Path) -> None:
    model = network()
    windows = list(window_features(model, video, window=0.8, stride=0.8, views="published"))
    assert len(windows) == 3
    for window in windows:
        part = Source(str(video), span=(window.start, window.end))
        expected = zoo.features(model, part, views="published").mean(0)
        torch.testing.assert_close(window.features, expected, atol=1e-5, rtol=1e-4)


def test_a_stream_is_predicted_while_it_arrives(video: Path, tmp_path: Path) -> None:
    stream = remux(video, tmp_path / "stream.ts")
    listener = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(stream.read_bytes())

    threading.Thread(target=send, daemon=True).start()
    model = network()
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    windows = list(zoo.timeline(model, address, window=0.8))
    listener.close()
    assert windows and all(w.end - w.start == pytest.approx(0.8) for w in windows)
    assert windows[0].source == address
    for window in windows:
        part = Source(str(video), span=(window.start, window.end))
        torch.testing.assert_close(window.probabilities, zoo.predict(model, part).probabilities, atol=1e-6, rtol=0)


def test_a_stream_that_cannot_be_reached_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DataError, match="cannot be read as a live stream") as caught:
        list(zoo.timeline(network(), f"tcp://127.0.0.1:{port}"))
    assert caught.value.reason == "unreachable"


def test_a_stream_cannot_make_ffmpeg_open_a_file(video: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(f"ffconcat version 1.0\nfile 'file:{video}'\n".encode())

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(DataError, match="cannot be read as a live stream"):
        list(zoo.timeline(network(), f"tcp://127.0.0.1:{listener.getsockname()[1]}"))
    listener.close()
