"""EPIC-Kitchens-100: segments of long videos by time or frame number, labeled with a verb and a noun."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotation_files import EPIC_OPEN_DOOR, EPIC_TAKE_KNIFE, touch_files, write_epic_files, write_lines
from data_modules import relative_paths, set_up
from numbered_videos import frame_numbers, numbered_frames, numbered_video

from datamodules.epic import EpicKitchens100, seconds
from zoo.errors import DataError
from zoo.video.decoding import open_video


def test_epic_segments_have_a_verb_and_a_noun(tmp_path: Path) -> None:
    write_epic_files(tmp_path / "lists")
    touch_files(tmp_path, "videos/P01/videos/P01_01.MP4", "videos/P02/P02_102.mp4")
    data = EpicKitchens100(tmp_path / "videos", annotations=tmp_path / "lists")
    # 97 verbs and 300 nouns, README of epic-kitchens-100-annotations
    assert data.heads == {"verb": 97, "noun": 300}
    assert data.num_classes == 397
    assert data.class_names[:2] + data.class_names[96:98] == ["verb: verb:0", "verb: verb:1", "verb: verb:96",
                                                               "noun: noun:0"]  # fmt: skip
    assert data.flip_names() == []
    train = data.split_records("train")
    assert relative_paths(data, train) == ["P01/videos/P01_01.MP4"] * 2
    assert train.ids.tolist() == ["P01_01_0", "P01_01_1"]
    assert train.labels.tolist() == [[3, 3], [0, 4]]
    assert train.spans is not None and train.spans.tolist() == [[0.14, 3.37], [0.4, 0.8]]
    for split in ("val", "test", "predict"):
        assert data.split_records(split).ids.tolist() == ["P02_102_0"]
    (tmp_path / "videos/P01/videos/P01_01.MP4").unlink()
    with pytest.raises(DataError, match=r"2 of the 2 videos listed in .*EPIC_100_train\.csv"):
        EpicKitchens100(tmp_path / "videos", tmp_path / "lists").split_records("train")


def test_epic_segments_of_videos_are_exact_in_time(tmp_path: Path) -> None:
    write_epic_files(tmp_path)
    numbered_video(tmp_path / "P01/videos/P01_01.MP4", 30)  # 25 frames a second
    numbered_video(tmp_path / "P02/videos/P02_102.MP4", 30)
    data = EpicKitchens100(tmp_path)
    with open_video(data.split_records("train").source(1)) as reader:  # 0.40 s to 0.80 s
        assert frame_numbers(reader.frames(range(len(reader)))) == list(range(10, 20))
    batch = next(iter(set_up(EpicKitchens100(tmp_path, num_workers=0, batch_size=2), "fit").train_dataloader()))
    assert batch["video"].shape == (2, 4, 3, 32, 32)
    labels = dict(zip(batch["path"], batch["label"].tolist(), strict=True))
    assert labels == {"P01_01_0": [3, 3], "P01_01_1": [0, 4]}


@pytest.mark.parametrize("layout", ["rgb_frames/P02/P02_102", "P02/rgb_frames/P02_102", "P02/P02_102", "P02_102"])
def test_epic_frame_numbers_start_at_one(tmp_path: Path, layout: str) -> None:
    write_epic_files(tmp_path / "annotations")
    numbered_frames(tmp_path / layout, range(20), "frame_{:010d}.jpg")
    data = EpicKitchens100(tmp_path, frames=True)
    with open_video(data.split_records("val").source(0)) as reader:
        assert frame_numbers(reader.frames(range(len(reader)))) == list(range(5, 15))  # files 6 to 15
    (tmp_path / layout / "frame_0000000020.jpg").unlink()
    for number in range(12, 20):
        (tmp_path / layout / f"frame_{number:010d}.jpg").unlink()
    with open_video(EpicKitchens100(tmp_path, frames=True).split_records("val").take([0]).source(0)) as reader:
        assert len(reader) == 6  # files 6 to 11; a video may end before its last segment
    batch = next(iter(set_up(EpicKitchens100(tmp_path, frames=True, num_workers=0), "test").test_dataloader()))
    assert (batch["path"], batch["label"].tolist()) == (["P02_102_0"], [[96, 299]])


def test_epic_errors_name_file_and_line(tmp_path: Path) -> None:
    touch_files(tmp_path, "P01_01.MP4", "P02_102.MP4")
    for row, message in (
        (EPIC_TAKE_KNIFE.replace("00:00:00.80", "0.8"), r"EPIC_100_train\.csv, line 3: '0\.8' is not a time like"),
        (EPIC_TAKE_KNIFE.replace(",take,0,", ",take,97,"), r"line 3: \[97, 4\] is not a pair of a verb class"),
        (EPIC_TAKE_KNIFE.replace(",take,0,", ",take,,"), r"line 3: verb_class is empty"),
        (EPIC_OPEN_DOOR, "P01_01_0 is listed more than once"),
    ):
        write_epic_files(tmp_path, [EPIC_OPEN_DOOR, row])
        with pytest.raises(DataError, match=message):
            EpicKitchens100(tmp_path).split_records("train")
    verbs = tmp_path / "EPIC_100_verb_classes.csv"
    write_lines(verbs, [line for line in verbs.read_text().splitlines() if not line.startswith("5,")])
    with pytest.raises(DataError, match=r"verb_classes\.csv has no class 5 of the 97 verb classes"):
        _ = EpicKitchens100(tmp_path).class_names
    verbs.unlink()
    with pytest.raises(DataError, match=r"no annotation file EPIC_100_verb_classes\.csv"):
        _ = EpicKitchens100(tmp_path).class_names
    assert seconds("01:02:03.45") == pytest.approx(3723.45)


def test_epic_noun_classes_v2_are_limited_to_300(tmp_path: Path) -> None:
    write_epic_files(tmp_path)
    nouns = tmp_path / "EPIC_100_noun_classes.csv"
    write_lines(tmp_path / "EPIC_100_noun_classes_v2.csv", [*nouns.read_text().splitlines(), "300,left hand,[],hand"])
    nouns.unlink()
    names = EpicKitchens100(tmp_path).class_names
    assert (len(names), names[-1]) == (397, "noun: noun:299")
