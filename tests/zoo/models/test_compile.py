"""Compiled networks have the logits, gradients and batch statistics of eager ones. Requires a C++ compiler."""

from __future__ import annotations

import copy
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, build, clips_for
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from zoo.models import VideoNetwork

CXX = os.environ.get("CXX", "g++")  # the choice of inductor
HEADER = Path(sysconfig.get_path("include"), "Python.h")
pytestmark = [
    pytest.mark.skipif(not shutil.which(CXX), reason=f"torch.compile needs a C++ compiler on CPUs; found no {CXX}"),
    pytest.mark.skipif(
        not HEADER.exists(), reason=f"torch.compile needs Python's C headers on CPUs; found no {HEADER}"
    ),
]
Result = dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use an empty inductor cache, so that code of earlier runs does not hide errors of this compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(autouse=True)
def _reset_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def infer(network: nn.Module, call: Callable[[Tensor], Tensor], clips: Tensor) -> Result:
    network.eval()
    with torch.no_grad():
        return {"logits": call(clips)}


def train(network: nn.Module, call: Callable[[Tensor], Tensor], clips: Tensor) -> Result:
    network.train()
    logits = call(clips)
    F.cross_entropy(logits, torch.arange(len(clips)) % logits.shape[1]).backward()
    gradients = {f"gradient of {name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients, **dict(network.named_buffers())}


def assert_compiled_is_as_accurate_as_eager(network: nn.Module, run: Any, *batches: Tensor, **options: Any) -> None:
    """Compare both with float64; the error of compiled code may be up to 10 times that of eager code."""
    exact, eager, compiled = (copy.deepcopy(network) for _ in range(3))
    exact.double()
    call = torch.compile(compiled, fullgraph=True, **options)
    for clips in batches:
        expected: Result = run(exact, exact, clips.double())
        errors: Result = run(eager, eager, clips)
        actual: Result = run(compiled, call, clips)
        assert actual.keys() == errors.keys() == expected.keys()
        # the tolerance depends on the largest value, because some gradients are only rounding error
        largest = max(value.abs().max().item() for value in expected.values())
        for name, value in expected.items():
            error, eager_error = (abs(x[name].double() - value).max().item() for x in (actual, errors))
            allowed = 10 * eager_error + 1e-5 * value.abs().max().item() + 1e-7 * largest
            assert error <= allowed, f"{name}: error {error:.1e}, in eager {eager_error:.1e}"


QUICK = [("tanet", infer), ("tanet", train), ("host tam", infer), ("tada2d", infer), ("tadaformer ssv2", infer)]
OTHERS = [(family, run) for family in FAMILIES for run in (infer, train) if (family, run) not in QUICK]


@pytest.mark.parametrize(("family", "run"), QUICK)
def test_network_compiles(family: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_compiled_is_as_accurate_as_eager(build(family, monkeypatch), run, clips_for(family))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "run"), OTHERS)
def test_every_family_compiles(family: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_compiled_is_as_accurate_as_eager(build(family, monkeypatch), run, clips_for(family))


@pytest.mark.parametrize(
    "family", ["tada2d", *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES if family != "tada2d")]
)
def test_fused_network_compiles(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(family, monkeypatch).eval()
    assert isinstance(network, VideoNetwork)
    assert_compiled_is_as_accurate_as_eager(network.fuse(), infer, clips_for(family))


# batch sizes of 16 frames or more: below that, PyTorch chooses other kernels on one thread and compiles again
BATCHES = (8, 9, 12)
COUNTED = ("c2d", "tada2d", "tanet", "host tsm")
ANY_LENGTH = ("c2d", "i3d", "tsm", "teinet", "tada2d", "stam", "nonlocal", "tadaconvnextv2", "tadaformer")


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    "family", [family if family in COUNTED else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
)
def test_other_batch_sizes_need_no_compilation(family: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(family, monkeypatch).train(mode == "train")
    counter = CompileCounter()
    call = torch.compile(network, backend=counter, fullgraph=True)
    with torch.set_grad_enabled(mode == "train"):
        for count in BATCHES:
            clips = clips_for(family, count)
            torch._dynamo.maybe_mark_dynamic(clips, 0)
            call(clips)
            assert counter.frame_count == 1, count


@pytest.mark.parametrize("family", ["tada2d"])
def test_unmarked_batch_sizes_need_one_more_compilation(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(family, monkeypatch).eval()
    counter = CompileCounter()
    call = torch.compile(network, backend=counter, fullgraph=True)
    with torch.no_grad():
        for count in BATCHES:
            call(clips_for(family, count))
    assert counter.frame_count == 2


@pytest.mark.parametrize(
    "family", [family if family == "tada2d" else pytest.param(family, marks=pytest.mark.slow) for family in ANY_LENGTH]
)
def test_other_clip_lengths_need_one_more_compilation(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(family, monkeypatch).eval()
    counter = CompileCounter()
    call = torch.compile(network, backend=counter, fullgraph=True)
    clips = clips_for(family, 8)
    with torch.no_grad():
        for frames in (4, 8, 6, 10):
            call(clips[:, :, :1].expand(-1, -1, frames, -1, -1).contiguous())
    assert counter.frame_count <= 2


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tanet", "tada2d", "stam"])
def test_compiled_network_accepts_any_batch_size(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [clips_for(family, count) for count in (3, 5)]
    assert_compiled_is_as_accurate_as_eager(build(family, monkeypatch), infer, *batches, dynamic=True)


@pytest.mark.slow
def test_static_network_is_recompiled_for_another_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [clips_for("tanet", count) for count in (3, 2, 5)]
    assert_compiled_is_as_accurate_as_eager(build("tanet", monkeypatch), infer, *batches)
