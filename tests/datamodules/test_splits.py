"""Automatic splits: exact shares, stable when videos are added or removed, independent of extensions and containers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from annotation_files import make_class_folders, write_csv
from shard_files import write_manifest

from datamodules import VideoFolder, VideoList
from datamodules.base import VideoDataModule
from datamodules.shard_index import pack
from datamodules.splits import split_stratified
from zoo.errors import DataError

THREE = {"train": 1.0, "val": 0.15, "test": 0.15}


def split_one_class(
    count: int, fractions: dict[str, float], paths: list[str] | None = None, seed: int = 0
) -> dict[str, str]:
    """Part of each path, for videos of one class."""
    names = paths or [f"a/{number}.mp4" for number in range(count)]
    parts = split_stratified(names, np.zeros(len(names), dtype=np.int64), fractions, seed, ["a"], "x")
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(names)))
    return {names[number]: part for part, numbers in parts.items() for number in numbers}


def splits_by_video(data: VideoDataModule, splits: tuple[str, ...] = ("train", "val", "test")) -> dict[str, str]:
    """Split of each video, by its path without the extension."""
    names = {split: data._relative(data.split_records(split).ids.tolist()) for split in splits}
    return {str(Path(name).with_suffix("")): split for split, listed in names.items() for name in listed}


@pytest.mark.parametrize("fractions", [THREE, {"train": 1.0, "val": 0.2, "test": 0.3}, {"train": 1.0, "val": 0.15}])
def test_part_sizes_are_exact_to_within_one_video(fractions: dict[str, float]) -> None:
    shares = {**fractions, "train": 1 - sum(list(fractions.values())[1:])}
    for count in (20, 33, 97, 150, 1001):
        for seed in range(5):
            sizes = Counter(split_one_class(count, fractions, seed=seed).values())
            for part, share in shares.items():
                assert abs(sizes[part] - share * count) <= 1 + 1e-9, (count, part)


def test_classes_of_equal_size_get_parts_of_equal_size() -> None:
    paths = [f"{name}/{number}.mp4" for name in "ab" for number in range(150)]
    labels = np.repeat([0, 1], 150)
    for seed in range(10):
        parts = split_stratified(paths, labels, THREE, seed, ["a", "b"], "x")
        assert {part: np.bincount(labels[numbers]).tolist() for part, numbers in parts.items()} == {
            "train": [105, 105], "val": [23, 23], "test": [22, 22]
        }  # fmt: skip


def test_no_part_of_a_class_is_empty() -> None:
    for fractions in (THREE, {"train": 1.0, "val": 0.01, "test": 0.98}, {"train": 1.0, "val": 0.5, "test": 0.6}):
        for count in range(3, 12):
            assert min(Counter(split_one_class(count, fractions).values())[part] for part in fractions) >= 1
    with pytest.raises(DataError, match="class 'a' of x has 2 videos, too few to split into train, val, test"):
        split_one_class(2, THREE)


@pytest.mark.parametrize("fractions", [THREE, {"train": 1.0, "val": 0.15}, {"train": 1.0, "val": 0.01, "test": 0.7}])
def test_adding_a_video_moves_at_most_one_other_at_each_cut(fractions: dict[str, float]) -> None:
    for seed in range(10):
        before = split_one_class(3, fractions, seed=seed)
        for count in range(4, 120):
            after = split_one_class(count, fractions, seed=seed)
            moved = [path for path, part in before.items() if after[path] != part]
            assert len(moved) <= len(fractions) - 1
            before = after


def test_split_does_not_depend_on_extensions_order_or_other_classes() -> None:
    paths = [f"a/{number}.mp4" for number in range(60)]
    expected = split_one_class(60, THREE, paths)
    order = np.random.default_rng(0).permutation(60)
    reordered = split_one_class(60, THREE, [paths[number].replace(".mp4", ".MKV") for number in order])
    assert {path.replace(".MKV", ".mp4"): part for path, part in reordered.items()} == expected
    labels = np.array([0] * 60 + [1] * 9)
    parts = split_stratified([*paths, *(f"b/{n}.mp4" for n in range(9))], labels, THREE, 0, ["a", "b"], "x")
    assert {paths[number]: part for part, numbers in parts.items() for number in numbers if number < 60} == expected


def test_folders_lists_and_shards_have_the_same_split(tmp_path: Path) -> None:
    folder = make_class_folders(tmp_path / "folder", {"a": 40, "b": 20})
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.mp4"))
    expected = splits_by_video(VideoFolder(folder))
    (tmp_path / "shards").mkdir()
    pack(folder, names, tmp_path / "shards" / "0.tar")
    write_manifest([tmp_path / "shards" / "0.tar"], label_by_folder=True)
    assert splits_by_video(VideoFolder(tmp_path / "shards")) == expected
    rows = [("path", "label"), *((name, name[0]) for name in reversed(names))]
    for list_folder, options in ((folder, {}), (tmp_path, {"root": folder})):
        listed = splits_by_video(VideoList(write_csv(list_folder / "l.csv", rows), **options), ("train", "val"))
        assert {path for path, part in listed.items() if part == "val"} == {
            path for path, part in expected.items() if part == "val"
        }
