"""The command line in process: training, testing, prediction and export with one run, and their errors."""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import QUIET, flags, model, read_checkpoint, read_rows, resume, video_folder
from small_models import FOUR

import zoo
from cli import main
from lit_modules import VideoClassifier


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs of a tiny TANet, with averaged weights and worker processes."""
    out = tmp_path_factory.mktemp("runs") / "fit"
    network = model("TANet", "tanet_r18", ema_decay=0.9)
    data = video_folder(motion_folder, num_workers=2)
    assert main(["fit", *network, *data, *flags("trainer", max_epochs=2), *QUIET, "--out", str(out)]) == 0
    assert not multiprocessing.active_children()  # workers would delay the end of this process
    return out


def test_fit_writes_checkpoints_metrics_and_its_config(run: Path) -> None:
    assert {"best.ckpt", "last.ckpt"} <= {p.name for p in (run / "checkpoints").iterdir()}
    assert (run / "config.yaml").is_file()
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["epoch"] == 1  # whether or not epoch 0 was better
    rows = read_rows(run / "metrics.csv")
    for column in ("train_loss_epoch", "train_top1", "val_top1", "val_majority_class", "val_mean_class", "val_loss"):
        values = [float(row[column]) for row in rows if row[column]]
        assert len(values) == 2, column
        assert all(map(math.isfinite, values))


def test_test_reports_every_video(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    data = video_folder(motion_folder, clips=2, crops=3)
    assert main(["test", "--from", str(best), *data, *QUIET, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "12 of 12 videos" in printed
    assert "top-1" in printed
    assert "2 clips x 3 crops" in printed
    assert "chance" in printed
    summary = json.loads((tmp_path / "test.json").read_text())
    rows = read_rows(tmp_path / "predictions.csv")
    assert len(rows) == summary["videos"] == 12
    correct = np.mean([row["label"] == row["prediction1"] for row in rows])
    assert summary["metrics"]["test_top1"] == pytest.approx(correct)
    assert "test_top5" not in summary["metrics"]  # always correct for four classes
    assert all(sum(float(row[f"score{k}"]) for k in range(1, 5)) == pytest.approx(1, abs=1e-4) for row in rows)
    matrix = np.loadtxt(tmp_path / "confusion.csv", dtype=int, delimiter=",", skiprows=1, usecols=range(1, 5))
    assert matrix.sum() == 12
    assert np.trace(matrix) == round(12 * correct)
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_predict_accepts_files_and_folders(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = str(run / "checkpoints" / "best.ckpt")
    file = tmp_path / "a clip.mp4"
    shutil.copy(next((motion_folder / "test" / "meets").iterdir()), file)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no")
    arguments = ["predict", "--from", best, str(file), str(motion_folder / "val" / "parts"), str(broken), *QUIET]
    assert main([*arguments, *flags("data", num_workers=0), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "a clip.mp4" in printed
    assert len(re.findall(rf"\d+\.\d\d % ({'|'.join(FOUR)})", printed)) == 4 * 3
    assert f"Unreadable: {broken}" in printed
    rows = read_rows(tmp_path / "out" / "predictions.csv")
    assert len(rows) == 4
    assert rows[0]["path"] == str(file)


def test_exported_checkpoint_has_the_scores_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    assert main(["export-checkpoint", str(best), str(tmp_path / "zoo")]) == 0
    assert "Wrote" in capsys.readouterr().out
    exported = zoo.load(tmp_path / "zoo")
    assert exported.labels == tuple(sorted(FOUR))
    assert exported.spec.provenance["fine_tuned_from"] == "tanet_r18"
    clip = torch.randn(2, 3, 4, 32, 32)
    module = VideoClassifier.load_from_checkpoint(best, weights_only=True).eval()
    assert torch.equal(exported(clip), module(clip))
    assert torch.equal(exported(clip), zoo.load(best)(clip))


def test_fine_tuning_starts_from_a_checkpoint_with_other_classes(
    run: Path, tmp_path: Path, motion_folder: Path
) -> None:
    for split in ("train", "val"):
        for name in ("appears", "meets"):
            shutil.copytree(motion_folder / split / name, tmp_path / "data" / split / f"my {name}")
    best = run / "checkpoints" / "best.ckpt"
    out = tmp_path / "run"
    arguments = ["fit", "--from", str(best), "--model", "TAda2D", *video_folder(tmp_path / "data"), "--out", str(out)]
    assert main([*arguments, *flags("model", freeze_backbone=True), *flags("trainer", max_epochs=1)]) == 0
    assert "class_path: lit_modules.TAda2D" in (out / "config.yaml").read_text()
    before, after = zoo.load(best), zoo.load(out / "checkpoints" / "last.ckpt")
    assert after.labels == ("my appears", "my meets")
    old, new = before.state_dict(), after.state_dict()
    changed = {key for key in new if new[key].shape != old[key].shape or not torch.equal(new[key], old[key])}
    assert changed == {"fc.weight", "fc.bias"}  # the frozen backbone kept its weights and statistics
    assert main(arguments) == 1  # the folder contains a run


def test_resume_continues_after_the_last_epoch(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    arguments = ["fit", "--config", str(run / "config.yaml"), *resume(last), *flags("trainer", max_epochs=3)]
    assert main([*arguments, "--out", str(tmp_path / "resumed")]) == 0
    assert read_checkpoint(tmp_path / "resumed" / "checkpoints" / "last.ckpt")["epoch"] == 2


def test_config_of_a_run_names_the_data_of_a_test(run: Path, tmp_path: Path) -> None:
    before = (run / "metrics.csv").read_text()
    arguments = ["--from", str(run / "checkpoints" / "best.ckpt"), "--config", str(run / "config.yaml")]
    assert main(["test", *arguments, *flags("data", clips=2), "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "test.json").read_text())["protocol"]["clips"] == 2
    assert (run / "metrics.csv").read_text() == before


def test_report_names_unreadable_videos(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "motion"
    shutil.copytree(motion_folder, root)
    (root / "test" / "parts" / "parts_0001.mp4").write_bytes(b"")
    best = str(run / "checkpoints" / "best.ckpt")
    assert main(["test", "--from", best, *video_folder(root), *QUIET, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "11 of 12 videos" in printed
    assert "Unreadable: " in printed
    assert "parts_0001.mp4 is empty" in " ".join(printed.split())
    assert len(json.loads((tmp_path / "out" / "test.json").read_text())["skipped"]) == 1


# errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "Unknown command 'dance'"),
        (["list", "nothing*"], "No network matches"),
        (["info", "tanet_r50.k400_9f"], "Did you mean 'tanet_r50.k400_8f'"),
        (["convert", "none.pth", "tanet_r50.k400_8f"], "Weight file none.pth does not exist"),
        (["export-checkpoint", "none.ckpt", "x"], "File none.ckpt does not exist"),
        (["test", "--data", "VideoFolder", "--data.root", "x"], "test needs a network: tempozoo test --from NETWORK"),
        (["test", "--from", "tanet_r50.ssv2_8f"], "test needs data: tempozoo test --from tanet_r50.ssv2_8f --data"),
        (["predict", "--from", "tanet_r50.ssv2_8f"], "predict needs files or folders"),
        (["predict", "--from", "tanet_r50.ssv2_8f", "none.mp4"], "none.mp4 does not exist"),
        (["fit", "stray"], "takes no plain argument 'stray'"),
        (["test", "--from"], "--from needs a value"),
    ],
)
def test_error_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("tempozoo: ")
    assert message in error
    assert error.count("\n") == 1


def test_test_without_data_suggests_the_data_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/best.ckpt", "config.yaml"):
        (tmp_path / name).touch()
    assert main(["test", "--from", str(tmp_path)]) == 1
    suggestion = f"or the data of the run: tempozoo test --from {tmp_path} --config {tmp_path}/config.yaml"
    assert suggestion in capsys.readouterr().err


def test_missing_weights_and_data_are_reported(
    tmp_path: Path, motion_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    fit, out = ["fit", "--from", "tanet_r50.k400_8f"], ["--out", str(tmp_path / "run")]
    assert main([*fit, *video_folder(motion_folder), *out]) == 1
    assert "drive.google.com" in capsys.readouterr().err
    assert main([*fit, *video_folder(tmp_path / "none"), *out]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_class_with_too_few_videos_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The data module detects it in ``setup``, after the command has created the Trainer."""
    for name, count in (("many", 3), ("lonely", 1)):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number}.mp4").touch()
    arguments = ["fit", "--from", "tanet_r18.motionclips8", *video_folder(tmp_path / "data"), *QUIET]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 1
    assert "'lonely'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_list_info_and_help(capsys: pytest.CaptureFixture) -> None:
    assert main(["list", "tada2d*", "--dataset", "ssv2"]) == 0
    printed = capsys.readouterr().out
    assert "tada2d_r50.ssv2_8f" in printed
    assert "tanet" not in printed
    assert main(["info", "tanet_r50.mma_k400_8f"]) == 0
    printed = capsys.readouterr().out
    for text in ("a34346bc", "top-1 76.25", "10 clips x 3 crops", "abseiling", "Apache-2.0", "arxiv.org"):
        assert text in printed
    assert main([]) == 0
    assert main(["fit", "--help"]) == 0
    printed = capsys.readouterr().out
    for text in ("--model", "--config localize/folder", "--data.help LocalizationData", "--config mosi/folder"):
        assert text in printed
    assert main(["fit", "--model.help", "TANet"]) == 0
    assert "head_lr_scale" in capsys.readouterr().out
