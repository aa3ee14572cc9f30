"""Runs on a data set with 5 % of each kind of bad file train, validate and test to the end, with exact counts."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from numbered_videos import numbered_video
from odd_videos import BAD_KINDS, make_bad

from cli import main

COUNT = 40  # videos in a split, two of each bad kind
KINDS = [kind for kind in BAD_KINDS if kind != "folder"]  # a folder named x.mp4 is not listed as a video
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@pytest.fixture(scope="module")
def damaged_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Per split, two videos of each bad kind, two of a single frame, and good ones, in two classes."""
    root = tmp_path_factory.mktemp("damaged")
    good = numbered_video(root / "good.mp4", 12, (32, 32)).read_bytes()
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for kind in KINDS:
                make_bad(kind, folder / f"bad_{kind}.mp4")
            numbered_video(folder / "good_one_frame.mp4", 1, (32, 32))
            for n in range(COUNT // 2 - len(KINDS) - 1):
                (folder / f"good_{n}.mp4").write_bytes(good)
    return root / "data"


def test_unreadable_files_of_every_kind_do_not_stop_a_run(
    damaged_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    data = ["--data", "VideoFolder", "--data.root", str(damaged_folder), "--data.num_workers", "2",
            "--data.time_limit", "1.5", "--data.max_bad_fraction", "1", "--data.batch_size", "4"]  # fmt: skip
    network = ["--model", "VideoClassifier", "--model.name", "c2d_r18", "--model.num_frames", "4",
               "--model.image_size", "32", "--model.options", '{"width": 8}']  # fmt: skip
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert main(["fit", *network, *data, *QUIET, "--trainer.max_epochs", "2", "--out", str(tmp_path / "fit")]) == 0
    bad = 2 * len(KINDS)
    for split in ("train", "val"):
        assert f"{bad} of {COUNT} {split} videos could not be read" in caplog.text
        for kind in KINDS:
            messages = [m for m in caplog.messages if m.startswith(f"{split} video") and f"bad_{kind}.mp4" in m]
            assert len(messages) == 2, (split, kind)  # two files, one in each class, each logged once
    assert f"{COUNT - bad} videos were scored, {bad} could not be read" in caplog.text
    assert "good_" not in "".join(m for m in caplog.messages if "replaced" in m or "left out" in m)

    best = str(tmp_path / "fit" / "checkpoints" / "best.ckpt")
    data += ["--data.allow_overlap", "true"]  # the same bad files are in every split
    assert main(["test", "--from", best, *data, *QUIET, "--out", str(tmp_path / "test")]) == 0
    summary: dict[str, Any] = json.loads((tmp_path / "test" / "test.json").read_text())
    assert (summary["videos"], summary["listed"]) == (COUNT - bad, COUNT)
    assert {Path(p).name for p in summary["skipped"]} == {f"bad_{kind}.mp4" for kind in KINDS}
    assert len(summary["skipped"]) == bad
    assert f"{COUNT - bad} of {COUNT} videos" in capsys.readouterr().out
    assert time.monotonic() - start < 90  # each endless file takes its time limit, once per process
