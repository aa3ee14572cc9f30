"""Kinetics and Diving48: official files in several layouts, missing videos, and invalid annotations."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import touch_files, write_csv, write_text
from data_modules import class_by_path

from datamodules.diving48 import Diving48
from datamodules.kinetics import RENAMED, Kinetics, plain
from datamodules.shards import Manifest
from datamodules.something import SomethingV1
from zoo.errors import ConfigError, DataError
from zoo.index import read_labels

HEADER = ("label", "youtube_id", "time_start", "time_end", "split")
K400 = read_labels("kinetics400")


def write_kinetics_csv(path: Path, rows: Iterable[Sequence[Any]], header: Sequence[str] = HEADER) -> None:
    write_csv(path, [header, *rows])


# Kinetics --------------------------------------------------------------------------------------------------------


def test_kinetics_finds_videos_in_every_layout_by_name(tmp_path: Path) -> None:
    rows = [
        ("air drumming", "-aaaaaaaaa_", 0, 10, "train"),  # class folder, padded times
        ("massaging person's head", "bbbbbbbbbbb", 12, 22, "train"),  # class folder with underscores
        ("passing American football (in game)", "ccccccccccc", 3, 13, "train"),  # flat, unpadded times
        ("yoga", "ddddddddddd", "7.0", "17.0", "train"),  # flat, id only, times as decimals
        ("zumba", "eeeeeeeeeee", 1, 11, "train"),  # missing
    ]
    write_kinetics_csv(tmp_path / "annotations/train.csv", [(*r, 0) for r in rows], (*HEADER, "is_cc"))
    write_kinetics_csv(tmp_path / "annotations/validate.csv", [("abseiling", "fffffffffff", 100, 110, "val")])
    touch_files(tmp_path, "train/air drumming/-aaaaaaaaa__000000_000010.mp4", "val/fffffffffff_000100_000110.mkv")
    touch_files(tmp_path, "train/massaging_person's_head/bbbbbbbbbbb_000012_000022.mp4", "ccccccccccc_3_13.webm")
    touch_files(tmp_path, "ddddddddddd.mp4", "eeeeeeeeeee_000002_000012.mp4")  # another segment of the missing video
    data = Kinetics(tmp_path, max_missing=0.2)
    assert class_by_path(data, "train") == {
        "train/air drumming/-aaaaaaaaa__000000_000010.mp4": "air drumming",
        "train/massaging_person's_head/bbbbbbbbbbb_000012_000022.mp4": "massaging person's head",
        "ccccccccccc_3_13.webm": "passing American football (in game)",
        "ddddddddddd.mp4": "yoga",
    }
    assert data.split_records("train").listed == 5
    for split in ("val", "test", "predict"):  # published accuracies are for the validation videos
        assert class_by_path(data, split) == {"val/fffffffffff_000100_000110.mkv": "abseiling"}
    assert data.class_names == list(K400)
    assert data.flip_names() == []
    with pytest.raises(DataError, match=r"1 of the 5 videos listed in Kinetics-400 train \(.*train.csv\) are not"):
        Kinetics(tmp_path).split_records("train")


@pytest.mark.parametrize("name", ["kinetics400/val.csv", "kinetics_400/validate.csv", "kinetics_val.csv", "val.csv"])
def test_kinetics_works_with_annotations_of_a_single_split(tmp_path: Path, name: str) -> None:
    write_kinetics_csv(tmp_path / "lists" / name, [("Air_Drumming", "aaaaaaaaaaa", 0, 10, "val")])
    touch_files(tmp_path, "videos/aaaaaaaaaaa.mp4")
    data = Kinetics(tmp_path / "videos", version=400, annotations=tmp_path / "lists")
    assert class_by_path(data, "test") == {"aaaaaaaaaaa.mp4": "air drumming"}
    with pytest.raises(DataError, match=r"no annotation file train\.csv"):
        data.split_records("train")


def test_kinetics_errors_name_file_and_line(tmp_path: Path) -> None:
    touch_files(tmp_path, "aaaaaaaaaaa.mp4")
    good = ("abseiling", "aaaaaaaaaaa", 0, 10, "val")
    for rows, message in (
        ([good, ("juggling chainsaws", "aaaaaaaaaab", 0, 10, "val")], r"val\.csv, line 3: 'juggling chainsaws' is no"),
        ([good, ("", "aaaaaaaaaab", 0, 10, "test")], r"val\.csv, line 3: label is empty"),
        ([("abseiling", "aaaaaaaaaab", "later", 10, "val")], r"val\.csv, line 2: time_start"),
        ([good, good], "is listed more than once"),
    ):
        write_kinetics_csv(tmp_path / "val.csv", rows)
        with pytest.raises(DataError, match=message):
            Kinetics(tmp_path).split_records("val")
    write_text(tmp_path / "val.csv", "videos/aaaaaaaaaaa.mp4 0\n")
    with pytest.raises(DataError, match=r"val\.csv has no column 'label' or .* first line is 'videos/aaaaaaaaaaa"):
        Kinetics(tmp_path).split_records("val")
    with pytest.raises(ConfigError, match="version is '500'"):
        Kinetics(tmp_path, version="500")


def test_kinetics_600_and_700_take_classes_from_the_csv(tmp_path: Path) -> None:
    names = [f"class {n:03d}" for n in range(700)]
    rows = [(names[n], f"id{n:09d}", 0, 10, "val") for n in np.random.default_rng(0).permutation(700)]
    touch_files(tmp_path, "id000000642.mp4", "id000000007.mp4")
    write_kinetics_csv(tmp_path / "kinetics700_2020/val.csv", rows)
    write_kinetics_csv(tmp_path / "kinetics600/train.csv", rows[:-1])
    data = Kinetics(tmp_path, version="700-2020", max_missing=1.0)
    assert data.class_names == names
    assert dict(sorted(class_by_path(data, "val").items())) == {
        "id000000007.mp4": "class 007",
        "id000000642.mp4": "class 642",
    }
    with pytest.raises(DataError, match=r"train\.csv has 699 classes, and Kinetics-600 has 600"):
        _ = Kinetics(tmp_path, version="600").class_names


def test_kinetics_label_sets_match_the_published_ones() -> None:
    k710 = read_labels("kinetics710")
    # 400 of Kinetics-400 (torchvision) and 710 of Kinetics-710 (UniFormerV2, arXiv:2211.09552)
    assert (len(set(map(plain, K400))), len(set(map(plain, k710)))) == (400, 710)
    # MMAction2, tools/data/kinetics710/label_map_k710.txt: the first 400 are those of Kinetics-400, some renamed
    old = dict(zip(map(plain, K400), k710[:400], strict=True))
    renamed = {plain(a): b for a, b in RENAMED.items() if plain(a) in old}
    assert {a: b for a, b in old.items() if a != plain(b)} == renamed
    assert len(renamed) == 13
    assert [k710[n] for n in (0, 12, 399, 400, 709)] == [
        "abseiling", "inflating balloons", "zumba", "poaching eggs", "bull fighting",
    ]  # fmt: skip


def test_kinetics_710_merges_three_versions_without_repeated_videos(tmp_path: Path) -> None:
    lists = {
        "kinetics400/train.csv": [("drinking", "aaaaaaaaaaa", 0, 10), ("yoga", "bbbbbbbbbbb", 0, 10)],
        "kinetics400/val.csv": [("yoga", "ccccccccccc", 0, 10)],
        "kinetics600/train.csv": [("sipping cup", "aaaaaaaaaaa", 5, 15), ("bull fighting", "ddddddddddd", 0, 10)],
        "kinetics600/validate.csv": [("yoga", "ccccccccccc", 0, 10)],
        "k700_2020/annotations/train.csv": [("zumba", "ccccccccccc", 0, 10), ("coughing", "eeeeeeeeeee", 0, 10)],
        "k700_2020/annotations/val.csv": [("picking apples", "fffffffffff", 0, 10)],
    }
    for name, rows in lists.items():
        write_kinetics_csv(tmp_path / name, [(*row, "") for row in rows])
        touch_files(tmp_path, *(f"videos/{row[1]}_{row[2]:06d}_{row[3]:06d}.mp4" for row in rows))
    write_kinetics_csv(
        tmp_path / "train.csv", [("yoga", "ggggggggggg", 0, 10, "")]
    )  # of an unknown version, so not read
    data = Kinetics(tmp_path, version="710")
    assert class_by_path(data, "train") == {
        "videos/aaaaaaaaaaa_000000_000010.mp4": "sipping cup",
        "videos/bbbbbbbbbbb_000000_000010.mp4": "yoga",
        "videos/ddddddddddd_000000_000010.mp4": "bull fighting",
        "videos/eeeeeeeeeee_000000_000010.mp4": "coughing",
    }
    assert list(class_by_path(data, "val").values()) == ["yoga", "picking apples"]
    assert data.split_records("train").listed == 4
    (
        tmp_path / "videos/aaaaaaaaaaa_000000_000010.mp4"
    ).unlink()  # from Kinetics-400; Kinetics-600 has another segment of the video
    data = Kinetics(tmp_path, version="710")
    assert class_by_path(data, "train")["videos/aaaaaaaaaaa_000005_000015.mp4"] == "sipping cup"
    assert len(data.split_records("train")) == data.split_records("train").listed == 4


# Diving48 ----------------------------------------------------------------------------------------------------------


def test_diving48_joins_vocabulary_and_validates_on_test_videos(tmp_path: Path) -> None:
    # 48 classes: Li et al. 2018, section 5
    vocabulary = [
        [takeoff, f"{n}5som", "NoTwis", "PIKE"] for takeoff in ("Back", "Forward", "Inward") for n in range(16)
    ]
    write_text(tmp_path / "Diving48_vocab.json", json.dumps(vocabulary))

    def dives(split: str, *labels: Any) -> None:
        entries = [
            {"vid_name": f"-dive_{split}_{n:05d}", "label": label, "start_frame": 0, "end_frame": 48}
            for n, label in enumerate(labels)
        ]
        write_text(tmp_path / f"Diving48_V2_{split}.json", json.dumps(entries))

    dives("train", 0, 47)
    dives("test", 17)
    touch_files(tmp_path, "rgb/-dive_train_00000.mp4", "rgb/-dive_train_00001.mp4", "rgb/-dive_test_00000.mp4")
    data = Diving48(tmp_path)
    assert class_by_path(data, "train") == {
        "rgb/-dive_train_00000.mp4": "Back+05som+NoTwis+PIKE",
        "rgb/-dive_train_00001.mp4": "Inward+155som+NoTwis+PIKE",
    }
    for split in ("val", "test"):
        assert class_by_path(data, split) == {"rgb/-dive_test_00000.mp4": "Forward+15som+NoTwis+PIKE"}
    dives("test", 17, 18)
    with pytest.raises(DataError, match=r"1 of the 2 videos listed in .*Diving48_V2_test\.json"):
        data.split_records("test")
    assert Diving48(tmp_path, max_missing=0.5).split_records("test").listed == 2
    for label in (48, -1, "Back", None):
        dives("test", label)
        with pytest.raises(DataError, match=rf"test\.json: video -dive_test_00000 has the label {label!r}"):
            data.split_records("test")
    write_text(tmp_path / "Diving48_vocab.json", json.dumps(vocabulary[:-1]))
    with pytest.raises(DataError, match="lists 47 classes; Diving48 has 48"):
        _ = Diving48(tmp_path).class_names


# shards ------------------------------------------------------------------------------------------------------------


def test_official_annotations_work_with_shards(tmp_path: Path) -> None:
    names = ["val/yoga/aaaaaaaaaaa_000000_000010.mp4", "20bn-something-something-v1/9.mp4"]
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for name in names:
            shard.addfile(tarfile.TarInfo(name))
    Manifest(["0.tar"], names, [0, 0], [512, 1024], [0, 0], ["", ""]).write(tmp_path)
    write_kinetics_csv(tmp_path / "val.csv", [("yoga", "aaaaaaaaaaa", 0, 10, "val")])
    write_text(tmp_path / "something-something-v1-validation.csv", "9;Folding something\n")
    for data, name, label in ((Kinetics, names[0], "yoga"), (SomethingV1, names[1], "Folding something")):
        records = data(tmp_path).split_records("test")
        assert records.ids.tolist() == [name]
        assert records.paths.tolist() == [f"{tmp_path}/0.tar"]
        assert [data(tmp_path).class_names[n] for n in records.labels] == [label]
