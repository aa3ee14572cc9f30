"""Measure how the time and memory of a forward pass grow with the frames, the resolution and the batch size.

    python benchmarks/scaling.py [--networks NAME ...] [--quick] [--csv docs/scaling.csv]

One axis is varied at a time: frames and batch size at 112 x 112 pixels, resolution and batch size with 8 frames, frames
and resolution with one clip. "time factor" is the time per frame, pixel or clip relative to the smallest value: 1 is
linear growth. "memory factor" is the same for the peak memory above the memory used before. The values of an axis take
turns; the table has medians. Networks have random weights and run in float32.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.cases import ADAPTIVE, NETWORKS, Case, prepare_forward, select
from benchmarks.memory import peak_memory
from benchmarks.timing import Budget, Results, benchmark_parser, interleave

AXES: dict[str, tuple[int, ...]] = {
    "frames": (4, 8, 16, 32, 64, 128),
    "size": (112, 160, 224, 320, 448),  # multiples of the patches, and of 32
    "batch": (1, 2, 4, 8, 16),
}
QUICK_AXES: dict[str, tuple[int, ...]] = {"frames": (2, 4), "size": (32, 64), "batch": (1, 2)}
COLUMNS = ["network", "axis", "value", "clip", "batch", "ms", "spread %", "MiB", "time factor", "memory factor"]


def points(case: Case, axis: str, quick: bool) -> dict[int, Case]:
    """Return the case with each value of an axis."""
    base = replace(case, batch=1) if quick else replace(case, frames=8, size=112, batch=1)
    values = (QUICK_AXES if quick else AXES)[axis]
    return {value: replace(base, **{axis: value}) for value in values}  # type: ignore[arg-type]


def measure(results: Results, cases: dict[int, Case], axis: str, rounds: int, seconds: float) -> None:
    """Add a row for each value of an axis."""
    times = interleave({str(value): prepare_forward(case) for value, case in cases.items()}, rounds, seconds)
    threads = torch.get_num_threads()
    smallest: tuple[float, float | None] | None = None
    for value, case in cases.items():
        timing, peak = times[str(value)], peak_memory(prepare_forward, case, ADAPTIVE, threads=threads)
        amount = case.batch * case.frames * case.size**2
        per_pixel = timing.median / amount, None if peak is None else peak / amount
        smallest = smallest or per_pixel
        factors = [a / b if a and b else None for a, b in zip(per_pixel, smallest, strict=True)]
        results.add(case.title, axis, value, case.clip, case.batch, timing.ms, timing.spread, peak, *factors)


def main(args: list[str] | None = None) -> None:
    parser = benchmark_parser(__doc__ or "", rounds=7)
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="parts of the names of architectures")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    cases = select(NETWORKS, options.networks, options.quick)
    results = Results("growth of a forward pass, float32", COLUMNS, options.threads)
    budget = Budget(0.7 * options.minutes, len(cases) * len(AXES))  # the rest of the time is for memory
    for case in cases:
        for axis in AXES:
            measure(results, points(case, axis, options.quick), axis, options.rounds, budget.share())
    results.finish(options.csv)


if __name__ == "__main__":
    main()
