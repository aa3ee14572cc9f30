"""``tempozoo predict`` of plain sources, without Lightning: result files, lists, patterns, streams, wrong options."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_videos import numbered_video, remux
from PIL import Image
from small_models import small_trained

import zoo
from cli import main
from zoo.inference.predictor import Predictor
from zoo.inference.result_files import read_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos: a.mp4 to e.mp4."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate("abcde"):
        numbered_video(root / f"{name}.mp4", frames=12 + 8 * number)
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a small network."""
    model = small_trained(labels=["wave", "clap", "jump", "sit"])
    return str(zoo.save(model, tmp_path_factory.mktemp("networks") / "network"))


def predict(network: str, *arguments: str | Path) -> int:
    return main(["predict", *map(str, arguments), "--from", network])


def names(path: Path) -> list[str]:
    return [Path(row["video"]).name for row in read_results(path)]


@pytest.mark.parametrize("views", ["1x1", "2x3"])
def test_scores_equal_those_of_zoo_predict(
    views: str, network: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "a.csv"
    assert predict(network, folder, "--csv", out, "--json", tmp_path / "a.json", "--views", views, "--top", "4") == 0
    rows = read_results(out)
    assert rows == read_results(tmp_path / "a.json")
    printed = capsys.readouterr().out
    videos = sorted(folder.iterdir())
    for row, video, prediction in zip(rows, videos, zoo.predict(network, videos, views=views), strict=True):
        assert row["video"] == str(video)
        scores = {item["label"]: item["score"] for item in row["predictions"]}
        assert scores == {label: pytest.approx(score, abs=2e-6) for label, score in prediction.top(4)}
        label, score = prediction.top(1)[0]
        assert f"{video}  {label} {100 * score:.1f} %" in printed


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_repeated_command_computes_missing_videos_only(
    name: str, network: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, option = tmp_path / name, "--csv" if name.endswith("csv") else "--json"
    assert predict(network, folder, option, path) == 0
    content = path.read_bytes()
    read: list[str] = []
    original = Predictor.read

    def record(self: Predictor, video: str, fps: float = 30.0) -> object:
        read.append(Path(video).name)
        return original(self, video, fps)

    monkeypatch.setattr(Predictor, "read", record)
    for size, missing in ((len(content) - 5, ["e.mp4"]), (30, list("abcde")), (len(content), [])):
        path.write_bytes(content[:size])
        read.clear()
        capsys.readouterr()
        assert predict(network, folder, option, path) == 0
        assert [video[0] for video in sorted(read)] == [video[0] for video in missing]
        assert [row["video"] for row in read_results(path)] == [str(video) for video in sorted(folder.iterdir())]
        complete = 5 - len(missing)
        assert (f"{complete} of 5 videos are already in {path}" in capsys.readouterr().out) == (complete > 0)


def test_file_of_another_network_is_refused(
    network: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    assert predict(network, folder / "a.mp4", "--csv", path) == 0
    content = path.read_bytes()
    retrained = zoo.load(network)
    with torch.no_grad():
        next(retrained.parameters()).add_(1)
    other = str(zoo.save(retrained, tmp_path / "retrained"))
    assert predict(other, folder, "--csv", path) == 1
    assert "(another network). Repeat the command with the same network" in capsys.readouterr().err
    for options in (["--views", "2x1"], ["--top", "1"], ["--threshold", "0.5"], ["--window", "1"]):
        assert predict(network, folder, "--csv", path, *options) == 1
        assert "has predictions with other settings" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_unreadable_videos_are_counted_and_tried_again(
    network: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, missing = tmp_path / "broken.mp4", tmp_path / "missing.mp4"
    broken.write_bytes(b"no video")
    command = (broken, folder / "a.mp4", missing, folder / "b.mp4", "--json", tmp_path / "a.json")
    assert predict(network, *command) == 1
    captured = capsys.readouterr()
    assert f"Not read: {broken}" in captured.out and "missing.mp4 does not exist" in captured.out
    assert "2 of 4 videos could not be read, see above; repeat the command" in captured.err
    assert names(tmp_path / "a.json") == ["a.mp4", "b.mp4"]
    shutil.copy(folder / "c.mp4", broken)
    shutil.copy(folder / "d.mp4", missing)
    assert predict(network, *command) == 0
    assert names(tmp_path / "a.json") == ["a.mp4", "b.mp4", "broken.mp4", "missing.mp4"]


def test_json_on_standard_output_is_not_mixed_with_messages(
    network: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.touch()
    assert predict(network, folder / "a.mp4", broken, "--json", "-", "--csv", tmp_path / "a.csv") == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert rows == read_results(tmp_path / "a.csv")
    assert f"Not read: {broken}" in captured.err and "Written to" in captured.err
    assert predict(network, folder / "a.mp4", "--json", "-", "--window", "0.4") == 0
    windows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [window["start"] for window in windows] == [0, 0.4]
    assert predict(network, folder / "a.mp4", "--csv", "-") == 0
    assert capsys.readouterr().out.startswith("video,prediction1,score1")


def test_threshold_lists_certain_labels_only(
    network: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = folder / "a.mp4"
    best, second = zoo.predict(network, video).scores[:2]
    assert predict(network, video, "--csv", tmp_path / "a.csv", "--threshold", f"{(best + second) / 2}") == 0
    assert [len(row["predictions"]) for row in read_results(tmp_path / "a.csv")] == [1]
    capsys.readouterr()
    assert predict(network, video, "--csv", tmp_path / "b.csv", "--threshold", "0.999") == 0
    assert f"{video}  - {100 * best:.1f} %" in capsys.readouterr().out
    assert read_results(tmp_path / "b.csv")[0]["predictions"] == [
        {"label": None, "score": pytest.approx(best, abs=1e-6)}
    ]


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_paths_in_a_list_start_at_its_folder(name: str, network: str, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(folder, root / "videos")
    entries = ["videos/b.mp4", str(folder / "a.mp4"), "videos/[cd].mp4", "videos/b.mp4"]
    if name == "list.csv":
        lines = ["label,path", *(f'x,"{entry}"' for entry in entries)]
    else:
        lines = [entries[0], "", *entries[1:]]
    (root / name).write_text("\r\n".join(lines), encoding="utf-8-sig")
    assert predict(network, root / name, folder / "e.mp4", "--csv", tmp_path / "a.csv") == 0
    assert names(tmp_path / "a.csv") == ["b.mp4", "a.mp4", "c.mp4", "d.mp4", "e.mp4"]
    assert read_results(tmp_path / "a.csv")[0]["video"] == str(root / "videos" / "b.mp4")


def test_wrong_lists_are_explained(network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content, message in (
        ("a.csv", "video,label\nx.mp4,1\n", "a.csv has no column `path` (columns: video, label)"),
        ("b.csv", "path\n", "b.csv lists no videos"),
        ("c.txt", "\n\n", "c.txt lists no videos"),
        ("d.txt", "x.mp4\n", f"{tmp_path}/x.mp4 does not exist"),
    ):
        (tmp_path / name).write_text(content)
        assert predict(network, tmp_path / name) == 1
        assert message in capsys.readouterr().err


def test_image_sequences_equal_their_folder(network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(1, 13):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(frames / f"img_{number:03}.png")
    sources = [frames, frames / "img_%03d.png", frames / "*.png"]
    assert predict(network, *sources, "--json", tmp_path / "a.json") == 0
    rows = read_results(tmp_path / "a.json")
    assert [row["video"] for row in rows] == list(map(str, sources))
    assert rows[0]["predictions"] == rows[1]["predictions"] == rows[2]["predictions"]
    windows = [sources[1], "--window", "0.5", "--fps", "8", "--json", tmp_path / "windows.json"]
    assert predict(network, *windows) == 0
    assert [row["start"] for row in read_results(tmp_path / "windows.json")] == [0, 0.5, 1]
    assert predict(network, *frames.iterdir()) == 1
    assert "is a still image. Give videos, a folder of frames, or a quoted pattern" in capsys.readouterr().err
    features = ["features", str(frames / "img_%03d.png"), "--from", network, "--out", str(tmp_path / "features")]
    assert main(features) == 0
    assert len(list((tmp_path / "features").glob("*.safetensors"))) == 1


def test_interruption_keeps_the_videos_before_it(
    network: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Predictor.logits
    calls: list[int] = []

    def interrupt_second(self: Predictor, views: torch.Tensor) -> torch.Tensor:
        calls.append(len(views))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, views)

    monkeypatch.setattr(Predictor, "logits", interrupt_second)
    assert predict(network, folder, "--csv", tmp_path / "a.csv", "--batch_size", "2") == 130
    assert "Stopped after 2 of 5 videos; repeat the command to continue." in capsys.readouterr().out
    assert names(tmp_path / "a.csv") == ["a.mp4", "b.mp4"]
    assert predict(network, folder, "--csv", tmp_path / "a.csv", "--batch_size", "2") == 0
    assert names(tmp_path / "a.csv") == ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4"]


def test_stream_is_predicted_until_ctrl_c(network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = numbered_video(tmp_path / "clip.mp4", frames=160)
    stream, rows = remux(video, tmp_path / "stream.ts"), tmp_path / "a.jsonl"
    listener = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        connection, _ = listener.accept()
        with connection:  # open until the interruption, like a camera
            connection.sendall(stream.read_bytes())
            deadline = time.monotonic() + 20
            while len(rows.read_bytes().splitlines()) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    assert predict(network, address, "--json", rows) == 0
    listener.close()
    assert "Stopped." in capsys.readouterr().out
    windows = read_results(rows)
    assert [(window["start"], window["end"]) for window in windows[:2]] == [(0, 2), (2, 4)]
    assert json.loads(rows.read_text().splitlines()[0])["settings"]["window"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--csv", "a.json"], "a.json: give a file name that ends in .csv"),
        (["--csv", "-", "--json", "-"], "--csv and --json both write to standard output"),
        (["--threshold", "2"], "--threshold is 2.0; it must be a number from 0 to 1"),
        (["--fps", "0"], "--fps is 0.0; it must be a number from 0.01 to 10000"),
        (["--stride", "1"], "--stride needs --window SECONDS"),
        (["--plot", "x.png"], "--plot needs --window SECONDS"),
        (["--treshold", "1"], "Unknown option --treshold (did you mean --threshold?)"),
        (["--top", "x"], "argument --top: invalid int value: 'x'"),
        (["0"], "0 is a camera or stream; give --window"),
        (["*.avi"], "No file matches '*.avi'"),
        (["--csv", "a.csv", "--trainer.devices", "2"], "--csv cannot be combined with --trainer.devices"),
        (["--window", "1", "--out", "x"], "--window cannot be combined with --out"),
    ],
)
def test_wrong_option_is_refused(
    arguments: list[str], message: str, network: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert predict(network, folder / "a.mp4", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_sources_may_be_between_options_and_begin_with_a_dash(
    network: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-x.mp4", "[a].mp4", "~.mp4", "#b.mp4"):
        shutil.copy(folder / "a.mp4", name)
    arguments = ["predict", "[a].mp4", "--from", network, "#b.mp4", "--csv=a.csv", "~.mp4", "--", "-x.mp4"]
    assert main(arguments) == 0
    assert names(tmp_path / "a.csv") == ["[a].mp4", "#b.mp4", "~.mp4", "-x.mp4"]


def test_several_processes_need_the_trainer(
    network: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert predict(network, folder) == 1
    assert "share the videos only with Lightning's Trainer: add --out FOLDER." in capsys.readouterr().err


def test_folder_of_shards_needs_the_trainer(network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shards.json").write_text("{}")
    assert predict(network, tmp_path) == 1
    assert "contains shards; add --out FOLDER" in capsys.readouterr().err


def test_out_writes_the_rows_of_the_trainer(network: str, folder: Path, tmp_path: Path) -> None:
    assert predict(network, folder, "--out", tmp_path / "out") == 0
    header, *rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert header == "path," + ",".join(f"prediction{k},score{k}" for k in range(1, 5))
    for row, prediction in zip(rows, zoo.predict(network, sorted(folder.iterdir())), strict=True):
        path, label, score, *_ = row.split(",")
        assert (path, label) == (prediction.source, prediction.labels[0])
        assert float(score) == pytest.approx(prediction.scores[0], abs=2e-6)
