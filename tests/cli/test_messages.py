"""One-line errors of wrong options and classes, and the messages about the start and the result of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import QUIET, flags, model, read_rows, resume, video_folder

import zoo
from cli import main

FOLDER = ["fit", "--config", "configs/finetune/folder.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (FOLDER, "--data.root is missing: VideoFolder needs it. `--data.help VideoFolder` lists its options."),
        ([*FOLDER, "--data.rot", "x"], "VideoFolder has no option --data.rot (did you mean --data.root?)"),
        (
            [*FOLDER, "--data", "VideoFolders"],
            "--data is VideoFolders, which is not a data set (did you mean VideoFolder?); choose",
        ),
        (
            ["fit", "--model", "Tanet"],
            "--model is Tanet, which is not a training recipe (did you mean TANet?); choose from STAM",
        ),
        (
            [*FOLDER, "--model.warmup_epoch", "2"],
            "VideoClassifier has no option --model.warmup_epoch (did you mean --model.schedule.warmup_epochs?)",
        ),
        (
            [*FOLDER, "--data.root", "x", "--data.batch_size", "ten"],
            "--data.batch_size is ten; it must be a whole number.",
        ),
        (
            [*FOLDER, "--data.root", "x", "--model.optimizer.lr", "1e-3x"],
            "--model.optimizer.lr is 1e-3x; it must be a number.",
        ),
        ([*FOLDER, "--trainer.precision", "17"], "--trainer.precision is 17; choose from 64, 32, 16"),
        ([*FOLDER, "--trainer.nothing", "3"], "Unknown option --trainer.nothing"),
        ([*FOLDER, "--data"], "--data needs a value."),
        (["fit", "--config", "nope.yaml"], "File or recipe 'nope.yaml' does not exist"),
    ],
)
def test_wrong_option_is_reported_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if "--data" not in arguments and "--config" not in arguments:
        arguments = [*arguments, "--data", "VideoFolder"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("tempozoo: ") and message in error and "\n" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("accelerator", "gpu", "These --trainer options do not work here: "),
        ("strategy", "ddpp", "You selected an invalid strategy name"),
        ("devices", "none", "These --trainer options do not work here: "),
    ],
)
def test_unavailable_device_is_reported_in_one_line(
    option: str, value: str, message: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if value == "gpu" and torch.cuda.is_available():
        pytest.skip("a GPU is available")
    arguments = ["fit", *model("VideoClassifier", "c2d_r18"), *video_folder(motion_folder)]
    assert main([*arguments, *flags("trainer", **{option: value}), "--out", str(tmp_path / "out")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tempozoo: ")]
    assert message in line


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one epoch."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["fit", *model("VideoClassifier", "c2d_r18"), *flags("model.optimizer", lr=0.3)]
    arguments += [*video_folder(motion_folder), *flags("trainer", max_epochs=1), *QUIET, "--out", str(out)]
    assert main(arguments) == 0
    return out


def copy_classes(source: Path, target: Path, new_names: dict[str, str]) -> Path:
    """Copy some classes of a data set under new names; return the folder of the copy."""
    for split in ("train", "val", "test"):
        for name, new_name in new_names.items():
            shutil.copytree(source / split / name, target / split / new_name)
    return target


@pytest.mark.parametrize("command", ["test", "validate"])
def test_misspelled_class_is_refused(
    command: str, run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = {"appears": "appears", "vanishes": "vanishes", "meets": "Meets", "parts": "parts"}
    root = copy_classes(motion_folder, tmp_path / "data", names)
    best = str(run / "checkpoints" / "best.ckpt")
    assert main([command, "--from", best, *video_folder(root), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "it has no 'Meets' (did you mean 'meets'?)" in error
    assert f"Correct the labels, fine-tune with `tempozoo fit --from {best}`, or add --allow_untrained" in error


def test_test_with_some_of_the_classes_renormalizes_their_scores(
    run: Path, motion_folder: Path, tmp_path: Path
) -> None:
    root = copy_classes(motion_folder, tmp_path / "data", {"parts": "parts", "appears": "appears"})
    best = str(run / "checkpoints" / "best.ckpt")
    out = tmp_path / "test"
    assert main(["test", "--from", best, *video_folder(root), "--out", str(out)]) == 0
    rows = read_rows(out / "predictions.csv")
    assert len(rows) == 6

    assert main(["predict", "--from", best, str(root / "test"), "--out", str(tmp_path / "all")]) == 0
    rows_of_all_classes = {row["path"]: row for row in read_rows(tmp_path / "all" / "predictions.csv")}
    labels = set(zoo.load(best).labels)
    for row in rows:
        full_row = rows_of_all_classes[row["path"]]
        scores = {full_row[f"prediction{k}"]: float(full_row[f"score{k}"]) for k in (1, 2, 3, 4)}
        assert set(scores) == labels
        expected = scores[row["prediction1"]] / (scores["parts"] + scores["appears"])
        assert float(row["score1"]) == pytest.approx(expected, abs=1e-3)


def test_predict_keeps_the_classes_of_the_network(run: Path, motion_folder: Path, tmp_path: Path) -> None:
    root = copy_classes(motion_folder, tmp_path / "data", {"parts": "one", "appears": "two"})
    best = str(run / "checkpoints" / "best.ckpt")
    assert main(["predict", "--from", best, *video_folder(root), "--out", str(tmp_path / "out")]) == 0
    rows = read_rows(tmp_path / "out" / "predictions.csv")
    assert {row[f"prediction{k}"] for row in rows for k in (1, 2, 3, 4)} == {"appears", "vanishes", "meets", "parts"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"parts": "parts", "appears": "appears"}, "has 4 classes, but the data has 2."),
        (
            {"appears": "appears", "vanishes": "b", "meets": "c", "parts": "d"},
            "has 4 classes, which are not those of the data, or in another order",
        ),
    ],
)
def test_resume_with_other_classes_is_refused(
    names: dict[str, str], message: str, run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = copy_classes(motion_folder, tmp_path / "data", names)
    arguments = ["fit", *model("VideoClassifier", "c2d_r18"), *video_folder(root), *QUIET]
    assert main([*arguments, *resume(run / "checkpoints" / "last.ckpt"), "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


def test_fit_prints_its_data_its_starting_weights_and_its_best_checkpoint(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    arguments = ["fit", "--from", str(best), *video_folder(motion_folder), *QUIET, *flags("trainer", max_epochs=1)]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "VideoFolder: 32 train, 12 val videos, 4 classes" in printed
    assert f"Starting from weights of {best}." in printed
    assert f"%): {tmp_path / 'checkpoints' / 'best.ckpt'}" in printed


def test_weights_with_another_digest_are_not_compared_with_the_published_accuracy(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The file has the tensors of the index entry, but not the digest of the published file."""
    name = "tanet_r18.motionclips8"
    network = zoo.load(name)
    folder = zoo.save(network, tmp_path / "saved")
    for label in network.labels:
        shutil.copytree(motion_folder / "test" / "parts", tmp_path / "data" / "test" / label)
    data = video_folder(tmp_path / "data", allow_overlap=True)  # every class has the same videos
    weights = flags("model", weights=folder / "model.safetensors")
    assert main(["test", "--from", name, *weights, *data, "--out", str(tmp_path / "test")]) == 0
    summary = json.loads((tmp_path / "test" / "test.json").read_text())
    assert summary["published"] is None
    assert "SHA-256 differs from the index" in summary["loaded"]
    assert "SHA-256 differs from the index" in capsys.readouterr().out
