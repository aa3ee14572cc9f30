"""`tempozoo data check` and `stats`: agreement with each other and with testing, exit status, and messages."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path
from typing import Any

import av
import pytest
from numbered_videos import numbered_video
from odd_videos import encode

from cli import main
from datamodules.dataset import VideoDataset
from datamodules.records import Source, VideoRecords
from datamodules.shard_index import index_shards, pack
from datamodules.tools import check as check_module
from datamodules.tools.check import Checked, Report, check, check_video
from datamodules.tools.stats import format_bytes, format_duration, stats
from zoo.protocol import DEFAULT_PROTOCOL, Protocol
from zoo.video.decoding import VideoReader

EVERY_FRAME = Protocol.from_dict(
    DEFAULT_PROTOCOL.to_dict() | {"num_frames": 30, "sampling": "interval", "clips": 1, "crops": 1, "interval": 1}
)


def damage_one_frame(path: Path, number: int) -> Path:
    """Overwrite the data of one frame."""
    with av.open(str(path)) as container:
        packet = next(packet for n, packet in enumerate(container.demux(video=0)) if n == number)
        start, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[start + 8 : start + size] = b"\xa5" * (size - 8)
    path.write_bytes(bytes(data))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three readable videos and three unreadable ones, one of which has a single damaged frame."""
    root = tmp_path / "videos"
    numbered_video(root / "a" / "good.mp4", 30, (32, 32))
    encode(root / "a" / "av1.mp4", "libsvtav1", frames=30, size=(64, 64))
    encode(root / "a" / "raw.h264", container="h264", frames=30)
    one_frame = encode(root / "a" / "one_bad_frame.mp4", frames=30, options={"g": "1", "bf": "0"})
    damage_one_frame(one_frame, 7)
    cut = encode(root / "a" / "cut.mp4", frames=30, mux={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[:-50])
    encode(root / "a" / "narrow.mp4", frames=30, size=(16, 640))
    return root


BAD = {"a/one_bad_frame.mp4", "a/cut.mp4", "a/narrow.mp4"}


def readable(root: Path, name: str) -> bool:
    """Whether testing can read all frames of a video."""
    records = VideoRecords.of([root / name])
    return not VideoDataset(records, EVERY_FRAME, "test", flip=False)[0]["skipped"]


def test_check_stats_and_testing_agree(folder: Path) -> None:
    report = check(str(folder), workers=1)
    assert {row.path for row in report.bad} == BAD
    assert {row.path for row in report.rows if not readable(folder, row.path)} == BAD
    statistics = stats(str(folder), workers=1)
    assert (len(statistics.videos), statistics.bad) == (3, 3)
    assert sorted(video.codec for video in statistics.videos) == ["av1", "h264", "h264"]


def test_exit_status_is_1_if_videos_are_unreadable(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "check", str(folder), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 1
    assert main([*command, "--exit-zero"]) == 0
    assert main([*command, "--exit_zero"]) == 0
    assert "3 of 6 videos can be read." in capsys.readouterr().out
    for name in BAD:
        (folder / name).unlink()
    assert main(command) == 0


def test_problems_name_their_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a" / "cut_too.mp4").write_bytes((folder / "a" / "cut.mp4").read_bytes()[:-1])
    assert main(["data", "check", str(folder), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
    printed = capsys.readouterr().out
    assert re.search(
        r"\n +2  a/cut.mp4 is truncated: it has \d+ of \d+ bytes. Copy or download it again. \(1 more like this\)\n",
        printed,
    )
    assert re.search(r"\n +1  a/one_bad_frame.mp4 is damaged: ", printed)
    with (tmp_path / "out" / "check.csv").open(newline="") as text:
        rows = {row["path"]: row for row in csv.DictReader(text)}
    assert rows["a/cut.mp4"]["problem"].startswith("a/cut.mp4 is truncated")
    assert rows["a/good.mp4"]["problem"] == "" and rows["a/good.mp4"]["decoded"] == "30"


def test_problems_of_videos_in_shards_name_the_shard(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack(folder, ["a/good.mp4", "a/cut.mp4"], packed / "x-000.tar")
    index_shards([str(packed / "x-000.tar")], ["x-000.tar"], workers=1).write(packed)
    (bad,) = check(str(packed), workers=1).bad
    assert bad.problem.startswith("a/cut.mp4 is truncated")
    assert bad.problem.endswith(f"The video is in the shard {packed / 'x-000.tar'}.")


def test_long_videos_are_checked_partially_and_reported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = check_video(Source(str(folder / "a/good.mp4"), name="a/good.mp4"), "pyav", time_limit=1e-6)
    assert (row.frames, row.decoded, row.problem) == (30, 1, "")
    complete = Checked("b.mp4", 30, 25.0, 32, 32, 1.2, 30)
    monkeypatch.setattr(check_module, "check", lambda *_: Report([row, complete]))
    assert main(["data", "check", str(folder), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 videos can be read." in printed
    assert "1 videos are too long to decode all of their frames in 60 s. Only a part was checked" in printed


def test_sizes_and_durations_have_readable_units(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [format_bytes(n) for n in (12, 91_500, 91_500_000, 2.5e9, 3e12)] == [
        "12 bytes", "91.5 kB", "91.5 MB", "2.5 GB", "3.0 TB",
    ]  # fmt: skip
    assert [format_duration(s) for s in (3.6, 644, 36000)] == ["3.6 seconds", "10.7 minutes", "10.0 hours"]
    assert main(["data", "stats", str(folder), "--workers", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"6 videos \(6 checked: 3 can be read, 3 cannot\), about [\d.]+ kB, about 7.2 seconds", printed)


def test_check_reads_frames_by_random_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []
    frames = VideoReader.frames

    def spy(self: VideoReader, indices: Any, transform: Any = None) -> Any:
        calls.append(list(indices))
        return frames(self, indices, transform)

    monkeypatch.setattr(VideoReader, "frames", spy)
    path = encode(tmp_path / "v.mp4", frames=60)
    check_video(Source(str(path)), "pyav")
    scattered, sequential = calls
    assert sequential == list(range(60))
    assert len(scattered) == 16 and (scattered[0], scattered[-1]) == (0, 59)
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(scattered))
