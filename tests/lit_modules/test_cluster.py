"""Sharded weights (FSDP), several nodes (SLURM), and processes without videos to validate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from ports import free_port
from runs import (
    ON_CPU,
    QUIET,
    assert_same_last_weights,
    fit_arguments,
    flags,
    last_metrics,
    last_weights,
    read_rows,
    video_folder,
)
from small_models import SMALL
from two_processes import ENVIRONMENT, two_processes

from cli import main
from lit_modules import VideoClassifier
from zoo.errors import ConfigError


@pytest.fixture(scope="module")
def uneven_folder(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set with five validation videos, the first of them broken.

    Two processes get three and two of them in batches of one, and one of these batches is empty.
    """
    root = tmp_path_factory.mktemp("uneven") / "motion"
    shutil.copytree(motion_folder, root)
    for file in sorted((root / "val").rglob("*.mp4")):
        if file.stem.endswith(("1", "2")) and "meets" not in file.stem:
            file.unlink()
    min((root / "val").rglob("*.mp4")).write_bytes(b"no video")
    return root


def fit_uneven(root: Path, out: Path, *extra: str) -> list[str]:
    """Return the arguments of an epoch on ``uneven_folder``, with clipped gradients and layer decay."""
    return fit_arguments(
        root,
        out,
        *flags("trainer", gradient_clip_val=0.05),
        *flags("model.optimizer", layer_decay=0.9),
        *flags("data", max_bad_fraction=0.5),
        *extra,
        batch_size=4,
        epochs=1,
    )


@pytest.fixture(scope="module")
def ddp_run(uneven_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two processes with DDP."""
    out = tmp_path_factory.mktemp("ddp") / "run"
    completed = two_processes(fit_uneven(uneven_folder, out))
    assert completed.returncode == 0, completed.stderr[-3000:]
    return out


@pytest.mark.parametrize("strategy", [pytest.param("fsdp_cpu", marks=pytest.mark.slow), "fsdp_cpu_blocks"])
def test_fsdp_trains_and_tests_like_ddp(strategy: str, ddp_run: Path, uneven_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    completed = two_processes(fit_uneven(uneven_folder, run), strategy)
    assert completed.returncode == 0, completed.stderr[-3000:]
    weights, expected_weights = last_weights(run), last_weights(ddp_run)
    assert set(weights) == set(expected_weights)
    for key, expected in expected_weights.items():
        torch.testing.assert_close(weights[key], expected, rtol=1e-4, atol=1e-6)
    assert last_metrics(run) == pytest.approx(last_metrics(ddp_run), abs=1e-4)

    best = ddp_run / "checkpoints" / "best.ckpt"
    arguments = ["test", "--from", str(best), *video_folder(uneven_folder, batch_size=5), *QUIET, *ON_CPU]
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    completed = two_processes([*arguments, "--out", str(tmp_path / "two")], strategy)
    assert completed.returncode == 0, completed.stderr[-3000:]
    one, two = tmp_path / "one", tmp_path / "two"
    results = [json.loads((folder / "test.json").read_text()) for folder in (one, two)]
    for result in results:
        result.pop("environment")
    assert results[0] == results[1]  # contains the digest of the weights
    expected_rows, rows = read_rows(one / "predictions.csv"), read_rows(two / "predictions.csv")
    assert len(rows) == len(expected_rows) == 12
    for row, expected_row in zip(rows, expected_rows, strict=True):
        for key in [key for key in row if key.startswith("score")]:  # batches differ, and so the last printed digit
            assert float(row.pop(key)) == pytest.approx(float(expected_row.pop(key)), abs=2e-6)
        assert row == expected_row


def test_fsdp_refuses_averaged_weights() -> None:
    module = VideoClassifier("c2d_r18", options=SMALL, ema_decay=0.9)
    module._trainer = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(ConfigError, match="ema_decay does not work with FSDP, which shards weights; set it to null"):
        module.setup("fit")


def test_process_without_validation_videos_does_not_block_the_other(motion_folder: Path, tmp_path: Path) -> None:
    """DDP broadcasts the statistics of batch norms in the first batch that a process validates."""
    root = tmp_path / "data"
    shutil.copytree(motion_folder, root)
    _, *others = sorted((root / "val").rglob("*.mp4"))
    for file in others:
        file.unlink()
    sanity_check = flags("trainer", num_sanity_val_steps=1)
    arguments = fit_arguments(root, tmp_path / "run", *sanity_check, network="tanet_r18", batch_size=4)
    completed = two_processes(arguments)
    assert completed.returncode == 0, completed.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


def test_two_slurm_nodes_train_like_two_processes(ddp_run: Path, uneven_folder: Path, tmp_path: Path) -> None:
    """The processes that ``srun`` starts know each other only from the environment variables of SLURM."""
    devices = flags("trainer", num_nodes=2, devices=1, strategy="ddp")
    command = [sys.executable, "-m", "cli", *fit_uneven(uneven_folder, tmp_path / "run", *devices)]
    job = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_LOCALID": "0",
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    nodes = []
    for node in ("0", "1"):
        environment = os.environ | ENVIRONMENT | job | {"SLURM_PROCID": node, "SLURM_NODEID": node}
        nodes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    outputs = [node.communicate(timeout=240)[0].decode() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert_same_last_weights(tmp_path / "run", ddp_run)
