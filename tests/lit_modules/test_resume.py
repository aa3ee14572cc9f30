"""Resuming: an interrupted run continues mid-epoch with the remaining videos. Two processes train like one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import (
    ON_CPU,
    QUIET,
    STEPS_PER_EPOCH,
    assert_each_video_once_per_epoch,
    assert_same_last_weights,
    callback,
    fit_arguments,
    flags,
    last_metrics,
    last_weights,
    read_checkpoint,
    resume,
    video_folder,
)
from two_processes import two_processes
from watch import Watch

from cli import main


@pytest.mark.parametrize("stop", [(0, 2), (0, 3), (1, 0), (1, 1), (1, 3)])
def test_resume_visits_only_the_remaining_videos_and_ends_with_the_same_weights(
    stop: tuple[int, int], uninterrupted_run: Path, motion_folder: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(RuntimeError, match="stopped"):
        main(fit_arguments(motion_folder, first, stop=stop))

    checkpoint = first / "checkpoints" / "step.ckpt"
    saved_steps = read_checkpoint(checkpoint)["global_step"]
    epoch, batch = stop
    assert saved_steps == (epoch * STEPS_PER_EPOCH + batch) // 2 * 2

    assert main(fit_arguments(motion_folder, second, *resume(checkpoint))) == 0
    assert_each_video_once_per_epoch(first, second, motion_folder, saved_steps=saved_steps)
    assert_same_last_weights(second, uninterrupted_run)
    assert last_metrics(second) == last_metrics(uninterrupted_run)
    losses = {(step["epoch"], step["batch"]): step["loss"] for step in Watch(str(uninterrupted_run)).seen()}
    assert all(losses[step["epoch"], step["batch"]] == step["loss"] for step in Watch(str(second)).seen())


def test_checkpoint_between_accumulated_batches_waits_for_the_optimizer_step(
    motion_folder: Path, tmp_path: Path
) -> None:
    """The checkpoint is due after the first batch of a step. It is written after the second, with all gradients."""

    def arguments(run: Path, *extra: str, **watch_options: tuple[int, int]) -> list[str]:
        due_after_a_second = callback(
            "lit_modules.checkpoints.BetweenSteps",
            dirpath=run / "checkpoints",
            filename="due",
            train_time_interval="0:00:01",
            enable_version_counter=False,
        )
        accumulate = flags("trainer", accumulate_grad_batches=2)
        return fit_arguments(
            motion_folder, run, *accumulate, *due_after_a_second, *extra, batch_size=4, epochs=1, **watch_options
        )

    uninterrupted, first, second = tmp_path / "uninterrupted", tmp_path / "first", tmp_path / "second"
    assert main(arguments(uninterrupted)) == 0
    with pytest.raises(RuntimeError, match="stopped"):
        main(arguments(first, pause=(0, 2), stop=(0, 4)))
    assert main(arguments(second, *resume(first / "checkpoints" / "due.ckpt"))) == 0
    assert_same_last_weights(second, uninterrupted)


def test_resume_after_an_epoch_accepts_another_batch_size(motion_folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(fit_arguments(motion_folder, first, epochs=1)) == 0
    last = first / "checkpoints" / "last.ckpt"
    assert main(fit_arguments(motion_folder, second, *resume(last), batch_size=16)) == 0
    steps = [(step["epoch"], step["batch"], len(step["paths"])) for step in Watch(str(second)).seen()]
    assert steps == [(1, 0, 16), (1, 1, 16)]


# two processes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_process_run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two processes with the total batch size of ``uninterrupted_run``."""
    out = tmp_path_factory.mktemp("two-processes") / "run"
    completed = two_processes(fit_arguments(motion_folder, out, batch_size=4))
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert completed.stdout.count("Epoch 1/2:") == 1  # the first process prints it
    return out


def test_two_processes_train_like_one(uninterrupted_run: Path, two_process_run: Path) -> None:
    expected_videos = {
        (step["epoch"], step["batch"]): sorted(step["paths"]) for step in Watch(str(uninterrupted_run)).seen()
    }
    videos: dict[tuple[int, int], list[str]] = {}
    for step in Watch(str(two_process_run)).seen():
        videos.setdefault((step["epoch"], step["batch"]), []).extend(step["paths"])
    assert {step: sorted(paths) for step, paths in videos.items()} == expected_videos

    weights, expected_weights = last_weights(two_process_run), last_weights(uninterrupted_run)
    for key, expected in expected_weights.items():
        torch.testing.assert_close(weights[key], expected, rtol=1e-3, atol=1e-4)
    assert last_metrics(two_process_run) == pytest.approx(last_metrics(uninterrupted_run), abs=1e-3)


def test_two_processes_test_like_one(two_process_run: Path, motion_folder: Path, tmp_path: Path) -> None:
    """Eleven readable videos and a broken one: each is scored once, although the processes have unequal shares."""
    root = tmp_path / "data"
    shutil.copytree(motion_folder, root)
    (root / "test" / "parts" / "parts_0001.mp4").write_bytes(b"no video")
    best = two_process_run / "checkpoints" / "best.ckpt"
    arguments = ["test", "--from", str(best), *video_folder(root, clips=2), *QUIET, *ON_CPU]

    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    completed = two_processes([*arguments, "--out", str(tmp_path / "two")])
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert "11 of 12 videos" in completed.stdout

    one, two = (json.loads((tmp_path / name / "test.json").read_text()) for name in ("one", "two"))
    assert (one["videos"], one["listed"], len(one["skipped"])) == (11, 12, 1)
    assert (one.pop("environment")["device"], two.pop("environment")["device"]) == ("CPU", "2 x CPU")
    assert two.pop("metrics") == pytest.approx(one.pop("metrics"), abs=1e-6)
    assert two == one
    assert (tmp_path / "one" / "predictions.csv").read_text() == (tmp_path / "two" / "predictions.csv").read_text()


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_resume_after_a_process_was_killed_ends_with_the_same_weights(
    rank: int, two_process_run: Path, motion_folder: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    completed = two_processes(fit_arguments(motion_folder, first, batch_size=4, kill=(rank, 1, 2)))
    assert completed.returncode != 0
    checkpoint = first / "checkpoints" / "step.ckpt"
    saved_steps = read_checkpoint(checkpoint)["global_step"]
    assert saved_steps == 6

    completed = two_processes(fit_arguments(motion_folder, second, *resume(checkpoint), batch_size=4))
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert_each_video_once_per_epoch(first, second, motion_folder, saved_steps=saved_steps)
    assert_same_last_weights(second, two_process_run)
