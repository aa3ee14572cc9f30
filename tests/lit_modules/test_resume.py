"""Runs that are killed in mid-epoch go on with the videos not yet seen; two processes do what one does."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from two_processes import two_processes
from watch import Watch

from cli import main

# norms without batch statistics: with them, two processes of batch 4 are not one of batch 8
NET = ["--model", "VideoClassifier", "--model.name", "tadaconvnextv2_tiny", "--model.num_frames", "4",
       "--model.options", '{"width": 8, "dropout": 0.0}', "--model.image_size", "32",
       "--model.head_warmup_epochs", "1"]  # fmt: skip
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
         "--trainer.accelerator", "cpu", "--trainer.num_sanity_val_steps", "0"]  # fmt: skip


def fit(root: Path, out: Path, batch_size: int = 8, *more: str, epochs: int = 2) -> list[str]:
    """Arguments of a run that writes its last state every second step."""
    often = ["--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.dirpath", str(out / "checkpoints"),
             "--trainer.callbacks.filename", "step", "--trainer.callbacks.every_n_train_steps", "2",
             "--trainer.callbacks.save_on_train_epoch_end", "false",
             "--trainer.callbacks.enable_version_counter", "false"]  # fmt: skip
    data = ["--data", "VideoFolder", "--data.root", str(root), "--data.batch_size", str(batch_size),
            "--data.num_workers", "0"]  # fmt: skip
    watch = ["--trainer.callbacks+", "watch.Watch", "--trainer.callbacks.folder", str(out), *more]
    out.mkdir(parents=True, exist_ok=True)
    return ["fit", *NET, *data, *QUIET, "--trainer.max_epochs", str(epochs), *often, *watch, "--out", str(out)]


def tensors(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


def last_metrics(out: Path) -> dict[str, float]:
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: float(row[key]) for row in rows for key in row if key.startswith("val_") and row[key]}


def assert_epochs_whole(folders: list[Path], root: Path, until: int) -> None:
    """Of both parts of a run, those steps of the first that its checkpoint holds, every video comes once an epoch."""
    names = {str(p) for p in (root / "train").rglob("*.mp4")}
    first, second = (Watch(str(folder)).seen() for folder in folders)
    kept = [step for step in first if step["epoch"] * 4 + step["batch"] < until]
    counts = Counter((step["epoch"], path) for step in kept + second for path in step["paths"])
    assert set(counts) == {(epoch, name) for epoch in (0, 1) for name in names}
    assert set(counts.values()) == {1}


@pytest.fixture(scope="module")
def whole(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process: 2 epochs of 4 steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(fit(motion_folder, out)) == 0
    return out


@pytest.mark.parametrize("stop", [(0, 2), (0, 3), (1, 0), (1, 1), (1, 3)])
def test_a_resumed_run_ends_as_if_it_had_not_stopped(
    stop: tuple[int, int], whole: Path, motion_folder: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(RuntimeError, match="stopped"):
        main(fit(motion_folder, first, 8, "--trainer.callbacks.stop", f"{stop[0]} {stop[1]}"))
    resumed = first / "checkpoints" / "step.ckpt"
    steps = torch.load(resumed, weights_only=True)["global_step"]
    assert steps == (stop[0] * 4 + stop[1]) // 2 * 2
    assert main([*fit(motion_folder, second), "--ckpt_path", str(resumed)]) == 0
    assert_epochs_whole([first, second], motion_folder, steps)
    wanted, found = (tensors(run / "checkpoints" / "last.ckpt") for run in (whole, second))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert last_metrics(second) == last_metrics(whole)
    losses = {(s["epoch"], s["batch"]): s["loss"] for s in Watch(str(whole)).seen()}
    assert all(losses[s["epoch"], s["batch"]] == s["loss"] for s in Watch(str(second)).seen())


def test_accumulated_gradients_are_not_lost(motion_folder: Path, tmp_path: Path) -> None:
    """A checkpoint that is due after the first batch of a step is written after the second."""
    runs = [tmp_path / name for name in ("whole", "first", "second")]
    due = ["--trainer.accumulate_grad_batches", "2", "--trainer.callbacks+", "lit_modules.checkpoints.BetweenSteps",
           "--trainer.callbacks.train_time_interval", "0:00:01", "--trainer.callbacks.filename", "due",
           "--trainer.callbacks.enable_version_counter", "false", "--trainer.callbacks.dirpath"]  # fmt: skip
    arguments = [[*fit(motion_folder, run, 4, epochs=1), *due, str(run / "checkpoints")] for run in runs]
    assert main(arguments[0]) == 0
    stop = ["--trainer.callbacks+", "watch.Watch", "--trainer.callbacks.folder", str(tmp_path),
            "--trainer.callbacks.pause", "0 2", "--trainer.callbacks.stop", "0 4"]  # fmt: skip
    with pytest.raises(RuntimeError, match="stopped"):
        main([*arguments[1], *stop])
    assert main([*arguments[2], "--ckpt_path", str(runs[1] / "checkpoints" / "due.ckpt")]) == 0
    wanted, found = (tensors(run / "checkpoints" / "last.ckpt") for run in (runs[0], runs[2]))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_an_epoch_s_end_is_gone_on_with_in_other_batches(whole: Path, motion_folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(fit(motion_folder, first, epochs=1)) == 0
    resumed = ["--ckpt_path", str(first / "checkpoints" / "last.ckpt")]
    assert main([*fit(motion_folder, second, 16), *resumed]) == 0
    assert [(s["epoch"], s["batch"], len(s["paths"])) for s in Watch(str(second)).seen()] == [(1, 0, 16), (1, 1, 16)]


@pytest.fixture(scope="module")
def both(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("both") / "run"
    done = two_processes(fit(motion_folder, out, 4))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_two_processes_train_as_one(whole: Path, both: Path) -> None:
    steps = {(s["epoch"], s["batch"]): sorted(s["paths"]) for s in Watch(str(whole)).seen()}
    shared: dict[tuple[int, int], list[str]] = {}
    for step in Watch(str(both)).seen():
        shared.setdefault((step["epoch"], step["batch"]), []).extend(step["paths"])
    assert {key: sorted(paths) for key, paths in shared.items()} == steps
    wanted, found = (tensors(run / "checkpoints" / "last.ckpt") for run in (whole, both))
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=1e-3, atol=1e-4)
    assert last_metrics(both) == pytest.approx(last_metrics(whole), abs=1e-3)


def test_two_processes_test_as_one(both: Path, motion_folder: Path, tmp_path: Path) -> None:
    """Eleven videos and an unreadable one: every one is scored once, and the unequal shares hang nobody."""
    import shutil

    root = tmp_path / "data"
    shutil.copytree(motion_folder, root)
    (root / "test" / "parts" / "parts_0001.mp4").write_bytes(b"no video")
    best = both / "checkpoints" / "best.ckpt"
    arguments = ["test", "--from", str(best), "--data", "VideoFolder", "--data.root", str(root), *QUIET[:6],
                 "--data.clips", "2", "--data.num_workers", "0"]  # fmt: skip
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    done = two_processes([*arguments, "--out", str(tmp_path / "two")])
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / name / "test.json").read_text()) for name in ("one", "two"))
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    assert {key: one[key] for key in one if key != "metrics"} == {key: two[key] for key in two if key != "metrics"}
    assert (one["videos"], one["listed"], len(one["skipped"])) == (11, 12, 1)
    assert (tmp_path / "one" / "predictions.csv").read_text() == (tmp_path / "two" / "predictions.csv").read_text()
    assert "11 of 12 videos" in done.stdout


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_loses_nothing(rank: int, both: Path, motion_folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    done = two_processes(fit(motion_folder, first, 4, "--trainer.callbacks.kill", f"{rank} 1 2"))
    assert done.returncode != 0
    resumed = first / "checkpoints" / "step.ckpt"
    steps = torch.load(resumed, weights_only=True)["global_step"]
    assert steps == 6
    done = two_processes([*fit(motion_folder, second, 4), "--ckpt_path", str(resumed)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert_epochs_whole([first, second], motion_folder, steps)
    wanted, found = (tensors(run / "checkpoints" / "last.ckpt") for run in (both, second))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
