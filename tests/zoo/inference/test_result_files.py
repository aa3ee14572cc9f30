"""Files of predictions: continued after any interruption, and never mixed with other predictions or files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small

from zoo.errors import ConfigError
from zoo.inference.predictor import make_prediction
from zoo.inference.result_files import Kind, ResultFile, read_results, top_labels
from zoo.inference.windows import TimedPrediction
from zoo.models import VideoNetwork

SETTINGS = {"weights": "abc", "views": "1x1", "top": 2}
VIDEOS = ["a.mp4", "b,ü.mp4", 'c "quoted".mp4']


@pytest.fixture(scope="module")
def network() -> VideoNetwork:
    return small("tanet_r18", labels=["wave", "clap, twice", "jump", "sit"])


def make_windows(network: VideoNetwork) -> list[TimedPrediction]:
    """Two windows of each video."""
    windows = []
    for number, video in enumerate(VIDEOS):
        for start in (0.0, 1.0):
            scores = torch.tensor([0.1, 0.2, 0.3, 0.4]).roll(number + int(start))
            prediction = make_prediction(network, video, scores)
            windows.append(TimedPrediction(video, prediction.labels, prediction.scores, start=start, end=start + 1))
    return windows


def open_file(path: Path, network: VideoNetwork, *, windows: bool = False, **settings: Any) -> ResultFile:
    kind: Kind = "csv" if path.suffix == ".csv" else "json"
    return ResultFile(str(path), kind, {**SETTINGS, **settings}, network, top=2, windows=windows)


def complete(path: Path, network: VideoNetwork, *, windows: bool) -> None:
    """Append the rows that a file lacks."""
    file = open_file(path, network, windows=windows)
    predictions = make_windows(network)
    if windows:
        starts = {video: file.next_start(video, 1.0) for video in VIDEOS}
        predictions = [window for window in predictions if window.start >= starts[window.source]]
    else:
        predictions = [window for window in predictions if window.start == 0 and not file.has(window.source)]
    for window in predictions:
        file.append(window if windows else make_prediction(network, window.source, torch.tensor([0.1, 0.2, 0.3, 0.4])))
    file.close()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize("windows", [True, False])
def test_file_cut_at_any_byte_is_completed(name: str, windows: bool, network: VideoNetwork, tmp_path: Path) -> None:
    path = tmp_path / name
    complete(path, network, windows=windows)
    content = path.read_bytes()
    assert len(read_results(path)) == (6 if windows else 3)
    for size in range(len(content)):
        path.write_bytes(content[:size])
        complete(path, network, windows=windows)
        assert path.read_bytes() == content, size


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"my notes without a line end",
        b"path,label\na.mp4,1\n",
        b'{"settings": {}}\nnot JSON\n',
        b"[1]\n",
        b"\x00\xff\n" * 3,
        b'# {"weights": "abc", "views": "1x1", "top": 2}\na\nb\n',
    ],
)
def test_other_files_are_refused_and_unchanged(
    name: str, content: bytes, network: VideoNetwork, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"was not written by this command|has predictions with other settings"):
        open_file(path, network)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_refusal_lists_the_settings_that_differ(name: str, network: VideoNetwork, tmp_path: Path) -> None:
    path = tmp_path / name
    complete(path, network, windows=False)
    content = path.read_bytes()[:-1]  # also an incomplete last row stays
    path.write_bytes(content)
    for settings, message in (
        ({"weights": "other"}, r"\(another network\)\. Repeat the command with the same network and options"),
        ({"views": "4x3", "threshold": 0.5}, r"\(threshold: None instead of 0\.5; views: 1x1 instead of 4x3\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_file(path, network, **settings)
        assert path.read_bytes() == content
    with pytest.raises(ConfigError, match="window: None instead of 2"):
        open_file(path, network, windows=True, window=2.0)


def test_csv_and_json_files_have_the_same_rows(network: VideoNetwork, tmp_path: Path) -> None:
    for name in ("a.csv", "a.json"):
        complete(tmp_path / name, network, windows=True)
    rows = read_results(tmp_path / "a.csv")
    assert rows == read_results(tmp_path / "a.json")
    assert rows[0] == {
        "video": "a.mp4",
        "start": 0.0,
        "end": 1.0,
        "predictions": [{"label": "sit", "score": 0.4}, {"label": "jump", "score": 0.3}],
    }
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert json.loads(next(file).removeprefix("# ")) == SETTINGS
        assert next(csv.DictReader(file))["prediction2"] == "jump"


def test_labels_below_the_threshold_are_left_out(network: VideoNetwork, tmp_path: Path) -> None:
    prediction = make_prediction(network, "a.mp4", torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert [label for label, _ in top_labels(prediction, 3)[""]] == ["sit", "jump", "clap, twice"]
    assert [label for label, _ in top_labels(prediction, 3, 0.25)[""]] == ["sit", "jump"]
    assert top_labels(prediction, 3, 0.5) == {"": [(None, pytest.approx(0.4))]}
    for name, kind in (("a.csv", "csv"), ("a.json", "json")):
        file = ResultFile(str(tmp_path / name), kind, SETTINGS, network, top=3, threshold=0.5)
        file.append(prediction)
        file.close()
        assert read_results(tmp_path / name) == [
            {"video": "a.mp4", "predictions": [{"label": None, "score": pytest.approx(0.4)}]}
        ]


def test_every_classifier_has_its_columns(tmp_path: Path) -> None:
    network = small("tanet_r18")
    network.protocol = replace(network.protocol, heads=(("verb", 3), ("noun", 1)))
    prediction = make_prediction(network, "a.mp4", torch.tensor([0.2, 0.3, 0.5, 1.0]))
    for name in ("a.csv", "a.json"):
        file = open_file(tmp_path / name, network)
        file.append(prediction)
        file.close()
    assert read_results(tmp_path / "a.csv") == read_results(tmp_path / "a.json")
    row = read_results(tmp_path / "a.csv")[0]
    assert row["predictions"] == row["heads"]["verb"] == [{"label": "2", "score": 0.5}, {"label": "1", "score": 0.3}]
    assert row["heads"]["noun"] == [{"label": "3", "score": 1.0}]
    header = (tmp_path / "a.csv").read_text().splitlines()[1]
    assert header.startswith("video,verb_prediction1,verb_score1,verb_prediction2") and "noun_prediction2" not in header
