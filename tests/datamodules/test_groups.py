"""Groups of videos that stay in one split, and the folds of a cross-validation."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from annotation_files import touch_files, write_csv

from datamodules import VideoFolder, VideoList
from datamodules.base import VideoDataModule
from datamodules.groups import find_likely_groups, group_keys
from datamodules.splits import split_grouped
from zoo.errors import ConfigError, DataError

THREE = {"train": 1.0, "val": 0.2, "test": 0.2}
PATTERN = r"_(g\d+)_"


def make_recordings(root: Path, recordings: int = 10, clips: int = 3, classes: str = "ab") -> Path:
    """Create empty videos named like those of UCF101: every recording has clips of every class."""
    touch_files(
        root,
        *(f"{c}/v_{c}_g{g:02}_c{n:02}.avi" for c in classes for g in range(recordings) for n in range(clips)),
    )
    return root


def recordings_by_split(
    data: VideoDataModule, splits: tuple[str, ...] = ("train", "val", "test")
) -> dict[str, set[str]]:
    """Recordings (``g01``) of the videos of each split."""
    return {split: {name.split("_")[-2] for name in data.split_records(split).ids} for split in splits}


# split_grouped ---------------------------------------------------------------------------------------------------


def test_groups_stay_together_with_nearly_exact_class_shares() -> None:
    rng = np.random.default_rng(0)
    groups = [f"r{number}" for number in rng.integers(0, 60, 600)]
    labels = rng.integers(0, 4, 600)
    parts = split_grouped(groups, labels, THREE, 0, list("abcd"), "x", "train")
    assert sorted(np.concatenate(list(parts.values()))) == list(range(600))
    keys = [{groups[number] for number in numbers} for numbers in parts.values()]
    assert sum(map(len, keys)) == len(set(groups))
    totals = np.bincount(labels)
    for part, share in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
        counts = np.bincount(labels[parts[part]], minlength=4)
        assert np.abs(counts / totals - share).max() < 0.05, part


def test_grouped_split_depends_on_the_seed_only() -> None:
    groups = [f"r{number // 3}" for number in range(90)]
    labels = np.arange(90) % 2
    splits = [
        split_grouped(groups, labels, THREE, seed, ["a", "b"], "x", "train")["val"].tolist() for seed in (0, 0, 1)
    ]
    assert splits[0] == splits[1] != splits[2]
    order = np.random.default_rng(0).permutation(90)
    shuffled = split_grouped([groups[n] for n in order], labels[order], THREE, 0, ["a", "b"], "x", "train")["val"]
    assert sorted(order[shuffled]) == splits[0]


def test_training_videos_have_every_class_of_few_groups() -> None:
    # the only group of class 2 is so large that the deviation alone would not decide
    groups = ["r0"] * 4 + ["r1"] * 4 + ["r2"] * 2 + ["r3"] * 2
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 2, 2])
    for seed in range(10):
        parts = split_grouped(groups, labels, {"train": 1.0, "val": 0.5}, seed, list("abc"), "x", "train")
        assert set(labels[parts["train"]]) == {0, 1, 2}
        assert len(parts["val"])


def test_too_few_groups_are_an_error() -> None:
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match="The 2 groups of x are too few to split into train, val, test"):
        split_grouped(["r", "r", "s", "s"], labels, THREE, 0, ["a", "b"], "x", "train")
    with pytest.raises(DataError, match="The 2 groups of x are too few to split into train, val"):  # group = class
        split_grouped(["r", "r", "s", "s"], labels, {"train": 1.0, "val": 0.2}, 0, ["a", "b"], "x", "train")
    with pytest.raises(DataError, match="all videos of class 'a' of x are in one group"):
        split_grouped(["r", "r", "s", "t"], labels, {"fold 1": 0.5, "fold 2": 0.5}, 0, ["a", "b"], "x")


# data modules ----------------------------------------------------------------------------------------------------


def test_folder_keeps_the_groups_of_a_pattern_in_one_split(tmp_path: Path) -> None:
    data = VideoFolder(make_recordings(tmp_path), group=PATTERN)
    recordings = recordings_by_split(data)
    assert sum(map(len, recordings.values())) == 10
    assert all(recordings.values())
    data.check("fit")
    assert data.group_counts == {split: len(keys) for split, keys in recordings.items()}
    assert {split: len(labels) for split, labels in data.part_labels.items()} == {
        split: 6 * len(keys) for split, keys in recordings.items()
    }


def test_list_keeps_the_groups_of_a_column_in_one_split(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(40)]
    touch_files(tmp_path, *names)
    rows = [(name, "ab"[number % 2], f"person {number // 4}") for number, name in enumerate(names)]
    file = write_csv(tmp_path / "list.csv", [("path", "label", "person"), *rows])
    data = VideoList(file, group="person")
    people = {
        split: {int(Path(name).stem) // 4 for name in data.split_records(split).ids} for split in ("train", "val")
    }
    assert not people["train"] & people["val"]
    assert len(people["train"] | people["val"]) == 10
    assert recordings_by_split(VideoFolder(make_recordings(tmp_path / "f"), group=r"g\d+"), ("val",))["val"]


def test_path_without_group_is_an_error_that_names_it(tmp_path: Path) -> None:
    touch_files(make_recordings(tmp_path), "a/odd.avi")
    with pytest.raises(DataError, match=r"does not match 'a/odd\.avi' of "):
        VideoFolder(tmp_path, group=PATTERN).check("fit")
    with pytest.raises(ConfigError, match=r"--data\.group '\(' is not a regular expression"):
        VideoFolder(tmp_path, group="(").check("fit")


def test_key_is_the_first_group_or_the_entire_match() -> None:
    paths = ["a/p1_x.mp4", "a/p2_y.mp4"]
    assert group_keys(paths, r"(p\d)_(\w)", "x") == ["p1", "p2"]
    assert group_keys(paths, r"p\d_\w", "x") == ["p1_x", "p2_y"]


def test_group_in_two_given_splits_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch_files(
        tmp_path, *(f"{split}/{c}/v_g0{n}_c1.avi" for split in ("train", "val") for c in "ab" for n in range(3))
    )
    with caplog.at_level(logging.WARNING):
        VideoFolder(tmp_path, group=PATTERN, allow_overlap=True).check("fit")
    assert "3 groups of --data.group are in several splits, such as g00 in train and val" in caplog.text


def test_fit_warns_if_the_automatic_split_separates_similar_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_recordings(tmp_path)
    VideoFolder(root, allow_overlap=True).check("fit")
    (warning,) = [record.getMessage() for record in caplog.records if "separates" in record.getMessage()]
    assert "of 10 groups of similar names are in several splits" in warning
    assert warning.endswith(r"--data.group '_(g\d+)_'")
    caplog.clear()
    VideoFolder(root, allow_overlap=True, group=PATTERN).check("fit")
    VideoFolder(root, allow_overlap=True).check("test")
    assert "separates" not in caplog.text


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ([f"a/v_a_g{n // 4:02}_c{n % 4:02}.avi" for n in range(40)], r"_(g\d+)_"),
        ([f"{'ab'[n % 2]}/person{n // 8:02}_run{n}.mp4" for n in range(40)], "person"),
        ([f"a/P{n // 8:02}_{n}.mp4" for n in range(40)], "psPS"),
        ([f"{c}/{scene}_{n:03}.mp4" for c in "ab" for scene in ("garden", "street") for n in range(5)], "clip"),
        ([f"a/{n}.mp4" for n in range(40)], None),
        ([f"{c}/{c}_{n:03}.mp4" for c in ("run", "walk") for n in range(20)], None),  # the prefix is the class
        ([f"a/clip_{n:03}.mp4" for n in range(40)], None),
        ([f"a/id{n}x_000010_000020.mp4" for n in range(40)], None),  # one video per recording
    ],
)  # fmt: skip
def test_likely_groups_of_names(names: list[str], pattern: str | None) -> None:
    groups = find_likely_groups(names)
    assert (groups is None) == (pattern is None)
    assert groups is None or pattern in groups.pattern


# folds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [None, PATTERN])
def test_folds_validate_every_video_once_and_keep_the_test_videos(tmp_path: Path, group: str | None) -> None:
    root = make_recordings(tmp_path)
    test = VideoFolder(root, group=group).split_records("test").ids.tolist()
    validated: Counter[str] = Counter()
    for fold in (1, 2, 3):
        data = VideoFolder(root, group=group, folds=3, fold=fold)
        names = {split: data.split_records(split).ids.tolist() for split in ("train", "val", "test")}
        assert names["test"] == test
        assert sum(map(len, names.values())) == 60
        assert not {*names["train"]} & {*names["val"]}
        labels = data.split_records("val").labels
        assert np.ptp(np.bincount(labels)) <= 1
        if group is not None:
            recordings = recordings_by_split(data)
            assert not recordings["train"] & recordings["val"]
        validated.update(names["val"])
    assert set(validated.values()) == {1}
    assert len(validated) == 60 - len(test)


def test_folds_include_the_videos_of_a_given_validation_split(tmp_path: Path) -> None:
    touch_files(
        tmp_path, *(f"{split}/{c}/{split}{n}.mp4" for split in ("train", "val", "test") for c in "ab" for n in range(4))
    )
    folds = [VideoFolder(tmp_path, folds=2, fold=fold).split_records("val").ids.tolist() for fold in (1, 2)]
    assert sorted(Path(name).stem for fold in folds for name in fold) == sorted(
        f"{split}{n}" for split in ("train", "val") for n in range(4) for _ in "ab"
    )
    lists = {
        split: write_csv(
            tmp_path / f"{split}.csv",
            [("path", "label"), *((f"{split}/{c}/{split}{n}.mp4", c) for c in "ab" for n in range(4))],
        )
        for split in ("train", "val")
    }
    listed = [VideoList(**lists, folds=2, fold=fold).split_records("val").ids.tolist() for fold in (1, 2)]
    assert sorted(map(len, listed)) == sorted(map(len, folds)) == [8, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 5}, "folds and fold belong together"),
        ({"folds": 1, "fold": 1}, "folds is 1; a cross-validation has at least 2"),
        ({"folds": 3, "fold": 4}, "fold is 4; it must be from 1 to folds, 3"),
    ],
)
def test_invalid_folds_are_errors(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VideoFolder("x", **options)
