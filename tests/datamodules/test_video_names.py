"""File names: videos of any valid name can be opened, checked, prepared and indexed, and are printed safely."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from numbered_videos import numbered_video

from cli import main
from datamodules import VideoFolder
from datamodules.tools.encoding import Encoding
from datamodules.tools.prepare import prepare
from datamodules.tools.stats import describe_video
from zoo.video.decoding import open_video
from zoo.video.source import Source

NAMES = [
    b"2024-05-01T12:30:00.mp4", b"http:x.mp4", b"concat:a|b.mp4", b"file:x.mp4", b"img%d.mp4", b"img%03d.mp4",
    b"a b.mp4", "\U0001f600 \u00e9.mp4".encode(), b"line\nbreak.mp4", b"-dash.mp4", b"it's \"quoted\".mp4",
    b"not utf-8 \xff\xfe.mp4", b"escape \x1b[31m.mp4", b"a*?[1]{2}.mp4", b"back\\slash.mp4",
    b"tab\t.mp4", b"[bold]x.mp4", b"#1.mp4", b"$HOME.mp4",
]  # fmt: skip


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return numbered_video(tmp_path_factory.mktemp("video") / "v.mp4", 10, (32, 32)).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_opened(name: bytes, video: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name))  # relative, because FFmpeg interprets text before a colon as a protocol
    path.write_bytes(video)
    for source in (path, tmp_path / path):
        with open_video(source) as reader:
            assert reader.frames([9, 0]).shape == (2, 3, 32, 32)
        assert describe_video(Source(str(source))).frames == 10


@pytest.fixture
def folder(video: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Videos of all names, in folders of these names, below a relative folder with a colon in its name."""
    monkeypatch.chdir(tmp_path)
    root = Path("12:30 videos \x1b[1m")
    for number, name in enumerate(NAMES):
        parent = root / ("train" if number % 2 else "test") / os.fsdecode(name.removesuffix(b".mp4"))
        parent.mkdir(parents=True)
        (parent / os.fsdecode(name)).write_bytes(video)
    return root


def test_check_reads_videos_of_any_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(folder), "--out", "out:1", "--workers", "1"]) == 0
    assert f"{len(NAMES)} of {len(NAMES)} videos can be read." in capsys.readouterr().out


def test_bad_videos_are_printed_without_control_characters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.rglob("*.mp4"):
        path.write_bytes(path.read_bytes()[: 100 + len(path.name)])
    command = ["data", "check", str(folder), "--out", "out", "--workers", "1"]
    assert main(command) == 1
    assert main(["data", "stats", str(folder), "--workers", "1"]) == 1
    assert main(["data", "stats", str(folder / "nowhere\x1b[2J\udcff")]) == 1
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "\\x1b[" in text and not {"\x1b", "\udcff"} & set(text)
    text.encode("utf-8")


def test_stats_print_folders_of_any_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", str(folder), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"{len(NAMES)} checked: {len(NAMES)} can be read" in printed
    assert "escape \\x1b[31m" in printed and "[bold]x" in printed and "\x1b[31m" not in printed


@pytest.mark.parametrize("shards", [None, "1000"])
def test_prepare_keeps_any_name(shards: str | None, folder: Path) -> None:
    target = Path("small:\u00e9")
    result = prepare(folder, target, Encoding(short_side=32), shards, workers=1)
    assert not result.problems and len(result.done) == len(NAMES)
    assert main(["data", "check", str(target), "--out", "out", "--workers", "1"]) == 0
    assert sorted(VideoFolder(target, num_workers=0).tree.names) == sorted(result.done)


def test_shards_of_any_name_can_be_indexed(folder: Path) -> None:
    prepare(folder, Path("packed"), Encoding(short_side=32), "1000", workers=1)
    (shard,) = Path("packed").glob("*.tar")
    for name in ("12:30.tar", "a::b.tar", "{x}.tar", "not utf-8 \udcff.tar", "line\nbreak.tar", "50%.tar"):
        Path("12:30 shards").mkdir(exist_ok=True)
        path = Path("12:30 shards", name)
        path.write_bytes(shard.read_bytes())
        assert main(["data", "index", str(path), "--to", "index:1", "--workers", "1"]) == 0, name
        assert main(["data", "check", "index:1", "--out", "out", "--workers", "1"]) == 0, name
        path.unlink()
