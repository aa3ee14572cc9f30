"""Videos -> clips: frame-exact decoding, the samplers as released, splits, views, and files that are no good."""

from __future__ import annotations

import csv
import logging
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import FOUR, SMALL

import zoo
from datamodules import MotionClips, VideoFiles, VideoFolder, VideoList
from datamodules.base import split_stratified
from datamodules.decoding import VideoReader
from datamodules.sampling import sample
from datamodules.transforms import normalise, resize_short_side, train_clip, view_crops
from zoo.errors import ConfigError, DataError, UnknownNameError
from zoo.protocol import DEFAULT_PROTOCOL, Protocol


def numbered_video(path: Path, frames: int, size: tuple[int, int] = (48, 64), **options: str) -> Path:
    """A video whose frame n has brightness about 8 n, with B frames and few key frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "8", "bf": "2", "crf": "12", **options})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.full((*size, 3), min(8 * number, 255), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def brightness(frames: torch.Tensor) -> list[int]:
    return [round(float(f.float().mean()) / 8) for f in frames]


# decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "with a space.avi"])
@pytest.mark.parametrize("wanted", [[0], [29], [5, 4, 3], [0, 0, 7, 7], [0, 13, 28], list(range(30)), [17, 2, 29]])
def test_frames_are_exact_in_any_order(name: str, wanted: list[int], tmp_path: Path) -> None:
    with VideoReader(numbered_video(tmp_path / name, 30)) as reader:
        assert len(reader) == 30
        assert reader.fps == 25
        frames = reader.frames(wanted)
    assert frames.shape == (len(wanted), 3, 48, 64)
    assert frames.dtype == torch.uint8
    assert brightness(frames) == wanted


def test_frames_out_of_range_are_a_programming_error(tmp_path: Path) -> None:
    with VideoReader(numbered_video(tmp_path / "v.mp4", 5)) as reader, pytest.raises(IndexError, match="5 frames"):
        reader.frames([5])


def test_phone_videos_stand_upright(tmp_path: Path) -> None:
    """A display matrix of 90 degrees turns frames, so that height and width trade places."""
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:, :32] = 255  # left half white
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    lying = path.read_bytes()
    # the 3x3 matrix in the track header, identity as written; turned by hand, as PyAV cannot write one
    one = (1 << 16).to_bytes(4, "big")
    zero, w = bytes(4), (1 << 30).to_bytes(4, "big")
    identity = one + zero + zero + zero + one + zero + zero + zero + w
    at = lying.index(identity, lying.index(b"tkhd"))
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    turned = zero + one + zero + minus + zero + zero + zero + zero + w
    path.write_bytes(lying[:at] + turned + lying[at + 36 :])
    with VideoReader(path) as reader:
        frame = reader.frames([0])[0].float().mean(0)
    assert frame.shape == (64, 48)
    assert frame[:32].mean() > 200 > 50 > frame[32:].mean()  # turned clockwise, left comes to be the top


def bad_files(folder: Path) -> dict[str, Path]:
    """One file of each kind that users have, by kind."""
    whole = numbered_video(folder / "whole.mp4", 30).read_bytes()
    kinds = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "text": b"this is not a video" * 50,
        "noise": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
    }
    (folder / "whole.mp4").unlink()
    files = {}
    for kind, content in kinds.items():
        files[kind] = folder / f"{kind}.mp4"
        files[kind].write_bytes(content)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
        frame.planes[0].update(bytes(4096))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    files["sound"] = folder / "sound.mp4"
    return files


def test_bad_files_are_errors_that_name_them(tmp_path: Path) -> None:
    for kind, file in bad_files(tmp_path).items():
        with pytest.raises(DataError, match=f"{kind}.mp4"), VideoReader(file) as reader:
            reader.frames([0, len(reader) - 1])
    with pytest.raises(DataError, match="There is no video"):
        VideoReader(tmp_path / "none.mp4")


def test_a_stream_cut_in_the_middle_is_damage_where_it_is_read(tmp_path: Path) -> None:
    """A container that survives truncation (its index comes first) still opens; its last frames do not decode."""
    path = numbered_video(tmp_path / "v.mkv", 30)
    path.write_bytes(path.read_bytes()[:-200])
    with VideoReader(path) as reader:
        assert brightness(reader.frames([0, 3])) == [0, 3]
        assert len(reader) <= 30


# sampling, against the published code's formulas -----------------------------------------------------------------


def protocol(**changes: Any) -> Protocol:
    return Protocol.from_dict(DEFAULT_PROTOCOL.to_dict() | changes)


def test_interval_sampling_as_released() -> None:
    """TAdaConv authors: 8 frames, rate 8, at 60 frames a second span 128 frames; clip k of 10 starts at k/10."""
    p = protocol(sampling="interval", interval=8, num_frames=8)
    for k in range(10):
        start = (300 - 128) * k / 10
        wanted = torch.linspace(start, start + 127, 8, dtype=torch.float64).clamp(0, 299).long()
        assert sample(p, 300, 60.0, (k, 10)).tolist() == wanted.tolist()
    assert sample(p, 300, 30.0, (0, 1)).tolist() == torch.linspace(118, 181, 8, dtype=torch.float64).long().tolist()
    assert sample(p, 3, 30.0, (0, 1)).tolist() == [0, 2, 2, 2, 2, 2, 2, 2]  # clamped, as released


def test_segment_sampling_as_released() -> None:
    """One view is the middle of each segment; view k of n the fraction (k+1)/n; halves round to even."""
    p = protocol(sampling="segment", interval=None, num_frames=8)
    assert sample(p, 80, 30.0, (0, 1)).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    assert sample(p, 80, 30.0, (0, 2)).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    assert sample(p, 80, 30.0, (1, 2)).tolist() == [10, 20, 30, 40, 50, 60, 70, 79]
    assert sample(p, 24, 30.0, (0, 1)).tolist() == [2, 4, 8, 10, 14, 16, 20, 22]


def test_dense_sampling_as_released() -> None:
    """TAM authors: 64 consecutive frames, stride 8, starts linspace(0, last, 10), modulo the length."""
    p = protocol(sampling="dense", interval=8, num_frames=8)
    starts = [int(x) for x in np.linspace(0, 300 - 64, 10)]
    for k, start in enumerate(starts):
        assert sample(p, 300, 30.0, (k, 10)).tolist() == [start + 8 * t for t in range(8)]
    assert sample(p, 20, 30.0, (9, 10)).tolist() == [0, 8, 16, 4, 12, 0, 8, 16]


def test_uniform_and_twice_sampling_as_released() -> None:
    p = protocol(sampling="uniform", interval=None, num_frames=8)
    assert sample(p, 100, 30.0, (0, 1)).tolist() == [int(100 / 8 / 2 + 100 / 8 * i) for i in range(8)]
    assert sample(p, 100, 30.0, (0, 2)).tolist() == [int(12.5 * i) for i in range(8)]
    assert sample(p, 100, 30.0, (1, 2)).tolist() == [int(11 + 12.5 * i) for i in range(8)]
    twice = protocol(sampling="twice", interval=None, num_frames=8)
    assert sample(twice, 100, 30.0, (0, 2)).tolist() == [int(6.25 + 12.5 * i) for i in range(8)]
    assert sample(twice, 100, 30.0, (1, 2)).tolist() == [int(12.5 * i) for i in range(8)]
    with pytest.raises(ConfigError, match="1 or 2 test clips, not 3"):
        sample(twice, 100, 30.0, (0, 3))


@pytest.mark.parametrize("sampling", ["interval", "segment", "dense", "uniform", "twice"])
@pytest.mark.parametrize("total", [1, 3, 8, 65, 500])
def test_training_clips_stay_inside_the_video_and_vary(sampling: str, total: int) -> None:
    p = protocol(sampling=sampling, interval=8 if sampling in ("interval", "dense") else None)
    clips = np.stack([sample(p, total, 30.0) for _ in range(200)])
    assert clips.shape == (200, 8)
    assert clips.min() >= 0
    assert clips.max() <= total - 1
    if total == 500:
        assert (np.diff(clips) > 0).all()
        assert len({tuple(clip) for clip in clips.tolist()}) > 100
        assert clips.min() < 25
        assert clips.max() > 475


# pixels ----------------------------------------------------------------------------------------------------------


def test_views_are_the_released_crops() -> None:
    frames = torch.arange(2 * 3 * 40 * 100).view(2, 3, 40, 100)
    left, centre, right = view_crops(frames, 40, 3)
    assert torch.equal(left, frames[..., :40])
    assert torch.equal(centre, frames[..., 30:70])
    assert torch.equal(right, frames[..., 60:])
    assert torch.equal(view_crops(frames, 40, 1)[0], centre)
    top, _, bottom = view_crops(frames.transpose(-1, -2), 40, 3)
    assert torch.equal(top, left.transpose(-1, -2))
    assert torch.equal(bottom, right.transpose(-1, -2))


def test_resize_keeps_the_ratio_and_truncates() -> None:
    assert resize_short_side(torch.zeros(1, 3, 240, 427, dtype=torch.uint8), 256, True).shape == (1, 3, 256, 455)
    assert resize_short_side(torch.zeros(1, 3, 427, 240, dtype=torch.uint8), 120, False).shape == (1, 3, 213, 120)


@pytest.mark.parametrize("augment", ["short_side", "multi_scale"])
def test_training_crops_vary_and_flip_half_of_the_time(augment: str) -> None:
    p = protocol(augment=augment, train_crop=32)
    ramp = torch.arange(80, dtype=torch.uint8).expand(2, 3, 50, 80).contiguous()
    clips = [train_clip(ramp, p, flip=True) for _ in range(100)]
    assert all(clip.shape == (2, 3, 32, 32) and clip.is_contiguous() for clip, _ in clips)
    assert all((clip[0, 0, 0, -1] < clip[0, 0, 0, 0]) == mirrored for clip, mirrored in clips)
    assert 30 < sum(mirrored for _, mirrored in clips) < 70
    assert len({int(clip[0, 0, 0].min()) for clip, _ in clips}) > 5
    assert not any(train_clip(ramp, p, flip=False)[1] for _ in range(20))


def test_normalisation_is_that_of_the_protocol() -> None:
    video = torch.randint(0, 256, (2, 4, 3, 5, 6), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    wanted = (video.float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(normalise(video, mean, std), wanted.transpose(1, 2))
    assert normalise(video, mean[:1], std[:1]).shape == (2, 1, 4, 5, 6)


# data sets -------------------------------------------------------------------------------------------------------


def ready(data: Any, stage: str = "fit", **changes: Any) -> Any:
    """A data module as the Trainer would have it."""
    data.protocol = zoo.create("c2d_r18", **SMALL, image_size=32).protocol
    data.prepare_data()
    data.trainer = SimpleNamespace(training=stage == "fit", testing=stage == "test", predicting=stage == "predict")
    data.setup(stage)
    return data


def test_folder_with_splits(motion_folder: Path) -> None:
    data = ready(VideoFolder(motion_folder, batch_size=4, num_workers=0))
    assert data.class_names == sorted(FOUR)
    assert data.num_classes == 4
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == (4, 4, 3, 32, 32)
    assert batch["video"].dtype == torch.uint8
    for path, label in zip(batch["path"], batch["label"].tolist(), strict=True):
        assert Path(path).parent.name == data.class_names[label]
        assert "/train/" in path
    assert len(data.datasets["val"]) == 12
    assert len(ready(VideoFolder(motion_folder, num_workers=0), "test").datasets["test"]) == 12


def test_all_views_come_from_one_decode(motion_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ready(VideoFolder(motion_folder, num_workers=0, clips=2, crops=3), "test")
    calls = []
    original = VideoReader.frames
    monkeypatch.setattr(VideoReader, "frames", lambda self, i: calls.append(list(i)) or original(self, i))
    item = data.datasets["test"][0]
    assert item["video"].shape == (6, 4, 3, 32, 32)
    assert len(calls) == 1
    with VideoReader(item["path"]) as reader:  # view 4 is clip 1, centre
        numbers = sample(data.datasets["test"].protocol, len(reader), reader.fps, (1, 2))
        assert torch.equal(item["video"][4], original(reader, numbers))


def test_workers_see_what_the_main_process_sees(motion_folder: Path) -> None:
    alone, workers = (
        ready(VideoFolder(motion_folder, num_workers=n, batch_size=4), "validate").val_dataloader() for n in (0, 2)
    )
    for one, two in zip(alone, workers, strict=True):
        assert one["path"] == two["path"]
        assert torch.equal(one["video"], two["video"])


def class_folders(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.mp4").touch()
    return root


def test_automatic_split_is_stratified_and_seeded(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 20, "b": 10, "c": 3})
    data = VideoFolder(root, val_fraction=0.2, test_fraction=0.3)
    splits = {name: data.split_records(name) for name in ("train", "val", "test")}
    assert {n: np.bincount(s.labels).tolist() for n, s in splits.items()} == {
        "train": [10, 5, 1],
        "val": [4, 2, 1],
        "test": [6, 3, 1],
    }
    paths = [set(s.paths.tolist()) for s in splits.values()]
    assert len(set.union(*paths)) == 33
    assert VideoFolder(root, 0.2, 0.3).split_records("val").paths.tolist() == splits["val"].paths.tolist()
    assert VideoFolder(root, 0.2, 0.3, split_seed=1).split_records("val").paths.tolist() != splits["val"].paths.tolist()


def test_split_leaves_every_class_in_every_part() -> None:
    for count in range(3, 12):
        labels = np.zeros(count, dtype=np.int64)
        parts = split_stratified(labels, {"train": 1, "val": 0.5, "test": 0.6}, 0, ["a"], "x")
        assert min(map(len, parts.values())) >= 1
        assert sorted(np.concatenate(list(parts.values()))) == list(range(count))


def test_folders_that_cannot_work_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        VideoFolder(tmp_path / "none").class_names  # noqa: B018
    (tmp_path / "one").mkdir()
    with pytest.raises(DataError, match="has 1 class folder; at least 2"):
        VideoFolder(tmp_path).class_names  # noqa: B018
    (tmp_path / "two").mkdir()
    with pytest.raises(DataError, match="There are no videos below"):
        VideoFolder(tmp_path).class_names  # noqa: B018
    class_folders(tmp_path / "x", {"a": 5, "b": 0})
    with pytest.raises(DataError, match=r"There are no videos in .*b: add some"):
        VideoFolder(tmp_path / "x").class_names  # noqa: B018
    class_folders(tmp_path / "y", {"a": 5, "lonely": 1})
    with pytest.raises(DataError, match=r"class 'lonely' of .* has 1 video, too few to split into train, val, test"):
        VideoFolder(tmp_path / "y").split_records("train")
    class_folders(tmp_path / "z" / "train", {"a": 5, "b": 5})
    class_folders(tmp_path / "z" / "val", {"a": 1, "c": 1})
    with pytest.raises(DataError, match="c is not one of the training classes: a, b"):
        VideoFolder(tmp_path / "z").split_records("val")


def write_list(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_lists_with_spaces_quotes_and_commas(motion_folder: Path, tmp_path: Path) -> None:
    videos = sorted((motion_folder / "train").rglob("*.mp4"))
    names = [f"a b, {i}.mp4" for i in range(8)]
    rows = [("path", "label"), *((n, f"class {i % 2}") for i, n in enumerate(names))]
    for name, video in zip(names, videos, strict=False):
        (tmp_path / name).write_bytes(video.read_bytes())
    data = ready(VideoList(write_list(tmp_path / "train.csv", rows), num_workers=0, batch_size=2, val_fraction=0.25))
    assert data.class_names == ["class 0", "class 1"]
    assert (len(data.datasets["train"]), len(data.datasets["val"])) == (6, 2)
    assert next(iter(data.train_dataloader()))["video"].shape == (2, 4, 3, 32, 32)


def test_numeric_labels_sort_as_numbers(tmp_path: Path) -> None:
    rows = [("path", "label"), *((f"{i}.mp4", str(i)) for i in (10, 9, 2))]
    assert VideoList(write_list(tmp_path / "l.csv", rows)).class_names == ["2", "9", "10"]


def test_lists_that_show_only_some_of_the_classes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    named = write_list(tmp_path / "named.csv", [("path", "label"), ("a.mp4", "zumba"), ("b.mp4", "abseiling")])
    numbered = write_list(tmp_path / "numbered.csv", [("path", "label"), ("a.mp4", "399"), ("b.mp4", "0")])
    for file in (named, numbered):
        data = VideoList(test=file, classes="kinetics400")
        assert data.num_classes == 400
        assert data.split_records("test").labels.tolist() == [399, 0]
    with pytest.raises(UnknownNameError, match="no label set called 'kinetics'"):
        VideoList(test=named, classes="kinetics").class_names  # noqa: B018


def test_lists_that_cannot_work_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def names(rows: list[tuple[str, ...]]) -> VideoList:
        return VideoList(write_list(tmp_path / "l.csv", rows))

    with pytest.raises(DataError, match="give at least train="):
        VideoList()
    with pytest.raises(DataError, match="There is no list"):
        VideoList(tmp_path / "none.csv").class_names  # noqa: B018
    with pytest.raises(DataError, match=r"l.csv has no column 'label'; its first line is 'path,class'"):
        names([("path", "class"), ("a.mp4", "x")]).class_names  # noqa: B018
    with pytest.raises(DataError, match="lists no videos"):
        names([("path", "label")]).class_names  # noqa: B018
    with pytest.raises(DataError, match="l.csv, line 3: path or label is empty"):
        names([("path", "label"), ("a.mp4", "x"), ("b.mp4", "")]).class_names  # noqa: B018
    with pytest.raises(DataError, match="has 1 class; at least 2"):
        names([("path", "label"), ("a.mp4", "x")]).class_names  # noqa: B018
    rows = [("path", "label"), *((f"{i}.mp4", "xy"[i % 2]) for i in range(10))]
    for i in range(8):
        (tmp_path / f"{i}.mp4").touch()
    with pytest.raises(DataError, match=r"2 of the 10 videos .* such as 8.mp4"):
        names(rows).split_records("train")
    with caplog.at_level(logging.WARNING):
        data = VideoList(tmp_path / "l.csv", max_missing=0.2)
        assert len(data.split_records("train")) + len(data.split_records("val")) == 8
    assert "8 of 10 videos are present" in caplog.text
    write_list(tmp_path / "t.csv", [("path", "label"), ("1.mp4", "z")])
    with pytest.raises(DataError, match="has the label 'z', which is not one of the classes"):
        VideoList(tmp_path / "l.csv", test=tmp_path / "t.csv").split_records("test")


def test_files_to_predict(motion_folder: Path) -> None:
    one = next((motion_folder / "test").rglob("*.mp4"))
    assert len(VideoFiles([one, motion_folder / "val"]).split_records("predict")) == 13
    assert VideoFiles([one]).num_classes is None
    with pytest.raises(DataError, match="There is no video or folder nowhere"):
        VideoFiles(["nowhere"])
    with pytest.raises(DataError, match="has no labels, so it can only predict"):
        VideoFiles([one]).split_records("test")


def test_mirrored_classes_trade_places(motion_folder: Path) -> None:
    pairs = [("meets", "parts")]
    data = ready(VideoFolder(motion_folder, num_workers=0, flip=True, flip_pairs=pairs))
    dataset = data.datasets["train"]
    at = next(i for i, p in enumerate(dataset.records.paths) if "/meets/" in p)
    seen = {dataset[at]["label"] for _ in range(30)}
    assert seen == {data.class_names.index("meets"), data.class_names.index("parts")}
    with pytest.raises(ConfigError, match="'left', which is no class"):
        ready(VideoFolder(motion_folder, flip_pairs=[("left", "parts")]))


def test_motionclips_are_written_once_and_never_flipped(tmp_path: Path) -> None:
    options = {"classes": FOUR, "train_clips": 3, "val_clips": 1, "test_clips": 1, "frames": 6, "size": 32}
    data = ready(MotionClips(tmp_path / "m", **options, num_workers=0))
    assert data.class_names == sorted(FOUR)
    assert not data.datasets["train"].flip
    assert len(data.datasets["train"]) == 12
    with pytest.raises(DataError, match="seed is 0, asked for 1"):
        MotionClips(tmp_path / "m", **options, seed=1).prepare_data()


# bad files in a data set -----------------------------------------------------------------------------------------


def with_bad_files(motion_folder: Path, root: Path, bad: int, split: str) -> Path:
    import shutil

    shutil.copytree(motion_folder, root)
    victims = sorted((root / split / "meets").glob("*.mp4"))[:bad]
    for i, victim in enumerate(victims):
        victim.write_bytes(b"" if i % 2 else victim.read_bytes()[:700])
    return root


def drain(data: Any, loader: Any) -> list[dict[str, Any]]:
    return [data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0) for batch in loader]


def test_bad_videos_in_training_are_replaced_counted_and_named(
    motion_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = with_bad_files(motion_folder, tmp_path / "m", 2, "train")
    data = ready(VideoFolder(root, batch_size=8, num_workers=2))
    with caplog.at_level(logging.WARNING):
        batches = drain(data, data.train_dataloader())
        drain(data, data.train_dataloader())
        data.teardown("fit")
    assert "2 of 32 train videos could not be read" in caplog.text
    assert sum(len(b["label"]) for b in batches) == 32
    assert {Path(p).name for p in data.skipped["train"]} == {"meets_0000.mp4", "meets_0001.mp4"}
    assert len([m for m in caplog.messages if "replaced by another" in m]) == 2  # named once each


def test_bad_videos_in_testing_are_left_out_and_named(motion_folder: Path, tmp_path: Path) -> None:
    data = ready(
        VideoFolder(with_bad_files(motion_folder, tmp_path / "m", 1, "test"), num_workers=0, batch_size=1), "test"
    )
    batches = drain(data, data.test_dataloader())
    assert [len(b["path"]) for b in batches].count(0) == 1
    assert sum(len(b["path"]) for b in batches) == 11
    assert [Path(p).name for p in data.skipped["test"]] == ["meets_0000.mp4"]


def test_too_many_bad_videos_stop_the_run(motion_folder: Path, tmp_path: Path) -> None:
    data = ready(VideoFolder(with_bad_files(motion_folder, tmp_path / "m", 3, "test"), num_workers=0), "test")
    with pytest.raises(DataError, match=r"[23] of 12 test videos cannot be read \(the first: .*meets_0000"):
        drain(data, data.test_dataloader())


def test_short_videos_repeat_frames_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            numbered_video(tmp_path / split / name / "short.mp4", 2)
    data = ready(VideoFolder(tmp_path, num_workers=0, batch_size=2))
    with caplog.at_level(logging.WARNING):
        batch = drain(data, data.train_dataloader())[0]
    assert batch["video"].shape == (2, 3, 4, 32, 32)
    assert len([m for m in caplog.messages if "fewer than 4 frames: frames are repeated" in m]) == 2


def test_data_without_a_network_says_what_is_missing(motion_folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no protocol"):
        VideoFolder(motion_folder).setup("fit")
    with pytest.raises(ConfigError, match="batch_size is 0"):
        VideoFolder(motion_folder, batch_size=0)
