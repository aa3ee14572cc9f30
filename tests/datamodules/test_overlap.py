"""Videos that occur in two splits of a data set, or in two classes of one split."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import EPIC_OPEN_DOOR, EPIC_TAKE_KNIFE, write_csv, write_epic_files
from data_modules import set_up
from runs import QUIET, TINY
from shard_files import write_manifest

from cli import main
from datamodules import EpicKitchens100, Kinetics, MMActionList, ShardList, VideoFolder, VideoList
from datamodules.overlap import find_overlaps
from datamodules.records import VideoRecords
from datamodules.shard_index import pack
from zoo.errors import DataError
from zoo.index import read_labels

Link = Callable[[Path, Path], Any]


def write_video(path: Path, seed: int, size: int = 300) -> Path:
    """Write random bytes; these tests decode nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.random.default_rng(seed).bytes(size))
    return path


def write_split_folders(root: Path, parts: tuple[str, ...] = ("train", "val", "test"), count: int = 4) -> Path:
    """Write different videos of equal size into split folders with the classes a and b."""
    for number, part in enumerate(parts):
        for label, name in enumerate("ab"):
            for index in range(count):
                write_video(root / part / name / f"{index}.mp4", 1000 * number + 100 * label + index)
    return root


def overlap_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged warnings about overlaps, and clear the log."""
    messages = [message for message in caplog.messages if "allow_overlap" in message]
    caplog.clear()
    return messages


LINKS: dict[str, Link] = {
    "symbolic link": Path.symlink_to,
    "hard link": Path.hardlink_to,
    "copy": lambda new, old: shutil.copyfile(old, new),
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_linked_and_copied_videos_overlap(link: Link, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_split_folders(tmp_path / "data")
    set_up(VideoFolder(root, num_workers=0))
    assert overlap_warnings(caplog) == []
    set_up(VideoFolder(root, num_workers=0), "test")
    link(root / "test" / "a" / "new.mp4", root / "train" / "a" / "1.mp4")
    link(root / "test" / "b" / "other.mp4", root / "val" / "b" / "2.mp4")
    train, test = root / "train/a/1.mp4", root / "test/a/new.mp4"
    with pytest.raises(DataError, match="1 of 10 test videos are also training videos") as error:
        set_up(VideoFolder(root, num_workers=0), "test")
    assert f"({test} = {train}); 1 of 10 test videos are also validation videos" in str(error.value)
    assert "--data.allow_overlap true" in str(error.value)
    set_up(VideoFolder(root, num_workers=0, allow_overlap=True), "test")
    set_up(VideoFolder(root, num_workers=0), "validate")  # validation videos are not in training
    set_up(VideoFolder(root, num_workers=0))
    assert [message.split(" (")[0] for message in overlap_warnings(caplog)] == [
        "1 of 10 test videos are also training videos",
        "1 of 10 test videos are also validation videos",
    ]
    set_up(VideoFolder(root, num_workers=0, allow_overlap=True))
    assert overlap_warnings(caplog) == []


def test_linked_split_folder_overlaps_completely(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_split_folders(tmp_path / "data", ("train",))
    (root / "val").symlink_to(root / "train", target_is_directory=True)
    set_up(VideoFolder(root, num_workers=0))
    (message,) = overlap_warnings(caplog)
    assert message.startswith("8 of 8 validation videos are also training videos (") and message.count(" = ") == 2
    for stage in ("validate", "test"):
        with pytest.raises(DataError, match="8 of 8 (validation|test) videos are also training videos"):
            set_up(VideoFolder(root, num_workers=0), stage)


def test_a_folder_linked_as_two_classes_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_split_folders(tmp_path / "data")
    for part in ("train", "test"):
        (root / part / "c").symlink_to(root / part / "a", target_is_directory=True)
    set_up(VideoFolder(root, num_workers=0))
    (message,) = overlap_warnings(caplog)
    assert message.startswith("8 of 12 training videos are in two classes (")
    with pytest.raises(DataError, match="8 of 12 test videos are in two classes"):
        set_up(VideoFolder(root, num_workers=0), "test")
    assert len(set_up(VideoFolder(root, num_workers=0), "validate").datasets["val"]) == 8


def test_automatic_split_of_copies_overlaps(tmp_path: Path) -> None:
    root = write_split_folders(tmp_path, ("whole",), 40) / "whole"
    set_up(VideoFolder(root, num_workers=0), "test")
    for path in sorted(root.glob("a/*.mp4")):
        shutil.copyfile(path, root / "a" / f"copy {path.name}")
    with pytest.raises(DataError, match=r"\d+ of 18 test videos are also training videos"):
        set_up(VideoFolder(root, num_workers=0), "test")


def test_same_list_for_all_splits_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [write_video(tmp_path / f"{number}.mp4", number).name for number in range(6)]
    rows = [("path", "label"), *((path, "xy"[number % 2]) for number, path in enumerate(paths))]
    one, two = write_csv(tmp_path / "one.csv", rows), write_csv(tmp_path / "two.csv", rows)
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for test in (one, two, tmp_path / "link" / "two.csv"):
        set_up(VideoList(one, val=one, test=test, num_workers=0))
        assert [message.split(" (")[0] for message in overlap_warnings(caplog)] == [
            "6 of 6 validation videos are also training videos",
            "6 of 6 test videos are also training videos",
            "6 of 6 test videos are also validation videos",
        ]
        with pytest.raises(DataError, match=r"6 of 6 test videos are also training .*; 6 of 6 test .* validation"):
            set_up(VideoList(one, val=one, test=test, num_workers=0), "test")
    # Without test=, the videos are those of the validation split. With test= alone, there is no other split.
    set_up(VideoList(one, num_workers=0), "test")
    set_up(VideoList(test=one, num_workers=0), "test")


def test_unreadable_splits_are_not_compared(tmp_path: Path) -> None:
    header = ("path", "label")
    rows = [(write_video(tmp_path / f"{number}.mp4", number).name, "xy"[number % 2]) for number in range(6)]
    missing = [("gone.mp4", "x"), ("lost.mp4", "y")]
    absent = write_csv(tmp_path / "absent.csv", [header, *missing])
    some = write_csv(tmp_path / "some.csv", [header, ("0.mp4", "x"), *missing])
    test = write_csv(tmp_path / "test.csv", [header, *rows])
    for train in (absent, tmp_path / "none.csv"):
        data = set_up(VideoList(train, test=test, classes=write_classes(tmp_path), num_workers=0), "test")
        assert len(data.datasets["test"]) == 6
    with pytest.raises(DataError, match="1 of 6 test videos are also training videos"):
        set_up(VideoList(some, val=absent, test=test, classes=write_classes(tmp_path), num_workers=0), "test")


def write_classes(folder: Path) -> Path:
    (folder / "classes.txt").write_text("x\ny\n")
    return folder / "classes.txt"


def test_excluded_videos_do_not_overlap(tmp_path: Path) -> None:
    root = write_split_folders(tmp_path / "data")
    shutil.copyfile(root / "train/a/1.mp4", root / "test/a/1.mp4")
    (tmp_path / "exclude.txt").write_text("train/a/1.mp4\n")
    assert len(set_up(VideoFolder(root, exclude=tmp_path / "exclude.txt", num_workers=0), "test").datasets["test"]) == 8


def test_kinetics_compares_training_with_validation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    label = read_labels("kinetics400")[0]
    header = ("label", "youtube_id", "time_start", "time_end")
    for part, keys in (("train", ("one", "two")), ("val", ("three", "four"))):
        write_csv(tmp_path / f"{part}.csv", [header, *((label, key, "0", "10") for key in keys)])
    for number, key in enumerate(("one", "two", "three", "four")):
        write_video(tmp_path / "videos" / f"{key}.mp4", number)
    set_up(Kinetics(tmp_path, num_workers=0), "test")
    shutil.copyfile(tmp_path / "videos/one.mp4", tmp_path / "videos/three.mp4")
    with pytest.raises(DataError, match=r"1 of 2 test videos are also training videos \(.*three.mp4 = .*one.mp4\)"):
        set_up(Kinetics(tmp_path, num_workers=0), "test")
    (tmp_path / "train.csv").unlink()
    set_up(Kinetics(tmp_path, num_workers=0), "test")
    assert overlap_warnings(caplog) == []


def test_frame_folders_are_compared_by_resolved_path(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write_video(tmp_path / name / "1.jpg", 0)
    (tmp_path / "link").symlink_to(tmp_path / "one", target_is_directory=True)
    (tmp_path / "train.txt").write_text("one 1 0\ntwo 1 1\n")
    (tmp_path / "test.txt").write_text("link 1 0\nthree 1 1\n")
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    data = MMActionList(train, val=test, test=test, kind="frames", num_workers=0)
    with pytest.raises(DataError, match=r"1 of 2 test videos are also training videos \(.*link = .*one\)"):
        set_up(data, "test")


def test_segments_of_a_video_overlap_if_their_spans_do(tmp_path: Path) -> None:
    later = EPIC_TAKE_KNIFE.replace("P01_01_1", "P01_01_9").replace(
        "00:00:00.40,00:00:00.80", "00:00:03.37,00:00:04.00"
    )
    inside = later.replace("00:00:03.37", "00:00:03.36")
    for segment, overlaps in ((later, False), (inside, True)):
        write_epic_files(tmp_path, [EPIC_OPEN_DOOR, EPIC_TAKE_KNIFE], [segment])
        write_video(tmp_path / "P01_01.MP4", 0)
        data = EpicKitchens100(tmp_path, num_workers=0)
        records = {part: data.split_records(part) for part in ("train", "val")}
        overlap = find_overlaps(records, [("val", "train"), ("train", "train")])
        assert [(one.part, one.other, one.examples) for one in overlap] == (
            [("val", "train", [("P01_01_9", "P01_01_0")])] if overlaps else []
        )


@pytest.mark.parametrize("copy", ["same", "linked", "copied", "packed again"])
def test_shards_are_compared_by_file_and_content(copy: str, tmp_path: Path) -> None:
    names = [f"{'ab'[number % 2]}/{number}.mp4" for number in range(4)]
    for number, name in enumerate(names):
        write_video(tmp_path / "videos" / name, number)
        write_video(tmp_path / "others" / name, 10 + number)
    roots = {}
    for part, source in (("train", "videos"), ("test", "others")):
        roots[part] = tmp_path / part
        roots[part].mkdir()
        pack(tmp_path / source, names, roots[part] / "0.tar")
    copy_shards: dict[str, Callable[[], Any]] = {
        "same": lambda: roots.update(test=roots["train"]),
        "linked": lambda: (roots["test"] / "0.tar").unlink() or (roots["test"] / "0.tar").hardlink_to(
            roots["train"] / "0.tar"
        ),
        "copied": lambda: shutil.copyfile(roots["train"] / "0.tar", roots["test"] / "0.tar"),
        "packed again": lambda: pack(tmp_path / "videos", names[::-1], roots["test"] / "0.tar"),
    }  # fmt: skip

    def data() -> ShardList:
        for root in roots.values():
            write_manifest([root / "0.tar"], label_by_folder=True)
        return ShardList(str(roots["train"]), test=str(roots["test"]), num_workers=0)

    set_up(data(), "test")
    copy_shards[copy]()
    with pytest.raises(DataError, match="4 of 4 test videos are also training videos"):
        set_up(data(), "test")


def test_remote_shards_are_compared_by_name_and_size() -> None:
    def records(shard: str, sizes: list[int]) -> VideoRecords:
        byte_spans = [(512 * number, size) for number, size in enumerate(sizes)]
        ids = [f"{number}.mp4" for number in range(len(sizes))]
        return VideoRecords.of(
            [f"http://127.0.0.1:9/{shard}.tar"] * len(sizes), [0] * len(sizes), ids=ids, byte_spans=byte_spans
        )

    parts = {"train": records("one", [10, 20, 30]), "test": records("two", [10, 21, 20])}
    (overlap,) = find_overlaps(parts, [("test", "train")])
    assert (overlap.count, overlap.examples) == (1, [("0.mp4", "0.mp4")])


def test_empty_and_missing_files_do_not_overlap(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.mp4" for number in range(4)]
    for path in paths[:2]:
        path.touch()
    parts = {
        "train": VideoRecords.of([paths[0], paths[2]], [0, 1]),
        "test": VideoRecords.of([paths[1], paths[3]], [0, 1]),
    }
    assert find_overlaps(parts, [("test", "train")]) == []
    parts = {part: VideoRecords.of([paths[2]], [0]) for part in parts}
    assert len(find_overlaps(parts, [("test", "train")])) == 1


def test_files_that_differ_in_one_byte_do_not_overlap(tmp_path: Path) -> None:
    content = bytearray(np.random.default_rng(0).bytes(100_000))
    (tmp_path / "0.mp4").write_bytes(content)
    for number, position in enumerate((0, 50_000, 99_999), start=1):
        changed = bytearray(content)
        changed[position] ^= 1
        (tmp_path / f"{number}.mp4").write_bytes(changed)
    train = VideoRecords.of([tmp_path / "0.mp4"], [0])
    test = VideoRecords.of([tmp_path / f"{number}.mp4" for number in (1, 2, 3)], [0] * 3)
    assert find_overlaps({"train": train, "test": test}, [("test", "train")]) == []


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [write_video(tmp_path / f"{size}.mp4", 0, size) for size in (100, 200, 300)]
    test = [write_video(tmp_path / f"test {size}.mp4", 1, size) for size in (100, 201, 301)]
    opened: list[str] = []
    original = open

    def counted(path: Any, *args: Any, **more: Any) -> Any:
        opened.append(os.path.basename(path))
        return original(path, *args, **more)

    monkeypatch.setattr("builtins.open", counted)
    parts = {"train": VideoRecords.of(train, [0] * 3), "test": VideoRecords.of(test, [0] * 3)}
    assert find_overlaps(parts, [("test", "train")]) == []
    assert sorted(opened) == ["100.mp4", "test 100.mp4"]


def test_test_command_refuses_training_videos(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("path", "label")]
    rows += [(str(path), path.parent.name) for path in sorted((motion_folder / "val").rglob("*.mp4"))]
    file = str(write_csv(tmp_path / "l.csv", rows))
    model = ["--model", "VideoClassifier", "--model.name", "c2d_r18", "--model.pretrained", "false", *TINY, *QUIET]
    data = ["--data", "VideoList", "--data.train", file, "--data.val", file, "--data.test", file,
            "--data.num_workers", "0"]  # fmt: skip
    limits = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1"]
    with caplog.at_level(logging.WARNING):
        assert main(["fit", *model, *data, *limits, "--out", str(tmp_path / "run")]) == 0
    assert len(overlap_warnings(caplog)) == 3
    start = ["--from", str(tmp_path / "run/checkpoints/last.ckpt"), *data, *QUIET]
    for verb, part in (("test", "test"), ("validate", "validation")):
        assert main([verb, *start, "--out", str(tmp_path / verb)]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and f"12 of 12 {part} videos are also training videos" in message
    assert main(["test", *start, "--data.allow_overlap", "true", "--out", str(tmp_path / "test")]) == 0
