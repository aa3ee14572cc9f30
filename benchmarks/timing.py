"""Shared by the benchmarks: interleaved measurement, options, description of the machine, tables and CSV files."""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

MIN_ROUNDS = 3
MACHINE = "machine"  # last column of every CSV


def benchmark_parser(doc: str, rounds: int) -> argparse.ArgumentParser:
    """Create a parser with the options that the benchmarks share.

    Args:
        doc: docstring of the script.
        rounds: default of ``--rounds``.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"measurements of each case, default {rounds}")
    parser.add_argument(
        "--minutes",
        type=float,
        default=7.0,
        help=f"use fewer rounds, but at least {MIN_ROUNDS}, to finish in this time",
    )
    parser.add_argument("--quick", action="store_true", help="tiny networks and inputs: only tests the script")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--csv", type=Path, help="file to write the table to")
    return parser


def timer() -> float:
    """Return the seconds of a clock, after the work of the GPU, if any, is complete."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Timing:
    """Seconds of a callable in each round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def ms(self) -> float:
        """Median milliseconds."""
        return 1000 * self.median

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, in percent of the median."""
        return relative_spread(self.seconds)

    def ratios(self, other: Timing) -> list[float]:
        """Return the time relative to ``other`` in each round, which a slow phase of the machine does not change."""
        return [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]


def relative_spread(values: Sequence[float]) -> float:
    """Return half the distance between the quartiles in percent of the median, 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return 50 * (high - low) / median


def interleave(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    seconds: float = float("inf"),
    clock: Callable[[], float] = timer,
) -> dict[str, Timing]:
    """Measure callables in turns, A B C A B C ..., so that other programs slow all of them down alike.

    Args:
        steps: name -> callable; each is called once before the first round.
        rounds: measurements of each callable.
        seconds: limit for the total time. It can reduce the rounds to ``MIN_ROUNDS``.
        clock: returns seconds.
    """
    start = time.monotonic()
    for step in steps.values():
        step()
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(1, rounds + 1):
        for name, step in steps.items():
            before = clock()
            step()
            samples[name].append(clock() - before)
        per_round = (time.monotonic() - start) / (number + 1)  # including warm-up
        if number >= MIN_ROUNDS and time.monotonic() - start + per_round > seconds:
            break
    return {name: Timing(values) for name, values in samples.items()}


class Budget:
    """Time of a script, divided among its groups of measurements.

    Args:
        minutes: for all groups.
        groups: number of groups.
    """

    def __init__(self, minutes: float, groups: int) -> None:
        self.end, self.remaining = time.monotonic() + 60 * minutes, groups

    def share(self) -> float:
        """Return the seconds of the next group: an equal share of the remaining time."""
        groups, self.remaining = max(self.remaining, 1), self.remaining - 1
        return max(self.end - time.monotonic(), 0.0) / groups


def machine(threads: int, device: str = "cpu") -> str:
    """Describe the machine: processor, threads, version of PyTorch, date."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()
    return f"{name}, {threads} threads, torch {torch.__version__}, {datetime.date.today()}"


def cpu_name() -> str:
    """Return the model of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def figure(value: object) -> str:
    """Format a cell: floats with four significant digits, None as an empty cell."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    digits = max(3 - len(str(int(abs(value)))) + 1, 0) if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


class Results:
    """Rows of a benchmark, printed as a table and written as CSV.

    Args:
        title: of the table.
        columns: names of the columns.
        threads, device: for the description of the machine.
    """

    def __init__(self, title: str, columns: Sequence[str], threads: int, device: str = "cpu") -> None:
        self.title, self.columns, self.machine = title, list(columns), machine(threads, device)
        self.rows: list[dict[str, str]] = []

    def add(self, *cells: object, **named: object) -> None:
        """Add a row: cells by position, or by column with spaces as underscores. The other cells are empty."""
        # not strict: the last cells of a row may be missing
        row = dict(zip(self.columns, cells, strict=False)) | {key.replace("_", " "): v for key, v in named.items()}
        if len(cells) > len(self.columns) or set(row) - set(self.columns):
            raise ValueError(f"{row} does not fit the columns {self.columns}")
        self.rows.append({column: figure(row.get(column)) for column in self.columns})

    def finish(self, path: Path | None) -> None:
        """Print the table without empty columns, and write it to ``path`` if it is not None."""
        columns = [column for column in self.columns if any(row[column] for row in self.rows)]
        table = Table(*columns, title=f"{self.title}\n{self.machine}")
        for row in self.rows:
            table.add_row(*(row[column] for column in columns))
        Console(width=None if sys.stdout.isatty() else 180).print(table)
        if path:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, [*self.columns, MACHINE], lineterminator="\n")
                writer.writeheader()
                writer.writerows(row | {MACHINE: self.machine} for row in self.rows)
