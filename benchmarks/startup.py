"""Measure the start-up time of the package and of its commands, and compare it with ``import torch``.

    python benchmarks/startup.py [--rounds 11] [--csv docs/startup.csv]

Every measurement runs in a new interpreter, after one round that fills the caches of Python and the operating system.
The cases take turns, so that other programs slow all of them down alike. CPU seconds exclude the time of other
programs. ``import torch`` is the lower bound of everything that runs a network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import Results, Timing, benchmark_parser

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


def main() -> None:
    parser = benchmark_parser(__doc__, rounds=11)
    args = parser.parse_args()
    cases = dict(list(CASES.items())[:2]) if args.quick else CASES
    for arguments in cases.values():
        run(arguments)
    samples: dict[str, list[Sample]] = {title: [] for title in cases}
    for _ in range(args.rounds):
        for title, arguments in cases.items():
            samples[title].append(run(arguments))
    columns = ["case", "seconds", "spread %", "CPU seconds", "CPU spread %", "ratio to import torch", "CPU ratio"]
    results = Results(f"start-up, medians of {args.rounds} new interpreters", columns, args.threads)
    floor = [Timing(list(column)) for column in zip(*samples[FLOOR], strict=True)]
    for title, runs in samples.items():
        elapsed, cpu = (Timing(list(column)) for column in zip(*runs, strict=True))
        results.add(
            title, elapsed.median, elapsed.spread, cpu.median, cpu.spread,
            elapsed.median / floor[0].median, cpu.median / floor[1].median,
        )  # fmt: skip
    results.finish(args.csv)


if __name__ == "__main__":
    main()
