"""Mini-Kinetics: the lists of its authors with the files of Kinetics-400, and those of OmniSource."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotation_files import touch_files, write_csv, write_lines, write_text
from data_modules import class_by_path, set_up
from numbered_videos import numbered_video

from datamodules import MiniKinetics
from zoo.errors import DataError
from zoo.index import read_labels

K400 = read_labels("kinetics400")
MINI = K400[1::2]  # 200 classes
HEADER = ("label", "youtube_id", "time_start", "time_end", "split")


def write_official_lists(root: Path, split: str = "val", classes: tuple[str, ...] = K400) -> None:
    """Write the Kinetics-400 file of a split, with a video for each class, and list those of ``MINI``."""
    ids = {name: f"{split}{number:08d}" for number, name in enumerate(classes)}
    rows = [(name, ids[name], number, number + 10, split) for number, name in enumerate(classes)]
    write_csv(root / "annotations" / f"{split}.csv", [HEADER, *rows])
    write_lines(root / f"{split}_ytid_list.txt", [ids[name] for name in reversed(classes) if name in MINI])


def write_omnisource_lists(root: Path, *rows: str) -> None:
    """Write the lists of OmniSource, whose classes are in reverse order."""
    folder = root / "annotations" / "kinetics_200"
    write_lines(root / "annotations" / "k200_actions.txt", reversed(MINI))
    write_lines(folder / "k200_val.txt", rows or ["aaaaaaaaaaa.mp4 0", "-bbbbbbbbb_.mp4 199"])
    write_lines(folder / "k200_train.txt", ["ccccccccccc.mp4 7"])


def test_listed_ids_select_videos_of_kinetics_400(tmp_path: Path) -> None:
    write_official_lists(tmp_path)
    write_official_lists(tmp_path, "train")
    touch_files(
        tmp_path,
        f"val/{K400[1]}/val00000001_000001_000011.mp4",
        f"val/{K400[2]}/val00000002_000002_000012.mp4",  # not listed
        "train/train00000399.mp4",
    )
    data = MiniKinetics(tmp_path, max_missing=1.0)
    assert data.class_names == list(MINI)
    assert class_by_path(data, "train") == {"train/train00000399.mp4": K400[399]}
    for split in ("val", "test", "predict"):
        assert class_by_path(data, split) == {f"val/{K400[1]}/val00000001_000001_000011.mp4": K400[1]}
    assert data.split_records("test").listed == 200
    with pytest.raises(DataError, match=r"199 of the 200 videos listed in .*/val_ytid_list\.txt are not below"):
        MiniKinetics(tmp_path).split_records("test")


def test_listed_ids_that_kinetics_400_lacks_are_missing(tmp_path: Path) -> None:
    write_official_lists(tmp_path)
    touch_files(tmp_path, "val00000001.mp4", "removed0000.mp4")
    with (tmp_path / "val_ytid_list.txt").open("a") as file:
        file.write("\nremoved0000\n")
    records = MiniKinetics(tmp_path, max_missing=1.0).split_records("val")
    assert (len(records), records.listed) == (1, 201)


def test_omnisource_lists_define_labels_and_class_order(tmp_path: Path) -> None:
    write_omnisource_lists(tmp_path)
    numbered_video(tmp_path / "kinetics_200_val" / "aaaaaaaaaaa.mp4", 12)
    numbered_video(tmp_path / "kinetics_200_val" / "-bbbbbbbbb_.mkv", 13)
    touch_files(tmp_path, "kinetics_200_train/ccccccccccc.mp4")
    data = MiniKinetics(tmp_path, num_workers=0)
    assert data.class_names == list(reversed(MINI))
    assert class_by_path(data, "train") == {"kinetics_200_train/ccccccccccc.mp4": MINI[192]}
    batch = next(iter(set_up(data, "test").test_dataloader()))
    assert {Path(path).stem: int(label) for path, label in zip(batch["path"], batch["label"], strict=True)} == {
        "aaaaaaaaaaa": 0,
        "-bbbbbbbbb_": 199,
    }


@pytest.mark.parametrize("line", ["aaaaaaaaaaa.mp4", "aaaaaaaaaaa.mp4 200", "aaaaaaaaaaa.mp4 yoga"])
def test_invalid_line_of_omnisource_is_an_error(tmp_path: Path, line: str) -> None:
    write_omnisource_lists(tmp_path, "-bbbbbbbbb_.mp4 3", line)
    with pytest.raises(DataError, match=rf"k200_val\.txt, line 2: '{line}' is not the name of a video and a label"):
        MiniKinetics(tmp_path, max_missing=1.0).split_records("val")


def test_missing_and_incomplete_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotation file val_ytid_list\.txt or k200_val\.txt in "):
        MiniKinetics(tmp_path).split_records("test")
    write_omnisource_lists(tmp_path)
    write_lines(tmp_path / "annotations" / "k200_actions.txt", MINI[1:])
    with pytest.raises(DataError, match=r"k200_actions\.txt has 199 classes; Mini-Kinetics has 200"):
        _ = MiniKinetics(tmp_path).class_names
    write_official_lists(tmp_path, classes=K400[:-2])  # preferred to the lists of OmniSource
    with pytest.raises(DataError, match=r"val_ytid_list\.txt has 199 classes; Mini-Kinetics has 200"):
        _ = MiniKinetics(tmp_path).class_names
    write_text(tmp_path / "val_ytid_list.txt", "\n")
    with pytest.raises(DataError, match=r"val_ytid_list\.txt lists no videos"):
        MiniKinetics(tmp_path).split_records("test")


def test_training_video_of_another_class_is_an_error(tmp_path: Path) -> None:
    write_official_lists(tmp_path)
    write_official_lists(tmp_path, "train")
    with (tmp_path / "train_ytid_list.txt").open("a") as file:
        file.write("train00000000\n")
    with pytest.raises(DataError, match=rf"train\.csv, line 2: '{K400[0]}' is not among the 200 classes of Mini-Kin"):
        MiniKinetics(tmp_path, max_missing=1.0).split_records("train")
