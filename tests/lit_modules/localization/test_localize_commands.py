"""Commands of localization: features, fit, test and localize of small generated videos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import zoo
from cli import main
from datamodules.untrimmed_motion import write_untrimmed
from lit_modules import ActionLocalizer
from lit_modules.localization.metrics import THRESHOLDS, detection_map
from zoo.localization import load
from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.segment_decoding import decode_segments

NETWORK = "tanet_r18.motionclips8"
SMALL = [
    *("--model.width", "16", "--model.layers", "1", "--model.levels", "3", "--trainer.max_epochs", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0"),
]


def test_commands_find_segments_in_untrimmed_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"train": 1, "val": 1, "test": 1}
    classes = ("moves_left", "moves_right")
    table = write_untrimmed(tmp_path / "videos", classes=classes, videos=counts, seconds=8, progress=False, size=32)
    features, run = tmp_path / "features", tmp_path / "run"
    source = ["--window", "1", "--stride", "0.5", "--out", str(features)]
    assert main(["features", str(tmp_path / "videos"), "--from", NETWORK, *source]) == 0
    data = ["--data.annotations", str(table), "--data.features", str(features)]
    assert main(["fit", "--config", "localize/folder", *data, *SMALL, "--out", str(run)]) == 0
    config = ["--config", str(run / "config.yaml")]
    assert main(["test", "--from", str(run), *config, "--out", str(tmp_path / "test")]) == 0
    assert "average 0.3:0.1:0.7" in capsys.readouterr().out
    assert json.loads((tmp_path / "test" / "localization.json").read_text())["videos"] == 1

    video = str(tmp_path / "videos" / "test" / "0000.mp4")
    outputs = {name: tmp_path / file for name, file in (("json", "a.json"), ("plot", "a.png"), ("save", "a.mp4"))}
    options = [token for name, path in outputs.items() for token in (f"--{name}", str(path))]
    assert main(["localize", video, "--from", str(run), "--threshold", "0", *options]) == 0
    assert all(path.stat().st_size for path in outputs.values())
    written = json.loads(outputs["json"].read_text())["segments"]
    segments = zoo.localize(run, video, threshold=0)
    assert [one._asdict() for one in segments] == written and segments

    assert main(["predict", video, "--from", str(run)]) == 1
    assert "is a localizer, not a classifier" in capsys.readouterr().err
    assert main(["probe", "--config", "localize/folder"]) == 1
    assert "probe is for classifiers" in capsys.readouterr().err
    other = zoo.create("tanet_r18", num_classes=4, width=8, image_size=32)
    with pytest.raises(zoo.errors.ConfigError, match="has other weights than"):
        zoo.localize(load(run), video, feature_network=other)


def test_localizer_learns_a_small_set_by_heart() -> None:
    torch.manual_seed(0)
    source = {"network": "n", "weights": "0", "window": 1.0, "stride": 0.5, "dim": 8, "views": "1x1", "stage": None}
    options = {"width": 32, "layers": 1, "levels": 3, "dropout": 0.0}
    module = ActionLocalizer(class_names=["a", "b"], features=source, **options)
    features, mask = torch.randn(2, 8, 40), torch.ones(2, 40, dtype=torch.bool)
    truth = {"x": [(2.0, 5.0, "a"), (9.0, 15.0, "b")], "y": [(4.0, 8.0, "b")]}
    grid = FeatureGrid(1.0, 0.5)
    segments = [grid.to_cells(torch.tensor([one[:2] for one in rows])) for rows in truth.values()]
    labels = [torch.tensor([0, 1]), torch.tensor([1])]
    batch = {"features": features, "mask": mask, "segments": segments, "labels": labels}
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[method-assign, assignment]
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    with torch.no_grad():
        output = module.network(features, mask)
    decoded = dict(zip(truth, decode_segments(output, grid, [20.5, 20.5], ["a", "b"]), strict=True))
    assert min(detection_map(truth, decoded, THRESHOLDS["thumos14"]).by_threshold) > 0.95
