"""Compare memory allocators: time and peak memory of a network in a process with each of them.

    python benchmarks/allocators.py [--networks tada2d_r50] [--rounds 5] [--csv docs/allocators.csv]

Every round starts a process per allocator, which runs three forward passes without gradients and four training steps
(forward and backward, float32, no optimizer) of two clips. The times are the least of these, without the first one.
The peaks are those of the whole process, including libraries, after the forward passes and after the training steps.

For Linux. Allocators that are not installed are skipped. On Debian and Ubuntu, their packages are
libtcmalloc-minimal4 and libmimalloc2.0. The literal form has one kernel per frame, as in the released code.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.cases import ADAPTIVE, LITERAL, LITERAL_ARCHS, NETWORKS, Case, forward_step, select
from benchmarks.memory import MIB, status
from benchmarks.timing import Budget, Results, Timing, benchmark_parser, relative_spread
from zoo.allocation import RETAINED

ROOT = Path(__file__).parent.parent
FORWARD_PASSES, TRAINING_STEPS = 3, 4
GLIBC = "GNU C library"
SETTINGS: dict[str, dict[str, str]] = {  # allocator -> variables of its processes
    GLIBC: {},
    f"{GLIBC}, memory reused": {"MALLOC_MMAP_THRESHOLD_": str(RETAINED), "MALLOC_TRIM_THRESHOLD_": str(RETAINED)},
    f"{GLIBC}, memory returned": {"MALLOC_MMAP_THRESHOLD_": "1048576"},
    "tcmalloc": {"LD_PRELOAD": "libtcmalloc_minimal.so.4"},
    "mimalloc": {"LD_PRELOAD": "libmimalloc.so.2"},
}
COLUMNS = ["network", "form", "allocator", "forward ms", "forward ratio", "forward spread %", "forward peak MiB"]
COLUMNS += ["step ms", "step ratio", "step spread %", "peak MiB"]


class Sample(NamedTuple):
    """Results of one process: seconds, and bytes at the peak."""

    forward: float
    forward_peak: int
    step: float
    peak: int


def installed(settings: dict[str, str]) -> bool:
    """Whether the library that the settings name can be loaded."""
    try:
        ctypes.CDLL(settings.get("LD_PRELOAD"))
    except OSError:
        return False
    return True


def least(step: Callable[[], object], runs: int) -> float:
    """Return the least seconds of several calls, without the first one."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def measure(case: Case, form: str) -> Sample:
    """Measure this process."""
    network, clips = case.build(form), case.clips()
    forward, forward_peak = least(forward_step(network, clips), FORWARD_PASSES), status("VmHWM")
    network.train()

    def step() -> None:
        network(clips).square().mean().backward()
        network.zero_grad()

    return Sample(forward, forward_peak, least(step, TRAINING_STEPS), status("VmHWM"))


def measure_process(case: Case, form: str, settings: dict[str, str], threads: int, quick: bool) -> Sample:
    """Measure a new process with the variables of an allocator."""
    command = [sys.executable, "-m", "benchmarks.allocators", "--child", case.arch, form, "--threads", str(threads)]
    output = subprocess.run(
        command + ["--quick"] * quick,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | settings,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return Sample(*json.loads(output))


def compare(results: Results, case: Case, rounds: int, seconds: float, threads: int, quick: bool) -> None:
    """Add a row for each allocator, and one for the literal form."""
    cases = {(ADAPTIVE, name): settings for name, settings in SETTINGS.items() if installed(settings)}
    if case.arch in LITERAL_ARCHS:
        cases[LITERAL, GLIBC] = {}
    samples: dict[tuple[str, str], list[Sample]] = {key: [] for key in cases}
    start = time.monotonic()
    for number in range(1, rounds + 1):
        for key, settings in cases.items():
            samples[key].append(measure_process(case, key[0], settings, threads, quick))
        if (time.monotonic() - start) * (number + 1) / number > seconds:
            break
    reference = samples[ADAPTIVE, GLIBC]
    for (form, allocator), runs in samples.items():
        cells: list[object] = [case.title, form, allocator]
        for own, base, peaks in (
            ([r.forward for r in runs], [r.forward for r in reference], [r.forward_peak for r in runs]),
            ([r.step for r in runs], [r.step for r in reference], [r.peak for r in runs]),
        ):
            ratios = Timing(own).ratios(Timing(base))
            cells += [Timing(own).ms, Timing(ratios).median, relative_spread(ratios), Timing(peaks).median / MIB]
        results.add(*cells)


def main(args: list[str] | None = None) -> None:
    parser = benchmark_parser(__doc__ or "", rounds=5)
    parser.add_argument("--networks", nargs="+", metavar="NAME", default=["tada2d"], help="parts of architectures")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)  # measure this process
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    if options.child:
        architecture, form = options.child
        print(json.dumps(measure(select(NETWORKS, [architecture], options.quick)[0], form)))
        return
    cases = select(NETWORKS, options.networks, options.quick)
    results, budget = Results("memory allocators", COLUMNS, options.threads), Budget(options.minutes, len(cases))
    for case in cases:
        compare(results, case, options.rounds, budget.share(), options.threads, options.quick)
    results.finish(options.csv)


if __name__ == "__main__":
    main()
