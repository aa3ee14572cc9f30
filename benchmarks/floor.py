"""Compare the time of every operation with the least time in which this machine can compute it or move its data.

    python benchmarks/floor.py [--networks NAME ...] [--quick] [--csv docs/floor.csv]

For each type of operation in a forward pass and a training step (forward and backward), the table lists floating-point
operations, bytes and time. The floor of an operation is the larger of two times: its floating-point operations at the
speed of a large matrix product or convolution, whichever is faster, and its bytes at the speed of a large copy. These
speeds are measured in the same rounds as the networks. "floor %" is the floor relative to the measured time: 100 is the
limit of unfused operations. Data that stays in a cache can move faster than the copy, so single operations can exceed
100.

Bytes are those of all input and output tensors, as if each operation read and wrote the memory. Copies inside of an
operation, such as a change of layout, do not count, but their time does. Times of operations are the least of three
passes in which each operation is timed separately; the row "total" has the median of undisturbed passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.cases import ADAPTIVE, NETWORKS, TWIN, Case, select
from benchmarks.timing import Budget, Results, Timing, benchmark_parser, interleave

COLUMNS = ["network", "pass", "operation", "calls", "GFLOP", "MB", "ms", "floor ms", "floor %", "GFLOP/s", "GB/s"]
REFERENCES, TOTAL = "reference", "total"
COPY, PRODUCT, CONVOLUTION = "large copy", "large matrix product", "large convolution"
REPEATS = 3  # passes in which operations are timed
SMALLEST_SHARE = 0.002  # of the time; operations below are added up as "other"
OTHER = "other"
CPU_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"  # not in PyTorch's flop_registry
METADATA = ("aten.detach", "aten.empty", "aten.new_empty", "aten.sym_", "aten._unsafe_view")  # these move no data
WRITE_ONLY = ("copy_", "fill_", "zero_")  # do not read the tensor that they write


@dataclass
class Cost:
    """Calls, floating-point operations, bytes, seconds and the floor in seconds of operations."""

    calls: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0
    floor: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Speeds:
    """Floating-point operations and bytes per second of a machine."""

    flops: float
    bytes: float

    def floor(self, flops: float, moved: float) -> float:
        """Return the least seconds of an operation."""
        return max(flops / self.flops, moved / self.bytes)


class OperationCosts(TorchDispatchMode):
    """Count and time the operations that run within the context, by type; views have no cost.

    Attributes:
        costs: name of an operation -> its cost.
    """

    def __init__(self, speeds: Speeds) -> None:
        super().__init__()
        self.speeds, self.costs = speeds, dict[str, Cost]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - start
        if func.is_view or str(func).startswith(METADATA):
            return out
        flops = count_flops(func, args, kwargs or {}, out)
        moved = float(sum(map(span, tensors((args, kwargs))))) + sum(map(span, tensors(out)))
        if func._overloadpacket.__name__ in WRITE_ONLY:
            moved -= span(args[0])
        cost = Cost(1, flops, moved, seconds, self.speeds.floor(flops, moved))
        name = operation_name(func, args)
        self.costs[name] = self.costs.get(name, Cost()) + cost
        return out


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested arguments."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def span(tensor: Tensor) -> int:
    """Return the bytes of the distinct elements of a tensor; expanded dimensions count once."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    distinct = 1 if tensor.numel() else 0
    for size, stride in pairs:
        distinct *= size if stride else 1
    return distinct * tensor.element_size()


def count_flops(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    """Count floating-point operations: PyTorch's formulas for products, otherwise one per element of the output."""
    if func._overloadpacket in flop_registry:
        return float(flop_registry[func._overloadpacket](*args, **kwargs, out_val=out))
    if CPU_ATTENTION in str(func):
        backward = "backward" in str(func)
        query, key, value = args[1:4] if backward else args[:3]
        products = query.numel() * key.shape[-2] * (3 if backward else 1)  # query x key, and again in backward
        others = query.shape[:-1].numel() * key.shape[-2] * value.shape[-1] * (2 if backward else 1)
        return float(2 * (products + others))
    return float(max((tensor.numel() for tensor in tensors(out)), default=0))


def operation_name(func: Any, args: Any) -> str:
    """Return the name of an operation; convolutions are divided into depthwise, 1x1 and others."""
    name = func._overloadpacket.__name__
    if not name.startswith("convolution"):
        return name
    weight = args[2] if "backward" in name else args[1]
    if weight.shape[1] == 1 and len(weight) > 1:
        return f"{name}, depthwise"
    return f"{name}, 1x1" if weight[0, 0].numel() == 1 else name


def reference_steps(quick: bool) -> tuple[dict[str, Callable[[], object]], dict[str, Cost]]:
    """Return a copy and a matrix product that exceed all caches and a convolution, and the cost of one call of each."""
    side, count, channels, size = (64, 2**12, 8, 8) if quick else (2048, 2**26, 512, 28)
    source, target = torch.ones(count), torch.empty(count)
    a, b, c = torch.randn(side, side), torch.randn(side, side), torch.empty(side, side)
    maps = torch.randn(16, channels, size, size).to(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3).to(memory_format=torch.channels_last)
    steps: dict[str, Callable[[], object]] = {
        COPY: lambda: target.copy_(source),
        PRODUCT: lambda: torch.mm(a, b, out=c),
        CONVOLUTION: lambda: torch.conv2d(maps, kernel),
    }
    costs = {
        COPY: Cost(1, bytes=2.0 * 4 * count),
        PRODUCT: Cost(1, flops=2.0 * side**3),
        CONVOLUTION: Cost(1, flops=2.0 * 9 * channels**2 * len(maps) * (size - 2) ** 2),
    }
    return steps, costs


def passes(network: nn.Module, clips: Tensor) -> dict[str, Callable[[], object]]:
    """Return the forward pass in evaluation mode, and the forward and backward pass in training mode."""

    def forward() -> None:
        with torch.no_grad():
            network.eval()(clips)

    def training() -> None:
        network.train().zero_grad()
        network(clips).square().mean().backward()

    return {"forward": forward, "forward + backward": training}


def fastest(repeats: Sequence[dict[str, Cost]]) -> dict[str, Cost]:
    """Return the cost of each operation in the pass in which it took the least time."""
    return {name: min((costs[name] for costs in repeats), key=lambda cost: cost.seconds) for name in repeats[0]}


def add_rows(results: Results, title: str, step: str, costs: dict[str, Cost], total: Timing) -> None:
    """Add a row for each operation, in the order of their time, and their total."""
    everything = sum(costs.values(), Cost())
    limit = SMALLEST_SHARE * everything.seconds
    rows = {name: cost for name, cost in costs.items() if cost.seconds >= limit}
    rows = dict(sorted(rows.items(), key=lambda item: -item[1].seconds))
    rows[OTHER] = sum((cost for name, cost in costs.items() if name not in rows), Cost())
    rows[TOTAL] = Cost(everything.calls, everything.flops, everything.bytes, total.median, everything.floor)
    for name, cost in rows.items():
        if cost.calls:
            add_row(results, title, step, name, cost)


def add_row(results: Results, title: str, step: str, name: str, cost: Cost) -> None:
    amounts = cost.flops / 1e9, cost.bytes / 1e6, 1e3 * cost.seconds, 1e3 * cost.floor
    speeds = cost.flops / 1e9 / cost.seconds, cost.bytes / 1e9 / cost.seconds
    results.add(title, step, name, cost.calls, *amounts, 100 * cost.floor / cost.seconds, *speeds)


def measure(results: Results, case: Case, form: str, rounds: int, seconds: float, quick: bool) -> None:
    """Add the rows of both passes of a network, and of the references."""
    references, reference_costs = reference_steps(quick)
    steps = passes(case.build(form), case.clips())
    times = interleave(references | steps, rounds, seconds)
    for name, cost in reference_costs.items():
        cost.seconds = cost.floor = times[name].median
    compute = max(cost.flops / cost.seconds for cost in reference_costs.values())
    speeds = Speeds(compute, reference_costs[COPY].bytes / times[COPY].median)
    title = case.title if form != TWIN else f"{case.title}, {TWIN}"
    for name, step in steps.items():
        repeats = [OperationCosts(speeds) for _ in range(REPEATS)]
        for counter in repeats:
            with counter:
                step()
        add_rows(results, title, name, fastest([counter.costs for counter in repeats]), times[name])
    for name, cost in reference_costs.items():
        add_row(results, title, REFERENCES, name, cost)


def main(args: list[str] | None = None) -> None:
    parser = benchmark_parser(__doc__ or "", rounds=5)
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="parts of the names of architectures")
    parser.add_argument("--twins", action="store_true", help="also measure the static twins")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    forms = (ADAPTIVE, TWIN) if options.twins else (ADAPTIVE,)
    cases = select(NETWORKS, options.networks, options.quick)
    results = Results("operations and their floor, float32", COLUMNS, options.threads)
    budget = Budget(0.7 * options.minutes, len(cases) * len(forms))
    for case in cases:
        for form in forms:
            measure(results, case, form, options.rounds, budget.share(), options.quick)
    results.finish(options.csv)


if __name__ == "__main__":
    main()
