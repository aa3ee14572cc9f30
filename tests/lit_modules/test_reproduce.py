"""``tempozoo test --entry NAME --data FOLDER``: official annotations, published views, published accuracy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from annotation_files import write_lines
from runs import QUIET, flags, read_rows, video_folder
from small_models import SMALL
from tiny_zoo import NAMES, write_index

import datamodules
import zoo
from cli import main
from lit_modules.trainer_arguments import expand_entry
from lit_modules.trainer_parsing import parse
from zoo.index import load_index, read_labels

QUIET_IN_PROCESS = [*QUIET, *flags("data", num_workers=0)]
REPORTED = {"top1": 76.3, "top5": 92.5, "views": "2x3", "size": 32, "source": "its paper"}


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an index entry: a tiny network with the classes of Kinetics-400, whose weights are in the cache."""
    options = SMALL | {"num_classes": 400}
    protocol = zoo.info("tanet_r50.k400_8f").protocol.to_dict()
    protocol |= {"num_frames": 4, "interval": 2, "clips": 2, "resize": 32, "crop": 32, "train_crop": 32}
    index = write_index(
        tmp_path / "index.yaml", options=options, dataset="kinetics400", labels="kinetics400", protocol=protocol,
        reported=REPORTED,
    )  # fmt: skip
    monkeypatch.setenv("TEMPOZOO_INDEX", str(index))
    torch.save({"state_dict": zoo.create("tanet_r18", **options).state_dict()}, tmp_path / "file.pth")
    zoo.convert(tmp_path / "file.pth", NAMES["web"])
    return NAMES["web"]


def write_kinetics(root: Path, motion_folder: Path, missing: int = 0) -> Path:
    """Write the official annotations of a Kinetics-400 with 12 validation videos, and all but ``missing`` of these."""
    (root / "annotations").mkdir(parents=True)
    lines = ["label,youtube_id,time_start,time_end,split"]
    for number, video in enumerate(sorted((motion_folder / "val").rglob("*.mp4"))):
        key, label = f"clip_{number:02d}-abc", read_labels("kinetics400")[31 * number]
        lines.append(f'"{label}",{key},{number},{number + 10},validate')
        if number >= missing:
            shutil.copy(video, root / f"{key}_{number:06d}_{number + 10:06d}.mp4")
    (root / "annotations" / "val.csv").write_text("\n".join(lines) + "\n")
    return root


def test_entry_is_tested_with_published_views_and_compared_with_the_published_accuracy(
    entry: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = write_kinetics(tmp_path / "k400", motion_folder, missing=1)
    arguments = ["test", "--entry", entry, "--data", str(root), *QUIET_IN_PROCESS]
    assert main([*arguments, "--out", str(tmp_path / "published")]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "published" / "test.json").read_text())
    assert (summary["data"], summary["videos"], summary["listed"]) == ("Kinetics", 11, 12)
    assert summary["published"] == REPORTED | {"entry": entry, "dataset": "kinetics400", "differing": {}}
    assert (summary["protocol"]["clips"], summary["protocol"]["crops"]) == (2, 3)
    top1 = 100 * summary["metrics"]["test_top1"]
    for text in (
        "11 of 12 videos",
        "76.30 %",
        f"{top1:.2f} %",
        f"{top1 - 76.3:+.2f}",
        "1 listed videos are missing or excluded",
    ):
        assert text in printed, text
    assert "The published results use" not in printed

    assert main([*arguments, *flags("data", crops=1), "--out", str(tmp_path / "one-crop")]) == 0
    assert "The published results use crops 3, this test 1." in capsys.readouterr().out


def test_entry_selects_the_options_of_its_data_module(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SMALL | {"num_classes": 2}
    protocol = zoo.info("c2d_r18.mma0_hvu_scene_8f").protocol.to_dict()
    protocol |= {"num_frames": 4, "clips": 1, "crops": 1, "resize": 32, "crop": 32, "train_crop": 32}
    index = write_index(
        tmp_path / "index.yaml", options=options, dataset="hvu", labels=None, protocol=protocol,
        data_options={"category": "scene"},
    )  # fmt: skip
    monkeypatch.setenv("TEMPOZOO_INDEX", str(index))
    torch.save({"state_dict": zoo.create("tanet_r18", **options).state_dict()}, tmp_path / "file.pth")
    zoo.convert(tmp_path / "file.pth", NAMES["web"])
    root = tmp_path / "hvu"
    tags = {"yoga": "action", "zumba": "action", "beach": "scene", "arena": "scene"}
    lines = ["Tags,youtube_id,time_start,time_end"]
    for number, video in enumerate(sorted((motion_folder / "val").rglob("*.mp4"))[:4]):
        path = root / "videos_val" / f"video{number}_{10 * number:06d}_{10 * number + 100:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, path)
        lines.append(f"{list(tags)[number % 2]}|{list(tags)[2 + number % 2]},video{number},{number},{number + 10}")
    write_lines(root / "annotations" / "hvu_val.csv", lines)
    rows = [f"{tag},{category}" for tag, category in tags.items()]
    write_lines(root / "annotations" / "hvu_categories.csv", ["Tag,Category", *rows])
    arguments = [
        "test",
        "--entry",
        NAMES["web"],
        "--data",
        str(root),
        *QUIET_IN_PROCESS,
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    summary = json.loads((tmp_path / "out" / "test.json").read_text())
    assert (summary["data"], summary["videos"], summary["published"]["dataset"]) == ("HVU", 4, "hvu")
    assert 0 <= summary["metrics"]["test_map"] <= 1
    assert {row["class"] for row in read_rows(tmp_path / "out" / "classes.csv")} == {"arena", "beach"}


@pytest.mark.parametrize(
    ("name", "cls", "options"),
    [
        ("c2d_r50.mma0_minik200_8f", "MiniKinetics", {}),
        ("c2d_r50.mma0_mit_6f", "MomentsInTime", {}),
        ("c2d_r101.mma0_mmit_5f", "MultiMomentsInTime", {}),
        ("c2d_r50.mma0_anet_video_8f", "ActivityNet", {}),
        ("c2d_r50.mma0_anet_clip_8f", "ActivityNet", {"segments": "true"}),
        ("c2d_r18.mma0_hvu_object_8f", "HVU", {"category": "object"}),
        ("c2d_r50.mma0_k600_8f", "Kinetics", {"version": "600"}),
        ("c2d_r50.mma0_k700_8f", "Kinetics", {"version": "700"}),
        ("tsm_r50.mma0_jester_8f", "Jester", {}),
        ("tsm_r50.mma0_diving48_8f", "Diving48", {}),
        ("tsm_r50.mma0_k400_ucf101_8f", "UCF101", {}),
        ("tsm_r50.mma0_k400_hmdb51_8f", "HMDB51", {}),
        ("csn_r152.ek100_32x2", "EpicKitchens100", {}),
    ],
)
def test_entry_selects_the_data_module_of_its_data_set(
    name: str, cls: str, options: dict[str, str], tmp_path: Path
) -> None:
    classes = {class_name: getattr(datamodules, class_name) for class_name in datamodules.__all__}
    parsed = expand_entry("test", parse(["--entry", name, "--data", str(tmp_path)]), classes, datamodules.for_dataset)
    given = {"--data": cls, "--data.root": str(tmp_path), **{f"--data.{key}": value for key, value in options.items()}}
    assert parsed.network == name
    assert parsed.options == [f"{option}={value}" for option, value in given.items()]


def test_every_trained_entry_has_a_data_module() -> None:
    """Entries without one are starts for fine-tuning, about which the error of ``--entry`` says so."""
    index = load_index().entries.values()
    assert not {entry.dataset for entry in index if not entry.init and datamodules.for_dataset(entry.dataset) is None}


def test_bundled_entry_is_tested_with_its_classes(tmp_path: Path) -> None:
    name = "tanet_r18.motionclips8"
    few = flags("data", train_clips=1, val_clips=1, test_clips=2, num_workers=0)
    arguments = ["test", "--entry", name, "--data", str(tmp_path / "clips"), *few, *QUIET_IN_PROCESS]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "test.json").read_text())
    assert (summary["data"], summary["videos"]) == ("MotionClips", 16)
    assert summary["metrics"]["test_top1"] == 1
    assert {row["class"] for row in read_rows(tmp_path / "out" / "classes.csv")} == set(zoo.load(name).labels)


def test_data_with_other_classes_than_the_entry_is_refused(
    entry: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = video_folder(motion_folder, clips=1, crops=1)
    assert main(["test", "--entry", entry, *data, *QUIET, "--out", str(tmp_path / "out")]) == 1
    assert (
        f"The classifier of {entry} was re-initialized, because the data has other classes" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_wrong_arguments_are_reported(
    entry: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = write_kinetics(tmp_path / "k400", motion_folder, missing=4)
    for arguments, message in (
        (["--entry", entry], f"--entry {entry} needs the folder of kinetics400: --data FOLDER"),
        (["--entry", entry, "--from", entry, "--data", str(root)], "--entry and --from both name the network"),
        (["--entry", "tanet_r18.wep", "--data", str(root)], "Did you mean 'tanet_r18.web'"),
        (["--entry", entry, "--data", str(root)], "val.csv) are not below"),
        (["--entry", entry, "--data", str(tmp_path / "none")], f"Folder {tmp_path / 'none'} does not exist"),
        # The weights of this entry are not in the cache. The data is checked before they are downloaded.
        (
            ["--entry", NAMES["two"], "--data", str(root)],
            "val.csv) are not below",
        ),
        (["--entry", NAMES["two"], "--data", str(motion_folder)], "There is no annotation file"),
        (["--entry", NAMES["two"], "--data", str(tmp_path / "none")], f"Folder {tmp_path / 'none'} does not exist"),
    ):
        assert main(["test", *arguments, "--out", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
