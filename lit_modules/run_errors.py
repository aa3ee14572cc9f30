"""What ends a run from outside, told in one line: signals, a full disk, missing packages."""

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
    """Turn these ends of a command into the errors of this package; a stopped training says how to resume it.

    Raises:
        StorageError: the disk is full.
        StorageError: a file of the folder cannot be written.
        ConfigError: a logger or callback needs a package that is not installed.
        SystemExit: a signal; the status is 130 or 143.
    """
    try:
        yield
    except SystemExit as stop:
        status = stop.code
        if isinstance(stop.__context__, KeyboardInterrupt):  # which Lightning turns into an exit
            status = exit_status(signal.SIGINT)
        if isinstance(status, int) and status in SIGNALS:
            _report_stop(command, folder, stopper, SIGNALS[status])
        raise SystemExit(status) from None
    except Exception as error:
        if stopper.saved and stopper.signum is not None:  # the signal also ended the processes that read videos
            _report_stop(command, folder, stopper, stopper.signum)
            raise SystemExit(exit_status(stopper.signum)) from None
        if isinstance(error, (OSError, ModuleNotFoundError)):
            _explain(error, command, folder)
        raise


def _explain(error: OSError | ModuleNotFoundError, command: str, folder: Path) -> None:
    """Raise the error of this package for an exception that is not a bug."""
    if isinstance(error, OSError):
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else folder
        if error.errno in FULL_DISK:
            raise StorageError(f"No space is left to write {path}. Make room{_then(command, folder)}") from error
        if folder.absolute() in path.absolute().parents:
            raise StorageError(
                f"{path} cannot be written ({error.strerror}). Mend it{_then(command, folder)}"
            ) from error
        return
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals.get("__name__", "").split(".")[0] == "lightning":  # its check of what a callback needs
        raise missing_package(error) from error


def _then(command: str, folder: Path) -> str:
    """The end of a sentence: what to do when there is room."""
    if command != "fit":
        return ", or choose another --out, and repeat the command."
    again = resume_command(folder)
    return f", then resume the run: {again}" if again else ", then start again; nothing was saved."


def _report_stop(command: str, folder: Path, stopper: StopOnSignal, signum: int) -> None:
    if not is_first_process():
        return
    last, again = folder / CHECKPOINTS / LAST, resume_command(folder)
    cause = "interrupted" if signum == signal.SIGINT else "terminated"
    if command != "fit" or stopper.path is None:
        text = f"{cause}."
    elif stopper.saved:
        text = f"{cause}; the run is saved in {last}."
    elif again:
        text = f"{cause}; the last steps were not saved, the last checkpoint is {last}."
    else:
        text = f"{cause} before anything was saved."
    if again and command == "fit":
        text += f" To resume it: {again}"
    print(f"tempozoo: {text}", file=sys.stderr)
