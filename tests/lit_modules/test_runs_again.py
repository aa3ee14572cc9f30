"""What is done with a run that there is: its config used again, its folder moved, its job restarted or killed."""

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
from test_cli import QUIET, TINY, data_options, rows_of
from two_processes import two_processes

from cli import main
from lit_modules.checkpoints import AtomicCheckpointIO, update_average
from lit_modules.scores import compute_metrics
from zoo.provenance import fingerprint

CHANGES = ["--model.mixup", "0.5", "--data.repeats", "2", "--data.erasing", "0.25"]


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch of a tiny network from random weights, gone on with in its own folder."""
    out = tmp_path_factory.mktemp("again") / "run"
    fit = ["fit", "--model", "VideoClassifier", "--model.name", "c2d_r18", "--model.pretrained", "false", *TINY,
           "--model.lr", "0.3", *data_options(motion_folder), *CHANGES, *QUIET, "--out", str(out)]  # fmt: skip
    assert main([*fit, "--trainer.max_epochs", "1"]) == 0
    assert main([*fit, "--trainer.max_epochs", "3", "--ckpt_path", str(out / "checkpoints" / "last.ckpt")]) == 0
    return out


def weights_in(checkpoint: Path) -> str:
    tensors = torch.load(checkpoint, weights_only=True)["state_dict"]
    return fingerprint({key.removeprefix("network."): value for key, value in tensors.items()})


def epoch_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["epoch"])


def test_a_resumed_run_s_config_tests_the_weights_that_are_named(run: Path, tmp_path: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    torch.save(torch.load(best, weights_only=True), tmp_path / "other.ckpt")
    config = ["--config", str(run / "config.yaml")]
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] is None
    assert main(["test", "--from", str(best), *config, "--out", str(tmp_path / "test")]) == 0
    assert json.loads((tmp_path / "test" / "test.json").read_text())["weights"] == weights_in(best)


def test_a_config_s_data_stand_back_for_named_files(run: Path, motion_folder: Path, tmp_path: Path) -> None:
    file = str(motion_folder / "test" / "parts" / "parts_0001.mp4")
    start = ["--from", str(run / "checkpoints" / "best.ckpt"), "--config", str(run / "config.yaml")]
    assert main(["predict", *start, file, "--data.clips", "2", "--out", str(tmp_path)]) == 0
    assert [row["path"] for row in rows_of(tmp_path / "predictions.csv")] == [file]


def test_predict_takes_an_entry_and_files(motion_folder: Path, tmp_path: Path) -> None:
    folder = str(motion_folder / "test" / "parts")
    assert main(["predict", "--entry", "tanet_r18.motionclips8", folder, "--out", str(tmp_path)]) == 0
    assert len(rows_of(tmp_path / "predictions.csv")) == 3


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model.weights", "absent.pth"], "absent.pth"),
        (["--model.name", "c2d_r18"], "--from and --model.name both name the network; give one of them"),
    ],
)
def test_options_beside_from_are_not_dropped(
    more: list[str], says: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--from", "tanet_r50.k400_8f", "--config", str(run / "config.yaml"), *more]
    assert main(["test", *arguments, "--out", str(tmp_path)]) == 1
    assert says in capsys.readouterr().err


def test_a_moved_run_keeps_its_best(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    last = moved / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    (best,) = [state for key, state in content["callbacks"].items() if key.startswith("Best")]
    shutil.move(run, tmp_path / "away")  # what the checkpoint names is not there
    try:
        for score, stays in ((torch.tensor(1.0), True), (torch.tensor(0.0), False)):
            best["best_model_score"] = best["kth_value"] = score
            best["best_k_models"] = {best["best_model_path"]: score}
            torch.save(content, last)
            before = weights_in(moved / "checkpoints" / "best.ckpt")
            more = ["--ckpt_path", str(last), "--trainer.max_epochs", "4", "--out", str(moved)]
            assert main(["fit", "--config", str(moved / "config.yaml"), *more]) == 0
            assert (weights_in(moved / "checkpoints" / "best.ckpt") == before) is stays
            assert {path.name for path in (moved / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    finally:
        shutil.move(tmp_path / "away", run)


@pytest.mark.parametrize("variable", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_a_restarted_job_goes_on(variable: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "job"
    command = ["fit", "--config", str(run / "config.yaml"), "--trainer.max_epochs", "4", "--out", str(out)]
    monkeypatch.setenv(variable, "1")
    assert main([*command, "--trainer.max_epochs", "1"]) == 0  # nothing to go on with
    assert main(command) == 0
    assert [row["epoch"] for row in rows_of(out / "metrics.csv") if row["val_top1"]] == ["0", "1", "2", "3"]
    monkeypatch.setenv(variable, "0")
    assert main(command) == 1


def test_a_wrong_checkpoint_takes_nothing_away(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(path.name for path in run.iterdir())
    arguments = ["--ckpt_path", str(run / "checkpoints" / "lst.ckpt"), "--out", str(run)]
    assert main(["fit", "--config", str(run / "config.yaml"), *arguments]) == 1
    assert "lst.ckpt does not exist" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == before


WRITER = """
import sys, torch
from lit_modules.checkpoints import AtomicCheckpointIO
print("ready", flush=True)
for step in range(1000):
    AtomicCheckpointIO().save_checkpoint({"step": step, "weights": torch.full((5_000_000,), step)}, sys.argv[1])
    print(step, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    for delay in (0.0, 0.02):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        while writer.stdout.readline() != "1\n":
            assert writer.poll() is None
        time.sleep(delay)
        writer.kill()
        writer.wait()
        content = torch.load(file, weights_only=True)
        assert content["step"] >= 1
        assert bool((content["weights"] == content["step"]).all())
    AtomicCheckpointIO().save_checkpoint({"step": 0}, file)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("switch", ["--trainer.logger", "--trainer.enable_checkpointing"])
def test_what_is_switched_off_is_done_without(switch: str, run: Path, tmp_path: Path) -> None:
    arguments = ["fit", "--config", str(run / "config.yaml"), switch, "false", "--trainer.max_epochs", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert ("metrics.csv" in left, "checkpoints" in left) == (
        switch != "--trainer.logger",
        switch == "--trainer.logger",
    )


def rates(out: Path) -> list[float]:
    return [float(value) for row in rows_of(out / "metrics.csv") for key, value in row.items()
            if key.startswith("lr-") and key.endswith("decay 0.0001") and value]  # fmt: skip


def test_a_warm_up_is_as_long_whatever_ends_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fit = ["fit", "--config", str(run / "config.yaml"), "--model.warmup_epochs", "1", "--model.schedule", "constant",
           "--trainer.log_every_n_steps", "1", "--data.repeats", "1", "--model.warmup_start", "0"]  # fmt: skip
    ends: dict[str, list[str]] = {
        "epochs": ["--trainer.max_epochs", "5"],
        "steps": ["--trainer.max_epochs", "-1", "--trainer.max_steps", "20"],
    }
    for name, end in ends.items():
        assert main([*fit, *end, "--out", str(tmp_path / name)]) == 0
    assert rates(tmp_path / "epochs") == rates(tmp_path / "steps")
    assert rates(tmp_path / "steps")[:6] == pytest.approx(
        [0.0, 0.25 / 8 * 0.3, 0.5 / 8 * 0.3, 0.75 / 8 * 0.3, 0.3 / 8, 0.3 / 8]
    )
    endless = ["--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:00:05", "--out", str(tmp_path / "none")]
    assert main([*fit, *endless]) == 1
    assert "set --trainer.max_epochs or --trainer.max_steps" in capsys.readouterr().err


def test_a_run_tells_how_clips_were_changed(run: Path) -> None:
    made = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["tempozoo_config"]["provenance"]["recipe"]
    assert {key: made.get(key) for key in ("mixup", "cutmix", "erasing", "color_jitter", "repeats")} == {
        "mixup": 0.5, "cutmix": None, "erasing": 0.25, "color_jitter": None, "repeats": 2
    }  # fmt: skip


def test_a_part_of_a_test_is_called_one(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    best = run / "checkpoints" / "best.ckpt"
    test = ["test", "--model", "VideoClassifier", "--model.name", "c2d_r18", *TINY, "--ckpt_path", str(best)]
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["root"]
    assert main([*test, *data_options(Path(data)), "--trainer.limit_test_batches", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert f"{best}: 8 of 12 videos" in printed.out
    assert "INCOMPLETE: 4 videos were not tested" in printed.out
    assert "not there or excluded" not in printed.out
    assert "random weights" not in printed.err


def test_predictions_do_not_depend_on_the_processes(run: Path, motion_folder: Path, tmp_path: Path) -> None:
    predict = ["predict", "--from", str(run / "checkpoints" / "best.ckpt"), "--data", "VideoFolder",
               "--data.root", str(motion_folder), "--data.num_workers", "0", *QUIET,
               "--trainer.accelerator", "cpu"]  # fmt: skip
    assert main([*predict, "--out", str(tmp_path / "one")]) == 0
    done = two_processes([*predict, "--out", str(tmp_path / "two")])
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "one" / "predictions.csv").read_text() == (tmp_path / "two" / "predictions.csv").read_text()


def test_an_average_leaves_alone_what_does_not_change() -> None:
    values = torch.rand(10_000)
    assert torch.equal(update_average(values, values.clone(), 7, decay=0.999), values)


def test_classes_without_videos_do_not_count() -> None:
    def scored(pairs: list[tuple[int, int]]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {str(n): (torch.tensor(label), torch.eye(4)[found]) for n, (label, found) in enumerate(pairs)}

    assert compute_metrics(scored([(0, 0), (0, 3), (1, 1), (1, 1)]))["mean_class"] == pytest.approx(0.75)
