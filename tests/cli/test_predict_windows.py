"""``tempozoo predict --window``: rows, resumed commands, annotated videos and charts; features and search."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numbered_videos import numbered_video
from PIL import Image
from small_models import small, small_trained

import zoo
from cli import main
from zoo.inference.result_files import read_results


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 60 frames at 25 frames per second: 2.4 seconds."""
    return numbered_video(tmp_path_factory.mktemp("videos") / "clip.mp4", frames=60)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a small network."""
    model = small_trained(labels=["wave", "clap", "jump", "sit"])
    return str(zoo.save(model, tmp_path_factory.mktemp("networks") / "network"))


def predict(network: str, *arguments: str | Path) -> int:
    """Run ``tempozoo predict`` with windows of 0.8 seconds, one every 0.5 seconds; return its exit status."""
    return main(["predict", "--from", network, "--window", "0.8", "--stride", "0.5", *map(str, arguments)])


def test_rows_are_equal_to_those_of_timeline(
    network: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(network, video, "--csv", tmp_path / "a.csv", "--json", tmp_path / "a.jsonl", "--top", "2") == 0
    expected = list(zoo.timeline(network, video, window=0.8, stride=0.5))
    assert read_results(tmp_path / "a.csv") == read_results(tmp_path / "a.jsonl")
    rows = read_results(tmp_path / "a.csv")
    assert [(row["start"], row["end"]) for row in rows] == [
        (pytest.approx(window.start), pytest.approx(window.end)) for window in expected
    ]
    for row, window in zip(rows, expected, strict=True):
        assert [(prediction["label"], prediction["score"]) for prediction in row["predictions"]] == [
            (label, pytest.approx(score, abs=1e-6)) for label, score in window.top(2)
        ]
    out = capsys.readouterr().out
    assert f"0.00 -     0.80 s  {expected[0].labels[0]}" in out


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_interrupted_predict_is_resumed(
    name: str, network: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, option = tmp_path / name, "--csv" if name.endswith("csv") else "--json"
    assert predict(network, video, option, path) == 0
    complete = path.read_bytes()
    *lines, second_last_line, _ = complete.splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + second_last_line[:17])  # as if killed while it wrote a row
    capsys.readouterr()
    assert predict(network, video, option, path) == 0
    assert path.read_bytes() == complete
    assert "resumed at 1.5 s" in capsys.readouterr().out
    assert predict(network, video, option, path) == 0
    assert path.read_bytes() == complete


def test_existing_file_with_other_settings_is_refused(
    network: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    assert predict(network, video, "--csv", path) == 0
    assert predict(network, video, "--csv", path, "--top", "1") == 1
    assert "has predictions with other settings" in capsys.readouterr().err
    path.write_text("path,label\nx,1\n")
    assert predict(network, video, "--csv", path) == 1
    assert "was not written by this command" in capsys.readouterr().err
    assert predict(network, video, "--csv", tmp_path / "a.txt") == 1
    assert "give a file name that ends in .csv" in capsys.readouterr().err


def test_bad_video_in_a_folder_is_skipped_and_reported(
    network: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(video.read_bytes())
    (folder / "b.mp4").write_bytes(b"no video")
    (folder / "c.mp4").write_bytes(video.read_bytes())
    assert predict(network, folder, "--csv", tmp_path / "a.csv") == 1
    captured = capsys.readouterr()
    assert "Not read: " in captured.out and "1 of 3 videos could not be read" in captured.err
    assert {Path(row["video"]).name for row in read_results(tmp_path / "a.csv")} == {"a.mp4", "c.mp4"}


def test_annotated_video_has_all_frames_and_a_panel(network: str, video: Path, tmp_path: Path) -> None:
    path = tmp_path / "annotated.mp4"
    assert predict(network, video, "--save", path, "--plot", tmp_path / "chart.png") == 0
    with av.open(str(video)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)
    assert frames[0].height >= 240  # enlarged for legible text
    picture = frames[50].to_ndarray(format="rgb24").astype(int)
    height, width, _ = picture.shape
    panel, rest = picture[: height // 4, : width // 2], picture[height // 2 :]
    assert np.ptp(panel) > 100 and np.ptp(rest) < 40  # text and bars above a frame of one brightness
    with Image.open(tmp_path / "chart.png") as chart:
        assert chart.width > 800 and len(chart.convert("RGB").getcolors(1 << 24) or []) > 20


def test_chart_shows_frames_of_the_video_at_their_times(network: str, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(24):  # the first second is red, the next blue
        color = (255, 0, 0) if number < 12 else (0, 0, 255)
        Image.new("RGB", (32, 32), color).save(tmp_path / "frames" / f"{number:02d}.png")
    path = tmp_path / "chart.png"
    assert predict(network, tmp_path / "frames" / "*.png", "--fps", "12", "--plot", path) == 0
    with Image.open(path) as picture:
        chart = np.asarray(picture.convert("RGB")).astype(int)
    (rows, red), (_, blue) = ((chart == color).all(2).nonzero() for color in ((255, 0, 0), (0, 0, 255)))
    assert len(red) > 1000 and len(red) == pytest.approx(len(blue), rel=0.1)
    assert red.max() < blue.min()
    assert (blue.max() - red.min()) / (rows.max() - rows.min()) == pytest.approx(10, rel=0.06)  # ten square frames


def test_annotated_images_have_the_given_frame_rate(network: str, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(24):
        Image.new("RGB", (32, 32)).save(tmp_path / "frames" / f"{number:02d}.png")
    path = tmp_path / "annotated.mp4"
    assert predict(network, tmp_path / "frames" / "*.png", "--fps", "12", "--save", path) == 0
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx(np.arange(24) / 12, abs=1e-3)


def test_rows_of_other_weights_are_not_continued(
    network: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(network, video, "--csv", tmp_path / "a.csv") == 0
    retrained = zoo.load(network)
    with torch.no_grad():
        next(retrained.parameters()).add_(1)
    other = zoo.save(retrained, tmp_path / "retrained")
    assert predict(str(other), video, "--csv", tmp_path / "a.csv") == 1
    assert "has predictions with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stride", "0"], "stride is 0.0; it must be"),
        (["--top", "0"], "--top is 0; it must be at least 1"),
        (["--save", "x.avi"], "x.avi: the annotated video is written as MP4"),
        (["--plot", "x.xyz"], "x.xyz: give a name that ends in one of"),
        (["--views", "2"], "views is '2'"),
    ],
)
def test_wrong_option_is_refused(
    arguments: list[str], message: str, network: str, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(video), "--from", network, "--window", "0.8", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_untrained_networks_are_refused(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = zoo.save(small("tanet_r18"), tmp_path / "random")
    assert predict(str(folder), video) == 1
    assert f"{folder} has random weights. Fine-tune with" in capsys.readouterr().err
    assert predict(str(folder), video, "--allow_untrained") == 0


def test_features_are_resumed_and_searched(
    network: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "videos", tmp_path / "features"
    folder.mkdir()
    for name, frames in (("a", 60), ("b", 30), ("c", 12)):
        numbered_video(folder / f"{name}.mp4", frames=frames)
    arguments = ["features", str(folder), "--from", network, "--out", str(out)]
    assert main(arguments) == 0
    files = sorted(out.glob("*.safetensors"))
    assert len(files) == 3
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["network"] == network and manifest["protocol"]["num_frames"] == 4
    before = {path: path.stat().st_mtime_ns for path in files[1:]}
    files[0].unlink()
    assert main(arguments) == 0
    assert files[0].exists() and all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert main([*arguments, "--views", "2x1"]) == 1
    assert "has features with another views" in capsys.readouterr().err

    assert main(["search", str(folder / "b.mp4"), "--features", str(out), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(" 1.0000") and lines[0].endswith("b.mp4")


@pytest.mark.parametrize("window", [[], ["--window", "0.4"]])
def test_search_with_faiss_and_parquet_equals_the_default(
    window: list[str], network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    pytest.importorskip("pyarrow")
    folder, out, parquet = tmp_path / "videos", tmp_path / "features", tmp_path / "all.parquet"
    for number, name in enumerate("abcd"):
        numbered_video(folder / f"{name}.mp4", frames=15 + 9 * number)
    features = ["features", "--from", network, "--out", str(out), *window]
    assert main([*features, *(str(folder / f"{name}.mp4") for name in "abc"), "--parquet", str(parquet)]) == 0

    def search(path: Path, *options: str) -> str:
        capsys.readouterr()
        assert main(["search", str(folder / "b.mp4"), "--features", str(path), *options]) == 0
        return capsys.readouterr().out

    expected = search(out)
    assert len(expected.splitlines()) == 3 and expected.count(" s\n") == (3 if window else 0)
    assert search(parquet) == search(out, "--index", "faiss") == search(parquet, "--index", "faiss") == expected
    assert (out / "faiss.npz").is_file() and (tmp_path / "all.parquet.faiss.npz").is_file()
    assert main([*features, str(folder / "d.mp4")]) == 0
    updated = search(out, "--index", "faiss")
    assert updated == search(out) and "d.mp4" in updated
    other = tmp_path / "x.parquet"
    other.write_bytes(b"PAR1")
    assert main(["search", str(folder / "b.mp4"), "--features", str(other)]) == 1
    assert "is not a file of `tempozoo features --parquet`" in capsys.readouterr().err


def test_processes_of_features_share_the_videos(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = tmp_path / "videos", tmp_path / "features"
    for name in "abc":
        numbered_video(folder / f"{name}.mp4", frames=12)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, count in (("1", 1), ("0", 3)):
        monkeypatch.setenv("RANK", rank)
        assert main(["features", str(folder), "--from", network, "--out", str(out)]) == 0
        assert len(list(out.glob("*.safetensors"))) == count


def test_window_features_are_written_to_parquet(network: str, video: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arguments = ["features", str(video), "--from", network, "--out", str(tmp_path / "features"), "--window", "0.8"]
    assert main([*arguments, "--stage", "-1", "--parquet", str(tmp_path / "all.parquet")]) == 0
    table = parquet.read_table(tmp_path / "all.parquet").to_pydict()
    assert table["start"] == pytest.approx([0, 0.8, 1.6]) and table["video"] == [str(video)] * 3
    model = zoo.load(network)
    assert len(table["features"][0]) == model.feature_info[-1].num_chs


def test_csv_files_have_one_header(network: str, video: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for _ in range(2):
        assert predict(network, video, "--csv", path) == 0
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert sum(row[:1] == ["video"] for row in rows) == 1
