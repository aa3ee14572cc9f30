"""``tempozoo report``, and the report at the end of ``fit`` and ``test``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lit_modules.run_file_names import REPORT_FILE, RUN_FILE, TEST_FILE
from lit_modules.run_lock import is_first_process
from zoo.command_line import expand_home, note
from zoo.errors import ConfigError
from zoo.text import printable

EXPLAIN_SECONDS = 10.0  # for the explanations at the end of a command
RECORDS = (RUN_FILE, TEST_FILE)  # files that fit and test write


def report_command(arguments: Sequence[str]) -> None:
    """Write an HTML report of one or several runs."""
    parser = argparse.ArgumentParser(
        "tempozoo report",
        description="Write a self-contained HTML page of a run, or of several runs side by side: results, learning "
        "curves, configuration, confusion matrix, classes, mistakes.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of fit, test or probe")
    parser.add_argument("--out", metavar="FILE", help=f"the page (default for one run: RUN/{REPORT_FILE})")
    args = parser.parse_args(arguments)
    folders = [Path(expand_home(run)) for run in args.runs]
    if args.out is None and len(folders) > 1:
        raise ConfigError(f"The report of {len(folders)} runs needs a file: --out FILE, such as --out {REPORT_FILE}.")
    out = folders[0] / REPORT_FILE if args.out is None else Path(expand_home(args.out))
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give a file, such as {out / REPORT_FILE}.")
    from lit_modules.html_report.page import write_report  # imports torch

    try:
        write_report(folders, out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error}); choose another --out.") from error
    print(f"Report: {printable(str(out))}")


@contextlib.contextmanager
def report_at_end(folder: Path, enabled: bool) -> Iterator[None]:
    """Write ``report.html`` when the context ends, if the command has written results.

    After an exception, such as that of a signal, the report has no explanations, which may take seconds. An error in
    the report is printed as a warning.

    Args:
        folder: folder of ``fit`` or ``test``.
        enabled: whether to write the report.
    """
    before, stopped = _state(folder), True
    try:
        yield
        stopped = False
    finally:
        if enabled and is_first_process() and _state(folder) != before:
            _write_or_warn(folder, 0.0 if stopped else EXPLAIN_SECONDS)


def _state(folder: Path) -> list[int]:
    """Return the time of the last change of each record in a folder; 0 without the file."""
    paths = [folder / name for name in RECORDS]
    return [path.stat().st_mtime_ns if path.is_file() else 0 for path in paths]


def _write_or_warn(folder: Path, explain_seconds: float) -> None:
    try:
        from lit_modules.html_report.page import write_report

        note(f"Report: {write_report([folder], folder / REPORT_FILE, explain_seconds)}")
    except Exception as error:  # the results of the run are more important than their report
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"tempozoo: warning: the report was not written ({printable(reason)}).", file=sys.stderr)
