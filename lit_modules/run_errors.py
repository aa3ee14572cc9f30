"""One-line messages for runs that end by a signal, a full disk, or a missing package."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from lit_modules.interrupts import StopOnSignal, exit_status
from lit_modules.run_folder import CHECKPOINTS, LAST, resume_command
from lit_modules.run_lock import is_first_process
from lit_modules.trainer_parts import missing_package
from zoo.errors import StorageError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SIGNALS = {exit_status(signum): signum for signum in (signal.SIGINT, signal.SIGTERM)}


@contextlib.contextmanager
def run_errors(command: str, folder: Path, stopper: StopOnSignal) -> Iterator[None]:
    """Convert these exceptions of a command to errors of this package, with the command that resumes the run.

    Raises:
        StorageError: the disk is full.
        StorageError: a file of the folder cannot be written.
        ConfigError: a logger or callback needs a package that is not installed.
        SystemExit: a signal stopped the command; the status is 130 or 143.
    """
    try:
        yield
    except SystemExit as stop:
        status = stop.code
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning converts it to SystemExit
            status = exit_status(signal.SIGINT)
        if isinstance(status, int) and status in SIGNALS:
            _report_stop(command, folder, stopper, SIGNALS[status])
        raise SystemExit(status) from None
    except Exception as error:
        if stopper.saved and stopper.signum is not None:  # the signal also ended the data loading workers
            _report_stop(command, folder, stopper, stopper.signum)
            raise SystemExit(exit_status(stopper.signum)) from None
        if isinstance(error, (OSError, ModuleNotFoundError)):
            _raise_known(error, command, folder)
        raise


def _raise_known(error: OSError | ModuleNotFoundError, command: str, folder: Path) -> None:
    """Raise the error of this package for a full disk, an unwritable file or a missing package."""
    if isinstance(error, OSError):
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else folder
        if error.errno in FULL_DISK:
            raise StorageError(
                f"No space is left to write {path}. Free some space{_retry_advice(command, folder)}"
            ) from error
        if folder.absolute() in path.absolute().parents:
            raise StorageError(
                f"{path} cannot be written ({error.strerror}). Correct this{_retry_advice(command, folder)}"
            ) from error
        return
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals.get("__name__", "").split(".")[0] == "lightning":  # a callback checks its requirements
        raise missing_package(error) from error


def _retry_advice(command: str, folder: Path) -> str:
    """Return the end of a sentence: how to repeat the command or resume the run."""
    if command != "fit":
        return ", or choose another --out, and repeat the command."
    command_line = resume_command(folder)
    return f", then resume the run: {command_line}" if command_line else ", then start again; nothing was saved."


def _report_stop(command: str, folder: Path, stopper: StopOnSignal, signum: int) -> None:
    if not is_first_process():
        return
    last, command_line = folder / CHECKPOINTS / LAST, resume_command(folder)
    cause = "interrupted" if signum == signal.SIGINT else "terminated"
    if command != "fit" or stopper.path is None:
        text = f"{cause}."
    elif stopper.saved:
        text = f"{cause}; the run is saved in {last}."
    elif command_line:
        text = f"{cause}; the last steps were not saved, the last checkpoint is {last}."
    else:
        text = f"{cause} before anything was saved."
    if command_line and command == "fit":
        text += f" To resume it: {command_line}"
    print(f"tempozoo: {text}", file=sys.stderr)
