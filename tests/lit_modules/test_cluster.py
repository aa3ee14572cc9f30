"""Weights in shares (FSDP), nodes of a cluster (SLURM), and processes that have nothing to validate."""

from __future__ import annotations

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
from small_models import SMALL
from test_resume import QUIET, fit, last_metrics, tensors
from two_processes import ENVIRONMENT, two_processes

from cli import main
from lit_modules import VideoClassifier
from zoo.errors import ConfigError

CLIPPED = ["--trainer.gradient_clip_val", "0.05", "--model.layer_decay", "0.9"]


@pytest.fixture(scope="module")
def uneven(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos to validate, the first of them unreadable; so batches of one are three and two, one of them empty."""
    root = tmp_path_factory.mktemp("uneven") / "motion"
    shutil.copytree(motion_folder, root)
    files = sorted((root / "val").rglob("*.mp4"))
    for file in files:
        if file.stem.endswith(("1", "2")) and "meets" not in file.stem:
            file.unlink()
    next(iter(sorted((root / "val").rglob("*.mp4")))).write_bytes(b"no video")
    return root


def lenient(root: Path, out: Path) -> list[str]:
    return fit(root, out, 4, *CLIPPED, "--data.max_bad_fraction", "0.5", epochs=1)


@pytest.fixture(scope="module")
def plain(uneven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with DDP."""
    out = tmp_path_factory.mktemp("plain") / "run"
    done = two_processes(lenient(uneven, out))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("strategy", [pytest.param("fsdp_cpu", marks=pytest.mark.slow), "fsdp_cpu_blocks"])
def test_weights_in_shares_are_trained_and_tested_alike(
    strategy: str, plain: Path, uneven: Path, tmp_path: Path
) -> None:
    done = two_processes(lenient(uneven, tmp_path / "run"), strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    wanted, found = (tensors(run / "checkpoints" / "last.ckpt") for run in (plain, tmp_path / "run"))
    assert set(found) == set(wanted)
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=1e-4, atol=1e-6)
    assert last_metrics(tmp_path / "run") == pytest.approx(last_metrics(plain), abs=1e-4)
    test = ["test", "--from", str(plain / "checkpoints" / "best.ckpt"), "--data", "VideoFolder",
            "--data.root", str(uneven), "--data.batch_size", "5", "--data.num_workers", "0", *QUIET[:6]]  # fmt: skip
    assert main([*test, "--out", str(tmp_path / "one")]) == 0
    done = two_processes([*test, "--out", str(tmp_path / "two")], strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    for file in ("predictions.csv", "test.json"):  # which names the weights by their digest
        assert (tmp_path / "two" / file).read_text() == (tmp_path / "one" / file).read_text()


def test_averaged_weights_are_not_for_shares() -> None:
    module = VideoClassifier("c2d_r18", options=SMALL, ema_decay=0.9)
    module._trainer = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(ConfigError, match="ema_decay does not work with FSDP, which shards weights; set it to null"):
        module.setup("fit")


def test_processes_without_a_video_to_validate_wait_for_nobody(motion_folder: Path, tmp_path: Path) -> None:
    """DDP sends the statistics of batch norms around in the first batch that a process validates."""
    root = tmp_path / "data"
    shutil.copytree(motion_folder, root)
    for file in sorted((root / "val").rglob("*.mp4"))[1:]:
        file.unlink()
    arguments = fit(root, tmp_path / "run", 4)
    at = arguments.index("tadaconvnextv2_tiny")
    arguments[at] = "tanet_r18"
    done = two_processes([*arguments, "--trainer.num_sanity_val_steps", "1"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


def test_two_nodes_of_slurm_train_as_two_processes(plain: Path, uneven: Path, tmp_path: Path) -> None:
    """What SLURM tells the processes that ``srun`` starts is all that they know of each other."""
    command = [sys.executable, "-m", "cli", *lenient(uneven, tmp_path / "run"), "--trainer.num_nodes", "2",
               "--trainer.devices", "1", "--trainer.strategy", "ddp"]  # fmt: skip
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
           "SLURM_NNODES": "2", "SLURM_LOCALID": "0", "SLURM_NODELIST": "127.0.0.1",
           "MASTER_PORT": str(free_port())}  # fmt: skip
    nodes = []
    for node in ("0", "1"):
        environment = os.environ | ENVIRONMENT | job | {"SLURM_PROCID": node, "SLURM_NODEID": node}
        nodes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    said = [node.communicate(timeout=240)[0].decode() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    wanted, found = (tensors(run / "checkpoints" / "last.ckpt") for run in (plain, tmp_path / "run"))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
