"""Something-Something and Jester: official files in several layouts, missing videos, and invalid annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from annotation_files import touch_files, write_text
from data_modules import class_by_path, set_up
from PIL import Image

import zoo
from datamodules.jester import Jester
from datamodules.something import SomethingV1, SomethingV2
from zoo.errors import DataError
from zoo.index import read_labels

V1 = "something-something-v1"


def test_mirroring_swaps_exactly_the_published_pairs(tmp_path: Path) -> None:
    # SSV2_FLIP of the TAdaConv authors' code: 86<->87, 93<->94, 166<->167
    names = SomethingV2(tmp_path).class_names
    assert names == list(read_labels("ssv2"))
    pairs = {tuple(sorted(map(names.index, pair))) for pair in SomethingV2(tmp_path).flip_names()}
    assert pairs == {(86, 87), (93, 94), (166, 167)}
    assert pairs == set(zoo.info("tada2d_r50.ssv2_8f").protocol.flip_pairs)
    # the same classes in V1's order
    first = {frozenset(pair) for pair in SomethingV1(tmp_path).flip_names()}
    assert first == {frozenset(pair) for pair in SomethingV2(tmp_path).flip_names()}
    # Jester: pairs follow from the names of the gestures
    assert {frozenset(pair) for pair in Jester(tmp_path).flip_names()} == {
        frozenset(("Swiping Left", "Swiping Right")),
        frozenset(("Sliding Two Fingers Left", "Sliding Two Fingers Right")),
        frozenset(("Turning Hand Clockwise", "Turning Hand Counterclockwise")),
    }


def test_class_counts_match_the_papers(tmp_path: Path) -> None:
    # 174 classes: Goyal et al. 2017 (arXiv:1706.04261), section 3; 27: Materzynska et al. 2019, table 1
    for data, count in ((SomethingV1, 174), (SomethingV2, 174), (Jester, 27)):
        assert data(tmp_path).num_classes == len(set(data(tmp_path).class_names)) == count
    assert set(read_labels("ssv1")) == set(read_labels("ssv2"))


def write_something_v2(root: Path, train: list[Any], validation: list[Any], named: bool) -> None:
    prefix, folder = ("something-something-v2-", "") if named else ("", "labels/")
    for split, entries in (("train", train), ("validation", validation)):
        write_text(root / f"{folder}{prefix}{split}.json", json.dumps(entries))
    numbers = {name: str(n) for n, name in enumerate(read_labels("ssv2"))}
    write_text(root / f"{folder}{prefix}labels.json", json.dumps(numbers))


def make_entry(number: int, template: str) -> dict[str, Any]:
    return {"id": str(number), "label": "the description of its author", "template": template, "placeholders": ["it"]}


@pytest.mark.parametrize("named", [True, False])
def test_something_v2_reads_its_official_files(tmp_path: Path, named: bool) -> None:
    train = [
        make_entry(78687, "Holding [something] next to [something]"),
        make_entry(5, "Stacking [number of] [something]"),
        make_entry(6, "Putting [something], [something] and [something] on the table"),
    ]
    write_something_v2(tmp_path, train, [make_entry(7, "Pulling [something] from left to right")], named)
    folder = "20bn-something-something-v2"
    touch_files(tmp_path, f"{folder}/78687.webm", f"{folder}/5.webm", "6.mp4", "videos/7.mp4")
    data = SomethingV2(tmp_path)
    assert class_by_path(data, "train") == {
        f"{folder}/78687.webm": "Holding something next to something",
        f"{folder}/5.webm": "Stacking number of something",
        "6.mp4": "Putting something, something and something on the table",
    }
    assert class_by_path(data, "test") == {"videos/7.mp4": "Pulling something from left to right"}
    assert data.split_records("val").labels.tolist() == [86]
    (tmp_path / "6.mp4").unlink()
    with pytest.raises(DataError, match=r"1 of the 3 videos listed in .*train\.json"):
        SomethingV2(tmp_path).split_records("train")
    records = SomethingV2(tmp_path, max_missing=0.5).split_records("train")
    assert (len(records), records.listed) == (2, 3)


def test_something_v2_errors_state_the_problem(tmp_path: Path) -> None:
    touch_files(tmp_path, "1.webm")
    for entries, message in (
        ([make_entry(1, "Holding [something] hostage")], "video 1 has the label 'Holding something hostage'"),
        ([{"id": "1", "label": "holding it"}], r"train\.json: entry 0 has no id or no template"),
        ({"1": "Holding something"}, r"train\.json must contain a list; it contains a dict"),
    ):
        write_something_v2(tmp_path, entries, [], named=True)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=message):
            SomethingV2(tmp_path).split_records("train")
    write_text(tmp_path / "something-something-v2-train.json", '[{"id": "1", "temp')
    with pytest.raises(DataError, match=r"train\.json is not JSON"):
        SomethingV2(tmp_path).split_records("train")
    write_text(tmp_path / "something-something-v2-labels.json", json.dumps({"Holding something": "0"}))
    with pytest.raises(DataError, match=r"labels\.json gives .* the label set ssv2"):
        _ = SomethingV2(tmp_path).class_names


def write_frames(folder: Path, values: Iterable[int]) -> None:
    folder.mkdir(parents=True)
    for number, value in enumerate(values, start=1):
        Image.new("RGB", (48, 40), (value, value, value)).save(folder / f"{number:05d}.jpg", quality=95)


def test_something_v1_reads_lists_and_folders_of_frames(tmp_path: Path) -> None:
    write_text(tmp_path / f"{V1}-labels.csv", "\n".join(sorted(read_labels("ssv1"))))  # in any order
    quoted = '"Lifting something up completely, then letting it drop down"'
    write_text(tmp_path / f"{V1}-train.csv", f"100218;Holding something\n24413;{quoted}\n\n7;Folding something\n")
    write_text(tmp_path / f"{V1}-validation.csv", "9;Turning the camera left while filming something\n")
    folder = f"20bn-{V1}"
    for number in (100218, 24413):
        touch_files(tmp_path, f"{folder}/{number}/00001.jpg")
    write_frames(tmp_path / folder / "9", range(0, 240, 20))  # 12 frames
    data = SomethingV1(tmp_path, max_missing=0.4, num_workers=0, batch_size=1, flip=False)
    assert class_by_path(data, "train") == {
        f"{folder}/100218": "Holding something",
        f"{folder}/24413": "Lifting something up completely, then letting it drop down",
    }
    assert data.split_records("train").listed == 3
    assert data.class_names == list(read_labels("ssv1"))
    set_up(data, "test")
    item = data.datasets["test"][0]
    assert data.datasets["test"].frame_rate == 12
    assert item["video"][0].shape == (1, 4, 3, 32, 32)
    # Segment sampling takes the middles of 4 segments of 3 frames: 1.5, 4.5, 7.5, 10.5, rounded half to even
    brightness = item["video"][0][0, :, :, 8:24, 8:24].float().mean(dim=(1, 2, 3))
    assert torch.allclose(brightness, torch.tensor([40.0, 80.0, 160.0, 200.0]), atol=3)
    batch = next(iter(data.test_dataloader()))
    assert batch["label"].tolist() == [2]


def test_something_v1_accepts_video_files(tmp_path: Path) -> None:
    write_text(tmp_path / f"{V1}-validation.csv", "9;Folding something\n")
    touch_files(tmp_path, "all/9.webm")
    assert class_by_path(SomethingV1(tmp_path), "val") == {"all/9.webm": "Folding something"}


def write_half_bright_video(path: Path) -> None:
    """Write a webm of four frames, bright on the left and dark on the right."""
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:, :32] = 200
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=12, options={"deadline": "realtime"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_something_v2_swaps_labels_of_mirrored_videos(tmp_path: Path) -> None:
    left, right = "Pushing [something] from left to right", "Pushing [something] from right to left"
    write_something_v2(
        tmp_path, [make_entry(n, left if n % 2 else right) for n in range(8)], [make_entry(8, left)], named=False
    )
    for number in range(9):
        write_half_bright_video(tmp_path / f"{number}.webm")
    data = set_up(SomethingV2(tmp_path, num_workers=0, batch_size=8, flip=True), "fit")
    (batch,) = data.train_dataloader()
    assert batch["video"].shape == (8, 4, 3, 32, 32)
    brightness = batch["video"].float().mean(dim=(1, 2, 3))  # (8, 32) columns
    mirrored = brightness[:, 0] < brightness[:, -1]
    assert 0 < mirrored.sum() < 8
    labels = torch.tensor([93 if int(Path(path).stem) % 2 else 94 for path in batch["path"]])
    assert batch["label"].tolist() == torch.where(mirrored, 187 - labels, labels).tolist()  # 93 <-> 94
    (batch,) = data.val_dataloader()
    assert batch["label"].tolist() == [93]


def test_something_v1_and_jester_errors_state_the_problem(tmp_path: Path) -> None:
    touch_files(tmp_path, f"20bn-{V1}/1/00001.jpg")
    for text, message in (
        ("1,Folding something\n", rf"{V1}-train\.csv, line 1: '1,Folding something' is not a video's number and class"),
        ("1;Folding something\n\n2;Unfolding;something\n", r"train\.csv, line 3"),
        ("1;Folding everything\n", "video 1 has the label 'Folding everything', which is none of the 174 classes"),
        ("1;Folding something\n1;Folding something\n", "is listed more than once"),
        ("2;Folding something\n", r"1 of the 1 videos .* are not below"),
    ):
        write_text(tmp_path / f"{V1}-train.csv", text)
        with pytest.raises(DataError, match=message):
            SomethingV1(tmp_path).split_records("train")
    with pytest.raises(DataError, match=rf"no annotation file {V1}-validation\.csv"):
        SomethingV1(tmp_path).split_records("test")
    write_text(tmp_path / "jester-v1-labels.csv", "\n".join([*read_labels("jester")[:-1], "Doing nothing"]))
    with pytest.raises(DataError, match="not the list of the 27 classes of jester: 'Doing nothing' is only in it"):
        _ = Jester(tmp_path).class_names


@pytest.mark.parametrize("layout", ["first", "later", "mirror"])
def test_jester_reads_all_of_its_releases(tmp_path: Path, layout: str) -> None:
    lines = {"train": "3;Swiping Left\n34;Turning Hand Clockwise\n", "validation": "5;No gesture\n"}
    if layout == "mirror":
        for split, text in lines.items():
            rows = [f'{line.replace(";", ",")},37,5,"(176, 100, 3)",JPEG' for line in text.splitlines()]
            write_text(
                tmp_path / f"{split.title()}.csv", "\n".join(["video_id,label,frames,label_id,shape,format", *rows])
            )
        folders = {"train": "Train", "validation": "Validation"}
    else:
        folders = dict.fromkeys(lines, "20bn-jester-v1")
        for split, text in lines.items():
            write_text(tmp_path / (f"jester-v1-{split}.csv" if layout == "first" else f"labels/{split}.csv"), text)
    for split, numbers in (("train", (3, 34)), ("validation", (5,))):
        touch_files(tmp_path, *(f"{folders[split]}/{number}/00001.jpg" for number in numbers))
    data = Jester(tmp_path)
    assert class_by_path(data, "train") == {
        f"{folders['train']}/3": "Swiping Left",
        f"{folders['train']}/34": "Turning Hand Clockwise",
    }
    assert class_by_path(data, "test") == class_by_path(data, "val") == {f"{folders['validation']}/5": "No gesture"}
    assert data.split_records("train").labels.tolist() == [0, 14]
    assert data.frame_rate == 12
