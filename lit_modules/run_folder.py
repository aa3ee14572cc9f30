"""The folder of a run: where a command writes, and how a run there is resumed."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from zoo.config import check_config
from zoo.errors import ConfigError
from zoo.hub.checkpoint import read_run

CHECKPOINTS = "checkpoints"  # subfolder


def output_folder(command: str, out: str | None, options: Sequence[str]) -> Path:
    """``--out``, or a new folder below ``runs``. An existing run is never overwritten, only resumed.

    Raises:
        ConfigError: ``fit`` was given the folder of another run, or the folder cannot be created.
    """
    folder = Path(out) if out is not None else Path("runs") / f"{command}-{datetime.now():%Y%m%d-%H%M%S}"
    new_run = command == "fit" and not names_checkpoint(options) and not was_restarted()
    if new_run and (folder / CHECKPOINTS).exists():
        raise ConfigError(
            f"{folder} already contains a run. Choose another --out, or resume the run: "
            f"--ckpt_path {folder / CHECKPOINTS / 'last.ckpt'}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be created ({error.strerror}); choose another.") from error
    return folder


def remove_empty_folders(folder: Path) -> None:
    """Remove what ``output_folder`` created if the command failed before it wrote anything."""
    for path in (folder / CHECKPOINTS, folder, Path("runs")):
        with contextlib.suppress(OSError):
            path.rmdir()


def names_checkpoint(options: Sequence[str]) -> bool:
    """Whether the options contain ``--ckpt_path``."""
    return any(option.split("=")[0] == "--ckpt_path" for option in options)


def was_restarted() -> bool:
    """Whether SLURM requeued this job, or torchrun restarted its processes."""
    return any(os.environ.get(name, "0") != "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def auto_resume_args(folder: Path, options: Sequence[str]) -> list[str]:
    """``--ckpt_path`` with the last checkpoint of ``folder``, for a restarted command that does not give one."""
    last = folder / CHECKPOINTS / "last.ckpt"
    # Lightning finds the checkpoint that it writes when SLURM announces the end of a job
    if names_checkpoint(options) or not was_restarted() or not last.is_file() or any(folder.glob("hpc_ckpt_*.ckpt")):
        return []
    return ["--ckpt_path", str(last)]


def rotate_metrics(folder: Path) -> None:
    """Rename the ``metrics.csv`` of a run that is resumed: the logger would empty it."""
    names = (folder / f"metrics-{number}.csv" for number in itertools.count(1))
    target = next(path for path in names if not path.exists())
    with contextlib.suppress(FileNotFoundError):  # there is none, or another process of the run renamed it
        (folder / "metrics.csv").rename(target)
        print(f"Earlier metrics were moved to {target}.")


def check_resumable(command: str, path: str) -> None:
    """Check ``--ckpt_path`` before Lightning reads it: Lightning would unpickle the content of any address.

    Raises:
        ConfigError, CheckpointError: it is not the checkpoint of a run.
    """
    if not Path(path).is_file():
        raise ConfigError(f"--ckpt_path {path} does not exist; give a .ckpt file on this machine.")
    config, resumable = read_run(Path(path))
    check_config(config, path)
    if command == "fit" and not resumable:
        raise ConfigError(f"{path} contains weights only and cannot be resumed; start from it with --from.")
