"""One line for what is wrong with a command, and for what a run starts from: never a traceback, never silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_cli import QUIET, TINY, data_options, rows_of

import zoo
from cli import main

FOLDER = ["fit", "--config", "configs/finetune/folder.yaml"]


@pytest.mark.parametrize(
    ("arguments", "says"),
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
            "TANet has no option --model.warmup_epoch (did you mean --model.warmup_epochs?)",
        ),
        (
            [*FOLDER, "--data.root", "x", "--data.batch_size", "ten"],
            "--data.batch_size is ten; it must be a whole number.",
        ),
        ([*FOLDER, "--data.root", "x", "--model.lr", "1e-3x"], "--model.lr is 1e-3x; it must be a number."),
        ([*FOLDER, "--trainer.precision", "17"], "--trainer.precision is 17; choose from 64, 32, 16"),
        ([*FOLDER, "--trainer.nothing", "3"], "There is no option --trainer.nothing"),
        ([*FOLDER, "--data"], "--data needs a value."),
        (["fit", "--config", "nope.yaml"], "--config: file"),
    ],
)
def test_options_that_are_wrong_take_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if "--data" not in arguments and "--config" not in arguments:
        arguments = [*arguments, "--data", "VideoFolder"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("tempozoo: ") and says in said and "\n" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["accelerator", "gpu"], "These --trainer options do not work here: "),
        (["strategy", "ddpp"], "You selected an invalid strategy name"),
        (["devices", "none"], "These --trainer options do not work here: "),
    ],
)
def test_devices_that_are_not_there_take_one_line(
    option: list[str], says: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if option[1] == "gpu" and torch.cuda.is_available():
        pytest.skip("there is one")
    run = ["fit", "--model", "VideoClassifier", "--model.name", "c2d_r18", *TINY, *data_options(motion_folder)]
    assert main([*run, f"--trainer.{option[0]}", option[1], "--out", str(tmp_path / "out")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tempozoo: ")]
    assert says in line


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    fit = ["fit", "--model", "VideoClassifier", "--model.name", "c2d_r18", *TINY, "--model.lr", "0.3"]
    assert main([*fit, *data_options(motion_folder), "--trainer.max_epochs", "1", *QUIET, "--out", str(out)]) == 0
    return out


def renamed(folder: Path, to: Path, names: dict[str, str]) -> Path:
    """A copy with some classes, under other names."""
    for split in ("train", "val", "test"):
        for name, new in names.items():
            shutil.copytree(folder / split / name, to / split / new)
    return to


def test_a_misspelled_class_is_not_scored_at_random(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = {"appears": "appears", "vanishes": "vanishes", "meets": "Meets", "parts": "parts"}
    root = renamed(motion_folder, tmp_path / "data", names)
    best = str(run / "checkpoints" / "best.ckpt")
    for verb in ("test", "validate"):
        assert main([verb, "--from", best, *data_options(root), "--out", str(tmp_path / verb)]) == 1
        said = capsys.readouterr().err
        assert "it has no 'Meets' (did you mean 'meets'?)" in said
        assert f"Correct the labels, fine-tune with `tempozoo fit --from {best}`, or add --allow_untrained" in said


def test_some_of_a_network_s_classes_are_told_apart_by_it(run: Path, motion_folder: Path, tmp_path: Path) -> None:
    root = renamed(motion_folder, tmp_path / "data", {"parts": "parts", "appears": "appears"})
    best = str(run / "checkpoints" / "best.ckpt")
    out = tmp_path / "test"
    assert main(["test", "--from", best, *data_options(root), "--out", str(out)]) == 0
    network = zoo.load(best)
    names = list(network.labels)
    assert main(["predict", "--from", best, str(root / "test"), "--out", str(tmp_path / "all")]) == 0
    of_all = {row["path"]: row for row in rows_of(tmp_path / "all" / "predictions.csv")}
    found = rows_of(out / "predictions.csv")
    assert len(found) == 6
    for row in found:  # the scores of the two classes, among themselves
        scores = {of_all[row["path"]][f"prediction{k}"]: float(of_all[row["path"]][f"score{k}"]) for k in (1, 2, 3, 4)}
        assert set(scores) == set(names)
        share = scores[row["prediction1"]] / (scores["parts"] + scores["appears"])
        assert float(row["score1"]) == pytest.approx(share, abs=1e-3)


def test_predictions_keep_the_network_s_own_classes(run: Path, motion_folder: Path, tmp_path: Path) -> None:
    root = renamed(motion_folder, tmp_path / "data", {"parts": "one", "appears": "two"})
    best = str(run / "checkpoints" / "best.ckpt")
    assert main(["predict", "--from", best, *data_options(root), "--out", str(tmp_path / "out")]) == 0
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert {row[f"prediction{k}"] for row in rows for k in (1, 2, 3, 4)} == {"appears", "vanishes", "meets", "parts"}


def test_a_run_is_not_gone_on_with_on_other_classes(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    last = str(run / "checkpoints" / "last.ckpt")
    for names, says in (
        ({"parts": "parts", "appears": "appears"}, "has 4 classes, the data 2."),
        ({"appears": "appears", "vanishes": "b", "meets": "c", "parts": "d"}, "has 4 classes, others, or in another"),
    ):
        root = renamed(motion_folder, tmp_path / str(len(names)), names)
        fit = ["fit", "--model", "VideoClassifier", "--model.name", "c2d_r18", *TINY, *data_options(root)]
        assert main([*fit, "--ckpt_path", last, *QUIET, "--out", str(tmp_path / "out")]) == 1
        assert says in capsys.readouterr().err


def test_a_run_says_what_it_starts_from_and_where_its_best_is(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    fit = ["fit", "--from", str(best), *data_options(motion_folder), *QUIET, "--trainer.max_epochs", "1"]
    assert main([*fit, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "VideoFolder: 32 train, 12 val videos, 4 classes" in said
    assert f"Starts from weights of {best}." in said
    assert f"%): {tmp_path / 'checkpoints' / 'best.ckpt'}" in said


def test_other_weights_are_not_compared_with_what_was_published(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A file of an entry's own tensors that has not its digest stands beside no published figure."""
    name = "tanet_r18.motionclips8"
    folder = zoo.save(zoo.load(name), tmp_path / "mine")
    for label in zoo.load(name).labels:
        shutil.copytree(motion_folder / "test" / "parts", tmp_path / "data" / "test" / label)
    data = ["--data", "VideoFolder", "--data.root", str(tmp_path / "data"), "--data.num_workers", "0"]
    data += ["--data.allow_overlap", "true"]  # every class has the same videos
    weights = ["--model.weights", str(folder / "model.safetensors")]
    assert main(["test", "--from", name, *weights, *data, "--out", str(tmp_path / "test")]) == 0
    summary = json.loads((tmp_path / "test" / "test.json").read_text())
    assert summary["published"] is None
    assert "SHA-256 DIFFERS FROM THE INDEX" in summary["loaded"]
    assert "SHA-256 DIFFERS FROM THE INDEX" in capsys.readouterr().out
