"""Reuse of a run: its configuration, a moved folder, a restarted job, a test of its checkpoints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from runs import (
    ON_CPU,
    QUIET,
    flags,
    model,
    read_checkpoint,
    read_rows,
    resume,
    validated_epochs,
    video_folder,
)
from two_processes import two_processes

from cli import main
from lit_modules.checkpoints import AtomicCheckpointIO, update_average
from lit_modules.scores import compute_metrics
from zoo.provenance import fingerprint


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of a tiny network from random weights: one epoch, resumed in the same folder for two more."""
    out = tmp_path_factory.mktemp("reuse") / "run"
    arguments = [
        "fit",
        *model("VideoClassifier", "c2d_r18", pretrained=False),
        *flags("model.optimizer", lr=0.3),
        *flags("model.regularization", mixup=0.5),
        *video_folder(motion_folder, repeats=2, erasing=0.25),
        *QUIET,
        *("--out", str(out)),
    ]
    assert main([*arguments, *flags("trainer", max_epochs=1)]) == 0
    last = out / "checkpoints" / "last.ckpt"
    assert main([*arguments, *flags("trainer", max_epochs=3), *resume(last)]) == 0
    return out


def weights_digest(checkpoint: Path) -> str:
    tensors = read_checkpoint(checkpoint)["state_dict"]
    return fingerprint({key.removeprefix("network."): value for key, value in tensors.items()})


def test_config_of_a_resumed_run_does_not_replace_the_tested_weights(run: Path, tmp_path: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    config = ["--config", str(run / "config.yaml")]
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] is None
    assert main(["test", "--from", str(best), *config, "--out", str(tmp_path / "test")]) == 0
    assert json.loads((tmp_path / "test" / "test.json").read_text())["weights"] == weights_digest(best)


def test_predict_with_a_config_reads_the_named_files_instead_of_its_data(
    run: Path, motion_folder: Path, tmp_path: Path
) -> None:
    file = str(motion_folder / "test" / "parts" / "parts_0001.mp4")
    arguments = ["--from", str(run / "checkpoints" / "best.ckpt"), "--config", str(run / "config.yaml")]
    assert main(["predict", *arguments, file, "--data.clips", "2", "--out", str(tmp_path)]) == 0
    assert [row["path"] for row in read_rows(tmp_path / "predictions.csv")] == [file]


def test_predict_accepts_an_entry_and_a_folder(motion_folder: Path, tmp_path: Path) -> None:
    folder = str(motion_folder / "test" / "parts")
    assert main(["predict", "--entry", "tanet_r18.motionclips8", folder, "--out", str(tmp_path)]) == 0
    assert len(read_rows(tmp_path / "predictions.csv")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "absent.pth"}, "absent.pth"),
        ({"name": "c2d_r18"}, "--from and --model.name both name the network; give one of them"),
    ],
)
def test_model_options_next_to_from_are_not_ignored(
    options: dict[str, object], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--from", "tanet_r50.k400_8f", "--config", str(run / "config.yaml"), *flags("model", **options)]
    assert main(["test", *arguments, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_moved_run_replaces_its_best_checkpoint_only_by_a_better_one(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    best, last = moved / "checkpoints" / "best.ckpt", moved / "checkpoints" / "last.ckpt"
    content = read_checkpoint(last)
    (best_state,) = [state for key, state in content["callbacks"].items() if key.startswith("Best")]
    shutil.move(run, tmp_path / "away")  # so that the path in the checkpoint does not exist
    try:
        for best_score, is_kept in ((torch.tensor(1.0), True), (torch.tensor(0.0), False)):
            best_state["best_model_score"] = best_state["kth_value"] = best_score
            best_state["best_k_models"] = {best_state["best_model_path"]: best_score}
            torch.save(content, last)
            digest = weights_digest(best)
            arguments = ["fit", "--config", str(moved / "config.yaml"), *resume(last), "--out", str(moved)]
            assert main([*arguments, *flags("trainer", max_epochs=4)]) == 0
            assert (weights_digest(best) == digest) is is_kept
            assert {path.name for path in (moved / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    finally:
        shutil.move(tmp_path / "away", run)


@pytest.mark.parametrize("variable", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_restarted_job_resumes_its_run(
    variable: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "job"
    arguments = ["fit", "--config", str(run / "config.yaml"), *flags("trainer", max_epochs=4), "--out", str(out)]
    monkeypatch.setenv(variable, "1")
    assert main([*arguments, *flags("trainer", max_epochs=1)]) == 0  # starts a run, since there is none to resume
    assert main(arguments) == 0
    assert validated_epochs(out) == ["0", "1", "2", "3"]
    monkeypatch.setenv(variable, "0")
    assert main(arguments) == 1


def test_missing_checkpoint_leaves_the_run_folder_unchanged(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = sorted(path.name for path in run.iterdir())
    arguments = [*resume(run / "checkpoints" / "lst.ckpt"), "--out", str(run)]
    assert main(["fit", "--config", str(run / "config.yaml"), *arguments]) == 1
    assert "lst.ckpt does not exist" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == before


WRITER_SCRIPT = """
import sys, torch
from lit_modules.checkpoints import AtomicCheckpointIO
print("ready", flush=True)
for step in range(1000):
    AtomicCheckpointIO().save_checkpoint({"step": step, "weights": torch.full((5_000_000,), step)}, sys.argv[1])
    print(step, flush=True)
"""


def test_killed_process_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    for delay in (0.0, 0.02):
        writer = subprocess.Popen([sys.executable, "-c", WRITER_SCRIPT, str(file)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        while writer.stdout.readline() != "1\n":
            assert writer.poll() is None
        time.sleep(delay)
        writer.kill()
        writer.wait()
        content = read_checkpoint(file)
        assert content["step"] >= 1
        assert bool((content["weights"] == content["step"]).all())
    AtomicCheckpointIO().save_checkpoint({"step": 0}, file)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(("option", "missing"), [("logger", "metrics.csv"), ("enable_checkpointing", "checkpoints")])
def test_fit_without_logger_or_checkpoints(option: str, missing: str, run: Path, tmp_path: Path) -> None:
    trainer = flags("trainer", **{option: False}, max_epochs=1)
    assert main(["fit", "--config", str(run / "config.yaml"), *trainer, "--out", str(tmp_path)]) == 0
    files = {path.name for path in tmp_path.iterdir()}
    assert files & {"metrics.csv", "checkpoints"} == {"metrics.csv", "checkpoints"} - {missing}


def learning_rates(run: Path) -> list[float]:
    """Return the learning rates of the weights that decay, as logged in metrics.csv."""
    return [
        float(value)
        for row in read_rows(run / "metrics.csv")
        for key, value in row.items()
        if key.startswith("lr-") and key.endswith("decay 0.0001") and value
    ]


def test_warmup_has_the_same_length_with_max_epochs_and_max_steps(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [
        *("fit", "--config", str(run / "config.yaml")),
        *flags("model.schedule", name="constant", warmup_epochs=1, warmup_start=0),
        *flags("trainer", log_every_n_steps=1),
        *flags("data", repeats=1),
    ]
    by_epochs, by_steps = tmp_path / "epochs", tmp_path / "steps"
    assert main([*arguments, *flags("trainer", max_epochs=5), "--out", str(by_epochs)]) == 0
    assert main([*arguments, *flags("trainer", max_epochs=-1, max_steps=20), "--out", str(by_steps)]) == 0
    rates = learning_rates(by_steps)
    assert learning_rates(by_epochs) == rates
    peak = 0.3 / 8  # lr 0.3 for 64 clips, batches of 8
    assert rates[:6] == pytest.approx([0.0, 0.25 * peak, 0.5 * peak, 0.75 * peak, peak, peak])

    endless = flags("trainer", max_epochs=-1, max_time="00:00:00:05")
    assert main([*arguments, *endless, "--out", str(tmp_path / "endless")]) == 1
    assert "set --trainer.max_epochs or --trainer.max_steps" in capsys.readouterr().err


def test_checkpoint_records_how_clips_were_augmented(run: Path) -> None:
    recipe = read_checkpoint(run / "checkpoints" / "best.ckpt")["tempozoo_config"]["provenance"]["recipe"]
    augmentation = {key: recipe.get(key) for key in ("mixup", "cutmix", "erasing", "color_jitter", "repeats")}
    assert augmentation == {"mixup": 0.5, "cutmix": None, "erasing": 0.25, "color_jitter": None, "repeats": 2}


def test_report_of_an_incomplete_test_states_the_untested_videos(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    arguments = ["test", *model("VideoClassifier", "c2d_r18"), *video_folder(motion_folder), *resume(best)]
    assert main([*arguments, *flags("trainer", limit_test_batches=1), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert f"{best}: 8 of 12 videos" in printed.out
    assert "INCOMPLETE: 4 videos were not tested" in printed.out
    assert "missing or excluded" not in printed.out
    assert "random weights" not in printed.err


def test_two_processes_predict_like_one(run: Path, motion_folder: Path, tmp_path: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    arguments = ["predict", "--from", str(best), *video_folder(motion_folder), *QUIET, *ON_CPU]
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    completed = two_processes([*arguments, "--out", str(tmp_path / "two")])
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert (tmp_path / "one" / "predictions.csv").read_text() == (tmp_path / "two" / "predictions.csv").read_text()


def test_average_of_equal_weights_is_exact() -> None:
    weights = torch.rand(10_000)
    assert torch.equal(update_average(weights, weights.clone(), 7, decay=0.999), weights)


def test_mean_class_accuracy_ignores_classes_without_videos() -> None:
    labels_and_predictions = [(0, 0), (0, 3), (1, 1), (1, 1)]
    scores = {
        str(number): (torch.tensor(label), torch.eye(4)[prediction])
        for number, (label, prediction) in enumerate(labels_and_predictions)
    }
    assert compute_metrics(scores)["mean_class"] == pytest.approx(0.75)
