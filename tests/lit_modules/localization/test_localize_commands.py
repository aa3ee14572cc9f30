"""Commands of localization: features, fit, test and localize of small generated videos."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from annotation_files import write_epic_files

import zoo
from cli import main
from datamodules import LocalizationData
from lit_modules import ActionLocalizer
from lit_modules.localization.localizer_report import benchmark_metrics
from lit_modules.localization.metrics import THRESHOLDS, detection_map
from zoo.inference.feature_files import FeatureFolder, VideoFeatures
from zoo.localization import PointLocalizer, load, save
from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.localizer_spec import FeatureSource, LocalizerSpec, PointOptions
from zoo.localization.segment_decoding import decode_segments
from zoo.localization.segments import Segment
from zoo.weights.lightning_checkpoint import CONFIG_KEY

NETWORK = "tanet_r18.motionclips8"
SMALL = [
    *("--model.width", "16", "--model.layers", "1", "--model.levels", "3", "--trainer.max_epochs", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0"),
]


def test_commands_find_segments_in_untrimmed_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, features, run = tmp_path / "videos" / "segments.csv", tmp_path / "features", tmp_path / "run"
    classes = ["--classes", "moves_left", "moves_right"]
    size = ["--videos", "1", "1", "1", "--seconds", "8"]
    assert main(["data", "motionclips", "--untrimmed", *classes, *size, "--out", str(table.parent)]) == 0
    source = ["--window", "1", "--stride", "0.5", "--out", str(features)]
    assert main(["features", str(tmp_path / "videos"), "--from", NETWORK, *source]) == 0
    data = ["--data.annotations", str(table), "--data.features", str(features)]
    assert main(["fit", "--config", "localize/folder", *data, *SMALL, "--out", str(run)]) == 0
    assert re.search(r"Epoch 1/1: train loss \d+\.\d{4}; validation mAP \d+\.\d\d %; \d+ s\n", capsys.readouterr().out)
    config = ["--config", str(run / "config.yaml")]
    assert main(["test", "--from", str(run), *config, "--out", str(tmp_path / "test")]) == 0
    assert "average mAP" in capsys.readouterr().out
    results = json.loads((tmp_path / "test" / "localization.json").read_text())
    assert results["videos"] == 1
    assert set(results["recall"]) == {"AR@1", "AR@5", "AR@10", "AR@50", "AR@100", "AUC"}
    listed = (tmp_path / "test" / "segments.csv").read_text().splitlines()
    assert listed[0] == "path,start,end,label,score" and len(listed) > 1

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
    assert main(["localize", video, "--from", NETWORK]) == 1
    assert "is a classifier; localize needs a localizer" in capsys.readouterr().err
    assert main(["test", "--from", str(run)]) == 1
    assert "or the data of a run: --config RUN/config.yaml" in capsys.readouterr().err
    assert main(["test", "--from", str(run), "my_videos"]) == 1
    assert "give the data of a localizer with --data.annotations" in capsys.readouterr().err
    assert main(["probe", "--config", "localize/folder"]) == 1
    assert "probe is for classifiers" in capsys.readouterr().err
    other = zoo.create("tanet_r18", num_classes=4, width=8, image_size=32)
    with pytest.raises(zoo.errors.ConfigError, match="has other weights than"):
        zoo.localize(load(run), video, feature_network=other)


@pytest.mark.parametrize(("target", "names"), [("action", ["verb", "noun", "action"]), ("noun", ["noun"])])
def test_epic_kitchens_is_tested_with_its_thresholds(
    target: str, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_epic_files(tmp_path)
    features = FeatureFolder(tmp_path / "features")
    # texts of digits, which must not become numbers
    source = {"network": "1", "weights": "2" * 64, "window": 1.0, "stride": 0.25, "views": "1x1", "stage": None}
    features.start(source)
    for video, count in (("P01_01.MP4", 12), ("P02_102.MP4", 5)):
        start = torch.arange(count) * 0.25
        features.write(VideoFeatures(video, torch.randn(count, 8), start, start + 1))
    data = [*("--data.annotations", str(tmp_path), "--data.features", str(tmp_path / "features")),
            *("--data.target", target, "--data.test_split", "val")]  # fmt: skip
    run = tmp_path / "run"
    assert main(["fit", "--config", "localize/folder", *data, *SMALL, "--out", str(run)]) == 0
    assert "Best validation average mAP (tIoU 0.1 to 0.5)" in capsys.readouterr().out
    assert asdict(load(run).spec.features) == source | {"dim": 8}
    assert main(["test", "--from", str(run), *data, "--out", str(tmp_path / "test")]) == 0
    printed = capsys.readouterr().out
    assert all(f"average {name} mAP" in printed for name in names)
    results = json.loads((tmp_path / "test" / "localization.json").read_text())
    assert list(results) == ["videos", "segments", *names, "recall"]
    assert list(results["noun"]) == ["average", "0.1", "0.2", "0.3", "0.4", "0.5"]


def test_benchmark_metrics_of_actions_are_those_of_epic(tmp_path: Path) -> None:
    write_epic_files(tmp_path)
    module = ActionLocalizer(str(save(small_localizer(("open door", "take knife")), tmp_path / "localizer")))
    module.truth = {"a": [(0.0, 1.0, "open door")], "b": [(1.0, 2.0, "take knife")]}
    module.predictions = {"a": [Segment(0.0, 1.0, "open knife", 0.9)], "b": [Segment(1.0, 1.35, "take knife", 0.5)]}
    results = benchmark_metrics(module, LocalizationData(tmp_path, tmp_path))
    averages = {name: metrics.average for name, (tiou, metrics) in results.items() if tiou == "0.1:0.1:0.5"}
    # The second segment overlaps by 0.35 and is correct at three of five thresholds. Of the first one, which has a
    # higher score, only the verb is correct, so the precision of the noun "knife" is 0.5.
    assert averages == pytest.approx({"verb": (1 + 0.6) / 2, "noun": (0 + 0.6 * 0.5) / 2, "action": (0 + 0.6) / 2})


def write_features(folder: Path, labels: tuple[str, ...]) -> LocalizationData:
    """Write the features and segments of a training and a validation video."""
    features = FeatureFolder(folder / "features")
    features.start({"network": "n", "weights": "0", "window": 1.0, "stride": 0.5, "views": "1x1", "stage": None})
    start = torch.arange(12) * 0.5
    for name in ("train", "val"):
        features.write(VideoFeatures(f"{name}.mp4", torch.randn(12, 8), start, start + 1))
    rows = [f"{name}.mp4,{number},{number + 2},{label},{name}" for number, label in enumerate(labels)
            for name in ("train", "val")]  # fmt: skip
    (folder / "rows.csv").write_text("\n".join(["path,start,end,label,split", *rows]))
    return LocalizationData(folder / "rows.csv", folder / "features")


def small_localizer(labels: tuple[str, ...], **changes: object) -> PointLocalizer:
    """Create a localizer for the features of ``write_features``."""
    source = FeatureSource(**{"network": "n", "weights": "0", "window": 1.0, "stride": 0.5, "dim": 8, **changes})
    return PointLocalizer(LocalizerSpec(source, labels, PointOptions(width=16, heads=2, layers=1, levels=2)))


def quiet_trainer(folder: Path, **options: Any) -> L.Trainer:
    """Create a Trainer for one epoch."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(max_epochs=1, default_root_dir=folder, **quiet | options)


def test_training_continues_with_some_of_the_labels(tmp_path: Path) -> None:
    name = save(small_localizer(("a", "b", "c")), tmp_path / "localizer")
    data = write_features(tmp_path, ("b", "c"))
    module = ActionLocalizer(str(name))
    quiet_trainer(tmp_path, enable_checkpointing=False).fit(module, datamodule=data)
    (batch,) = data.train_dataloader()
    assert batch["labels"][0].tolist() == [0, 1]
    assert module.on_after_batch_transfer(batch, 0)["labels"][0].tolist() == [1, 2]


def test_data_that_do_not_fit_the_localizer_are_refused(tmp_path: Path) -> None:
    data = write_features(tmp_path, ("a", "d"))
    for number, (localizer, message) in enumerate(
        (
            (small_localizer(("a", "b")), "The data have labels that the localizer does not have: d"),
            (small_localizer(("a", "d"), weights="1"), "are from network n, those of the localizer from n"),
            (small_localizer(("a", "d"), stride=0.25), "are from stride 0.5, those of the localizer from 0.25"),
            (small_localizer(("a", "d"), dim=16), "are from dim 8, those of the localizer from 16"),
        )
    ):
        module = ActionLocalizer(str(save(localizer, tmp_path / str(number))))
        with pytest.raises(zoo.errors.ConfigError, match=message):
            quiet_trainer(tmp_path, enable_checkpointing=False).validate(module, datamodule=data, verbose=False)


def test_a_run_is_not_resumed_with_other_labels_or_features(tmp_path: Path) -> None:
    module = ActionLocalizer(str(save(small_localizer(("a", "b")), tmp_path / "localizer")))
    checkpoint: dict[str, Any] = {CONFIG_KEY: small_localizer(("a", "c")).spec.to_config()}
    with pytest.raises(zoo.errors.ConfigError, match="The checkpoint has other labels than the data"):
        module.on_load_checkpoint(checkpoint)
    checkpoint = {CONFIG_KEY: small_localizer(("a", "b"), stride=0.25).spec.to_config()}
    with pytest.raises(zoo.errors.ConfigError, match="those of the checkpoint from 0.25"):
        module.on_load_checkpoint(checkpoint)


def test_help_describes_the_options_of_localizers(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in (
        (["--help"], "--config localize/folder"),
        (["--model.help", "ActionLocalizer"], "--model.attention_window"),
        (["--data.help", "LocalizationData"], "--data.min_duration"),
    ):
        assert main(["fit", *arguments]) == 0
        assert text in capsys.readouterr().out
    assert main(["fit", "--config", "localize/folder", "--help_all"]) == 0
    printed = capsys.readouterr().out
    assert "--from RUN" in printed and "--trainer.max_epochs" in printed
    assert "--views" not in printed and "--folds" not in printed


def test_options_of_untrimmed_videos_need_untrimmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "motionclips", "--seconds", "8", "--out", str(tmp_path / "videos")]) == 1
    assert "add --untrimmed" in capsys.readouterr().err


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
