"""Positions of videos in shards: damaged shards, names and labels, and partial reads of large videos."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loopback import Loopback
from shard_files import add_member, read_members

from datamodules.motionclips import write_video
from datamodules.shard_index import index_shards, pack, scan
from datamodules.shards import Manifest
from datamodules.tools.commands import data
from datamodules.tree import open_tree
from zoo.errors import DataError
from zoo.video import shard_member
from zoo.video.decoding import VideoReader, open_video
from zoo.video.source import Source


@pytest.mark.parametrize(
    "damage",
    [
        lambda content, at: content[:at],  # between two members, where a tar file seems complete
        lambda content, at: content[: at + 100],
        lambda content, at: content[: at + 530],
        lambda content, at: content[: at + 20] + bytes([content[at + 20] ^ 255]) + content[at + 21 :],
        lambda content, at: content + content,
    ],
    ids=["cut between members", "cut in a header", "cut in a member", "flipped byte", "joined"],
)
def test_damaged_shards_are_not_indexed(damage: Callable[[bytes, int], bytes], tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(6)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 200)
    pack(tmp_path, names, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as shard:
        at = list(shard)[4].offset  # position of the .json of the third video
    (tmp_path / "a.tar").write_bytes(damage((tmp_path / "a.tar").read_bytes(), at))
    with pytest.raises(
        DataError, match=r"a.tar (is damaged, truncated or concatenated at byte \d+|cannot be read as a tar)"
    ):
        data(["index", str(tmp_path / "a.tar"), "--to", str(tmp_path / "index"), "--workers", "1"])
    assert not (tmp_path / "index").exists()


def test_samples_may_be_scattered_and_unlabeled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("./x/a.mp4", "./x/b.mp4", "./x/c.mp4", "./x/d.MTS", "e.video", "./x/._a.mp4", "README"):
            add_member(tar, name, name.encode())
        for name, text in (("./x/a.cls", "run"), ("./x/b.json", '{"label": null, "cls": 3}'), ("e.cls", "run"),
                           ("./x/c.json", '{"label": {"id": 3}}'), ("./x/d.txt", "walk\n")):  # fmt: skip
            add_member(tar, name, text.encode())
    videos, others = scan(str(tmp_path / "a.tar"))
    labels = {"x/a.mp4": "run", "x/b.mp4": "3", "x/c.mp4": "", "x/d.MTS": "walk"}
    assert {video.path: video.label for video in videos} == labels
    assert sorted(others) == ["README", "e.cls", "e.video"]
    index_shards([str(tmp_path / "a.tar")], workers=1)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == "the shards: 2 files are not read as videos: 1 .video, 1 without extension"
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        add_member(tar, "./x/a.cls", b"walk")
    with pytest.raises(DataError, match=r"a.tar has \./x/a.cls more than once"):
        scan(str(tmp_path / "a.tar"))


def test_shards_of_equal_names_are_distinguished_by_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        with tarfile.open(tmp_path / split / "000000.tar", "w") as tar:
            add_member(tar, "0000.mp4", split.encode())
    data(
        ["index", *(str(tmp_path / split) for split in ("train", "val")), "--to", str(tmp_path / "i"), "--workers", "1"]
    )
    tree = open_tree(tmp_path / "i")
    expected = {f"{split}/000000/0000.mp4": split.encode() for split in ("train", "val")}
    assert read_members(tree.records(tree.names)) == expected
    with pytest.raises(DataError, match="more than once in the shards; give each shard once"):
        index_shards([str(tmp_path / "val" / "000000.tar")] * 2, workers=1)


def test_segments_of_large_videos_are_fetched_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randint(256, (300, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "v" / "long.mp4", noise.numpy(), fps=25)
    size = (tmp_path / "v" / "long.mp4").stat().st_size
    monkeypatch.setattr(shard_member, "BLOCK", size // 40)
    monkeypatch.setattr(shard_member, "RETRY_DELAYS", ())
    pack(tmp_path / "v", ["long.mp4"], tmp_path / "s" / "a.tar")
    (video,), _ = scan(str(tmp_path / "s" / "a.tar"))
    Manifest(["a.tar"], ["long.mp4"], [0], [video.offset], [video.size], [""]).write(tmp_path / "s")
    with Loopback() as loopback:
        url = "https://files.example/data"
        served = {f.name: loopback.put(f"{url}/{f.name}", f.read_bytes()) for f in (tmp_path / "s").iterdir()}
        tree, shard = open_tree(loopback.plain(url)), served["a.tar"]
        segment = tree.records(["long.mp4"], spans=[(6.0, 6.4)]).source(0)
        with open_video(segment) as reader, open_video(Source(str(tmp_path / "v/long.mp4"), (6.0, 6.4))) as alone:
            assert len(reader) == 10 and torch.equal(reader.frames(range(10)), alone.frames(range(10)))
        assert 0 < shard.sent < size / 4
        before = shard.served
        with open_video(tree.records(["long.mp4"]).source(0)) as reader:  # a complete video is fetched in one request
            assert len(reader) == 300 and shard.served == before + 1
        shard.content = shard.content[: video.offset + size // 2]
        with pytest.raises(DataError, match="long.mp4 in .* ends .* too early: the shard is truncated"):
            open_video(tree.records(["long.mp4"], spans=[(11.0, 11.4)]).source(0))
        shard.statuses = [503]
        with pytest.raises(DataError, match=r"a.tar cannot be read .*503"):
            open_video(segment)
        shard.content = bytes(len(shard.content))
        with pytest.raises(DataError, match="is not at the position listed in shards.json"):
            open_video(segment)
    tree = open_tree(tmp_path / "s")  # local videos are read in blocks even if complete
    with open_video(tree.records(["long.mp4"]).source(0)) as reader, open_video(tmp_path / "v/long.mp4") as alone:
        assert isinstance(reader, VideoReader) and isinstance(reader._file, io.BufferedReader)
        assert torch.equal(reader.frames([0, 299, 150]), alone.frames([0, 299, 150]))
