"""Moments in Time and Multi-Moments in Time: published and MMAction2's folders, one or several labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotation_files import touch_files, write_lines
from data_modules import class_by_path, relative_paths, set_up
from numbered_videos import numbered_video

from datamodules import MomentsInTime, MultiMomentsInTime
from zoo.errors import DataError

# not sorted: the file defines the order
CATEGORIES = ["stroking/petting,2", "clapping,0", "adult+male+speaking,1"]
NAMES = ["clapping", "adult+male+speaking", "stroking/petting"]


def write_lists(root: Path, train: list[str], val: list[str], categories: list[str] = CATEGORIES) -> None:
    write_lines(root / "moments_categories.txt", categories)
    write_lines(root / "trainingSet.csv", train)
    write_lines(root / "validationSet.csv", val)


@pytest.mark.parametrize("home", ["", "videos/"])
def test_moments_are_found_in_split_folders(tmp_path: Path, home: str) -> None:
    same_name = "clapping/yt-a_1.mp4"
    write_lists(
        tmp_path / "annotations",
        [f"{same_name},clapping,3,0", "adult+male+speaking/b.c_2.mp4,adult+male+speaking,3,1"],
        [f"{same_name},clapping,3,0"],
    )
    paths = [f"training/{same_name}", "training/adult+male+speaking/b.c_2.webm", f"validation/{same_name}"]
    touch_files(tmp_path, *(home + path for path in paths))
    data = MomentsInTime(tmp_path)
    assert data.class_names == NAMES
    assert not data.multi_label
    assert class_by_path(data, "train") == {home + paths[0]: NAMES[0], home + paths[1]: NAMES[1]}
    for split in ("val", "test", "predict"):
        assert class_by_path(data, split) == {home + paths[2]: NAMES[0]}
    (tmp_path / home / paths[1]).unlink()
    with pytest.raises(DataError, match=r"1 of the 2 videos listed in .*trainingSet\.csv are not below"):
        MomentsInTime(tmp_path).split_records("train")


def test_multi_moments_have_a_row_of_zeros_and_ones(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    write_lists(lists, ["clapping/a.mp4,0"], ["stroking/petting/b.mp4,2,0", "clapping/c.mp4, 0 ,1"])
    root = tmp_path / "mmit"
    numbered_video(root / "videos/stroking/petting/b.mp4", 12)
    numbered_video(root / "videos/clapping/c.mp4", 13)
    touch_files(root, "videos/clapping/a.mp4")
    data = MultiMomentsInTime(root, annotations=lists, num_workers=0)
    assert data.multi_label
    assert relative_paths(data, data.split_records("train")) == ["videos/clapping/a.mp4"]
    assert data.split_records("train").labels.tolist() == [[1, 0, 0]]
    batch = next(iter(set_up(data, "test").test_dataloader()))
    labels = {Path(path).stem: label.tolist() for path, label in zip(batch["path"], batch["label"], strict=True)}
    assert labels == {"b": [1, 0, 1], "c": [1, 1, 0]}


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    touch_files(tmp_path, "validation/clapping/a.mp4")
    good = "clapping/a.mp4,clapping,3,0"
    for rows, message in (
        ([good, "clapping/b.mp4,juggling,3,0"], r"validationSet\.csv, line 2: 'juggling' is not one of the 3 classes"),
        ([good, "clapping/b.mp4"], "line 2: '' is not one of the 3 classes"),
        ([good, good], "is listed more than once in .*validationSet"),
        ([], r"validationSet\.csv lists no videos"),
    ):
        write_lists(tmp_path, [], rows)
        with pytest.raises(DataError, match=message):
            MomentsInTime(tmp_path, max_missing=0.9).split_records("val")
    for cell in ("3", "-1", "clapping"):
        write_lists(tmp_path, [], [f"clapping/a.mp4,0,{cell}"])
        with pytest.raises(DataError, match=rf"line 1: '{cell}' is not a class number from 0 to 2"):
            MultiMomentsInTime(tmp_path).split_records("val")


def test_class_file_must_number_all_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotation file moments_categories\.txt"):
        _ = MomentsInTime(tmp_path).class_names
    for categories, message in (
        (["clapping,0", "adult+male+speaking"], r"line 2: 'adult\+male\+speaking' is not a class and its number"),
        (["clapping,0", "clapping,1"], "line 2: 'clapping,1' repeats a class or a number"),
        (["clapping,0", "barking,0"], "line 2: 'barking,0' repeats a class or a number"),
        (["clapping,1", "barking,2"], "has 2 classes, whose numbers are not 0 to 1"),
        ([], "has 0 classes"),
    ):
        write_lists(tmp_path, [], [], categories)
        with pytest.raises(DataError, match=message):
            _ = MomentsInTime(tmp_path).class_names
