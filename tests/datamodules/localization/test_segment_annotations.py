"""Labeled segments of untrimmed videos: the published formats, lists of users, and errors in them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from annotation_files import EPIC_CUT_IT, EPIC_OPEN_DOOR, EPIC_TAKE_KNIFE, write_epic_files, write_lines, write_text

from datamodules.localization.annotations import (
    UntrimmedVideo,
    class_names,
    read_activitynet,
    read_epic,
    read_segment_list,
    set_durations,
)
from zoo.errors import ConfigError, DataError
from zoo.localization.actions import action_name, split_action


def entry(*segments: tuple[Any, Any, Any], subset: str = "training", **values: Any) -> dict[str, Any]:
    annotations = [{"segment": [start, end], "label": label} for start, end, label in segments]
    return {"subset": subset, "duration": 30.0, "annotations": annotations, "url": "x", **values}


def write_activitynet(root: Path, **database: Any) -> Path:
    return write_text(root / "anet.json", json.dumps({"version": "VERSION 1.3", "taxonomy": [], "database": database}))


def test_activitynet_format(tmp_path: Path) -> None:
    file = write_activitynet(
        tmp_path,
        a=entry((9.5, 20, "Shaving"), (1, 2.25, "Archery")),
        b=entry(subset="validation", duration=12),
        c={"subset": "testing", "duration": 5.5},
        d=entry((0, 30.9, "Archery"), subset="Test"),  # within the tolerance
    )
    videos = read_activitynet(file)
    assert videos == [
        UntrimmedVideo("a", None, 30.0, ((9.5, 20.0, "Shaving"), (1.0, 2.25, "Archery")), "train"),
        UntrimmedVideo("b", None, 12.0, (), "val"),
        UntrimmedVideo("c", None, 5.5, (), "test"),
        UntrimmedVideo("d", None, 30.0, ((0.0, 30.9, "Archery"),), "test"),
    ]
    assert class_names(videos) == ["Archery", "Shaving"]


def test_segments_of_one_interval_may_have_several_labels(tmp_path: Path) -> None:
    file = write_activitynet(tmp_path, a=entry((1, 2, "CliffDiving"), (1, 2, "Diving")))
    assert len(read_activitynet(file)[0].segments) == 2


@pytest.mark.parametrize(
    ("segment", "message", "reason"),
    [
        ((5, 3, "x"), "the segment from 5 to 3 s .'x'. does not end after its start", "not above the start"),
        ((3, 3, "x"), "does not end after its start", "not above the start"),
        ((-1, 3, "x"), "has a negative bound", "negative"),
        ((float("nan"), 3, "x"), "has a bound that is not a finite number", "not a number"),
        ((1, float("inf"), "x"), "has a bound that is not a finite number", "not a number"),
        ((1, 31.5, "x"), "exceeds its video, which lasts 30 s, by more than 1 s", "beyond the end"),
        ((10**200, 10**201, "x"), "exceeds its video", "beyond the end"),
        ((1, 2.0001, "y"), "is a duplicate of an earlier segment", "duplicate"),
    ],
)
def test_faulty_segments_are_errors_or_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, segment: tuple[Any, Any, Any], message: str, reason: str
) -> None:
    file = write_activitynet(tmp_path, v=entry((1, 2, "y"), segment))
    with pytest.raises(DataError, match=rf"anet\.json, video 'v', segment 1: .*{message}.*faulty='drop'"):
        read_activitynet(file)
    dropped: Counter[str] = Counter()
    with caplog.at_level(logging.WARNING, "datamodules"):
        (video,) = read_activitynet(file, faulty="drop", dropped=dropped)
    assert video.segments == ((1.0, 2.0, "y"),)
    assert dropped == {reason: 1}
    assert f"1 segments left out: 1 {reason}" in caplog.text


def test_ambiguous_segments_of_thumos_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_activitynet(tmp_path, v=entry((1, 2, "Ambiguous"), (3, 4, "Diving"), (5, 6, "Ambiguous")))
    dropped: Counter[str] = Counter()
    with caplog.at_level(logging.WARNING, "datamodules"):
        assert read_activitynet(file, dropped=dropped)[0].segments == ((3.0, 4.0, "Diving"),)
    assert dropped == {"labeled Ambiguous": 2} and "2 segments left out: 2 labeled Ambiguous" in caplog.text
    assert len(read_activitynet(file, excluded_labels=())[0].segments) == 3


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (3, "video 'v': expected an object"),
        (entry(subset="other"), "video 'v': the split is 'other'; it must be one of train, training, val, validation"),
        (entry(duration=0), "duration is 0; it must be a number of seconds above 0"),
        (entry(duration="9"), "duration is '9'"),
        ({"subset": "training"}, "'annotations' is None; it must be a list"),
        (entry(("1", 2, "x")), "segment 0: expected 'segment': "),
        (entry((True, 2, "x")), "segment 0: expected 'segment': "),
        (entry((1, 2, "")), "segment 0: expected 'label' with a class name, got ''"),
        (entry((1, 2, "Shavng")), "segment 0: Unknown label 'Shavng'. Did you mean 'Shaving'"),
    ],
)
def test_invalid_videos_are_reported(tmp_path: Path, video: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"anet\.json, .*{message}"):
        read_activitynet(write_activitynet(tmp_path, v=video), classes=["Shaving", "Archery"], faulty="drop")


def test_invalid_files_are_reported(tmp_path: Path) -> None:
    file = write_text(tmp_path / "anet.json", '{"database": {"v": {"subset": "test"}, "v": {"subset": "test"}}}')
    with pytest.raises(DataError, match=r"anet\.json .*the key 'v' is repeated"):
        read_activitynet(file)
    with pytest.raises(DataError, match="has no object 'database'"):
        read_activitynet(write_text(file, "{}"))
    with pytest.raises(ConfigError, match="faulty is 'ignore'; choose from raise, drop"):
        read_activitynet(write_activitynet(tmp_path), faulty="ignore")  # type: ignore[arg-type]


def test_epic_has_verbs_nouns_and_actions(tmp_path: Path) -> None:
    write_epic_files(tmp_path)
    write_lines(tmp_path / "EPIC_100_video_info.csv", ["video_id,duration,fps,resolution", "P01_01,1652.15,59.9,1x1"])
    (video,) = read_epic(tmp_path, "train", "verb")
    assert video == UntrimmedVideo("P01_01", None, 1652.15, ((0.14, 3.37, "verb:3"), (0.4, 0.8, "verb:0")), "train")
    assert class_names(read_epic(tmp_path, "train", "noun")) == ["noun:3", "noun:4"]
    (video,) = read_epic(tmp_path, "val", "action")
    assert video == UntrimmedVideo("P02_102", None, None, ((0.2, 0.6, "verb:96 noun:299"),), "val")
    assert split_action(action_name("turn-on", "tap")) == ("turn-on", "tap")
    with pytest.raises(DataError, match="'tap' is not an action"):
        split_action("tap")


def test_epic_errors_name_file_and_line(tmp_path: Path) -> None:
    for row, message in (
        (EPIC_TAKE_KNIFE.replace("00:00:00.80", "0.8"), "line 3: '0.8' is not a time like"),
        (EPIC_TAKE_KNIFE.replace("00:00:00.80", "00:00:00.30"), "line 3: the segment from 0.4 to 0.3 s"),
        (EPIC_TAKE_KNIFE.replace(",take,0,", ",take,97,"), "line 3: verb_class is '97'; it must be a whole number"),
        (EPIC_OPEN_DOOR.replace("P01_01_0,", "P01_01_9,"), "line 3: .*is a duplicate of an earlier segment"),
    ):
        write_epic_files(tmp_path, [EPIC_OPEN_DOOR, row], [EPIC_CUT_IT])
        with pytest.raises(DataError, match=rf"EPIC_100_train\.csv, {message}"):
            read_epic(tmp_path, "train", "action")
    with pytest.raises(ConfigError, match="split is 'test'; choose from train, val"):
        read_epic(tmp_path, "test", "action")
    with pytest.raises(ConfigError, match="target is 'verbs'; choose from verb, noun, action"):
        read_epic(tmp_path, "val", "verbs")  # type: ignore[arg-type]


def test_segment_list_of_a_user(tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "list.csv",
        ["path,start,end,label,split", "a.mp4,1,2.5,cut,train", "b.mp4,,,,val", "a.mp4,4,6,pour,train"],
    )
    a, b = read_segment_list(file)
    assert a == UntrimmedVideo("a.mp4", "a.mp4", None, ((1.0, 2.5, "cut"), (4.0, 6.0, "pour")), "train")
    assert b == UntrimmedVideo("b.mp4", "b.mp4", None, (), "val")
    file = write_lines(tmp_path / "list.csv", ["label,path,end,start", "cut,a.mp4,2.5,1"])
    assert read_segment_list(file, split="val") == [UntrimmedVideo("a.mp4", "a.mp4", None, ((1.0, 2.5, "cut"),), "val")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,1,2,cut,train", "a,3,4,cut,val"], "line 3: 'a' is in train in an earlier line; a video has one split"),
        (["a,1,2,cut,train", "a,,,,train"], "line 3: 'a' has a row without a segment and another row"),
        (["a,,,,train", "a,1,2,cut,train"], "line 3: 'a' has a row without a segment and another row"),
        (["a,,,,train", "a,,,,train"], "line 3: 'a' has a row without a segment and another row"),
        (["a,1,,cut,train"], "line 2: start, end and label must all have a value, or all be empty"),
        (["a,1,2s,cut,train"], "line 2: start '1' and end '2s' must be numbers of seconds, such as 12.5"),
        (["a,1,2,cut,dev"], "line 2: the split is 'dev'"),
        (["a,1,2,cut,train", "a,1,2,cut,train"], "line 3: the segment from 1 to 2 s .'cut'. is a duplicate"),
        (["a,nan,2,cut,train"], "line 2: .*has a bound that is not a finite number"),
        (["a,1,2,cu,train"], "line 2: Unknown label 'cu'. Did you mean 'cut'"),
        (["a,1,2e10,cut,train"], "line 2: .*has a bound that is too large"),
        ([], "lists no videos"),
    ],
)
def test_errors_in_segment_lists_name_the_line(tmp_path: Path, rows: list[str], message: str) -> None:
    file = write_lines(tmp_path / "list.csv", ["path,start,end,label,split", *rows])
    with pytest.raises(DataError, match=rf"list\.csv,? .*{message}|list\.csv {message}"):
        read_segment_list(file, classes=["cut", "pour"])


def test_measured_durations_are_checked(tmp_path: Path) -> None:
    videos = [
        UntrimmedVideo("a", "a.mp4", None, ((1.0, 2.5, "cut"), (4.0, 6.0, "pour")), "train"),
        UntrimmedVideo("b", "b.mp4", 7.0, (), "val"),
    ]
    with pytest.raises(DataError, match="list.csv, video 'a', segment 1: .*exceeds its video, which lasts 4.5 s"):
        set_durations(videos, {"a": 4.5}, "list.csv")
    dropped: Counter[str] = Counter()
    a, b = set_durations(videos, {"a": 4.5}, "list.csv", faulty="drop", dropped=dropped)
    assert (a.duration, a.segments, b.duration) == (4.5, ((1.0, 2.5, "cut"),), 7.0)
    assert dropped == {"beyond the end": 1}
