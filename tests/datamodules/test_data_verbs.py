"""`tempozoo data check`, `prepare` and `stats`: results, written files, and recovery after a crash."""

from __future__ import annotations

import csv
import ctypes
import functools
import hashlib
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numbered_videos import numbered_video
from odd_videos import BAD_KINDS, ODD_KINDS, VARIABLE, make_bad, make_odd
from PIL import Image
from torchvision.transforms.v2 import functional as F

from cli import main
from datamodules import VideoFolder
from datamodules.tools.check import check
from datamodules.tools.commands import data
from datamodules.tools.encode import encode
from datamodules.tools.encoding import Encoding
from datamodules.tools.outputs import TEMPORARY
from datamodules.tools.parallel import each
from datamodules.tools.prepare import parse_shards, prepare
from datamodules.tools.read_speed import measure_gain
from datamodules.tools.stats import advice, stats
from zoo.errors import ConfigError, DataError, StorageError
from zoo.video.decoding import open_video


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every regular file below a folder, and target of every link, by path."""
    digests_by_path = {}
    for path in root.rglob("*"):
        if path.is_symlink():
            digests_by_path[str(path)] = str(path.readlink())
        elif path.is_file() and path.stat().st_size < 1 << 30:
            digests_by_path[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests_by_path


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if TEMPORARY.fullmatch(path.name)]


@pytest.fixture(scope="module", autouse=True)
def second_process() -> Iterator[subprocess.Popen[str]]:
    """A process that runs a command from its standard input; it starts first, because its imports take time."""
    lines = (
        "import os, sys",
        "from datamodules.tools.commands import data",
        "from datamodules.tools.parallel import each",
        "each(os.path.basename, ['a'], 'starting')",
        "data(eval(sys.stdin.readline()))",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield process
        process.kill()


# processes -------------------------------------------------------------------------------------------------------


def test_crash_or_hang_loses_one_item() -> None:
    results = each(os.path.basename, ["a/1", "b/2", 3, "c/4"], "names", workers=2)
    assert results[:2] == ["1", "2"] and results[3] == "4" and isinstance(results[2], DataError)
    crashed = each(ctypes.string_at, [0, 0], "crashing", workers=1)
    assert all(re.search("crash.*SIGSEGV", str(error)) for error in crashed)
    hangs_with_the_lock = functools.partial(re.sub, r"(a+)+$", "x")  # exponential time, holding the GIL
    start = time.monotonic()
    results = each(hangs_with_the_lock, ["aa", "a" * 60 + "b", "ca"], "hanging", workers=2, time_limit=1.0)
    assert (results[0], results[2]) == ("x", "cx") and "longer than 1 s" in str(results[1])
    assert time.monotonic() - start < 10


# check -----------------------------------------------------------------------------------------------------------


def test_check_reports_exactly_the_unreadable_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "videos"
    good = [f"{name}/{number}.mp4" for name in "ab" for number in range(2)]
    for name in good:
        numbered_video(root / name, 10)
    (root / "bad").mkdir()
    kinds = [kind for kind in BAD_KINDS if kind != "folder"]  # a folder without frames is not a video
    for kind in kinds:
        make_bad(kind, root / "bad" / f"{kind}.mp4")
    frames = root / "frames" / "v1"
    frames.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (40, 30)).save(frames / f"{number:05d}.jpg")
    before = digests(root)
    command = ["data", "check", str(root), "--out", str(tmp_path / "out"), "--time-limit", "2", "--workers", "2"]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert digests(root) == before
    rows = {row["path"]: row for row in read_csv(tmp_path / "out" / "check.csv")}
    assert sorted(rows) == sorted([*good, "frames/v1", *(f"bad/{kind}.mp4" for kind in kinds)])
    assert {name for name, row in rows.items() if row["problem"]} == {f"bad/{kind}.mp4" for kind in kinds}
    first = rows["a/0.mp4"]
    assert [first[n] for n in ("frames", "width", "height", "seconds", "decoded")] == ["10", "64", "48", "0.4", "10"]
    assert [rows["frames/v1"][n] for n in ("frames", "width", "height")] == ["3", "40", "30"]
    assert f"5 of {5 + len(kinds)} videos can be read" in printed
    assert f"--data.exclude {tmp_path / 'out' / 'exclude.txt'}" in printed
    lines = (tmp_path / "out" / "exclude.txt").read_text().splitlines()
    assert lines[0].startswith("# ") and sorted(lines[1:]) == sorted(f"bad/{kind}.mp4" for kind in kinds)
    module = VideoFolder(root, exclude=tmp_path / "out" / "exclude.txt", num_workers=0)
    records = module._exclude("test", module.tree.records(module.tree.names))
    assert len(records) == len(good)


def test_check_reports_paths_relative_to_the_root(tmp_path: Path) -> None:
    for name in ("1", "2", "34"):
        (tmp_path / name).mkdir()
        for number in range(1, 4):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number:05d}.jpg")
    (tmp_path / "1" / "00001.jpg").write_bytes(b"")
    (tmp_path / "34" / "00003.jpg").write_bytes(b"\xff")
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "b.mp4").symlink_to("nowhere")
    problems = {row.path: row.problem for row in check(str(tmp_path), workers=1).rows}
    (alone,) = check(str(tmp_path / "1"), workers=1).rows
    reason = "00001.jpg cannot be read as an image: cannot identify image file"
    assert problems["1"].startswith(f"1/{reason} '1/00001.jpg'") and alone.problem.startswith(f"{reason} '00001.jpg'")
    assert problems["34"].startswith("34/00003.jpg cannot be read as an image") and problems["2"] == ""
    assert problems["a.mp4"] == "a.mp4 is empty (0 bytes)."
    assert problems["b.mp4"] == "Video b.mp4 does not exist: broken link."


def test_names_that_exclude_txt_cannot_represent_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a\nb.mp4", "# c.mp4", " d.mp4", "e.mp4"):
        (tmp_path / "v" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "v" / name).write_bytes(b"")
    data(["check", str(tmp_path / "v"), "--out", str(tmp_path), "--workers", "1", "--exit-zero"])
    assert (
        "3 of the unreadable videos have names that exclude.txt cannot represent, such as ' d.mp4'; rename them."
        in capsys.readouterr().out
    )
    assert (tmp_path / "exclude.txt").read_text().splitlines()[1:] == ["e.mp4"]


def test_check_refuses_empty_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no videos or folders of frames"):
        data(["check", str(tmp_path)])
    with pytest.raises(DataError, match="Folder .* does not exist"):
        data(["check", str(tmp_path / "nowhere")])


# prepare ---------------------------------------------------------------------------------------------------------


def read_video(path: Path) -> tuple[torch.Tensor, list[float], list[bool]]:
    """Frames, their times in seconds after the first frame, and whether each is a key frame."""
    with open_video(path) as reader:
        frames = reader.frames(range(len(reader)))
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        packets = sorted((p.pts * p.time_base, p.is_keyframe) for p in container.demux(video=0) if p.size)
    return frames, [float(time - packets[0][0]) for time, _ in packets], [key for _, key in packets]


@pytest.mark.parametrize("kind", ODD_KINDS)
def test_prepared_videos_have_the_same_frames(tmp_path: Path, kind: str) -> None:
    source = make_odd(kind, tmp_path / kind)
    encode(source, tmp_path / "out.mp4", Encoding(short_side=64, gop=4, crf=0))
    frames, times, keys = read_video(tmp_path / "out.mp4")
    with open_video(source) as reader:
        expected = reader.frames(range(len(reader)))
    height, width = (2 * round(side / 2) for side in expected.shape[-2:])
    assert frames.shape == (len(expected), 3, height, width)
    expected = F.resize(expected, [height, width], antialias=True)
    # The error of 4:2:0 and of resizing by one pixel is less than 5 of 255.
    assert (frames.float() - expected.float()).abs().mean() < 5
    assert all(any(keys[at : at + 4]) for at in range(len(keys) - 3))
    if kind.startswith("variable_rate"):
        assert np.allclose(times, np.array(VARIABLE) / 100 - VARIABLE[0] / 100, atol=1e-3)
    else:
        assert np.allclose(np.diff(times), np.median(np.diff(times)) if len(times) > 1 else 0, atol=2e-3)


def test_prepare_shrinks_videos_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, target = tmp_path / "videos", tmp_path / "small"
    numbered_video(root / "train" / "a" / "tall.mp4", 20, (90, 60))
    numbered_video(root / "train" / "b" / "wide.v1.mkv", 20, (48, 80))
    (root / "labels.csv").write_text("path,label\n")
    (root / "cover.jpg").write_bytes(b"not a video")
    for kind in ("cut_50", "flipped", "text", "endless"):
        make_bad(kind, root / f"{kind}.mp4")
    before = digests(root)
    options = ["--to", str(target), "--short-side", "32", "--gop", "5", "--time-limit", "2"]
    command = ["prepare", str(root), *options]
    data(command)
    assert "2 videos are ready" in (printed := capsys.readouterr().out) and "4 videos cannot be read" in printed
    assert re.search(r"is \d+\.\d times as fast as before, .* the size \(measured on 2 videos\)", printed)
    assert {row["path"] for row in read_csv(target / "prepare.csv")} == {
        "cut_50.mp4",
        "flipped.mp4",
        "text.mp4",
        "endless.mp4",
    }
    visible = sorted(
        str(p.relative_to(target)) for p in target.rglob("*") if p.is_file() and not p.name.startswith(".")
    )
    videos = ["train/a/tall.mp4", "train/b/wide.v1.mp4"]
    assert visible == sorted(["labels.csv", "prepare.csv", "prepare.json", *videos])
    assert not leftovers(target) and digests(root) == before
    frames, _, keys = read_video(target / "train/a/tall.mp4")
    assert frames.shape == (20, 3, 48, 32) and sum(keys) >= 4
    assert (frames.float().mean((1, 2, 3)) - 8 * torch.arange(20)).abs().max() < 4
    assert read_video(target / "train/b/wide.v1.mp4")[0].shape == (20, 3, 32, 54)

    written = {name: (target / name).stat().st_mtime_ns for name in videos}
    for kind in ("text", "endless"):
        (root / f"{kind}.mp4").unlink()
    numbered_video(root / "text.mp4", 8)
    (target / "train" / ".a.mp4.0123456789ab.mp4").write_bytes(b"partial video")  # left by a killed run
    data(command)
    assert not leftovers(target)
    assert "3 videos are ready" in (printed := capsys.readouterr().out) and "1 of them new" in printed
    assert written == {name: (target / name).stat().st_mtime_ns for name in videos}
    os.utime(root / "train/a/tall.mp4", (time.time() + 60,) * 2)  # changed after it was prepared
    data(command)
    assert "1 of them new" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="short_side 32, not 64"):
        data([*command, "--short-side", "64"])
    with pytest.raises(ConfigError, match="source"):
        data(["prepare", str(root / "train"), *options])


def test_gain_compares_videos_with_their_copies(tmp_path: Path) -> None:
    """The sources are larger, with a single key frame each. Videos that are no longer readable do not count."""
    root, target = tmp_path / "videos", tmp_path / "small"
    for number in range(4):
        numbered_video(root / f"{number}.mkv", 80, (240, 320), g="250", sc_threshold="0")
    encoding = Encoding(short_side=32)
    prepared = prepare(root, target, encoding, shards="3", workers=1)
    assert prepared.gain is not None and prepared.gain.videos == 3
    assert prepared.gain.segments > 1 and prepared.gain.clip > 1
    sizes = [sum((root / f"{number}.mkv").stat().st_size for number in (0, 1, 2))]
    assert 0 < prepared.gain.size < sum(path.stat().st_size for path in target.glob("*.tar")) / sizes[0]
    assert prepare(root, target, encoding, shards="3", workers=1).gain is None

    pairs = [(f"{number}.mkv", f"{number}.mp4") for number in range(4)]
    (root / "1.mkv").write_bytes(b"changed")
    gain = measure_gain(str(root), str(target), pairs)
    assert gain is not None and gain.videos == 2


def test_prepared_videos_are_tuned_for_decoding(tmp_path: Path) -> None:
    source = numbered_video(tmp_path / "a.mp4", 8)
    assert b"cabac=1" in source.read_bytes()  # the settings that x264 writes into the stream
    encode(source, tmp_path / "out.mp4", Encoding())
    assert b"cabac=0" in (tmp_path / "out.mp4").read_bytes()


def test_prepare_refuses_lossy_or_ambiguous_input(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    for name in ("a/x.mp4", "a/x.avi"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    for target in (root, root / "small", tmp_path):
        with pytest.raises(ConfigError, match="must not contain each other"):
            data(["prepare", str(root), "--to", str(target)])
    with pytest.raises(DataError, match=r"a/x.avi and a/x.mp4 would both become a/x.mp4"):
        data(["prepare", str(root), "--to", str(tmp_path / "small")])
    with pytest.raises(ConfigError, match="https://host/videos is a URL; prepare needs a local folder"):
        data(["prepare", "https://host/videos", "--to", str(tmp_path / "small")])
    assert sorted(os.listdir(tmp_path)) == ["videos"]
    for text, size in (("1000", (1000, False)), ("256MB", (256_000_000, True)), ("2 gb", (2 * 10**9, True))):
        assert parse_shards(text) == size
    for text in ("0", "many", "-3", "1.5GB"):
        with pytest.raises(ConfigError, match="shards"):
            parse_shards(text)
    with pytest.raises(ConfigError, match="crf is 70"):
        data(["prepare", str(root), "--to", str(tmp_path / "small"), "--crf", "70"])


def test_full_disk_is_reported_and_leaves_no_file(tmp_path: Path) -> None:
    source = make_odd("h264", tmp_path / "a.mp4")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written .* it resumes"):
            encode(source, tmp_path / "out" / "a.mp4", Encoding())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path / "out") == []


def test_killed_prepare_resumes(tmp_path: Path, second_process: subprocess.Popen[str]) -> None:
    root, target = tmp_path / "videos", tmp_path / "small"
    for number in range(8):
        numbered_video(root / f"{number}.mp4", 30, (240, 320))
    command = ["prepare", str(root), "--to", str(target), "--workers", "2"]
    print(command, file=second_process.stdin, flush=True)
    deadline = time.monotonic() + 120
    while len(prepared := sorted(target.glob("[0-9].mp4"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    second_process.kill()
    second_process.wait()
    written = {path: path.stat().st_mtime_ns for path in prepared}
    assert 2 <= len(written) < 8, "the process was killed too early or too late for this test"
    data(command)
    assert sorted(path.name for path in target.glob("*.mp4")) == [f"{number}.mp4" for number in range(8)]
    assert written == {path: path.stat().st_mtime_ns for path in written}
    for number in range(8):
        with open_video(target / f"{number}.mp4") as reader:
            assert len(reader) == 30
    assert not leftovers(target)


# stats -----------------------------------------------------------------------------------------------------------


def test_stats_agree_with_packets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("left", 3), ("right", 1)):
        for number in range(count):
            numbered_video(tmp_path / "Training" / name / f"{number}.mp4", 20, (360, 400), sc_threshold="0")
    (tmp_path / "Training" / "left" / "bad.mp4").write_bytes(b"nothing")
    data(["stats", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "5 videos (5 checked: 4 can be read, 1 cannot)" in printed and "h264 100 %" in printed
    assert re.search(r"Training/left\W+4\b", printed) and re.search(r"Training/right\W+1\b", printed)
    assert re.search(r"short side\W+360\W+360\W+360", printed) and re.search(r"seconds\W+0\.8\W", printed)
    assert "2 folders of 1 to 4 videos" in printed
    assert "short side of 360" in printed and "since the last key frame" not in printed and "data prepare" in printed
    statistics = stats(str(tmp_path), limit=2)
    assert len(statistics.videos) + statistics.bad == 2 and len(statistics.names) == 5
    assert statistics.videos[0].gop == pytest.approx(20 / 3) and statistics.videos[0].fps == 25
    small = statistics._replace(videos=[v._replace(width=340, height=256) for v in statistics.videos])
    assert "may still be read twice as fast" in advice(small)[0]
    assert "250 or more frames" in advice(small._replace(videos=[small.videos[0]._replace(gop=250)]))[0]
