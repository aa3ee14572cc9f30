"""Videos in shards: writing, reading local and remote shards, and indexing shards of other tools."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
import torch
from loopback import Loopback
from numbered_videos import numbered_video
from shard_files import add_member, read_members, write_manifest
from small_models import SMALL
from torch.utils.data import DataLoader

import zoo
from datamodules import VideoFolder
from datamodules.records import VideoRecords
from datamodules.shard_index import expand, member_key, pack, scan, split_member
from datamodules.shard_list import ShardList
from datamodules.shards import ShardTree
from datamodules.tools.commands import data
from datamodules.tree import Tree, open_tree
from zoo.errors import ConfigError, DataError
from zoo.video import shard_member
from zoo.video.decoding import open_video
from zoo.video.shard_member import read_member

NAMES = ("left/a.mp4", "left/b.v1.0.mp4", "left/sub folder/ü.mp4", "right/100%.mp4", "right/" + "long" * 40 + ".mp4")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small videos of different lengths."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(NAMES):
        numbered_video(root / name, 6 + number, (32, 40))
    (root / "labels.csv").write_text("path,label\n")
    return root


@pytest.fixture(scope="module")
def packed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same videos, prepared into shards of two."""
    target = tmp_path_factory.mktemp("packed")
    data(["prepare", str(videos), "--to", str(target), "--shards", "2", "--crf", "0"])
    return target


@pytest.fixture
def remote(videos: Path, tmp_path: Path) -> Iterator[tuple[Loopback, str, dict[str, Any]]]:
    """Remote shards: the server, their URL, and the served files by name."""
    write_shards(videos, tmp_path / "shards")
    with Loopback() as loopback:
        url = "https://files.example/data"
        served = {f.name: loopback.put(f"{url}/{f.name}", f.read_bytes()) for f in (tmp_path / "shards").iterdir()}
        yield loopback, loopback.plain(url), served


def write_shards(root: Path, target: Path) -> Path:
    """Pack the videos without changes, two in a shard, with a manifest."""
    shards = []
    for number in range(0, len(NAMES), 2):
        shards.append(target / f"shards-{number // 2:06d}.tar")
        pack(root, NAMES[number : number + 2], shards[-1])
    write_manifest(shards)
    (target / "labels.csv").write_text("path,label\n")
    return target


# writing ---------------------------------------------------------------------------------------------------------


def test_shards_contain_every_video_unchanged(videos: Path, tmp_path: Path) -> None:
    root = write_shards(videos, tmp_path / "shards")
    assert len(list(root.glob("*.tar"))) == 3
    tree = open_tree(root)
    assert isinstance(tree, ShardTree)
    assert read_members(tree.records(tree.names)) == {name: (videos / name).read_bytes() for name in NAMES}
    for name in NAMES:
        assert split_member(member_key(name) + ".mp4") == (member_key(name), ".mp4")
    assert member_key("a.x/b.c%.mp4") == "a.x/b%2Ec%25" != member_key("a.x/b%2Ec%.mp4")


def test_prepare_writes_shards_and_resumes(videos: Path, packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = open_tree(packed)
    assert tree.names == sorted(NAMES)
    assert sorted(os.listdir(packed)) == [
        ".prepare.json.lock",
        *("labels.csv", "prepare.csv", "prepare.json"),
        *(f"shards-{number:06d}.tar" for number in range(3)),
        "shards.json",
    ]
    records = tree.records(tree.names)
    for number, name in enumerate(tree.names):
        with open_video(records.source(number)) as inside, open_video(videos / name) as outside:
            assert len(inside) == len(outside)
            difference = inside.frames([0, 5]).float() - outside.frames([0, 5]).float()
            assert difference.abs().max() <= 3

    # killed after a shard was written, before its videos were removed; then killed before shards.json was written
    manifest = (packed / "shards.json").read_bytes()
    (packed / "shards-000002.tar").unlink()
    last = sorted(NAMES)[4]
    first = sorted(NAMES)[0]
    for name in (first, last):
        target = packed / ".videos" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((videos / name).read_bytes())
    before = (packed / "shards-000000.tar").read_bytes()
    data(["prepare", str(videos), "--to", str(packed), "--shards", "2", "--crf", "0"])
    assert "0 of them new" in capsys.readouterr().out
    assert (packed / "shards-000000.tar").read_bytes() == before
    assert open_tree(packed).names == sorted(NAMES) and not (packed / ".videos").exists()
    (packed / "shards.json").unlink()
    data(["prepare", str(videos), "--to", str(packed), "--shards", "2", "--crf", "0"])
    assert json.loads((packed / "shards.json").read_bytes())["path"] == json.loads(manifest)["path"]


def test_prepare_rewrites_only_a_missing_shard(
    videos: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "packed"
    shutil.copytree(packed, target)
    (target / "shards-000000.tar").unlink()
    before = {path: path.read_bytes() for path in target.glob("*.tar")}
    data(["prepare", str(videos), "--to", str(target), "--shards", "2", "--crf", "0"])
    assert "5 videos are ready" in (printed := capsys.readouterr().out) and "2 of them new" in printed
    assert before == {path: path.read_bytes() for path in before}
    assert open_tree(target).names == sorted(NAMES)


def test_webdataset_reads_the_written_shards(videos: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    root = write_shards(videos, tmp_path / "shards")
    urls = [str(shard) for shard in sorted(root.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
    assert {sample["json"]["path"]: sample["mp4"] for sample in samples} == {
        name: (videos / name).read_bytes() for name in NAMES
    }


# reading ---------------------------------------------------------------------------------------------------------


def test_shard_tree_equals_the_tree_of_the_folder(videos: Path, tmp_path: Path) -> None:
    root = write_shards(videos, tmp_path / "shards")
    folder, shards = Tree(videos), open_tree(str(root))
    assert folder.names == shards.names and folder.stems == shards.stems
    for below in ("", "left", "left/sub folder", "lef"):
        assert folder.videos(below) == shards.videos(below)
    for below in ("", "left", "right"):
        assert folder.folders(below) == shards.folders(below)
    for name in ("left", "left/sub folder", "nowhere"):
        assert folder.has_folder(name) == shards.has_folder(name)
    for name in ("left/a.mp4", "left/a", "left/a.avi", "left/b.v1.0", "left/b.v1.0.webm", "left/c"):
        assert folder.find(name) == shards.find(name)
    for name in ("labels.csv", "left/a.mp4", "nothing.csv"):
        assert folder.exists(name) == shards.exists(name)
    assert folder.read("labels.csv") == shards.read("labels.csv")
    for tree in (folder, shards):
        with pytest.raises(DataError, match="nothing.csv"):
            tree.read("nothing.csv")
        with pytest.raises(DataError, match="Folder .* does not exist|contain no folder"):
            tree.folders("nowhere")
    records = shards.records(["right/100%.mp4", "left/a.mp4"], [1, 0])
    assert records.ids.tolist() == ["right/100%.mp4", "left/a.mp4"] and records.labels.tolist() == [1, 0]
    assert shards.records(["left/a.mp4"] * 2, ids=["x", "y"]).ids.tolist() == ["x", "y"]


def test_data_module_reads_the_same_frames_from_shards_and_files(videos: Path, tmp_path: Path) -> None:
    root = write_shards(videos, tmp_path / "shards")
    frames = []
    for source in (videos, root):
        module = VideoFolder(source, num_workers=0, val_fraction=0.3, test_fraction=0.3)
        assert module.class_names == ["left", "right"]
        records = [module.tree.records([name]) for name in module.tree.names]
        frames.append([open_video(r.source(0)).frames([0, 3]) for r in records])
    assert all(torch.equal(one, two) for one, two in zip(*frames, strict=True))


class FrameCounts(torch.utils.data.Dataset[int]):
    """Number of frames of videos in shards, read in workers."""

    def __init__(self, records: VideoRecords) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> int:
        with open_video(self.records.source(number)) as reader:
            return len(reader)


def test_shards_are_read_over_http_by_several_processes(remote: tuple[Loopback, str, dict[str, Any]]) -> None:
    _, url, served = remote
    tree = open_tree(url)
    assert tree.names == sorted(NAMES) and tree.exists("labels.csv") and not tree.exists("other.csv")
    assert tree.read("labels.csv") == "path,label\n"
    records = tree.records(list(NAMES))
    for _ in range(2):  # again, when fsspec has threads in this process as well
        assert [int(n) for n in DataLoader(FrameCounts(records), batch_size=None, num_workers=2)] == [6, 7, 8, 9, 10]
        assert FrameCounts(records)[1] == 7
    sizes = sum(len(served[name].content) for name in served if name.endswith(".tar"))
    sent = sum(file.sent for name, file in served.items() if name.endswith(".tar"))
    assert sent < 3 * sizes  # videos are read, not shards


def test_failed_requests_are_retried(
    remote: tuple[Loopback, str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loopback, url, served = remote
    monkeypatch.setattr(shard_member, "RETRY_DELAYS", (0.01, 0.01))
    records = open_tree(url).records(["left/a.mp4"])
    source, shard = records.source(0), served["shards-000000.tar"]
    expected = read_member(source.path, source.byte_span)
    shard.statuses = [503, 429]
    assert read_member(source.path, source.byte_span) == expected
    shard.cut, shard.faulty = 100, 1
    assert read_member(source.path, source.byte_span) == expected
    shard.statuses = [503] * 3
    with pytest.raises(DataError, match=r"shards-000000.tar cannot be read .*503"):
        read_member(source.path, source.byte_span)
    before = len(loopback.requests)
    with pytest.raises(DataError, match="no such file"):
        read_member(f"{url}/shards-000009.tar", source.byte_span)
    shard.statuses = [403]
    with pytest.raises(DataError, match="403"):
        read_member(source.path, source.byte_span)
    assert len(loopback.requests) == before + 2
    served["labels.csv"].statuses = [403]
    assert not open_tree(url).exists("labels.csv")  # S3's answer for missing files if listing is forbidden
    served["labels.csv"].statuses = [403]
    with pytest.raises(DataError, match=r"labels.csv cannot be read .*403"):
        open_tree(url).read("labels.csv")
    shard.ranges = False
    with pytest.raises(ConfigError, match="range requests"):
        read_member(source.path, source.byte_span)
    with pytest.raises(DataError, match=r"shards.json cannot be read"):
        open_tree(url + "/elsewhere")


def test_wrong_byte_spans_are_refused(videos: Path, tmp_path: Path) -> None:
    root = write_shards(videos, tmp_path / "shards")
    tree = open_tree(root)
    first, second = (tree.records([name]).source(0) for name in NAMES[:2])
    assert first.byte_span and second.byte_span
    for byte_span in (
        (first.byte_span[0] + 512, first.byte_span[1]),
        (first.byte_span[0], first.byte_span[1] - 1),
        (second.byte_span[0], first.byte_span[1]),
    ):
        with pytest.raises(DataError, match=r"left/a.mp4 in .* is not at the position listed in shards.json"):
            read_member(first.path, byte_span, "left/a.mp4")
    os.truncate(second.path, second.byte_span[0] + 100)
    with pytest.raises(DataError, match="truncated"):
        open_video(second)
    with pytest.raises(DataError, match=r"truncated|unexpected end"):
        scan(second.path)
    os.remove(second.path)
    with pytest.raises(DataError, match="cannot be read"):
        open_video(second)


def test_invalid_manifest_is_refused(tmp_path: Path) -> None:
    columns = {"path": ["x"], "shard": [0], "offset": [512], "size": [9], "label": [""]}
    valid = {"version": 1, "shards": ["a.tar"], **columns}
    changes: list[dict[str, Any]] = [
        *({"version": 2}, {"offset": []}, {"shard": [1]}, {"shard": [-1]}),
        {"more": 1},
    ]
    for text in ("", "{", "[]", '{"version": 1}', *(json.dumps(valid | change) for change in changes)):
        (tmp_path / "shards.json").write_text(text)
        with pytest.raises(DataError, match=r"shards.json is not a valid index"):
            open_tree(tmp_path)
    (tmp_path / "shards.json").write_text(json.dumps(valid))
    assert open_tree(tmp_path).names == ["x"]


def test_shards_are_read_from_any_fsspec_file_system(videos: Path, tmp_path: Path) -> None:
    root = write_shards(videos, tmp_path / "shards")
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/shards", recursive=True)
    tree = open_tree("memory://shards")
    assert read_members(tree.records(tree.names)) == {name: (videos / name).read_bytes() for name in NAMES}
    memory.rm("/shards", recursive=True)
    with pytest.raises(DataError, match="fsspec cannot read"):
        open_tree("nosuch://shards")
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(DataError, match=r"pip install 'fsspec\[s3\]'"):
            open_tree("s3://bucket/shards")


# shards of other tools -----------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(videos: Path, tmp_path: Path) -> Path:
    """Shards with the same keys in each, and labels in three formats."""
    root = tmp_path / "foreign"
    root.mkdir()
    labels = {".cls": lambda n: str(n), ".json": lambda n: json.dumps({"label": n}), ".txt": lambda n: f"{n}\n"}
    for shard in range(3):
        with tarfile.open(root / f"train-{shard:02d}.tar", "w") as tar:
            for number in range(2):
                ending, text = list(labels.items())[shard]
                add_member(tar, f"{number:04d}{ending}", text(number).encode())
                add_member(tar, f"{number:04d}.mp4", (videos / NAMES[shard + number]).read_bytes())
    return root


def test_shards_of_other_tools_are_indexed(
    videos: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "index"
    data(["index", str(foreign / "train-{00..02}.tar"), "--to", str(target), "--workers", "1"])
    assert "6 videos in 3 shards, 6 with a label" in capsys.readouterr().out
    tree = open_tree(target)
    assert tree.names == [f"train-{shard:02d}/{number:04d}.mp4" for shard in range(3) for number in range(2)]
    expected = {f"train-{s:02d}/{n:04d}.mp4": (videos / NAMES[s + n]).read_bytes() for s in range(3) for n in range(2)}
    assert read_members(tree.records(tree.names)) == expected
    module = ShardList(train=str(target), val=str(target), num_workers=0, batch_size=2)
    assert module.class_names == ["0", "1"]
    assert module.split_records("predict").labels.tolist() == [0, 1] * 3
    class_file = tmp_path / "names.txt"
    class_file.write_text("pull\npush\n")
    assert ShardList(test=str(target), classes=str(class_file)).split_records("test").labels.tolist() == [0, 1] * 3
    class_file.write_text("pull\n")
    with pytest.raises(DataError, match="label '1', which is not a class"):
        ShardList(test=str(target), classes=str(class_file)).split_records("test")
    with pytest.raises(DataError, match="no train shards"):
        ShardList(test=str(target)).split_records("train")
    module.protocol = zoo.create("c2d_r18", **SMALL, image_size=32).protocol
    module.trainer = SimpleNamespace(training=True, testing=False, predicting=False, world_size=1, global_rank=0)
    module.setup("fit")
    assert len(module.datasets["train"]) == 6


def test_every_video_of_a_sample_is_indexed_with_its_label(tmp_path: Path) -> None:
    names = [f"clip.{number}.mp4" for number in range(5)] + ["clip.avi", "clip.AVI"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_member(tar, "clip.json", b'{"path": "other/clip.mp4", "label": "jump"}')
        for name in names:
            add_member(tar, name, name.encode())
        add_member(tar, "next.mp4", b"next")
    data(["index", str(tmp_path / "a.tar"), "--to", str(tmp_path / "index"), "--workers", "1"])
    tree = open_tree(tmp_path / "index")
    assert read_members(tree.records(tree.names)) == {name: name.encode() for name in names} | {"next.mp4": b"next"}
    assert tree.labels([*names, "next.mp4"]) == ["jump"] * 7 + [""]


def test_remote_shards_are_indexed_by_headers(foreign: Path, tmp_path: Path) -> None:
    with Loopback() as loopback:
        url = "https://files.example/sets"
        big = {}
        for shard in ("a", "b"):
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as tar:
                for number in range(3):
                    add_member(tar, f"{shard}/{number}.mp4", os.urandom(1 << 20))
            big[shard] = loopback.put(f"{url}/{shard}.tar?key=1", content.getvalue())
        plain = loopback.plain(f"{url}/{{a,b}}.tar?key=1")
        data(["index", plain, "--to", str(tmp_path / "index"), "--workers", "1"])
        tree = open_tree(tmp_path / "index")
        assert tree.names == [f"{shard}/{number}.mp4" for shard in "ab" for number in range(3)]
        assert all(file.sent < len(file.content) / 2 for file in big.values())
        source = tree.records(["b/2.mp4"]).source(0)
        assert len(read_member(source.path, source.byte_span or (0, 0))) == 1 << 20
        with pytest.raises(DataError, match="has no label"):
            ShardList(train=str(tmp_path / "index")).class_names  # noqa: B018


def test_invalid_shards_are_refused(videos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        add_member(tar, "a.mp4", b"x" * 1000)
    with pytest.raises(DataError, match="compressed"):
        scan(str(tmp_path / "packed.tar"))
    (tmp_path / "text.tar").write_text("no tar file\n" * 100)
    with pytest.raises(DataError, match="cannot be read as a tar file"):
        data(["index", str(tmp_path / "text.tar"), "--to", str(tmp_path / "index"), "--workers", "1"])
    with tarfile.open(tmp_path / "empty.tar", "w") as tar:
        add_member(tar, "a.txt", b"x")
    with pytest.raises(DataError, match="no video"):
        data(["index", str(tmp_path / "empty.tar"), "--to", str(tmp_path / "index"), "--workers", "1"])
    assert not (tmp_path / "index").exists()
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no shards"):
        expand([str(tmp_path / "none")])
    assert expand(["s3://b/x-{08..10}-{a,b}.tar"]) == [
        f"s3://b/x-{n}-{c}.tar" for n in ("08", "09", "10") for c in "ab"
    ]
    for pattern in ("x-{2..1}.tar", "x-{a..c}.tar"):
        with pytest.raises(ConfigError, match="braces"):
            expand([pattern])
