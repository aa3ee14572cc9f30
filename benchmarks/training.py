"""Measure training steps, and compare the networks with their static twins and with the literal form of their operator.

    python benchmarks/training.py [--networks NAME ...] [--quick] [--csv docs/training.csv]
    python benchmarks/training.py --layers NETWORK [--csv docs/layers.csv]

A step is forward, backward and optimizer (SGD with momentum for ResNets, otherwise AdamW), in float32 and with bfloat16
autocast: 16 frames of 224 x 224 pixels in total. Compared forms take turns; the table has medians, and the median and
spread of the ratio of each round. The literal form has one kernel per frame (TAda networks), a grouped temporal
convolution (TANet) or slices (TSM), as in the released code. "gradient checkpointing" recomputes every block in the
backward pass.

MiB is the peak of a step above the memory used before it, in a new process: the resident set on a CPU. The first step,
which creates the state of the optimizer, is not measured. The peak includes activations, gradients and buffers.

--layers lists the memory of the tensors that the forward pass saves for the backward pass, by part of the network, with
and without gradient checkpointing.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from benchmarks.cases import (
    ADAPTIVE,
    CHECKPOINTED,
    LITERAL,
    LITERAL_ARCHS,
    NETWORKS,
    TWIN,
    Case,
    prepare_training,
    select,
)
from benchmarks.memory import ITSELF, MIB, SavedTensors, peak_memory
from benchmarks.timing import Budget, Results, benchmark_parser, interleave, relative_spread

COLUMNS = ["network", "clip", "batch", "precision", "compared with", "ms", "other ms", "ratio", "spread %"]
COLUMNS += ["MiB", "other MiB", "memory ratio"]
PRECISIONS = {"float32": torch.float32, "bfloat16 autocast": torch.bfloat16}
CHECKPOINTED_ARCHS = ("tada2d_r50", "tadaconvnextv2_tiny")
TOTAL = "total"


def forms_of(case: Case, precision: str) -> list[str]:
    """List the forms with which a network is compared."""
    forms = [TWIN]
    if case.arch in LITERAL_ARCHS:
        forms.append(LITERAL)
    if case.arch in CHECKPOINTED_ARCHS and precision == "float32":
        forms.append(CHECKPOINTED)
    return forms


def compare(results: Results, case: Case, precision: str, rounds: int, seconds: float, device: str) -> None:
    """Add a row for each form with which a network is compared."""
    dtype, forms = PRECISIONS[precision], [ADAPTIVE, *forms_of(case, precision)]
    steps = {form: prepare_training(case, form, device, dtype) for form in forms}
    times = interleave(steps, rounds, seconds)
    del steps
    threads = torch.get_num_threads()
    peaks = {form: peak_memory(prepare_training, case, form, device, dtype, threads=threads) for form in forms}
    for form in forms[1:]:
        ratios, memory, other = times[ADAPTIVE].ratios(times[form]), peaks[ADAPTIVE], peaks[form]
        medians = times[ADAPTIVE].ms, times[form].ms, statistics.median(ratios)
        memory_ratio = memory / other if memory and other else None
        cells = (*medians, relative_spread(ratios), memory, other, memory_ratio)
        results.add(case.title, case.clip, case.batch, precision, form, *cells)


def saved_bytes(case: Case, form: str, depth: int) -> dict[str, int]:
    """Return the bytes that a forward pass saves for the backward pass, by part of the network."""
    network, clips = case.build(form).train(), case.clips()
    with SavedTensors(network, depth, clips) as saved:
        network(clips)
    return saved.by_module


def report_layers(case: Case, depth: int, threads: int, path: Path | None) -> None:
    """Print the saved tensors of each part of a network."""
    plain, checkpointed = (saved_bytes(case, form, depth) for form in (ADAPTIVE, CHECKPOINTED))
    total = sum(plain.values())
    columns = ["network", "part", "MiB", "share %", "MiB with gradient checkpointing"]
    title = f"tensors saved for backward, {case.title}, {case.batch}x{case.clip}, float32"
    results = Results(title, columns, threads)
    for name in dict.fromkeys([*plain, *checkpointed]):
        size = plain.get(name, 0)
        part = "between the parts" if name == ITSELF else name
        results.add(case.title, part, size / MIB, 100 * size / total, checkpointed.get(name, 0) / MIB)
    results.add(case.title, TOTAL, total / MIB, 100.0, sum(checkpointed.values()) / MIB)
    results.finish(path)


def main(args: list[str] | None = None) -> None:
    parser = benchmark_parser(__doc__ or "", rounds=11)
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="parts of the names of architectures")
    parser.add_argument("--layers", metavar="NETWORK", help="architecture whose saved tensors are listed")
    parser.add_argument("--depth", type=int, default=2, help="levels of submodules in --layers, default 2")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    if options.layers:
        case = select(NETWORKS, [options.layers], options.quick)[0]
        report_layers(case, options.depth, options.threads, options.csv)
        return
    cases = select(NETWORKS, options.networks, options.quick)
    results = Results("training step", COLUMNS, options.threads, options.device)
    budget = Budget(0.6 * options.minutes, len(cases) * len(PRECISIONS))  # the rest of the time is for memory
    for case in cases:
        for precision in PRECISIONS:
            compare(results, case, precision, options.rounds, budget.share(), options.device)
    results.finish(options.csv)


if __name__ == "__main__":
    main()
