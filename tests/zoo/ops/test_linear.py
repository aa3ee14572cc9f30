"""Linear layers as convolutions: the same values and gradients as PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import small
from torch import Tensor, nn

from zoo.ops import linear as linear_module
from zoo.ops.linear import Linear, convolve, linear

SHAPES = [(2, 5, 8), (1, 1, 8), (3, 1, 8), (2, 3, 4, 8), (2, 1, 3, 4, 8), (0, 5, 8)]


@pytest.fixture(autouse=True)
def slow_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "MKL_IS_SLOW", True)


def convolutions(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Record the inputs of ``convolve``."""
    calls: list[Tensor] = []

    def record(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        calls.append(x)
        return convolve(x, weight, bias)

    monkeypatch.setattr(linear_module, "convolve", record)
    return calls


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_convolution_equals_the_matrix_product_in_value_and_gradients(shape: tuple[int, ...], with_bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True) if with_bias else None
    inputs = [tensor for tensor in (x, weight, bias) if tensor is not None]
    ours, expected = convolve(x, weight, bias), F.linear(x, weight, bias)
    torch.testing.assert_close(ours, expected)
    assert ours.is_contiguous()
    to_y = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, to_y), torch.autograd.grad(expected, inputs, to_y))


def test_rows_of_a_larger_tensor_and_slices_of_weights() -> None:
    tokens, weight, bias = torch.randn(4, 7, 8), torch.randn(24, 8), torch.randn(24)
    torch.testing.assert_close(
        linear(tokens[:, :1], weight[:8], bias[:8]), F.linear(tokens[:, :1], weight[:8], bias[:8])
    )
    transposed = torch.randn(4, 8, 7).transpose(1, 2)
    torch.testing.assert_close(linear(transposed, weight, bias), F.linear(transposed, weight, bias))


def test_full_precision_tokens_on_a_cpu_are_convolved(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, layer = convolutions(monkeypatch), Linear(8, 6)
    layer(torch.randn(2, 5, 8))
    assert len(calls) == 1
    layer(torch.randn(5, 8))  # a classifier
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(2, 5, 8))
    layer.double()(torch.randn(2, 5, 8, dtype=torch.float64))
    assert len(calls) == 1
    monkeypatch.setattr(linear_module, "MKL_IS_SLOW", False)
    Linear(8, 6)(torch.randn(2, 5, 8))
    assert len(calls) == 1


def test_exported_networks_contain_matrix_products() -> None:
    exported = torch.export.export(Linear(8, 6), (torch.randn(2, 5, 8),))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert "aten.linear.default" in targets and not any("conv" in target for target in targets)


def test_layer_draws_the_initial_values_of_pytorch() -> None:
    torch.manual_seed(0)
    ours = Linear(8, 6)
    torch.manual_seed(0)
    theirs = nn.Linear(8, 6)
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("arch", ["tadaformer_b16", "tadaconvnextv2_tiny", "vivit_b16"])
def test_networks_have_the_same_logits_and_gradients(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = small(arch)
    clips = torch.randn(2, 3, 4, 32, 32)

    def results() -> tuple[Tensor, ...]:
        logits = network(clips)
        return logits, *torch.autograd.grad(logits.square().sum(), list(network.parameters()), allow_unused=True)

    calls = convolutions(monkeypatch)
    ours = results()
    assert calls
    monkeypatch.setattr(linear_module, "MKL_IS_SLOW", False)
    torch.testing.assert_close(ours, results(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 8), (2, 1, 3, 4, 8)])
def test_operation_of_compilers_declares_its_results(shape: tuple[int, ...], with_bias: bool) -> None:
    bias = torch.randn(6, requires_grad=True) if with_bias else None
    arguments = (torch.randn(shape, requires_grad=True), torch.randn(6, 8, requires_grad=True), bias)
    torch.library.opcheck(linear_module._convolve_rows, arguments)


def test_compiled_rows_are_convolved_in_one_operation() -> None:
    torch.manual_seed(0)
    layer, x = Linear(8, 6), torch.randn(2, 5, 8, requires_grad=True)
    graphs: list[torch.fx.GraphModule] = []

    def keep_graph(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, backend=keep_graph)
    ours, expected = compiled(x), F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(ours, expected)
    assert "tempozoo.linear" in graphs[0].code
    inputs, to_y = [x, layer.weight, layer.bias], torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, to_y), torch.autograd.grad(expected, inputs, to_y))
