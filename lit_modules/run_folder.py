"""The folder that a command writes to, and resuming the run in it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lit_modules.run_lock import is_first_process, locked_folder
from zoo.errors import ConfigError
from zoo.localization.localizer_spec import LocalizerSpec, is_localizer_config
from zoo.spec import check_config
from zoo.weights.lightning_checkpoint import read_run

CHECKPOINTS = "checkpoints"  # subfolder
LAST = "last.ckpt"


@contextlib.contextmanager
def output_folder(command: str, out: str | None, options: Sequence[str]) -> Iterator[Path]:
    """Create and lock the folder of a command: ``--out``, or a new folder in ``runs``.

    An existing run is never overwritten, only resumed. The first of several processes creates and locks the folder.

    Raises:
        ConfigError: another command writes to the folder, it contains another run, or it cannot be created.
    """
    folder = Path(out) if out is not None else Path("runs") / f"{command}-{datetime.now():%Y%m%d-%H%M%S}"
    new_run = command == "fit" and not names_checkpoint(options) and not was_restarted()
    if not is_first_process():
        _check_free(folder, new_run)
        yield folder
        return
    try:
        folder = _create(folder, new=out is None)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be created ({error.strerror}); choose another.") from error
    try:
        with locked_folder(folder) if command != "validate" else contextlib.nullcontext():
            _check_free(folder, new_run)
            yield folder
    finally:
        _remove_empty_folders(folder)


def _check_free(folder: Path, new_run: bool) -> None:
    if new_run and (folder / CHECKPOINTS).exists():
        raise ConfigError(
            f"{folder} already contains a run. Choose another --out, or resume the run: "
            f"--ckpt_path {folder / CHECKPOINTS / LAST}"
        )


def _create(folder: Path, new: bool) -> Path:
    """Create a folder. With ``new``, a number is added to the name of a folder that exists."""
    path = folder
    for number in itertools.count(2):
        try:
            path.mkdir(parents=True, exist_ok=not new)
            break
        except FileExistsError:
            if not path.is_dir():
                raise
            path = folder.with_name(f"{folder.name}-{number}")
    return path


def _remove_empty_folders(folder: Path) -> None:
    """Remove the folders that ``output_folder`` created if they are empty."""
    for path in (folder / CHECKPOINTS, folder, Path("runs")):
        with contextlib.suppress(OSError):
            path.rmdir()


def resume_command(folder: Path) -> str | None:
    """Return the command that resumes the run in a folder, or None if there is no checkpoint."""
    config, last = folder / "config.yaml", folder / CHECKPOINTS / LAST
    if not config.is_file() or not last.is_file():
        return None
    return shlex.join(["tempozoo", "fit", "--config", str(config), "--out", str(folder), "--ckpt_path", str(last)])


def names_checkpoint(options: Sequence[str]) -> bool:
    """Whether the options contain ``--ckpt_path``."""
    return any(option.split("=")[0] == "--ckpt_path" for option in options)


def was_restarted() -> bool:
    """Whether SLURM requeued this job, or torchrun restarted its processes."""
    return any(os.environ.get(name, "0") != "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def auto_resume_args(folder: Path, options: Sequence[str]) -> list[str]:
    """Return ``--ckpt_path`` with the newest checkpoint of ``folder`` for a restarted job without this option."""
    if names_checkpoint(options) or not was_restarted():
        return []
    # Lightning writes hpc_ckpt files before SLURM ends a job
    paths = [path for path in (folder / CHECKPOINTS / LAST, *folder.glob("hpc_ckpt_*.ckpt")) if path.is_file()]
    newest = max(paths, key=lambda path: path.stat().st_mtime, default=None)
    return [] if newest is None else ["--ckpt_path", str(newest)]


def check_resumable(command: str, path: str) -> dict[str, Any]:
    """Check ``--ckpt_path`` before Lightning reads it, because Lightning unpickles the content of any path or URL.

    Returns:
        dict: the network's config in the checkpoint.

    Raises:
        ConfigError, CheckpointError: the file is not the checkpoint of a run.
    """
    if not Path(path).is_file():
        raise ConfigError(f"--ckpt_path {path} does not exist; give a .ckpt file on this machine.")
    config, resumable = read_run(Path(path))
    if is_localizer_config(config):
        LocalizerSpec.from_config(config, path)
    else:
        check_config(config, path)
    if command == "fit" and not resumable:
        raise ConfigError(f"{path} contains weights only and cannot be resumed; start from it with --from.")
    return config
