"""ActivityNet for classification: entire videos and segments, from the official file or MMAction2's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from annotation_files import touch_files, write_text
from data_modules import class_by_path, relative_paths, set_up
from numbered_videos import frame_numbers, numbered_video

from datamodules import ActivityNet
from zoo.errors import DataError
from zoo.video.decoding import open_video


def segment(start: float, end: float, label: str) -> dict[str, Any]:
    return {"segment": [start, end], "label": label}


def write_official_file(root: Path, **videos: dict[str, Any]) -> None:
    write_text(root / "activity_net.v1-3.min.json", json.dumps({"database": videos, "version": "VERSION 1.3"}))


TRAIN = {"subset": "training", "duration": 9.0, "annotations": [segment(1, 2, "Archery")], "resolution": "320x240"}
VAL = {
    "subset": "validation",
    "duration": 1.2,
    "annotations": [
        segment(0.4, 0.8, "Zumba"),
        segment(0.8, 1.3, "Tango"),  # rounded by the annotator
        segment(0.4, 0.8, "Zumba"),  # a duplicate
        segment(5, 9, "Zumba"),  # beyond the end
    ],
}
TEST = {"subset": "testing", "duration": 9.0, "annotations": []}


def test_entire_videos_have_the_label_of_their_first_segment(tmp_path: Path) -> None:
    write_official_file(tmp_path / "annotations", aaaaaaaaaaa=TRAIN, bbbbbbbbbbb=VAL, ccccccccccc=TEST)
    touch_files(tmp_path, "videos/v_aaaaaaaaaaa.mp4", "videos/v_bbbbbbbbbbb.mkv", "videos/v_ccccccccccc.mp4")
    data = ActivityNet(tmp_path)
    assert (len(data.class_names), data.class_names[0], data.class_names[99]) == (200, "Applying sunscreen", "Welding")
    assert class_by_path(data, "train") == {"videos/v_aaaaaaaaaaa.mp4": "Archery"}
    for split in ("val", "test", "predict"):
        assert class_by_path(data, split) == {"videos/v_bbbbbbbbbbb.mkv": "Zumba"}


def test_segments_are_cut_out_of_their_videos(tmp_path: Path) -> None:
    write_official_file(tmp_path, bbbbbbbbbbb=VAL)
    numbered_video(tmp_path / "bbbbbbbbbbb.mp4", 30)  # 25 frames a second
    data = ActivityNet(tmp_path, segments=True, num_workers=0)
    records = data.split_records("val")
    assert records.ids.tolist() == ["bbbbbbbbbbb_0", "bbbbbbbbbbb_1"]
    assert [data.class_names[label] for label in records.labels] == ["Zumba", "Tango"]
    for number, frames in enumerate((range(10, 20), range(20, 30))):
        with open_video(records.source(number)) as reader:
            assert frame_numbers(reader.frames(range(len(reader)))) == list(frames)
    batch = next(iter(set_up(data, "test").test_dataloader()))
    assert batch["video"].shape[2:] == (4, 3, 32, 32)


def test_files_of_mmaction2_have_a_file_for_each_split(tmp_path: Path) -> None:
    videos = {
        "v_aaaaaaaaaaa": {"duration_second": 9.0, "duration_frame": 270, "annotations": TRAIN["annotations"]},
        "v_ddddddddddd": {"duration_second": 9.0, "annotations": [segment(0, 99, "Sumo")]},
    }
    write_text(tmp_path / "anet_anno_train.json", json.dumps(videos))
    touch_files(tmp_path, "videos/v_aaaaaaaaaaa.mp4", "videos/v_ddddddddddd.mp4")
    labels = {"videos/v_aaaaaaaaaaa.mp4": "Archery", "videos/v_ddddddddddd.mp4": "Sumo"}
    assert class_by_path(ActivityNet(tmp_path), "train") == labels
    records = ActivityNet(tmp_path, segments=True).split_records("train")
    assert records.spans is not None
    assert (records.ids.tolist(), records.spans.tolist()) == (["v_aaaaaaaaaaa_0"], [[1.0, 2.0]])
    with pytest.raises(DataError, match=r"no annotation file activity_net\.v1-3\.min\.json or anet_anno_val\.json"):
        ActivityNet(tmp_path).split_records("test")


def test_missing_videos_are_counted(tmp_path: Path) -> None:
    write_official_file(tmp_path, aaaaaaaaaaa=TRAIN, ddddddddddd=TRAIN)
    touch_files(tmp_path, "v_ddddddddddd.mp4")
    with pytest.raises(DataError, match=r"1 of the 2 videos listed in .*activity_net\.v1-3\.min\.json are not below"):
        ActivityNet(tmp_path).split_records("train")
    data = ActivityNet(tmp_path, max_missing=0.5)
    records = data.split_records("train")
    assert (relative_paths(data, records), records.listed) == (["v_ddddddddddd.mp4"], 2)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (VAL | {"annotations": [segment(0, 1, "Surf")]}, r"video 'bbbbbbbbbbb', segment 0: Unknown label 'Surf'"),
        (VAL | {"annotations": [{"label": "Zumba"}]}, r"segment 0: expected 'segment': \[start, end\]"),
        (VAL | {"subset": "holdout"}, "video 'bbbbbbbbbbb': the split is 'holdout'"),
        (VAL | {"annotations": []}, "has no labeled validation videos"),
        ([], r"video 'bbbbbbbbbbb': expected an object with 'subset' and 'annotations'"),
    ],
)
def test_errors_name_file_and_video(tmp_path: Path, video: Any, message: str) -> None:
    touch_files(tmp_path, "bbbbbbbbbbb.mp4")
    write_official_file(tmp_path, bbbbbbbbbbb=video)
    for segments in (False, True):
        with pytest.raises(DataError, match=rf"activity_net\.v1-3\.min\.json.*{message}"):
            ActivityNet(tmp_path, segments=segments).split_records("val")


def test_file_without_database_is_an_error(tmp_path: Path) -> None:
    write_text(tmp_path / "activity_net.v1-3.min.json", "{}")
    with pytest.raises(DataError, match=r"activity_net\.v1-3\.min\.json has no object 'database'"):
        ActivityNet(tmp_path).split_records("val")
    write_text(tmp_path / "activity_net.v1-3.min.json", "[]")
    with pytest.raises(DataError, match="must contain a dict; it contains a list"):
        ActivityNet(tmp_path).split_records("val")
