"""Folders, lists and files: links, names, ignored files, and the same results from shards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from annotation_files import touch_files, write_lines
from data_modules import relative_paths, set_up
from shard_files import pack_folder
from small_models import FOUR

from datamodules.base import VideoDataModule
from datamodules.files import VideoFiles
from datamodules.folder import VideoFolder
from datamodules.list import VideoList
from datamodules.mmaction import MMActionList
from datamodules.shard_list import ShardList
from datamodules.tools.check import find_sources, frame_folders
from datamodules.tools.prepare import _annotations
from datamodules.tree import Tree
from datamodules.ucf101 import UCF101
from zoo.errors import ConfigError, DataError
from zoo.video.shard_member import read_member


@pytest.fixture(scope="module")
def motion_shards(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_folder(motion_folder, tmp_path_factory.mktemp("shards") / "all")


def load_videos(data: VideoDataModule, stage: str, split: str) -> dict[str, tuple[list[int], torch.Tensor]]:
    dataset = set_up(data, stage).datasets[split]
    items = [dataset[i] for i in range(len(dataset))]
    assert not [item["skipped"] for item in items if item["skipped"]]
    names = ["/".join(Path(item["path"]).parts[-3:]) for item in items]
    return {name: ([int(x) for x in item["label"]], item["video"][0]) for name, item in zip(names, items, strict=True)}


@pytest.mark.parametrize(
    ("make", "stage"),
    [
        (lambda root, lists: VideoFolder(root), "test"),
        (lambda root, lists: VideoList(test=lists / "l.csv", root=root), "test"),
        (lambda root, lists: MMActionList(test=lists / "l.txt", root=root), "test"),
        (lambda root, lists: VideoFiles([root]), "predict"),
    ],
)
def test_shards_have_the_same_videos_as_the_packed_folder(
    motion_folder: Path,
    motion_shards: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], VideoDataModule],
    stage: str,
) -> None:
    videos = [name for name in Tree(motion_folder).names if name.startswith("test/")]
    write_lines(tmp_path / "l.csv", ["path,label", *(f"{v},{v.split('/')[1]}" for v in videos)])
    write_lines(tmp_path / "l.txt", [f"{v} {FOUR.index(v.split('/')[1])}" for v in videos])
    from_folder, from_shards = (
        load_videos(make(root, tmp_path), stage, stage) for root in (motion_folder, motion_shards)
    )
    assert len(from_folder) == (12 if stage == "test" else 56)
    assert sorted(from_folder) == sorted(from_shards)
    assert all(
        from_folder[v][0] == from_shards[v][0] and torch.equal(from_folder[v][1], from_shards[v][1])
        for v in from_folder
    )


def test_folders_with_a_common_name_prefix_are_separate(tmp_path: Path) -> None:
    touch_files(tmp_path, *(f"{home}/{c}/{i}.mp4" for home in ("train", "training") for c in "ab" for i in range(3)))
    touch_files(tmp_path, "train/a/deeper/9.mkv", "train/stray.mp4", "val/b/1.mp4", "val/b/.hidden.mp4")
    data = VideoFolder(tmp_path)
    assert relative_paths(data, data.split_records("train")) == [
        "train/a/0.mp4", "train/a/1.mp4", "train/a/2.mp4", "train/a/deeper/9.mkv", "train/b/0.mp4", "train/b/1.mp4",
        "train/b/2.mp4",
    ]  # fmt: skip
    assert relative_paths(data, data.split_records("test")) == ["val/b/1.mp4"]


def test_links_are_followed_without_cycles(tmp_path: Path) -> None:
    touch_files(tmp_path, "v/a/1.mp4", "v/a/f/1.jpg", "v/b/2.mp4", "v/a/l.csv", "far/3.mp4", "far/l.txt")
    links = {
        "a/back": "..",
        "b/a": "../a",
        "b/self": ".",
        "a/b": "../b",
        "a/up": tmp_path,
        "a/none": "none",
        "a/o": "o",
    }
    for link, target in links.items():
        (tmp_path / "v" / link).symlink_to(target)
    for home in "ab":  # two classes with links to the same folder
        (tmp_path / "v" / home / "far").symlink_to(tmp_path / "far")
    expected = ["a/1.mp4", "a/b/2.mp4", "a/b/far/3.mp4", "a/far/3.mp4", "b/2.mp4", "b/a/1.mp4", "b/a/far/3.mp4",
             "b/far/3.mp4"]  # fmt: skip
    assert Tree(tmp_path / "v").names == expected
    assert sorted(source.name for source in find_sources(str(tmp_path / "v"))) == sorted([*expected, "a/f", "b/a/f"])
    copied = [path.as_posix() for path in _annotations(tmp_path / "v")]
    assert sorted(copied) == ["a/b/far/l.txt", "a/far/l.txt", "a/l.csv", "b/a/far/l.txt", "b/a/l.csv", "b/far/l.txt"]


def test_unreadable_folders_are_reported(tmp_path: Path) -> None:
    touch_files(tmp_path, "a/1.mp4")
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # a path too long for a system call; permissions would not stop root
        os.mkdir("x" * 250, dir_fd=folder)
        subfolder = os.open("x" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = subfolder
    os.close(folder)
    for list_files in (
        lambda: Tree(tmp_path).names,
        lambda: frame_folders(Tree(tmp_path)),
        lambda: _annotations(tmp_path),
    ):
        with pytest.raises(DataError, match=r"The folder .*xxx cannot be read \(File name too long\)"):
            list_files()


def logged_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged messages, and clear the log."""
    messages = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return messages


def test_split_folders_are_recognized_by_usual_names_in_any_case(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for train, val, test in (("Train", "validate", "Test"), ("training", "VALID", "testing")):
        root = tmp_path / train
        touch_files(root, *(f"{folder}/{c}/{i}.mp4" for folder in (train, val, test) for c in "ab" for i in range(3)))
        for source in (root, pack_folder(root, tmp_path / f"{train}-shards")):
            data = VideoFolder(source)
            assert data.class_names == ["a", "b"]
            for split, folder in (("train", train), ("val", val), ("test", test)):
                records = data.split_records(split)
                assert [n.removeprefix(f"{root}/") for n in map(str, records.ids)] == [
                    f"{folder}/{c}/{i}.mp4" for c in "ab" for i in range(3)
                ]
    touch_files(tmp_path / "x", *(f"{folder}/{i}.mp4" for folder in ("train", "car") for i in range(4)))
    assert VideoFolder(tmp_path / "x").class_names == ["car", "train"]  # class names, not splits
    assert not logged_messages(caplog)


def test_folder_without_training_videos_can_be_tested(tmp_path: Path) -> None:
    touch_files(tmp_path, *(f"val/{c}/{i}.mp4" for c in "ab" for i in range(3)))
    data = VideoFolder(tmp_path)
    assert data.class_names == ["a", "b"]
    assert len(data.split_records("test")) == len(data.split_records("val")) == 6
    with pytest.raises(DataError, match="has val, but no train folder; it can only be tested"):
        data.split_records("train")


def test_ignored_files_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    touch_files(
        one, *(f"{folder}/{c}/{i}.mp4" for folder in ("train", "Val", "validation") for c in "ab" for i in range(5))
    )
    touch_files(one, "c/1.mp4", "c/d/2.mp4", "3.mp4", "train/4.mp4", "labels.csv", "c/5.jpg")
    for source in (one, pack_folder(one, tmp_path / "shards")):
        caplog.clear()
        data = VideoFolder(source)
        assert [len(data.split_records(split)) for split in ("train", "val", "test")] == [10, 10, 10]
        assert logged_messages(caplog) == [
            "videos outside of the class folders of a split are not read: "
            f"1 in {source}, 2 in {source}/c, 1 in {source}/train, 10 in {source}/validation",
            f"{source} has no test folder: using the validation videos",
        ]
    touch_files(
        two, *(f"{c}/{i}.{end}" for c in "ab" for i, end in enumerate(["mp4", "MTS", "ogv", "x", "y", "xmp4", "X"]))
    )
    touch_files(two, "a/raw", "a/.hidden", "notes.md", "a/a.tar.gz", "b/0.mp4.part", "b/1.aac", "b/2.aac", "b/3.aac")
    data = VideoFolder(two)
    assert sum(len(data.split_records(split)) for split in ("train", "val", "test")) == 6
    assert logged_messages(caplog) == [
        f"{two}: 14 files are not read as videos: 4 .x, 3 .aac, 2 .xmp4, 2 .y, 1 .gz and 2 more extensions",
        f"{two} has no test folder: using the test part of the automatic split, 2 of its 6 videos",
    ]


def test_warning_about_a_missing_test_folder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``tempozoo probe`` checks the test videos and the training videos before it loads any of them."""
    touch_files(
        tmp_path, *(f"{split}/{c}/{split}{i}.mp4" for split in ("train", "val") for c in "ab" for i in range(3))
    )
    data = VideoFolder(tmp_path)
    for stage in ("test", "fit"):
        data.check(stage)
    for stage in ("fit", "test"):
        set_up(data, stage)
    assert {split: len(dataset) for split, dataset in data.datasets.items()} == {"train": 6, "val": 6, "test": 6}
    warning = f"{tmp_path} has no test folder: using the validation videos"
    assert [message for message in logged_messages(caplog) if "test folder" in message] == [warning]


@pytest.mark.parametrize("name", ["val", "validation", "valid", "validate"])
def test_validation_folder_is_recognized_by_usual_names(tmp_path: Path, name: str) -> None:
    touch_files(tmp_path, *(f"train/{c}/{i}.mp4" for c in "ab" for i in range(3)), f"{name}/a/7.mp4", f"{name}/b/8.mp4")
    data = VideoFolder(tmp_path)
    assert len(data.split_records("train")) == 6
    for split in ("val", "test"):
        assert relative_paths(data, data.split_records(split)) == [f"{name}/a/7.mp4", f"{name}/b/8.mp4"]
    touch_files(tmp_path, "val/b/9.mp4")
    data = VideoFolder(tmp_path)
    assert relative_paths(data, data.split_records("val"))[-1] == "val/b/9.mp4"


def test_invalid_fractions_and_seeds_are_refused(tmp_path: Path) -> None:
    list_file = write_lines(tmp_path / "l.csv", ["path,label"])
    makers: list[Callable[..., VideoDataModule]] = [
        lambda **options: VideoFolder(tmp_path, **options),
        lambda **options: VideoList(list_file, **options),
        lambda **options: MMActionList(list_file, **options),
        lambda **options: UCF101(tmp_path, **options),
    ]
    for make in makers:
        for fraction in (7, -0.1, 1.0):
            with pytest.raises(ConfigError, match=f"val_fraction is {fraction}; it must be at least 0 and below 1"):
                make(val_fraction=fraction)
        for seed in (-1, 0.5):
            with pytest.raises(ConfigError, match=f"split_seed is {seed}; it must be a whole number"):
                make(split_seed=seed)
    with pytest.raises(ConfigError, match=r"val_fraction \+ test_fraction is 1\.2"):
        VideoFolder(tmp_path, val_fraction=0.6, test_fraction=0.6)


def test_class_files_may_have_other_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    touch_files(tmp_path, "a.mp4")
    list_file = write_lines(tmp_path / "l.csv", ["path,label", "a.mp4,walk"])

    def read_names(content: str, encoding: str = "utf-8") -> list[str]:
        (tmp_path / "names.txt").write_text(content, encoding=encoding)
        return VideoList(test=list_file, classes=tmp_path / "names.txt").class_names

    assert read_names("run \r\nwalk\r\n\n  \n", "utf-8-sig") == ["run", "walk"] == read_names("run\nwalk")
    for content, message in (
        ("run\n\nwalk", "names.txt, line 2 is empty"),
        ("run\nwalk\nrun\n", "names.txt, line 3: 'run' is there twice"),
    ):
        with pytest.raises(DataError, match=message):
            read_names(content)
    with pytest.raises(DataError, match=r"names.txt is not UTF-8 .*; save it as UTF-8"):
        read_names("läuft\ngeht", "latin-1")
    assert len(VideoList(test=list_file, classes="kinetics400").class_names) == 400
    assert ShardList("x", classes=str(write_lines(tmp_path / "names.txt", ["a", "b", ""]))).class_names == ["a", "b"]
    (tmp_path / "l.csv").write_text("path,label\na.mp4,läuft\n", encoding="latin-1")
    with pytest.raises(DataError, match=r"l.csv is not UTF-8 .*; save it as UTF-8"):
        VideoList(test=list_file).split_records("test")


def test_listed_videos_may_have_another_extension_or_an_absolute_path(tmp_path: Path) -> None:
    touch_files(tmp_path, "lists/x/a.mp4", "elsewhere/b.avi", "lists/c.webm")
    rows = ["path,label", "x/a.avi,1", f"{tmp_path}/elsewhere/b.avi,0", "c,1", "gone.mp4,0"]
    data = VideoList(test=write_lines(tmp_path / "lists/l.csv", rows), max_missing=0.5)
    records = data.split_records("test")
    assert [Path(p).relative_to(tmp_path).as_posix() for p in records.paths] == [
        "lists/x/a.mp4", "elsewhere/b.avi", "lists/c.webm",
    ]  # fmt: skip
    assert (records.labels.tolist(), records.listed) == ([1, 0, 1], 4)


def test_repeated_files_to_predict_count_once_and_do_not_mix_with_shards(motion_folder: Path, tmp_path: Path) -> None:
    video = sorted((motion_folder / "val").rglob("*.mp4"))[0]
    assert len(VideoFiles([video, motion_folder / "val", video]).split_records("predict")) == 12
    relative = Path(os.path.relpath(video))
    (tmp_path / "link.mp4").symlink_to(video)
    same_video = [relative, f"./{relative}", video, tmp_path / "link.mp4"]
    assert len(VideoFiles([*same_video, relative.parent]).split_records("predict")) == 3
    shards = pack_folder(motion_folder / "val", tmp_path / "s")
    with pytest.raises(DataError, match="in shards and video files cannot be mixed in one command"):
        VideoFiles([video, shards])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="There are no videos below"):
        VideoFiles([tmp_path / "empty"])


def test_videos_of_two_shard_folders_may_have_the_same_names(motion_folder: Path, tmp_path: Path) -> None:
    one, two = (pack_folder(motion_folder / split, tmp_path / split) for split in ("val", "test"))
    assert len(set(Tree(motion_folder / "val").names) & set(Tree(motion_folder / "test").names)) == 12
    records = VideoFiles([one, two, one]).split_records("predict")
    names = Tree(motion_folder / "val").names
    assert records.ids.tolist() == [f"{root}/{name}" for root in (one, two) for name in names]
    assert VideoFiles([one]).split_records("predict").ids.tolist() == names
    for number, split in ((0, "val"), (12, "test")):
        source = records.source(number)
        assert read_member(source.path, source.byte_span or (0, 0)) == (motion_folder / split / names[0]).read_bytes()
