"""Measure the start-up time of the package and of its commands, and compare it with ``import torch``.

    python benchmarks/startup.py [--rounds 11] [--csv docs/startup.csv]

Every measurement runs in a new interpreter, after one round that fills the caches of Python and the operating system.
The cases take turns, so that other programs slow all of them down alike. The table has medians; the spread is half the
distance between the quartiles. CPU seconds exclude the time in which other programs ran. ``import torch`` is the lower
bound of everything that runs a network.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
NETWORK = "tanet_r18.motionclips8"
FLOOR = "import torch"
COMMANDS = ("--help", "list", f"info {NETWORK}", "recipes", "predict --help", "fit --help")
CASES: dict[str, list[str]] = {  # title -> arguments of Python
    **{code: ["-c", code] for code in ("pass", FLOOR, "import zoo", "from zoo import load")},
    **{f"tempozoo {command}": ["-m", "cli", *command.split()] for command in COMMANDS},
}


class Sample(NamedTuple):
    """Seconds of one run: elapsed, and of the CPU."""

    elapsed: float
    cpu: float


def run(arguments: list[str]) -> Sample:
    """Run Python once."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    cpu, start = sum(os.times()[2:4]), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return Sample(time.perf_counter() - start, sum(os.times()[2:4]) - cpu)


def spread(values: list[float]) -> float:
    """Return half the distance between the quartiles."""
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def summarize(samples: dict[str, list[Sample]]) -> list[list[str]]:
    """Return a row for each case."""
    floor = Sample(*(statistics.median(column) for column in zip(*samples[FLOOR], strict=True)))
    rows = []
    for title, runs in samples.items():
        elapsed, cpu = (list(column) for column in zip(*runs, strict=True))
        middle = Sample(statistics.median(elapsed), statistics.median(cpu))
        rows.append(
            [
                title,
                f"{middle.elapsed:.2f}",
                f"{spread(elapsed):.2f}",
                f"{middle.cpu:.2f}",
                f"{spread(cpu):.2f}",
                f"{middle.elapsed / floor.elapsed:.2f}",
                f"{middle.cpu / floor.cpu:.2f}",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="runs of each case, at least 2")
    parser.add_argument("--csv", help="file to write the table to")
    args = parser.parse_args()
    for arguments in CASES.values():
        run(arguments)
    samples: dict[str, list[Sample]] = {title: [] for title in CASES}
    for _ in range(args.rounds):
        for title, arguments in CASES.items():
            samples[title].append(run(arguments))
    titles = ["case", "seconds", "spread", "CPU seconds", "CPU spread", "ratio to import torch", "CPU ratio"]
    table = Table(*titles, title=f"start-up, medians of {args.rounds} new interpreters")
    rows = summarize(samples)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    if args.csv:
        with Path(args.csv).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([titles, *rows])


if __name__ == "__main__":
    main()
