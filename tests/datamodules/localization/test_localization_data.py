"""Annotations and features of untrimmed videos: batches, and errors that name the video and the segment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotation_files import EPIC_CUT_IT, EPIC_OPEN_DOOR, EPIC_TAKE_KNIFE, write_epic_files

from datamodules import LocalizationData
from datamodules.untrimmed_motion import render_untrimmed
from zoo.errors import ConfigError, DataError
from zoo.inference.feature_files import FeatureFolder, VideoFeatures

HEADER = "path,start,end,label,split"


def write_features(folder: Path, videos: dict[str, int], **manifest: object) -> Path:
    """Write features with windows of 1 s every 0.25 s; ``videos`` has the number of windows of each."""
    features = FeatureFolder(folder)
    source = {"network": "net", "weights": "0" * 64, "window": 1.0, "stride": 0.25, "stage": None, "views": "1x1"}
    features.start(source | manifest)
    for name, count in videos.items():
        start = torch.arange(count) * 0.25
        features.write(VideoFeatures(name, torch.randn(count, 3), start, start + 1))
    return folder


def write_data(folder: Path, *rows: str, **options: Any) -> LocalizationData:
    """Write a CSV file, and features of a.mp4 (3 s) and b.mp4 (2 s)."""
    (folder / "rows.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    features = write_features(folder / "features", {str(folder / "a.mp4"): 9, str(folder / "b.mp4"): 5})
    return LocalizationData(folder / "rows.csv", features, batch_size=2, **options)


def test_batches_are_padded_and_segments_are_in_cells(tmp_path: Path) -> None:
    data = write_data(tmp_path, "a.mp4,0.5,1.5,run,val", "b.mp4,1,2,jump,val", "b.mp4,0.25,1,run,val")
    data.setup("validate")
    (batch,) = data.val_dataloader()
    assert batch["features"].shape == (2, 3, 9)
    assert batch["mask"].sum(1).tolist() == [9, 5] and not batch["features"][1, :, 5:].any()
    assert batch["segments"][0].tolist() == [[0.0, 4.0]]
    assert batch["segments"][1].tolist() == [[2.0, 6.0], [-1.0, 2.0]]
    assert [labels.tolist() for labels in batch["labels"]] == [[1], [0, 1]]
    assert batch["truth"] == [[(0.5, 1.5, "run")], [(1.0, 2.0, "jump"), (0.25, 1.0, "run")]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.mp4,2,1,run,val", "line 3: the segment from 2 to 1 s ('run') does not end after its start"),
        ("a.mp4,1,1,run,val", "does not end after its start"),
        ("a.mp4,-1,1,run,val", "has a negative bound"),
        ("a.mp4,1,9,run,val", "'a.mp4', segment 0: the segment from 1 to 9 s ('run') exceeds its video, which lasts 3"),
        ("b.mp4,1,2,walk,val", "'b.mp4', segment 1 - 2 s has the labels 'run' and 'walk'"),
        ("b.mp4,1,2,run,val", "line 3: the segment from 1 to 2 s ('run') is a duplicate"),
        ("c.mp4,0,1,run,val", "has no features of 1 of 2 videos of the split 'val', such as 'c.mp4'"),
        ("x/b.mp4,0,1,run,val", "fits 'b.mp4' and 'x/b.mp4'"),
        ("a.mp4,x,1,run,val", "line 3: start 'x' and end '1' must be numbers"),
        ("a.mp4,1,,run,val", "line 3: start, end and label must all have a value"),
    ],
)  # fmt: skip
def test_invalid_segments_are_reported(tmp_path: Path, row: str, message: str) -> None:
    data = write_data(tmp_path, "b.mp4,1,2,run,val", row)
    with pytest.raises(DataError) as error:
        data.check("validate")
    assert message in str(error.value)


def test_faulty_segments_and_videos_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["a.mp4,2,1,run,val", "a.mp4,1,9,run,val", "a.mp4,1,2,run,val", "c.mp4,0,1,run,val"]
    data = write_data(tmp_path, *rows, faulty="drop")
    data.check("validate")
    (video,) = data.datasets["val"].videos
    assert video.truth == ((1.0, 2.0, "run"),)
    assert data.dropped == {"not above the start": 1, "beyond the end": 1, "without features": 1}
    assert "1 videos of the split val left out: without features" in caplog.text


def test_data_without_usable_segments_are_errors(tmp_path: Path) -> None:
    for rows, options, message in (
        (["a.mp4,,,,val"], {}, "rows.csv has no segments"),
        (["a.mp4,1,2,run,train", "b.mp4,,,,val"], {}, "no segments in its 1 videos of the split 'val'"),
        (["a.mp4,1,2,run,train"], {}, "no videos of the split 'val'; segments are in the splits train. Choose another"),
        (["a.mp4,2,1,run,val", "b.mp4,1,2,run,train"], {"faulty": "drop"}, "no segments in its 1 videos"),
        (["a.mp4,1,9,run,val"], {"faulty": "drop"}, "all segments of the split 'val' were left out"),
        (["c.mp4,1,2,run,val"], {"faulty": "drop"}, "has no features of 1 of 1 videos"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        with pytest.raises(DataError) as error:
            write_data(folder, *rows, **options).check("validate")
        assert message in str(error.value)
    with pytest.raises(DataError, match=r"none.csv does not exist; give a CSV file with the columns path"):
        LocalizationData(tmp_path / "none.csv", tmp_path / "0" / "features").check("fit")


def test_features_of_another_video_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("path,start,end,label,split,duration\na.mp4,1,2,run,val,60\n")
    features = write_features(tmp_path / "features", {str(tmp_path / "a.mp4"): 9})
    with pytest.raises(DataError, match="ends at 3 s, but 'a.mp4' lasts 60 s in the annotations"):
        LocalizationData(tmp_path / "rows.csv", features).check("validate")
    (tmp_path / "rows.csv").write_text("path,start,end,label,split,duration\na.mp4,1,2,run,val,3.2\n")
    data = LocalizationData(tmp_path / "rows.csv", features)
    data.check("validate")
    assert data.datasets["val"].videos[0].duration == 3.2
    (tmp_path / "rows.csv").write_text("path,start,end,label,split,duration\na.mp4,1,2,x,val,3\na.mp4,2,3,x,val,4\n")
    with pytest.raises(DataError, match="line 3: 'a.mp4' has another duration in an earlier line"):
        LocalizationData(tmp_path / "rows.csv", features).check("validate")


def test_damaged_features_are_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path, "b.mp4,1,2,run,val")
    path = data.stored.find(data.videos[0], tmp_path)
    assert path is not None
    item = FeatureFolder(tmp_path / "features").read_file(path)
    write = FeatureFolder(tmp_path / "features").write
    for changed, message in (
        (item._replace(features=item.features[:, :2]), "has features \\(5, 2\\); other files have 3"),
        (item._replace(start=item.start + 0.1), "starts at 0.1 s, which is not a multiple of the stride 0.25 s"),
        (item._replace(start=item.start.flip(0)), "windows are not in order of time"),
        (item._replace(features=item.features[:0], start=item.start[:0], end=item.end[:0]), "has no windows"),
    ):
        write(changed)
        with pytest.raises(DataError, match=message):
            write_data_again(tmp_path).check("validate")
    write(item._replace(features=item.features * torch.nan))
    data = write_data_again(tmp_path)
    data.setup("validate")
    with pytest.raises(DataError, match="has features that are NaN or infinite"):
        next(iter(data.val_dataloader()))
    path.write_bytes(b"x")
    with pytest.raises(DataError, match="is damaged"):
        write_data_again(tmp_path).check("validate")


def write_data_again(folder: Path) -> LocalizationData:
    """Open the data of ``write_data`` again."""
    return LocalizationData(folder / "rows.csv", folder / "features", batch_size=2)


def test_features_without_windows_are_refused(tmp_path: Path) -> None:
    write_features(tmp_path / "features", {"a.mp4": 3}, window=None)
    (tmp_path / "rows.csv").write_text(f"{HEADER}\na.mp4,1,2,run,val\n")
    with pytest.raises(DataError, match="have no windows"):
        write_data_again(tmp_path).check("validate")


def test_several_labels_of_an_interval_are_an_option(tmp_path: Path) -> None:
    data = write_data(tmp_path, "a.mp4,1,2,dive,val", "a.mp4,1,2,jump,val", multi_label=True)
    data.setup("validate")
    (batch,) = data.val_dataloader()
    assert batch["labels"][0].tolist() == [0, 1]


def test_short_segments_are_counted_and_used_in_validation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["a.mp4,1,1.1,run,train", "a.mp4,1,2,run,train", "b.mp4,1,1.1,run,val"]
    data = write_data(tmp_path, *rows, min_duration=0.5)
    data.setup("fit")
    assert [len(data.datasets[split].videos[0].segments) for split in ("train", "val")] == [1, 1]
    assert "1 training segments are shorter" in caplog.text


def test_activitynet_json_finds_features_by_name(tmp_path: Path) -> None:
    annotations = {"subset": "validation", "duration": 3.1, "annotations": [{"segment": [1, 2], "label": "Diving"}]}
    path = tmp_path / "anet.json"
    path.write_text(json.dumps({"database": {"abc": annotations, "d.e": annotations}}))
    features = write_features(tmp_path / "features", {"/elsewhere/v_abc.mp4": 9, "/elsewhere/d.e.mkv": 9})
    data = LocalizationData(path, features, train_split="val")
    data.setup("fit")
    for part in ("train", "val"):
        assert [video.name for video in data.datasets[part].videos] == ["abc", "d.e"]


def test_videos_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features", {"/x/train/0.mp4": 9, "/x/val/0.mp4": 5})
    (tmp_path / "rows.csv").write_text(f"{HEADER}\nval/0.mp4,1,2,run,val\n")
    data = write_data_again(tmp_path)
    data.check("validate")
    assert len(data.datasets["val"][0][1].T) == 5
    (tmp_path / "rows.csv").write_text(f"{HEADER}\n0.mp4,1,2,run,val\n")
    assert features.is_dir()
    with pytest.raises(DataError, match="has features of several videos named '0'"):
        write_data_again(tmp_path).check("validate")


def test_epic_kitchens_folder(tmp_path: Path) -> None:
    write_epic_files(tmp_path, [EPIC_OPEN_DOOR, EPIC_TAKE_KNIFE], [EPIC_CUT_IT])
    features = write_features(tmp_path / "features", {"videos/P01_01.MP4": 12, "videos/P02_102.MP4": 5})
    data = LocalizationData(tmp_path, features, target="verb")
    data.setup("fit")
    assert len(data.class_names) == 3
    assert [video.name for video in data.datasets["val"].videos] == ["P02_102"]
    with pytest.raises(DataError, match=r"no videos of the split 'test'; .*--data.test_split"):
        data.check("test")
    with pytest.raises(ConfigError, match="target is 'verbs'"):
        LocalizationData(tmp_path, features, target="verbs").check("fit")  # type: ignore[arg-type]


def test_splits_are_drawn_if_the_annotations_have_none(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(10)]
    (tmp_path / "rows.csv").write_text("path,start,end,label\n" + "".join(f"{name},1,2,run\n" for name in names))
    write_features(tmp_path / "features", {str(tmp_path / name): 9 for name in names})
    data = write_data_again(tmp_path)
    data.setup()
    parts = [{video.name for video in data.datasets[part].videos} for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [6, 2, 2] and set.union(*parts) == set(names)


def test_untrimmed_motions_have_exact_bounds() -> None:
    frames, motions = render_untrimmed(["moves_left"], 3, seconds=20, size=32)
    assert frames.shape == (240, 32, 32, 3) and motions
    again, _ = render_untrimmed(["moves_left"], 3, seconds=20, size=32)
    assert np.array_equal(frames, again)
    ends = [0, *(motion.stop for motion in motions[:-1])]
    assert all(end <= motion.first < motion.stop <= 240 for end, motion in zip(ends, motions, strict=True))
