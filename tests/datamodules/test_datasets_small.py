"""UCF101, HMDB51 and lists of MMAction2: official files, missing videos, and invalid annotations."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from annotation_files import UCF_CLASSES, touch_files, write_lines
from data_modules import relative_paths, set_up
from numbered_videos import frame_numbers, numbered_frames

from datamodules.hmdb51 import CLASSES as HMDB
from datamodules.hmdb51 import HMDB51
from datamodules.mmaction import MMActionList
from datamodules.records import VideoRecords
from datamodules.ucf101 import LISTED, UCF101
from zoo.errors import ConfigError, DataError
from zoo.video.decoding import open_video

# UCF101 ----------------------------------------------------------------------------------------------------------


def ucf_lists(root: Path, counts: tuple[int, int] | None = None, split: int = 1) -> None:
    """Write official files: groups 1 to 7 for testing, 8 to 25 for training; ``counts`` limits the number of lines."""
    train: list[str] = []
    test: list[str] = []
    for clip in range(1, 7):
        for group in range(1, 26):
            for number, name in enumerate(UCF_CLASSES, start=1):
                path = f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
                if group <= 7:
                    test.append(path)
                else:
                    train.append(f"{path} {number}")
    train_count, test_count = counts or (2 * 101 * 18, 2 * 101 * 7)
    write_lines(root / "classInd.txt", [f"{n} {name}\r" for n, name in enumerate(UCF_CLASSES, start=1)])
    write_lines(root / f"trainlist{split:02d}.txt", train[:train_count])
    write_lines(root / f"testlist{split:02d}.txt", test[:test_count])


def test_ucf101_reads_the_official_lists_and_finds_videos_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ucf_lists(tmp_path / "ucfTrainTestlist")
    touch_files(
        tmp_path,
        "UCF-101/Class007/v_Class007_g08_c01.avi",
        "v_Class101_g25_c02.mp4",
        "x/v_Class007_g07_c01.webm",
    )
    touch_files(tmp_path, "UCF-101/Class007/v_Class007_g09_c07.avi")  # in no list
    data = UCF101(tmp_path, max_missing=1.0)
    assert (data.class_names, data.num_classes, data.flip_names()) == (UCF_CLASSES, 101, [])
    with caplog.at_level(logging.WARNING):
        train = data.split_records("train")
    assert relative_paths(data, train) == ["UCF-101/Class007/v_Class007_g08_c01.avi", "v_Class101_g25_c02.mp4"]
    assert [UCF_CLASSES[n] for n in train.labels] == ["Class007", "Class101"]
    assert train.listed == 2 * 101 * 18
    assert "trainlist01.txt lists 3636 videos; the official file has 9537" in caplog.text
    for split in ("val", "test", "predict"):  # there is no validation list
        assert relative_paths(data, data.split_records(split)) == ["x/v_Class007_g07_c01.webm"]
    with pytest.raises(DataError, match=r"3634 of the 3636 videos listed in .*trainlist01\.txt are not below"):
        UCF101(tmp_path).split_records("train")
    assert UCF101(tmp_path / "x", annotations=tmp_path / "ucfTrainTestlist", max_missing=1.0).class_names == UCF_CLASSES


@pytest.mark.parametrize(("split", "counts"), LISTED.items())
def test_ucf101_lists_of_official_length_log_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, split: int, counts: tuple[int, int]
) -> None:
    # lengths of trainlist0N.txt and testlist0N.txt: 13320 videos in all (Soomro et al. 2012)
    assert sum(counts) == 13320
    ucf_lists(tmp_path, counts, split)
    touch_files(tmp_path, "v_Class001_g01_c01.avi", "v_Class001_g08_c01.avi")
    data = UCF101(tmp_path, split=split, max_missing=1.0)
    with caplog.at_level(logging.WARNING):
        assert (data.split_records("train").listed, data.split_records("test").listed) == counts
    assert not caplog.text


def test_ucf101_validation_split_does_not_divide_groups(tmp_path: Path) -> None:
    ucf_lists(tmp_path)
    clips = [f"v_{c}_g{g:02d}_c{k:02d}.avi" for c in UCF_CLASSES[:3] for g in range(8, 26) for k in (1, 2)]
    touch_files(tmp_path, *clips, "v_Class001_g01_c01.avi")

    def groups(split: str, **options: Any) -> list[str]:
        data = UCF101(tmp_path, val_fraction=0.2, max_missing=1.0, **options)
        return [name.split("_")[2] for name in relative_paths(data, data.split_records(split))]

    train, val = Counter(groups("train")), Counter(groups("val"))
    assert len(train) == 14 and len(val) == 4  # of the 18 groups
    assert not set(train) & set(val)
    assert set((train + val).values()) == {6}  # two clips of each group in three classes, none missing
    assert groups("val") == groups("val") != groups("val", split_seed=1)
    assert UCF101(tmp_path, val_fraction=0.2, max_missing=1.0).split_records("val").listed == 4 * 2 * 101
    assert groups("test") == ["g01"]


def test_ucf101_errors_name_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="split is 4; choose from 1, 2, 3"):
        UCF101(tmp_path, split=4)
    with pytest.raises(ConfigError, match=r"val_fraction is 1\.0"):
        UCF101(tmp_path, val_fraction=1.0)
    with pytest.raises(DataError, match=r"no annotation file classInd\.txt"):
        _ = UCF101(tmp_path).class_names
    ucf_lists(tmp_path)
    touch_files(tmp_path, "v_Class001_g08_c01.avi")
    write_lines(tmp_path / "trainlist01.txt", ["Class001/v_Class001_g08_c01.avi 101", "Yodel/v_Yodel_g08_c01.avi 102"])
    with pytest.raises(DataError, match=r"trainlist01\.txt, line 2: 'Yodel' is no class"):
        UCF101(tmp_path).split_records("train")
    write_lines(tmp_path / "trainlist01.txt", ["Class001/first.avi 101"])
    with pytest.raises(DataError, match=r"trainlist01\.txt: first does not name its group"):
        UCF101(tmp_path, val_fraction=0.1).split_records("train")
    write_lines(tmp_path / "classInd.txt", [f"{n} {name}" for n, name in enumerate(UCF_CLASSES[:100], start=1)])
    with pytest.raises(DataError, match=r"classInd\.txt must name 101 classes, numbered from 1, and names 100"):
        _ = UCF101(tmp_path).class_names


# HMDB51 ----------------------------------------------------------------------------------------------------------


def hmdb_lists(root: Path, split: int = 1) -> None:
    """Write official files: 70 training, 30 test and 5 unused videos per class."""
    for name in HMDB:
        uses = [1] * 70 + [2] * 30 + [0] * 5
        write_lines(
            root / f"{name}_test_split{split}.txt", [f"#a b_{name}_{i}.avi {use} " for i, use in enumerate(uses)]
        )


def test_hmdb51_reads_the_official_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # 51 classes, 70 and 30 videos of each: 3570 and 1530 (Kuehne et al., ICCV 2011)
    assert len(HMDB) == len(set(HMDB)) == 51
    assert sorted(HMDB) == list(HMDB)
    hmdb_lists(tmp_path / "testTrainMulti_7030_splits", 2)

    def videos(name: str, *numbers: int) -> list[str]:
        return [f"hmdb51/{name}/#a b_{name}_{number}.avi" for number in numbers]

    for name in ("wave", "chew"):  # two for training, two for testing, one unused
        touch_files(tmp_path, *videos(name, 0, 69, 70, 99, 100))
    touch_files(tmp_path, "flat/#a b_sit_0.mp4")
    data = HMDB51(tmp_path, split=2, max_missing=1.0)
    with caplog.at_level(logging.WARNING):
        train, test = data.split_records("train"), data.split_records("test")
    assert not caplog.text
    assert (train.listed, test.listed) == (3570, 1530)
    assert relative_paths(data, train) == [*videos("chew", 0, 69), "flat/#a b_sit_0.mp4", *videos("wave", 0, 69)]
    assert [HMDB[n] for n in train.labels] == ["chew", "chew", "sit", "wave", "wave"]
    assert relative_paths(data, test) == videos("chew", 70, 99) + videos("wave", 70, 99)
    assert relative_paths(data, data.split_records("val")) == relative_paths(data, test)
    with pytest.raises(DataError, match=r"no annotation file brush_hair_test_split1\.txt"):
        HMDB51(tmp_path).split_records("train")
    with pytest.raises(DataError, match=r"3565 of the 3570 videos listed in HMDB51 split 2 \(.*_test_split2.txt in"):
        HMDB51(tmp_path, split=2).split_records("train")


def test_hmdb51_prefers_the_folder_of_the_class(tmp_path: Path) -> None:
    hmdb_lists(tmp_path)
    for name in ("hit", "hug"):
        write_lines(tmp_path / f"{name}_test_split1.txt", ["same.avi 1", "test.avi 2"])
    touch_files(tmp_path, "hit/same.mp4", "hug/same.mp4", "hug/test.avi")
    data = HMDB51(tmp_path, max_missing=1.0)
    assert relative_paths(data, data.split_records("train")) == ["hit/same.mp4", "hug/same.mp4"]


def test_hmdb51_errors_name_file_and_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="split is 0; choose from 1, 2, 3"):
        HMDB51(tmp_path, split=0)
    hmdb_lists(tmp_path)
    touch_files(tmp_path, "a.avi")
    write_lines(tmp_path / "wave_test_split1.txt", ["a.avi 1"])
    with caplog.at_level(logging.WARNING):
        HMDB51(tmp_path, max_missing=1.0).split_records("train")
    assert "wave_test_split1.txt lists 1 train videos; the official file has 70" in caplog.text
    for line in ("b.avi 3", "b.avi", "1"):
        write_lines(tmp_path / "wave_test_split1.txt", ["a.avi 1", "", line])
        with pytest.raises(DataError, match=rf"wave_test_split1\.txt, line 3: '{line}' is not a video with 0, 1 or 2"):
            HMDB51(tmp_path, max_missing=1.0).split_records("train")


# MMAction2's lists -----------------------------------------------------------------------------------------------


def test_mmaction_lists_of_videos(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    touch_files(root, "some/a b.mp4", "some/c.mp4", "d 7.avi", "e.mp4", "f.mp4")
    train = write_lines(tmp_path / "train.txt", ["some/a b.mp4 0", "some/c.webm 2", "d 7.avi  1", "", "gone.mp4 1"])
    val = write_lines(tmp_path / "val.txt", ["e.mp4 2", "f.mp4 0"])
    data = MMActionList(train, val, root=root, max_missing=0.25)
    assert data.class_names == ["0", "1", "2"]
    records = data.split_records("train")
    assert relative_paths(data, records) == ["some/a b.mp4", "some/c.mp4", "d 7.avi"]
    assert records.labels.tolist() == [0, 2, 1]
    assert (records.listed, records.spans) == (4, None)
    for split in ("val", "test", "predict"):
        assert data.split_records(split).labels.tolist() == [2, 0]
    names = write_lines(tmp_path / "map.txt", ["run", "walk", "sit down", "unseen"])
    assert MMActionList(train, val, root=root, classes=names).class_names == ["run", "walk", "sit down", "unseen"]
    with pytest.raises(DataError, match=r"1 of the 4 videos listed in .*train\.txt .* such as gone\.mp4"):
        MMActionList(train, val, root=root).split_records("train")


def test_mmaction_lists_of_frames(tmp_path: Path) -> None:
    numbered_frames(tmp_path / "some/dir 1", range(8))
    numbered_frames(tmp_path / "b", range(4))
    (tmp_path / "b/flow_x_00001.jpg").write_bytes(b"no frame")
    test = write_lines(tmp_path / "test.txt", ["some/dir 1 6 1", "b 4 0"])
    data = MMActionList(test=test, kind="frames", frame_rate=12.0)
    records = data.split_records("test")
    assert (records.labels.tolist(), records.spans is not None and records.spans.tolist()) == ([1, 0], [[0, 6], [0, 4]])
    with open_video(records.source(0), frame_rate=data.frame_rate) as reader:
        assert (len(reader), reader.fps, frame_numbers(reader.frames(range(6)))) == (6, 12.0, list(range(6)))
    batch = next(iter(set_up(data, "test").test_dataloader()))
    assert batch["label"][0] == 1
    write_lines(test, ["b 5 1"])  # the folder has four frames
    source = MMActionList(test=test, kind="frames").split_records("test").source(0)
    with pytest.raises(DataError, match=r"b has 4 frames; frames 0 to 5 are not among them"):
        open_video(source)


def test_mmaction_errors_name_file_and_line(tmp_path: Path) -> None:
    touch_files(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "c").mkdir()

    def read(*lines: str, **options: Any) -> VideoRecords:
        return MMActionList(test=write_lines(tmp_path / "l.txt", lines), **options).split_records("test")

    assert len(read("a.mp4 0", "b.mp4 1")) == 2
    for line in ("a.mp4", "a.mp4,1", "a.mp4 run", "1"):
        with pytest.raises(DataError, match=rf"l\.txt, line 2: '{line}' is not 'path label'"):
            read("b.mp4 1", line)
    for line in ("a.mp4 1 3", "gone.mp4 1 3 5"):
        with pytest.raises(DataError, match=r"l\.txt gives .*mp4 more numbers than 'path label' has; several labels"):
            read("b.mp4 1", line)
    with pytest.raises(DataError, match="gives c more numbers than 'folder total_frames label' has"):
        read("c 10 163 1", kind="frames")
    with pytest.raises(DataError, match=r"line 1: 'c 1' is not 'folder total_frames label'"):
        read("c 1", kind="frames")
    with pytest.raises(DataError, match=r"l\.txt gives b\.mp4 the label 174; there are 174 classes, from 0"):
        read("a.mp4 173", "b.mp4 174", classes="ssv2")
    with pytest.raises(DataError, match=r"l\.txt has 1 class; at least 2"):
        read("a.mp4 0")
    with pytest.raises(DataError, match=r"l\.txt lists no videos"):
        read("")
    with pytest.raises(DataError, match=r"Annotation file .*none\.txt does not exist"):
        MMActionList(tmp_path / "none.txt").split_records("train")
    with pytest.raises(DataError, match="MMActionList needs a list of videos: give at least train="):
        MMActionList()
    with pytest.raises(ConfigError, match="kind is 'jpg'; choose from video, frames"):
        MMActionList(tmp_path / "l.txt", kind="jpg")
    with pytest.raises(ConfigError, match="frame_rate is 0"):
        MMActionList(tmp_path / "l.txt", frame_rate=0)
