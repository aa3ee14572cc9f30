"""The benchmarks: measurement, memory, counted costs, and every script with tiny networks."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small_trained
from torch import Tensor, nn

from benchmarks import allocators, cases, floor, loading, networks, operators, scaling, training
from benchmarks.cases import ADAPTIVE, CHECKPOINTED, NETWORKS, PUBLISHED, TWIN
from benchmarks.memory import MIB, SavedTensors, peak_memory
from benchmarks.timing import Budget, Results, Timing, figure, interleave


class Clock:
    """A clock that only ``wait`` advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_callables_take_turns_and_warm_up_is_not_measured() -> None:
    clock, calls = Clock(), ""

    def step(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            nonlocal calls
            calls += name
            clock.wait(seconds * len(calls))  # later calls take longer

        return run

    times = interleave({"a": step("a", 2.0), "b": step("b", 1.0)}, rounds=3, clock=clock)
    assert calls == "abababab"
    assert times["a"].seconds == [6.0, 10.0, 14.0]
    assert times["b"].seconds == [4.0, 6.0, 8.0]
    assert times["a"].ratios(times["b"]) == [1.5, 10 / 6, 14 / 8]
    assert times["a"].median == 10.0
    assert times["a"].spread == pytest.approx(20.0)  # quartiles 8 and 12


def test_the_time_limit_leaves_three_rounds() -> None:
    assert len(interleave({"a": lambda: None}, rounds=9, seconds=0.0)["a"].seconds) == 3
    assert len(interleave({"a": lambda: None}, rounds=2, seconds=0.0)["a"].seconds) == 2
    assert Timing([2.0]).spread == 0


def test_a_budget_divides_the_remaining_time() -> None:
    budget = Budget(minutes=1, groups=3)
    assert budget.share() == pytest.approx(20, abs=2)
    assert budget.share() == pytest.approx(30, abs=2)
    assert budget.share() == pytest.approx(60, abs=2)


def test_every_row_of_a_csv_names_the_machine(tmp_path: Path) -> None:
    results = Results("title", ["network", "spread %"], threads=3)
    results.add("a", 1234.5678)
    results.add("b", **{"spread_%": None})
    results.finish(tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["network"], row["spread %"]) for row in rows] == [("a", "1235"), ("b", "")]
    assert all(f"3 threads, torch {torch.__version__}, " in row["machine"] for row in rows)
    with pytest.raises(ValueError, match="columns"):
        results.add("a", ms=1.0)


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.123"), (1.2345, "1.234"), (99.96, "99.96"), (12345.6, "12346")]
)
def test_figures_have_four_digits(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize("arch", ["tada2d_r18", "tanet_r18", "tsm_r18", "tadaconvnextv2_tiny"])
def test_literal_forms_run_and_have_the_same_logits(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for _, form in operators.LITERAL_FORMS:
        forward = form.forward
        monkeypatch.setattr(form, "forward", lambda *args, forward=forward: calls.append(1) or forward(*args))
    network, clips = small_trained(arch).eval(), torch.randn(2, 3, 4, 32, 32)
    expected = network(clips)
    assert not calls
    torch.testing.assert_close(operators.literal(network)(clips), expected, rtol=1e-3, atol=1e-4)
    assert calls


@pytest.mark.parametrize("case", NETWORKS, ids=lambda case: case.arch)
def test_every_network_has_a_twin_for_the_same_clips(case: cases.Case) -> None:
    case = case.small()
    shapes = {form: case.build(form)(case.clips()).shape for form in (ADAPTIVE, TWIN)}
    assert shapes == {ADAPTIVE: (case.batch, 400), TWIN: (case.batch, 400)}


def test_saved_tensors_are_counted_by_part() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Sequential(nn.Linear(8, 2), nn.Identity(), nn.Sigmoid()))
    x = torch.randn(16, 4)
    with SavedTensors(network, 1, x) as saved:
        network(x).sum().backward()
    # linear layers save their inputs: x does not count, and the first sigmoid has already saved its output
    assert saved.by_module == {"1": 16 * 8 * 4, "2": 16 * 2 * 4}
    with SavedTensors(network, 2, x) as saved:
        network(x)
    assert saved.by_module == {"1": 16 * 8 * 4, "2.2": 16 * 2 * 4}
    assert not network[1]._forward_hooks


def test_gradient_checkpointing_saves_less() -> None:
    case = NETWORKS[0].small()
    plain, checkpointed = (training.saved_bytes(case, form, 1) for form in (ADAPTIVE, CHECKPOINTED))
    assert sum(checkpointed.values()) < 0.7 * sum(plain.values())


def test_costs_of_operations() -> None:
    speeds = floor.Speeds(flops=1e3, bytes=1e3)
    a, b, row = torch.randn(8, 4), torch.randn(4, 2), torch.randn(2)
    with floor.OperationCosts(speeds) as counter:
        y = a @ b
        y.view(16).mul_(2)
        torch.empty(8, 2).copy_(row.expand(8, 2))
    mm, mul, copy = (counter.costs[name] for name in ("mm", "mul_", "copy_"))
    assert (mm.calls, mm.flops, mm.bytes) == (1, 2 * 8 * 4 * 2, 4 * (32 + 8 + 16))
    assert mm.floor == pytest.approx(0.224)  # the bytes take longer than the operations
    assert (mul.flops, mul.bytes) == (16, 4 * 2 * 16)
    assert copy.bytes == 4 * (2 + 16)
    assert set(counter.costs) == {"mm", "mul_", "copy_"}


def test_costs_of_convolutions_and_attention() -> None:
    speeds = floor.Speeds(flops=1.0, bytes=math.inf)
    x = torch.randn(2, 4, 8, 8)
    with floor.OperationCosts(speeds) as counter, torch.no_grad():
        nn.Conv2d(4, 6, 3, padding=1, bias=False)(x)
        nn.Conv2d(4, 4, 3, padding=1, bias=False, groups=4)(x)
        nn.Conv2d(4, 6, 1, bias=False)(x)
        nn.functional.scaled_dot_product_attention(*torch.randn(3, 2, 5, 7, 16))
    flops = {name: cost.flops for name, cost in counter.costs.items()}
    assert flops["convolution"] == 2 * 2 * 64 * 6 * 4 * 9
    assert flops["convolution, depthwise"] == 2 * 2 * 64 * 4 * 9
    assert flops["convolution, 1x1"] == 2 * 2 * 64 * 6 * 4
    attention = next(value for name, value in flops.items() if "attention" in name)
    assert attention == 2 * 2 * (2 * 5) * 7 * 7 * 16


def test_published_accuracies_have_views() -> None:
    for case in PUBLISHED:
        top1, views = networks.accuracy(case)
        assert top1 is not None
        assert 60 < top1 < 90
        assert views is not None
        clips, crops = map(int, views.split("x"))
        assert clips * crops > 1


def test_unknown_networks_are_refused() -> None:
    with pytest.raises(SystemExit, match=r"No network matches 'resnet'; choose from tada2d_r50"):
        networks.main(["--quick", "--networks", "resnet"])


def prepare_allocation(size: int) -> Callable[[], Tensor]:
    return lambda: torch.ones(size * MIB // 4)


@pytest.mark.slow
def test_peak_memory_is_that_of_the_step() -> None:
    assert peak_memory(prepare_allocation, 64, threads=1) == pytest.approx(64, abs=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "args", "columns"),
    [
        (operators, [], ["case", "ratio"]),
        (networks, [], ["network", "ratio"]),
        (networks, ["--compile", "--networks", "tsm"], ["network", "compile s"]),
        (training, [], ["network", "ratio", "MiB"]),
        (training, ["--layers", "tada2d_r50"], ["part", "MiB"]),
        (scaling, ["--networks", "tanet", "tadaformer"], ["axis", "time factor"]),
        (floor, ["--twins", "--networks", "tanet", "tadaformer"], ["operation", "floor %"]),
        (loading, [], ["loader", "ratio"]),
    ],
    ids=["operators", "networks", "compile", "training", "layers", "scaling", "floor", "loading"],
)
def test_scripts_write_their_table(script: Any, args: list[str], columns: list[str], tmp_path: Path) -> None:
    script.main([*args, "--quick", "--rounds", "1", "--threads", "1", "--csv", str(tmp_path / "table.csv")])
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1
    assert all(row[column] for row in rows for column in [*columns, "machine"])


def test_allocators_are_compared_with_that_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"LD_PRELOAD": "libdoes_not_exist.so.9"}
    monkeypatch.setattr(allocators, "SETTINGS", {allocators.GLIBC: {}, "missing": missing})
    allocators.main(["--quick", "--rounds", "1", "--threads", "1", "--csv", str(tmp_path / "table.csv")])
    with (tmp_path / "table.csv").open() as file:
        ours, literal_form = csv.DictReader(file)
    assert (ours["form"], literal_form["form"]) == (ADAPTIVE, cases.LITERAL)
    assert ours["allocator"] == literal_form["allocator"] == allocators.GLIBC
    assert float(ours["forward ratio"]) == float(ours["step ratio"]) == 1
    assert 100 < float(ours["forward peak MiB"]) <= float(ours["peak MiB"]) < 2000
