"""Compiled operators: equal to eager ones in value and gradient, channels last, without matrix products or copies."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code

from zoo.ops import TAM, TAdaAggregation, TemporalShift, stha_conv2d
from zoo.ops.temporal_filter import TemporalFilter

HEADER = Path(sysconfig.get_path("include"), "Python.h")
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") and HEADER.exists()), reason="torch.compile needs g++ and Python's C headers on CPUs"
)
FRAMES = 4


@pytest.fixture(autouse=True)
def _reset_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Operators(nn.Module):
    """Temporal operators one after another; each has another input than the one before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = TemporalShift(4)
        self.tam = TAM(channels, FRAMES)
        self.aggregation = TAdaAggregation(channels)
        self.filter = TemporalFilter(torch.randn(channels, 3), torch.randn(channels))
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3))
        assert self.aggregation.pool_bn is not None
        nn.init.normal_(self.aggregation.pool_bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.aggregation(self.tam(self.shift(x, FRAMES), FRAMES), FRAMES)
        calibration = 1 + x.mean((2, 3))[..., None, None] * torch.linspace(-1, 1, 9).view(3, 3)
        x = stha_conv2d(x.tanh(), calibration, self.weight, padding=1)
        return self.filter(x, FRAMES)


def gradients(module: nn.Module, y: Tensor, x: Tensor) -> list[Tensor]:
    direction = torch.linspace(-1, 1, y.numel()).view_as(y)
    return list(torch.autograd.grad(y, [x, *module.parameters()], direction))


@needs_compiler
@pytest.mark.parametrize(
    ("channels", "size"),
    [(16, (6, 8)), pytest.param(13, (5, 7), marks=pytest.mark.slow)],  # vectorized, scalar
)
def test_compiled_operators_equal_eager_ones_without_copies(channels: int, size: Any) -> None:
    torch.manual_seed(0)
    operators = Operators(channels).train()
    compiled = torch.compile(operators, fullgraph=True)
    clips = torch.randn(3 * FRAMES, channels, *size).contiguous(memory_format=torch.channels_last)
    x = clips.requires_grad_()
    y, codes = run_and_get_code(lambda: compiled(x))
    expected = operators(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not any("bmm" in code for code in codes)
    for actual, exact in zip(gradients(operators, y, x), gradients(operators, expected, x), strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-3, atol=1e-3 * exact.abs().max().item())


@pytest.mark.parametrize("stride", [1, 2])
def test_operation_of_compilers_declares_its_results(stride: int) -> None:
    from zoo.ops.stam_conv import _compiled_conv

    x = torch.randn(2, 3, 9, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    calibration = torch.randn(2, 3, 3, 3, requires_grad=True)
    weight = torch.randn(40, 3, 3, 3, requires_grad=True)
    arguments = (x, calibration, weight, [stride, stride, 1, 1, 1, 1])
    torch.library.opcheck(_compiled_conv, arguments)


def test_exported_convolution_has_only_standard_operations() -> None:
    class Conv(nn.Module):
        def forward(self, x: Tensor, calibration: Tensor, weight: Tensor) -> Tensor:
            return stha_conv2d(x, calibration, weight, padding=1)

    program = torch.export.export(Conv(), (torch.randn(2, 3, 5, 5), torch.randn(2, 3, 3, 3), torch.randn(4, 3, 3, 3)))
    assert "tempozoo" not in str(program.graph)
