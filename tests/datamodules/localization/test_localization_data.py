"""Annotations and features of untrimmed videos: batches, and errors that name the video and the segment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import LocalizationData
from datamodules.untrimmed_motion import render_untrimmed
from zoo.errors import DataError
from zoo.inference.feature_files import FeatureFolder, VideoFeatures

HEADER = "path,start,end,label,split"


def write_data(folder: Path, *rows: str, windows: int = 9, **manifest: object) -> LocalizationData:
    """Write a CSV file, and features of a.mp4 and b.mp4 with windows of 1 s every 0.25 s."""
    (folder / "rows.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    features = FeatureFolder(folder / "features")
    source = {"network": "net", "weights": "0" * 64, "window": 1.0, "stride": 0.25, "stage": None, "views": "1x1"}
    features.start(source | manifest)
    for name, count in (("a.mp4", windows), ("b.mp4", 5)):
        start = torch.arange(count) * 0.25
        features.write(VideoFeatures(str(folder / name), torch.randn(count, 3), start, start + 1))
    return LocalizationData(folder / "rows.csv", folder / "features", batch_size=2)


def test_batches_are_padded_and_segments_are_in_cells(tmp_path: Path) -> None:
    data = write_data(tmp_path, "a.mp4,0.5,1.5,run,val", "b.mp4,1,2,jump,val", "b.mp4,0.25,1,run,val")
    data.setup("validate")
    (batch,) = data.val_dataloader()
    assert batch["features"].shape == (2, 3, 9)
    assert batch["mask"].sum(1).tolist() == [9, 5] and not batch["features"][1, :, 5:].any()
    assert batch["segments"][0].tolist() == [[0.0, 4.0]]
    assert batch["segments"][1].tolist() == [[2.0, 6.0], [-1.0, 2.0]]
    assert [labels.tolist() for labels in batch["labels"]] == [[1], [0, 1]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.mp4,2,1,run,val", "a.mp4', segment 2 - 1 s ('run') is reversed"),
        ("a.mp4,1,1,run,val", "has no length"),
        ("a.mp4,-1,1,run,val", "starts before the video"),
        ("a.mp4,1,9,run,val", "segment 1 - 9 s ('run') ends after the video, at 3 s"),
        ("b.mp4,1,2,walk,val", "also has the label 'run'"),
        ("b.mp4,1,2,run,val", "is listed twice"),
        ("c.mp4,0,1,run,val", "has no features of"),
        ("a.mp4,x,1,run,val", "line 3: start is 'x'"),
        ("a.mp4,1,,run,val", "line 3: a segment needs start, end and label"),
    ],
)
def test_invalid_segments_are_reported(tmp_path: Path, row: str, message: str) -> None:
    data = write_data(tmp_path, "b.mp4,1,2,run,val", row)
    with pytest.raises(DataError) as error:
        data.check("validate")
    assert message in str(error.value)


def test_features_without_windows_are_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path, "a.mp4,1,2,run,val", window=None)
    with pytest.raises(DataError, match="have no windows"):
        data.check("validate")


def test_short_segments_are_counted_and_used_in_validation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_data(tmp_path, "a.mp4,1,1.1,run,train", "a.mp4,1,2,run,train", "b.mp4,1,1.1,run,val")
    data = LocalizationData(tmp_path / "rows.csv", tmp_path / "features", min_duration=0.5)
    data.setup("fit")
    assert [len(data.datasets[split].videos[0].segments) for split in ("train", "val")] == [1, 1]
    assert "1 segments of the split train are shorter" in caplog.text


def test_untrimmed_motions_have_exact_bounds() -> None:
    frames, motions = render_untrimmed(["moves_left"], 3, seconds=20, size=32)
    assert frames.shape == (240, 32, 32, 3) and motions
    again, _ = render_untrimmed(["moves_left"], 3, seconds=20, size=32)
    assert np.array_equal(frames, again)
    ends = [0, *(motion.stop for motion in motions)]
    assert all(end <= motion.first < motion.stop <= 240 for end, motion in zip(ends, motions, strict=False))
