"""Measure the forward pass of the networks, and compare them with their static twins and with other video networks.

    python benchmarks/networks.py [--networks NAME ...] [--compile] [--quick] [--csv docs/networks.csv]

The first rows compare each network with its static twin (benchmarks/twins.py): 16 frames of 224 x 224 pixels in total.
Where a network can be fused (batch norms folded into convolutions), both are also compared in this form. The other rows
use the input of the published test on Kinetics-400, one clip per batch, and are compared with TAda2D-50.

All networks run in float32 with random weights, on which the time does not depend. Compared networks take turns; the
table has medians, and the median and spread of the ratio of each round. MiB is the peak of a forward pass in a new
process, above the memory used before. GMACs are those of one clip.

--compile measures the first rows with torch.compile instead, also compared with eager execution. The compile time is
that of the first call without any cache.
"""

from __future__ import annotations

import copy
import statistics
import time

import torch
from torch import nn

import zoo
from benchmarks.cases import (
    ADAPTIVE,
    NETWORKS,
    PUBLISHED,
    TORCHVISION,
    TWIN,
    Case,
    forward_step,
    prepare_forward,
    select,
)
from benchmarks.memory import peak_memory
from benchmarks.timing import Budget, Results, Timing, benchmark_parser, interleave, relative_spread

REFERENCE = "TAda2D-50"
COLUMNS = [
    "network", "clip", "batch", "form", "compared with", "ms", "other ms", "ratio", "spread %", "clips per s", "MiB",
    "other MiB", "M parameters", "GMACs", "top-1 %", "views", "s per video", "compile s",
    "entry",
]  # fmt: skip


def accuracy(case: Case) -> tuple[float | None, str | None]:
    """Return the published top-1 accuracy on Kinetics-400 in percent, and its views, clips x crops."""
    if case.entry:
        reported = zoo.info(case.entry).reported
        return reported.top1, reported.views
    if not case.of_zoo:
        from torchvision.models import get_model_weights

        meta = get_model_weights(case.arch.removeprefix(TORCHVISION)).DEFAULT.meta
        clips = meta["_docs"].partition("clips_per_video=")[2].partition("`")[0]
        return meta["_metrics"]["Kinetics-400"]["acc@1"], f"{clips}x1"
    return None, None


def describe(network: nn.Module, case: Case) -> dict[str, float]:
    """Return the cells of parameters and multiply-accumulates."""
    cost = zoo.profile(network, (1, 3, case.frames, case.size, case.size))
    return {"M_parameters": cost.params / 1e6, "GMACs": cost.gmacs}


def compared(ours: Timing, theirs: Timing) -> dict[str, float]:
    """Return the cells of a comparison."""
    ratios = ours.ratios(theirs)
    cells = {"ms": ours.ms, "other_ms": theirs.ms, "ratio": statistics.median(ratios)}
    return cells | {"spread_%": relative_spread(ratios)}


def compare_with_twin(results: Results, case: Case, rounds: int, seconds: float, device: str) -> None:
    """Add a row of the eager network, and one of the fused network if it can be fused."""
    networks = {form: case.build(form).to(device) for form in (ADAPTIVE, TWIN)}
    costs, clips = describe(networks[ADAPTIVE], case), case.clips().to(device)
    forms = {("eager", form): network for form, network in networks.items()}
    if hasattr(networks[ADAPTIVE], "fuse"):
        forms |= {("fused", form): copy.deepcopy(network).fuse() for form, network in networks.items()}
    times = interleave({key: forward_step(network, clips) for key, network in forms.items()}, rounds, seconds)
    for kind in dict.fromkeys(kind for kind, _ in forms):
        ours = times[kind, ADAPTIVE]
        cells = compared(ours, times[kind, TWIN]) | {"clips_per_s": case.batch / ours.median}
        if kind == "eager":
            peaks = [
                peak_memory(prepare_forward, case, form, device, threads=torch.get_num_threads()) for form in networks
            ]
            cells |= costs | dict(zip(("MiB", "other_MiB"), peaks, strict=True))
        results.add(case.title, case.clip, case.batch, kind, TWIN, **cells)


def compare_published(results: Results, cases: list[Case], rounds: int, seconds: float, device: str) -> None:
    """Add a row of every network with the input of its published test."""
    steps = {case.title: prepare_forward(case, ADAPTIVE, device) for case in cases}
    times = interleave(steps, rounds, seconds)
    del steps
    reference = REFERENCE if REFERENCE in times else cases[0].title
    for case in cases:
        ours, (top1, views) = times[case.title], accuracy(case)
        cells = compared(ours, times[reference]) | describe(case.build(), case) | {"top-1_%": top1, "views": views}
        cells["entry"] = case.entry
        if views:
            clips, crops = map(int, views.split("x"))
            cells["s_per_video"] = ours.median * clips * crops
        peak = peak_memory(prepare_forward, case, ADAPTIVE, device, threads=torch.get_num_threads())
        cells |= {"clips_per_s": 1 / ours.median, "MiB": peak}
        results.add(case.title, case.clip, case.batch, "eager", reference, **cells)


def compare_compiled(results: Results, case: Case, rounds: int, seconds: float, device: str) -> None:
    """Add rows that compare the compiled network with its compiled twin and with the eager network."""
    torch.compiler.reset()
    clips, eager = case.clips().to(device), case.build().to(device)
    steps, first = {"eager": forward_step(eager, clips)}, {}
    for form, network in ((ADAPTIVE, eager), (TWIN, case.build(TWIN).to(device))):
        steps[form] = forward_step(torch.compile(network), clips)
        start = time.perf_counter()
        steps[form]()
        first[form] = time.perf_counter() - start
    times = interleave(steps, rounds, seconds - sum(first.values()))
    for other in (TWIN, "eager"):
        cells = compared(times[ADAPTIVE], times[other]) | {"clips_per_s": case.batch / times[ADAPTIVE].median}
        cells["compile_s"] = first[ADAPTIVE]
        results.add(case.title, case.clip, case.batch, "compiled", other, **cells)


def main(args: list[str] | None = None) -> None:
    parser = benchmark_parser(__doc__ or "", rounds=15)
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="parts of the names of architectures")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    results = Results("forward pass, float32", COLUMNS, options.threads, options.device)
    twins, published = ([], [])
    every_case = select([*NETWORKS, *PUBLISHED], options.networks, options.quick)
    for case in every_case:
        (published if case.entry or not case.of_zoo else twins).append(case)
    if options.compile:
        torch.compiler.config.force_disable_caches = True
        torch.compile(nn.Conv2d(3, 3, 3))(torch.randn(1, 3, 8, 8))  # loads the compiler
        budget = Budget(options.minutes, len(twins))
        for case in twins:
            compare_compiled(results, case, options.rounds, budget.share(), options.device)
    else:
        budget = Budget(0.8 * options.minutes, len(twins) + 3)  # the rest of the time is for memory
        for case in twins:
            compare_with_twin(results, case, options.rounds, budget.share(), options.device)
        if published:
            compare_published(results, published, options.rounds, 3 * budget.share(), options.device)
    results.finish(options.csv)


if __name__ == "__main__":
    main()
