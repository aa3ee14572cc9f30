"""Compare time and memory of a cached, verified load with torch.load of the same weights as a pickle.

    python benchmarks/weights.py [--csv FILE]

Every measurement runs in a new process; the fastest of several runs counts.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import zoo

NAMES = ("tada2d_r50.k400_8x8", "tadaformer_b16.clip_k400_16f", "tadaformer_l14.clip_k400_16f")
LOADERS = {
    "zoo.load, digest checked": "model = zoo.load(sys.argv[1])",
    "torch.load, nothing checked": (
        "e = zoo.info(sys.argv[1]); model = zoo.models.build(e.arch, **e.options)\n"
        "model.load_state_dict(torch.load(sys.argv[2], weights_only=True))"
    ),
}
MEASURE = """
import sys, time, torch, zoo, zoo.models
torch.set_num_threads(2)
def peak():
    return next(int(line.split()[1]) / 1e3 for line in open("/proc/self/status") if "VmHWM" in line)
before, start = peak(), time.perf_counter()
{loader}
print(time.perf_counter() - start, peak() - before)
"""


def measure(loader: str, *arguments: str, runs: int) -> tuple[float, float]:
    """Return the least seconds and MB over several runs, without those of the imports."""
    results = []
    for _ in range(runs):
        command = [sys.executable, "-c", MEASURE.format(loader=loader), *arguments]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        results.append(tuple(map(float, process.stdout.split()[-2:])))
    return min(seconds for seconds, _ in results), min(memory for _, memory in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", help="file to write the table to")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for name in NAMES:
        entry = zoo.info(name)
        with tempfile.TemporaryDirectory() as folder:
            model = zoo.create(entry.arch, **entry.options)
            pickle = Path(folder) / "model.pth"
            torch.save(model.state_dict(), pickle)
            os.environ |= {"TEMPOZOO_CACHE": f"{folder}/cache", "TEMPOZOO_CONFIG": f"{folder}/config"}
            zoo.convert(pickle, name)
            size = pickle.stat().st_size / 1e6
            del model
            results = [measure(loader, name, str(pickle), runs=args.runs) for loader in LOADERS.values()]
        (ours, our_peak), (theirs, their_peak) = results
        row = (size, ours, theirs, theirs / ours, our_peak / size, their_peak / size)
        rows.append([name, *(f"{value:.2f}" for value in row)])
    titles = [
        "network",
        "MB",
        *(f"{loader}, s" for loader in LOADERS),
        "ratio",
        "peak / size, ours",
        "peak / size, theirs",
    ]
    table = Table(*titles)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    if args.csv:
        with Path(args.csv).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([titles, *rows])


if __name__ == "__main__":
    main()
