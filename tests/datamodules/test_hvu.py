"""HVU: tags of a category, from the official CSV files or MMAction2's JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from annotation_files import touch_files, write_csv, write_text
from data_modules import relative_paths, set_up
from numbered_videos import numbered_video

from datamodules import HVU
from zoo.errors import ConfigError, DataError

TAGS = [("yoga", "action"), ("beach", "scene"), ("zumba", "action"), ("arena", "scene"), ("blue", "attribute")]
HEADER = ("Tags", "youtube_id", "time_start", "time_end")
ROWS = [
    ("beach|yoga|zumba", "-aaaaaaaaa_", "57.0", "67.0"),
    ("blue|arena", "bbbbbbbbbbb", "0.3", "10.3"),
    ("beach|arena", "bbbbbbbbbbb", "20", "30"),  # another clip of the same video
]


def write_lists(root: Path, *rows: tuple[str, ...], names: tuple[str, str] = ("hvu_categories", "hvu_val")) -> None:
    write_csv(root / f"{names[0]}.csv", [("Tag", "Category"), *TAGS])
    write_csv(root / f"{names[1]}.csv", [HEADER, *(rows or ROWS)])


@pytest.mark.parametrize(
    "names", [("hvu_categories", "hvu_val"), ("HVU_Tags_Categories_V1.0", "HVU_Val_V1.0")], ids=["mmaction2", "authors"]
)
def test_labels_are_the_tags_of_the_category(tmp_path: Path, names: tuple[str, str]) -> None:
    write_lists(tmp_path / "annotations", names=names)
    numbered_video(tmp_path / "videos_val/-aaaaaaaaa__000570_000670.mp4", 12)  # tenths of a second
    numbered_video(tmp_path / "videos_val/bbbbbbbbbbb_000003_000103.mp4", 13)
    numbered_video(tmp_path / "videos_val/bbbbbbbbbbb_000020_000030.mp4", 14)  # seconds
    data = HVU(tmp_path, category="scene", num_workers=0)
    assert data.class_names == ["arena", "beach"]
    assert data.multi_label
    batch = next(iter(set_up(data, "test").test_dataloader()))
    labels = {Path(path).stem: label.tolist() for path, label in zip(batch["path"], batch["label"], strict=True)}
    assert labels == {
        "-aaaaaaaaa__000570_000670": [0, 1],
        "bbbbbbbbbbb_000003_000103": [1, 0],
        "bbbbbbbbbbb_000020_000030": [1, 1],
    }
    actions = HVU(tmp_path).split_records("val")  # the others have no action
    assert (actions.labels.tolist(), actions.listed) == ([[1, 1]], 1)
    with pytest.raises(DataError, match=r"no annotation file HVU_Train_V1\.0\.csv or hvu_train\.csv or hvu_scene_trai"):
        data.split_records("train")


def test_lists_of_mmaction2_are_read_without_the_csv_files(tmp_path: Path) -> None:
    touch_files(tmp_path, "videos_train/a_000000_000100.mp4", "videos_train/b_000000_000100.mp4")
    tags = {category: sorted(tag for tag, other in TAGS if other == category) for category in ("action", "scene")}
    write_text(tmp_path / "hvu_tags.json", json.dumps(tags))
    entries = [
        {"filename": "a_000000_000100.mp4", "label": {"action": [1], "scene": [0, 1]}},
        {"filename": "b_000000_000100.mp4", "label": {"action": [0]}},
    ]
    write_text(tmp_path / "hvu_train_video.json", json.dumps(entries))
    data = HVU(tmp_path, category="scene")
    assert data.class_names == ["arena", "beach"]
    records = data.split_records("train")
    assert relative_paths(data, records) == ["videos_train/a_000000_000100.mp4"]
    assert records.labels.tolist() == [[1, 1]]
    of_action = [{"filename": "b_000000_000100.mp4", "label": [1]}]
    write_text(tmp_path / "hvu_action_train_video.json", json.dumps(of_action))
    records = HVU(tmp_path).split_records("train")  # the list of the category is preferred
    assert (relative_paths(data, records), records.labels.tolist()) == (["videos_train/b_000000_000100.mp4"], [[0, 1]])


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    touch_files(tmp_path, "-aaaaaaaaa__000570_000670.mp4")
    for row, message in (
        (("beach|surf", "bbbbbbbbbbb", "0", "10"), r"hvu_val\.csv, line 3: hvu_categories\.csv does not have the tag"),
        (("beach", "bbbbbbbbbbb", "10", "0"), "line 3: time_start and time_end are not seconds"),
        (("beach", "bbbbbbbbbbb", "soon", "10"), "line 3: time_start and time_end are not seconds"),
        (("beach", "", "0", "10"), "line 3: youtube_id is empty"),
        (("beach", "bbbbbbbbbbb", "0", "10"), r"1 of the 2 videos listed in .*hvu_val\.csv are not below"),
    ):
        write_lists(tmp_path, ROWS[0], row)
        with pytest.raises(DataError, match=message):
            HVU(tmp_path, category="scene").split_records("test")
    with pytest.raises(ConfigError, match="category is 'objects'; choose from action, attribute"):
        HVU(tmp_path, category="objects")
    with pytest.raises(DataError, match=r"hvu_categories\.csv has 0 tags of the category 'event'"):
        _ = HVU(tmp_path, category="event").class_names


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"frame_dir": "a", "total_frames": 9, "label": [0]}, "entry 0 has no 'filename'. Use a list of videos"),
        ({"filename": "a.mp4", "label": [2]}, r"entry 0: \[2\] is not a list of tag numbers from 0 to 1"),
        ({"filename": "a.mp4", "label": {"scene": "beach"}}, "entry 0: 'beach' is not a list of tag numbers"),
        ({"filename": "a.mp4", "label": {"action": [0]}}, "has no videos with tags of the category 'scene'"),
        ("a.mp4", "entry 0 has no 'filename'"),
    ],
)
def test_invalid_list_of_mmaction2_is_an_error(tmp_path: Path, entry: Any, message: str) -> None:
    write_csv(tmp_path / "hvu_categories.csv", [("Tag", "Category"), *TAGS])
    write_text(tmp_path / "hvu_val_video.json", json.dumps([entry]))
    with pytest.raises(DataError, match=message):
        HVU(tmp_path, category="scene").split_records("val")
    write_text(tmp_path / "hvu_tags.json", json.dumps({"scene": "beach"}))
    (tmp_path / "hvu_categories.csv").unlink()
    with pytest.raises(DataError, match=r"hvu_tags\.json: 'scene' is 'beach'; it must be a list of tags"):
        _ = HVU(tmp_path, category="scene").class_names
