"""Folders, lists and files: the same from shards as from the folder they were made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import FOUR
from test_datasets_small import ready, relative, touch, write

from datamodules.base import VideoDataModule
from datamodules.files import VideoFiles
from datamodules.folder import VideoFolder
from datamodules.list import VideoList
from datamodules.mmaction import MMActionList
from datamodules.shard_index import pack, scan
from datamodules.shards import Manifest
from datamodules.tree import Tree
from zoo.errors import DataError


def shards_of(root: Path, home: Path) -> Path:
    """Two shards of all videos below a folder."""
    names = Tree(root).names
    shards = [home / "shards-0.tar", home / "shards-1.tar"]
    home.mkdir()
    for number, shard in enumerate(shards):
        pack(root, names[number::2], shard)
    rows = [(number, video) for number, shard in enumerate(shards) for video in scan(str(shard))]
    columns = [[getattr(video, name) for _, video in rows] for name in ("offset", "size", "label")]
    Manifest([s.name for s in shards], [video.path for _, video in rows], [n for n, _ in rows], *columns).write(home)
    return home


@pytest.fixture(scope="module")
def motion_shards(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards_of(motion_folder, tmp_path_factory.mktemp("shards") / "all")


def items(data: VideoDataModule, stage: str, split: str) -> dict[str, tuple[list[int], torch.Tensor]]:
    dataset = ready(data, stage).datasets[split]
    made = [dataset[i] for i in range(len(dataset))]
    assert not [item["skipped"] for item in made if item["skipped"]]
    names = ["/".join(Path(item["path"]).parts[-3:]) for item in made]
    return {name: ([int(x) for x in item["label"]], item["video"][0]) for name, item in zip(names, made, strict=True)}


@pytest.mark.parametrize(
    ("make", "stage"),
    [
        (lambda root, lists: VideoFolder(root), "test"),
        (lambda root, lists: VideoList(test=lists / "l.csv", root=root), "test"),
        (lambda root, lists: MMActionList(test=lists / "l.txt", root=root), "test"),
        (lambda root, lists: VideoFiles([root]), "predict"),
    ],
)
def test_shards_are_read_as_the_folder_they_were_made_of(
    motion_folder: Path,
    motion_shards: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], VideoDataModule],
    stage: str,
) -> None:
    videos = [name for name in Tree(motion_folder).names if name.startswith("test/")]
    write(tmp_path / "l.csv", ["path,label", *(f"{v},{v.split('/')[1]}" for v in videos)])
    write(tmp_path / "l.txt", [f"{v} {FOUR.index(v.split('/')[1])}" for v in videos])
    here, there = (items(make(root, tmp_path), stage, stage) for root in (motion_folder, motion_shards))
    assert len(here) == (12 if stage == "test" else 56)
    assert sorted(here) == sorted(there)
    assert all(here[v][0] == there[v][0] and torch.equal(here[v][1], there[v][1]) for v in here)


def test_videos_below_a_folder_of_the_same_beginning_stay_out(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{home}/{c}/{i}.mp4" for home in ("train", "training") for c in "ab" for i in range(3)))
    touch(tmp_path, "train/a/deeper/9.mkv", "train/stray.mp4", "val/b/1.mp4", "val/b/.hidden.mp4")
    data = VideoFolder(tmp_path)
    assert relative(data, data.split_records("train")) == [
        "train/a/0.mp4", "train/a/1.mp4", "train/a/2.mp4", "train/a/deeper/9.mkv", "train/b/0.mp4", "train/b/1.mp4",
        "train/b/2.mp4",
    ]  # fmt: skip
    assert relative(data, data.split_records("test")) == ["val/b/1.mp4"]


def test_listed_videos_may_have_another_ending_or_a_whole_path(tmp_path: Path) -> None:
    touch(tmp_path, "lists/x/a.mp4", "elsewhere/b.avi", "lists/c.webm")
    rows = ["path,label", "x/a.avi,1", f"{tmp_path}/elsewhere/b.avi,0", "c,1", "gone.mp4,0"]
    data = VideoList(test=write(tmp_path / "lists/l.csv", rows), max_missing=0.5)
    records = data.split_records("test")
    assert [Path(p).relative_to(tmp_path).as_posix() for p in records.paths] == [
        "lists/x/a.mp4", "elsewhere/b.avi", "lists/c.webm",
    ]  # fmt: skip
    assert (records.labels.tolist(), records.listed) == ([1, 0, 1], 4)


def test_files_to_predict_count_once_and_do_not_mix_with_shards(motion_folder: Path, tmp_path: Path) -> None:
    one = sorted((motion_folder / "val").rglob("*.mp4"))[0]
    assert len(VideoFiles([one, motion_folder / "val", one]).split_records("predict")) == 12
    shards = shards_of(motion_folder / "val", tmp_path / "s")
    with pytest.raises(DataError, match="in shards and in files cannot be predicted in one go"):
        VideoFiles([one, shards])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="There are no videos below"):
        VideoFiles([tmp_path / "empty"])
