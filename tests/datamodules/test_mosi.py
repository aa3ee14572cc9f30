"""MoSI: positions and labels of pseudo motions, the static mask, splits, and unreadable files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_modules import relative_paths, set_up, transferred_batches
from numbered_videos import frame_numbers, numbered_video
from PIL import Image

from datamodules import MoSI
from datamodules.mosi import MOTION_NAMES, MOTIONS, crop_positions, mask_static, move_crop, read_image
from zoo.errors import DataError


def write_images(folder: Path, count: int, size: tuple[int, int] = (40, 30), suffix: str = "png") -> None:
    """Write smooth random images, which differ at every position."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        image.resize(size).save(folder / f"{number}.{suffix}")


def mosi(root: Path, **options: Any) -> MoSI:
    return MoSI(root, **({"num_workers": 0, "color_jitter": 0.0, "flip": False} | options))


def position_image(height: int, width: int) -> torch.Tensor:
    """Image whose first channel is the column and whose second channel is the row."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0] = torch.arange(width)
    image[1] = torch.arange(height)[:, None]
    return image


@pytest.mark.parametrize(
    ("speed", "expected"),
    [(2, [24, 28, 32, 36]), (-2, [36, 32, 28, 24]), (1, [27, 29, 31, 33]), (-1, [33, 31, 29, 27]), (0, [30] * 4)],
)
def test_centered_path_has_the_steps_of_its_speed(speed: int, expected: list[int]) -> None:
    assert crop_positions(speed, 60, 4, None).tolist() == expected


@pytest.mark.parametrize(("speed", "first", "last"), [(2, 0, 60), (-2, 60, 0), (1, 15, 45), (-1, 45, 15), (0, 30, 30)])
@pytest.mark.parametrize("num_frames", [16, 31])
def test_fastest_crop_crosses_the_image_in_16_frames_or_more(
    speed: int, first: int, last: int, num_frames: int
) -> None:
    positions = crop_positions(speed, 60, num_frames, None)
    assert (len(positions), int(positions[0]), int(positions[-1])) == (num_frames, first, last)


@pytest.mark.parametrize("speed", [-2, -1, 0, 1, 2])
def test_random_path_has_the_same_steps_at_any_position_inside_the_space(speed: int) -> None:
    generator = torch.Generator().manual_seed(0)
    paths = torch.stack([crop_positions(speed, 60, 16, generator) for _ in range(200)])
    assert (paths.diff() == 2 * speed).all()
    assert paths.min() == 0 and paths.max() == 60  # both ends are reached


@pytest.mark.parametrize(("name", "motion"), [*zip(MOTION_NAMES, MOTIONS, strict=True)])
def test_class_name_is_the_motion_of_the_crop(name: str, motion: tuple[int, int]) -> None:
    clip = move_crop(position_image(80, 80), motion, 16, 20, None)
    assert clip.shape == (16, 3, 20, 20)
    x, y = (clip[:, channel, 0, 0].int() for channel in (0, 1))
    speeds = {"x": x.diff().unique().tolist(), "y": y.diff().unique().tolist()}
    expected = {"x": [0], "y": [0]}
    if name != "still":
        expected[name[0]] = [2 * int(name[1:])]  # the space of 60 pixels at speed 2 in 15 steps
    assert speeds == expected
    row, column = y[0] + torch.arange(20)[:, None], x[0] + torch.arange(20)
    assert torch.equal(clip[0, 0].int(), column.expand(20, 20)) and torch.equal(clip[0, 1].int(), row.expand(20, 20))


def test_published_motions_are_four_speeds_along_each_axis_and_none() -> None:
    speeds = [-2, -1, 1, 2]
    assert list(MOTIONS) == [*((x, 0) for x in speeds), *((0, y) for y in speeds), (0, 0)]


def test_static_mask_leaves_a_moving_box_in_a_still_frame() -> None:
    clip = move_crop(position_image(80, 80), (2, 0), 5, 20, None)
    sides, stills = set(), set()
    for seed in range(60):
        masked = mask_static(clip, torch.Generator().manual_seed(seed))
        moving = (masked != masked[:1]).any(0).any(0)  # (20, 20)
        rows, columns = moving.any(1).nonzero().flatten(), moving.any(0).nonzero().flatten()
        top, left, side = int(rows[0]), int(columns[0]), len(rows)
        assert moving[rows][:, columns].all() and len(columns) == side
        box = (..., slice(top, top + side), slice(left, left + side))
        assert torch.equal(masked[box], clip[box])
        (still,) = [t for t in range(5) if torch.equal(masked[0][:, ~moving], clip[t][:, ~moving])]
        sides.add(side)
        stills.add(still)
    assert (min(sides), max(sides)) == (6, 9)  # 30 to 50 % of 20 pixels, rounded down
    assert stills == set(range(5))


def test_training_batch_has_all_motions_of_each_image_and_labels_that_match_the_pixels(tmp_path: Path) -> None:
    write_images(tmp_path, 10)
    data = set_up(mosi(tmp_path, batch_size=18), num_frames=4)
    (batch, *_) = transferred_batches(data, data.train_dataloader())
    assert batch["video"].shape == (18, 3, 4, 32, 32)
    for path in set(batch["path"]):
        labels = [int(label) for label, name in zip(batch["label"], batch["path"], strict=True) if name == path]
        assert sorted(labels) == list(range(9))
    for clip, label in zip(batch["video"], batch["label"].tolist(), strict=True):
        changes = bool((clip[:, 1:] != clip[:, :1]).any())
        assert changes == (MOTION_NAMES[label] != "still")


def test_clips_depend_on_seed_epoch_and_image_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, 10)

    def epoch(seed: int, number: int, workers: int = 0) -> list[torch.Tensor]:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        data = set_up(mosi(tmp_path, batch_size=18, flip=True, color_jitter=0.5, num_workers=workers), num_frames=4)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        torch.manual_seed(123 + workers)  # has no effect
        clips = [batch["video"] for batch in loader]
        data.teardown("fit")
        return clips

    first = epoch(0, 1)
    assert all(map(torch.equal, first, epoch(0, 1, workers=1)))
    assert not torch.equal(first[0], epoch(0, 2)[0]) and not torch.equal(first[0], epoch(1, 1)[0])


def test_validation_image_is_scored_with_each_motion_and_the_same_clips_in_every_epoch(tmp_path: Path) -> None:
    write_images(tmp_path, 10)
    data = set_up(mosi(tmp_path, batch_size=9), num_frames=4)
    loader = data.val_dataloader()
    first = transferred_batches(data, loader)
    labels = torch.cat([batch["label"] for batch in first]).tolist()
    paths = [path for batch in first for path in batch["path"]]
    assert labels == list(range(9)) and len(set(paths)) == 9  # one image of ten
    assert [path.rsplit(" ", 1)[1] for path in paths] == list(MOTION_NAMES)
    assert first[0]["video"].shape == (9, 1, 3, 4, 32, 32)
    loader.sampler.set_epoch(5)
    again = transferred_batches(data, loader)
    assert all(torch.equal(a["video"], b["video"]) for a, b in zip(first, again, strict=True))


def test_files_in_any_subfolder_are_split_once(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 6)
    write_images(tmp_path / "b" / "c", 4, suffix="webp")
    (tmp_path / "readme.txt").write_text("not an image")
    data = mosi(tmp_path, val_fraction=0.3)
    train = relative_paths(data, data.split_records("train"))
    val = set(relative_paths(data, data.split_records("val")))
    assert (len(train), len(val)) == (7, 3)
    assert {*train, *val} == {*(f"a/{n}.png" for n in range(6)), *(f"b/c/{n}.webp" for n in range(4))}


def test_folders_train_and_val_define_the_splits(tmp_path: Path) -> None:
    for folder, count in (("train/x", 3), ("val/x", 2), ("test/x", 2)):
        write_images(tmp_path / folder, count)
    data = mosi(tmp_path)
    assert relative_paths(data, data.split_records("train")) == [f"train/x/{n}.png" for n in range(3)]
    assert set(relative_paths(data, data.split_records("val"))) == {"val/x/0.png", "val/x/1.png"}


def test_videos_provide_one_frame_random_in_training_and_the_middle_in_validation(tmp_path: Path) -> None:
    for number in range(4):
        numbered_video(tmp_path / f"{number}.mp4", 21)
    data = set_up(mosi(tmp_path, batch_size=9), num_frames=4)
    numbers = set()
    for seed in range(6):
        clips = data.datasets["train"][(0, seed)]["video"]
        (number,) = {n for clip in clips for n in frame_numbers(clip)}  # the same frame for all motions
        numbers.add(number)
    assert len(numbers) > 2
    assert set(frame_numbers(data.datasets["val"][0]["video"][0][0])) == {10}


def test_unreadable_image_is_replaced_in_training_and_skipped_in_validation(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / split, 3)
        (tmp_path / split / "bad.jpg").write_bytes(b"no image")
    data = set_up(mosi(tmp_path, batch_size=36, max_bad_fraction=0.5), num_frames=4)
    (batch,) = transferred_batches(data, data.train_dataloader())
    assert len(batch["video"]) == 36 and not any("bad" in path for path in batch["path"])
    assert list(data.skipped["train"]) == [str(tmp_path / "train" / "bad.jpg")]
    data.trainer.training = False
    scored = [path for batch in transferred_batches(data, data.val_dataloader()) for path in batch["path"]]
    assert len(scored) == 27 and len(data.skipped["val"]) == 9
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(str(tmp_path / "val" / "bad.jpg"), 32)


def test_exclude_list_removes_an_image(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 3)
    write_images(tmp_path / "val", 1)
    (tmp_path / "list.txt").write_text("train/1.png\n")
    data = set_up(mosi(tmp_path, exclude=tmp_path / "list.txt"))
    assert relative_paths(data, data.datasets["train"].records) == ["train/0.png", "train/2.png"]


def test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 0 images or videos; at least 2 are needed"):
        mosi(tmp_path).split_records("train")
