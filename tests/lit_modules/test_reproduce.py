"""``tempozoo test --entry NAME --data FOLDER``: official annotations, published views, published accuracy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import QUIET, flags, video_folder
from small_models import SMALL
from tiny_zoo import NAMES, write_index

import zoo
from cli import main
from zoo.index import read_labels

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
