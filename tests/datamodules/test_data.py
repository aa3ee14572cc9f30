"""Data modules of folders and lists: their videos and splits, unreadable files, and views."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from annotation_files import make_class_folders, write_csv
from data_modules import set_up, transferred_batches
from numbered_videos import numbered_video
from small_models import FOUR

from datamodules import MotionClips, VideoFiles, VideoFolder, VideoList
from zoo.errors import ConfigError, DataError, UnknownNameError
from zoo.protocol import Protocol
from zoo.video.decoding import VideoReader
from zoo.video.sampling import sample

# videos and splits ----------------------------------------------------------------------------------------------------


def test_folder_with_splits(motion_folder: Path) -> None:
    data = set_up(VideoFolder(motion_folder, batch_size=4, num_workers=0))
    assert data.class_names == sorted(FOUR)
    assert data.num_classes == 4
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == (4, 4, 3, 32, 32)
    assert batch["video"].dtype == torch.uint8
    for path, label in zip(batch["path"], batch["label"].tolist(), strict=True):
        assert Path(path).parent.name == data.class_names[label]
        assert "/train/" in path
    assert len(data.datasets["val"]) == 12
    assert len(set_up(VideoFolder(motion_folder, num_workers=0), "test").datasets["test"]) == 12


def test_all_views_come_from_one_decode(motion_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = set_up(VideoFolder(motion_folder, num_workers=0, clips=2, crops=3), "test")
    calls = []
    original = VideoReader.frames
    monkeypatch.setattr(VideoReader, "frames", lambda self, i, *more: calls.append(list(i)) or original(self, i, *more))
    item = data.datasets["test"][0]
    (views,) = item["video"]
    assert views.shape == (6, 4, 3, 32, 32)
    assert len(calls) == 1
    with VideoReader(item["path"]) as reader:  # view 4 is clip 1, center
        numbers = sample(data.datasets["test"].protocol, len(reader), reader.fps, (1, 2))
        assert torch.equal(views[4], original(reader, numbers))


def test_workers_load_the_same_batches_as_the_main_process(motion_folder: Path) -> None:
    alone, workers = (
        set_up(VideoFolder(motion_folder, num_workers=n, batch_size=4), "validate").val_dataloader() for n in (0, 2)
    )
    for one, two in zip(alone, workers, strict=True):
        assert one["path"] == two["path"]
        assert torch.equal(one["video"], two["video"])


def test_automatic_split_is_stratified_and_seeded(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path, {"a": 20, "b": 10, "c": 3})
    data = VideoFolder(root, val_fraction=0.2, test_fraction=0.3)
    splits = {name: data.split_records(name) for name in ("train", "val", "test")}
    counts = {name: np.bincount(records.labels).tolist() for name, records in splits.items()}
    assert [class_counts[2] for class_counts in counts.values()] == [1, 1, 1]
    assert min(min(class_counts) for class_counts in counts.values()) >= 1
    paths = [set(s.paths.tolist()) for s in splits.values()]
    assert len(set.union(*paths)) == 33
    assert VideoFolder(root, 0.2, 0.3).split_records("val").paths.tolist() == splits["val"].paths.tolist()
    assert VideoFolder(root, 0.2, 0.3, split_seed=1).split_records("val").paths.tolist() != splits["val"].paths.tolist()


def test_errors_name_unusable_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Folder .* does not exist"):
        VideoFolder(tmp_path / "none").class_names  # noqa: B018
    (tmp_path / "one").mkdir()
    with pytest.raises(DataError, match="has 1 class folder; at least 2"):
        VideoFolder(tmp_path).class_names  # noqa: B018
    (tmp_path / "two").mkdir()
    with pytest.raises(DataError, match="There are no videos below"):
        VideoFolder(tmp_path).class_names  # noqa: B018
    make_class_folders(tmp_path / "x", {"a": 5, "b": 0})
    with pytest.raises(DataError, match=r"There are no videos in .*b: add some"):
        VideoFolder(tmp_path / "x").class_names  # noqa: B018
    make_class_folders(tmp_path / "y", {"a": 5, "lonely": 1})
    with pytest.raises(DataError, match=r"class 'lonely' of .* has 1 video, too few to split into train, val, test"):
        VideoFolder(tmp_path / "y").split_records("train")
    make_class_folders(tmp_path / "z" / "train", {"a": 5, "b": 5})
    make_class_folders(tmp_path / "z" / "val", {"a": 1, "c": 1})
    with pytest.raises(DataError, match="c is not one of the training classes: a, b"):
        VideoFolder(tmp_path / "z").split_records("val")


def test_lists_with_spaces_quotes_and_commas(motion_folder: Path, tmp_path: Path) -> None:
    videos = sorted((motion_folder / "train").rglob("*.mp4"))
    names = [f"a b, {i}.mp4" for i in range(8)]
    rows = [("path", "label"), *((n, f"class {i % 2}") for i, n in enumerate(names))]
    for name, video in zip(names, videos[: len(names)], strict=True):
        (tmp_path / name).write_bytes(video.read_bytes())
    data = set_up(VideoList(write_csv(tmp_path / "train.csv", rows), num_workers=0, batch_size=2, val_fraction=0.25))
    assert data.class_names == ["class 0", "class 1"]
    assert len(data.datasets["train"]) + len(data.datasets["val"]) == 8
    assert next(iter(data.train_dataloader()))["video"].shape == (2, 4, 3, 32, 32)


def test_numeric_labels_sort_as_numbers(tmp_path: Path) -> None:
    rows = [("path", "label"), *((f"{i}.mp4", str(i)) for i in (10, 9, 2))]
    assert VideoList(write_csv(tmp_path / "l.csv", rows)).class_names == ["2", "9", "10"]


def test_lists_may_contain_only_some_of_the_classes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    named = write_csv(tmp_path / "named.csv", [("path", "label"), ("a.mp4", "zumba"), ("b.mp4", "abseiling")])
    numbered = write_csv(tmp_path / "numbered.csv", [("path", "label"), ("a.mp4", "399"), ("b.mp4", "0")])
    for file in (named, numbered):
        data = VideoList(test=file, classes="kinetics400")
        assert data.num_classes == 400
        assert data.split_records("test").labels.tolist() == [399, 0]
    with pytest.raises(UnknownNameError, match="Unknown label set 'kinetics'"):
        VideoList(test=named, classes="kinetics").class_names  # noqa: B018


def test_errors_name_unusable_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def video_list(rows: list[tuple[str, ...]]) -> VideoList:
        return VideoList(write_csv(tmp_path / "l.csv", rows))

    with pytest.raises(DataError, match="give at least train="):
        VideoList()
    with pytest.raises(DataError, match="List .* does not exist"):
        VideoList(tmp_path / "none.csv").class_names  # noqa: B018
    with pytest.raises(DataError, match=r"l.csv has no column 'label'; its first line is 'path,class'"):
        video_list([("path", "class"), ("a.mp4", "x")]).class_names  # noqa: B018
    with pytest.raises(DataError, match="lists no videos"):
        video_list([("path", "label")]).class_names  # noqa: B018
    with pytest.raises(DataError, match="l.csv, line 3: label is empty"):
        video_list([("path", "label"), ("a.mp4", "x"), ("b.mp4", "")]).class_names  # noqa: B018
    with pytest.raises(DataError, match="has 1 class; at least 2"):
        video_list([("path", "label"), ("a.mp4", "x")]).class_names  # noqa: B018
    rows = [("path", "label"), *((f"{i}.mp4", "xy"[i % 2]) for i in range(10))]
    for i in range(8):
        (tmp_path / f"{i}.mp4").touch()
    with pytest.raises(DataError, match=r"2 of the 10 videos .* such as 8.mp4"):
        video_list(rows).split_records("train")
    with caplog.at_level(logging.WARNING):
        data = set_up(VideoList(tmp_path / "l.csv", val=tmp_path / "l.csv", max_missing=0.2, num_workers=0))
    assert (len(data.datasets["train"]), data.datasets["train"].records.listed) == (8, 10)
    assert "train: using 8 of 10 listed videos" in caplog.text
    write_csv(tmp_path / "t.csv", [("path", "label"), ("1.mp4", "z")])
    with pytest.raises(DataError, match="has the label 'z', which is not one of the classes"):
        VideoList(tmp_path / "l.csv", test=tmp_path / "t.csv").split_records("test")


def test_files_and_folders_to_predict(motion_folder: Path) -> None:
    video = next((motion_folder / "test").rglob("*.mp4"))
    assert len(VideoFiles([video, motion_folder / "val"]).split_records("predict")) == 13
    assert VideoFiles([video]).num_classes is None
    with pytest.raises(DataError, match="nowhere does not exist"):
        VideoFiles(["nowhere"])
    with pytest.raises(DataError, match="has no labels, so it can only predict"):
        VideoFiles([video]).split_records("test")


def test_mirroring_swaps_labels_of_class_pairs(motion_folder: Path) -> None:
    pairs = [("meets", "parts")]
    data = set_up(VideoFolder(motion_folder, num_workers=0, flip=True, flip_pairs=pairs))
    dataset = data.datasets["train"]
    index = next(i for i, p in enumerate(dataset.records.paths) if "/meets/" in p)
    labels = {int(dataset[index]["label"][0]) for _ in range(30)}
    assert labels == {data.class_names.index("meets"), data.class_names.index("parts")}
    with pytest.raises(ConfigError, match="'left', which is not a class"):
        set_up(VideoFolder(motion_folder, flip_pairs=[("left", "parts")]))


def test_motionclips_are_written_once_and_never_flipped(tmp_path: Path) -> None:
    options = {"classes": FOUR, "train_clips": 3, "val_clips": 1, "test_clips": 1, "frames": 6, "size": 32}
    data = set_up(MotionClips(tmp_path / "m", **options, num_workers=0))
    assert data.class_names == sorted(FOUR)
    assert not data.datasets["train"].flip
    assert len(data.datasets["train"]) == 12
    with pytest.raises(DataError, match="seed is 0, not 1"):
        MotionClips(tmp_path / "m", **options, seed=1).prepare_data()


# unreadable videos ----------------------------------------------------------------------------------------------


def copy_with_bad_files(motion_folder: Path, root: Path, bad: int, split: str) -> Path:
    shutil.copytree(motion_folder, root)
    paths = sorted((root / split / "meets").glob("*.mp4"))[:bad]
    for i, path in enumerate(paths):
        path.write_bytes(b"" if i % 2 else path.read_bytes()[:700])
    return root


def test_unreadable_training_videos_are_replaced_and_logged(
    motion_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy_with_bad_files(motion_folder, tmp_path / "m", 2, "train")
    data = set_up(VideoFolder(root, batch_size=8, num_workers=2))
    with caplog.at_level(logging.WARNING):
        batches = transferred_batches(data, data.train_dataloader())
        transferred_batches(data, data.train_dataloader())
        data.teardown("fit")
    assert "2 of 32 train videos could not be read" in caplog.text
    assert sum(len(b["label"]) for b in batches) == 32
    assert {Path(p).name for p in data.skipped["train"]} == {"meets_0000.mp4", "meets_0001.mp4"}
    assert len([m for m in caplog.messages if "replaced by another" in m]) == 2  # each is logged once


def test_unreadable_test_videos_are_skipped_and_logged(motion_folder: Path, tmp_path: Path) -> None:
    data = set_up(
        VideoFolder(copy_with_bad_files(motion_folder, tmp_path / "m", 1, "test"), num_workers=0, batch_size=1), "test"
    )
    batches = transferred_batches(data, data.test_dataloader())
    assert [len(b["path"]) for b in batches].count(0) == 1
    assert sum(len(b["path"]) for b in batches) == 11
    assert [Path(p).name for p in data.skipped["test"]] == ["meets_0000.mp4"]


def test_too_many_bad_videos_stop_the_run(motion_folder: Path, tmp_path: Path) -> None:
    data = set_up(VideoFolder(copy_with_bad_files(motion_folder, tmp_path / "m", 3, "test"), num_workers=0), "test")
    with pytest.raises(DataError, match=r"[23] of 12 test videos cannot be read \(the first: .*meets_0000"):
        transferred_batches(data, data.test_dataloader())


def test_short_videos_repeat_frames_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            numbered_video(tmp_path / split / name / "short.mp4", 2)
    data = set_up(VideoFolder(tmp_path, num_workers=0, batch_size=2))
    with caplog.at_level(logging.WARNING):
        batch = transferred_batches(data, data.train_dataloader())[0]
    assert batch["video"].shape == (2, 3, 4, 32, 32)
    assert len([m for m in caplog.messages if "fewer than 4 frames: frames are repeated" in m]) == 2


def test_setup_without_a_network_raises_config_error(motion_folder: Path) -> None:
    with pytest.raises(ConfigError, match="The data module has no protocol"):
        VideoFolder(motion_folder).setup("fit")
    with pytest.raises(ConfigError, match="batch_size is 0"):
        VideoFolder(motion_folder, batch_size=0)


# views and augmentation overrides -------------------------------------------------------------------------------


def test_batch_size_limits_the_number_of_views(motion_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = set_up(VideoFolder(motion_folder, num_workers=0, batch_size=45, clips=2, crops=10, flip=True), "test")
    assert next(iter(data.test_dataloader()))["video"].shape == (
        2,
        20,
        4,
        3,
        32,
        32,
    )  # 2 videos have 40 views; 3 would exceed the batch size of 45
    assert not caplog.text
    for options, message in (
        ({"crops": 5}, "crops is 5; choose from 1, 3, 10"),
        ({"clips": 0}, "clips is 0"),
        ({"augment": "none"}, "augment is 'none'; choose from short_side, multi_scale, multi_scale_5, rand_augment"),
    ):
        with pytest.raises(ConfigError, match=message):
            VideoFolder(motion_folder, **options)
    protocol = data.protocol.to_dict()
    with pytest.raises(ConfigError, match="here: crops is 5; choose from 1, 3, 10"):
        Protocol.from_dict(protocol | {"crops": 5}, "here")


def test_clips_follow_the_protocol_of_each_network(motion_folder: Path) -> None:
    data = VideoFolder(motion_folder, num_workers=0)
    set_up(data, "validate", mean=(0.0,) * 3, std=(1.0,) * 3)
    set_up(data, "test", mean=(0.5,) * 3, std=(0.1,) * 3)  # the protocol of another network
    batch = next(iter(data.test_dataloader()))
    expected = (batch["video"].float() / 255 - 0.5) / 0.1
    (normalized,) = transferred_batches(data, [batch])
    torch.testing.assert_close(normalized["video"].transpose(-4, -3), expected, rtol=0, atol=1e-4)


def test_epoch_position_belongs_to_one_run(motion_folder: Path) -> None:
    data = set_up(VideoFolder(motion_folder, num_workers=0, batch_size=8))
    middle = {"train": data.train_dataloader().state_dict() | {"batches": 3}}
    data.load_state_dict(middle)
    assert [len(list(data.train_dataloader())) for _ in range(2)] == [1, 4]
    data.load_state_dict(middle)
    data.teardown("test")  # a checkpoint was tested; the next run starts at its beginning
    assert len(list(set_up(data).train_dataloader())) == 4


def test_augment_option_overrides_the_protocol(motion_folder: Path) -> None:
    torch.manual_seed(0)
    data = set_up(VideoFolder(motion_folder, num_workers=0, batch_size=4, augment="rand_augment"))
    assert data.datasets["train"].protocol.augment == "rand_augment"
    assert next(iter(data.train_dataloader()))["video"].shape == (4, 4, 3, 32, 32)
