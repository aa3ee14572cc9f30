"""Units of convolution and batch norm: the functions with manual gradients equal the plain operations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import small
from torch import Tensor, nn

from zoo.ops import TAdaConvBN, conv_unit, tadaconv
from zoo.ops.average_norm import can_inline, temporal_average
from zoo.ops.conv_unit import AggregationBN, ConvBN
from zoo.ops.frames import spatial_mean
from zoo.ops.pointwise_norm import can_recompute
from zoo.ops.tadaconv import TAdaAggregation

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def randomize(module: nn.Module) -> Any:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return module


def plain_aggregation(unit: AggregationBN, y: Tensor, num_frames: int) -> Tensor:
    assert unit.pool_bn is not None
    return unit.bn(y) + unit.pool_bn(temporal_average(y, num_frames))


def plain_tada(unit: TAdaConvBN, x: Tensor, num_frames: int) -> Tensor:
    conv: Any = unit.conv
    alpha = conv.routing(spatial_mean(x, num_frames))[0].transpose(1, 2).flatten(0, 1)[:, :, None, None]
    y = F.conv2d(x * alpha, conv.weight, None, conv.stride, conv.padding)
    return plain_aggregation(unit, y, num_frames)


def plain_conv(unit: ConvBN, x: Tensor, num_frames: int) -> Tensor:
    return unit.bn(unit.conv(x))


def assert_equals_plain(
    unit: Any, plain: Callable[..., Tensor], x: Tensor, num_frames: int, **tolerance: float
) -> None:
    """Compare output, gradients and buffers of a unit with those of a copy that computes ``plain``."""
    twin, inputs = copy.deepcopy(unit), [x.detach().clone().requires_grad_() for _ in range(2)]
    actual, expected = unit(inputs[0], num_frames), plain(twin, inputs[1], num_frames)
    assert actual.dtype == expected.dtype
    grad = torch.randn_like(expected)
    for output in (actual, expected):
        if output.requires_grad:
            output.backward(grad)
    torch.testing.assert_close(actual, expected, **tolerance)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, **tolerance)
    for (name, parameter), other in zip(unit.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=lambda m, n=name: f"{n}: {m}", **tolerance)
    for (name, buffer), other in zip(unit.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def saved_elements(compute: Callable[[], Tensor], *outside: Tensor) -> int:
    """Count the elements that autograd keeps for a backward pass, except those of the tensors ``outside``."""
    known = {tensor.untyped_storage().data_ptr() for tensor in outside}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = compute()
    assert output.requires_grad
    return sum(count for storage, count in kept.items() if storage not in known)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("batch", "frames"), [(1, 2), (2, 1), (2, 5)])
@pytest.mark.parametrize("frozen", [(), ("bn",), ("pool_bn",), ("bn", "pool_bn")])
def test_tada_unit_equals_plain_operations(frozen: tuple[str, ...], batch: int, frames: int, layout: Any) -> None:
    unit = randomize(TAdaConvBN(3, 4, 3, stride=2)).double()
    for name in frozen:
        getattr(unit, name).eval()
    x = torch.randn(batch * frames, 3, 5, 8, dtype=torch.double).contiguous(memory_format=layout)
    assert can_inline(x, unit.bn, unit.pool_bn)
    assert_equals_plain(unit, plain_tada, x, frames)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_are_scaled_in_parts_of_limited_size(layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tadaconv, "PART_BYTES", 3 * 3 * 5 * 8 * 8)  # three of ten frames, so the last part is smaller
    unit = randomize(TAdaConvBN(3, 4, 3)).double()
    x = torch.randn(10, 3, 5, 8, dtype=torch.double).contiguous(memory_format=layout)
    assert [len(x[part]) for part in tadaconv._parts(x)] == [3, 3, 3, 1]
    assert unit.conv(x, 5).is_contiguous(memory_format=layout)
    assert_equals_plain(unit, plain_tada, x, 5)
    with torch.no_grad():
        torch.testing.assert_close(unit.eval()(x, 5), plain_tada(unit, x, 5))


@pytest.mark.parametrize("trained", [("conv.weight",), ("conv.routing.b.weight",), ("bn.weight",), ("pool_bn.bias",)])
def test_tada_unit_with_frozen_parameters_equals_plain_operations(trained: tuple[str, ...]) -> None:
    unit = randomize(TAdaConvBN(3, 4, 3)).double()
    for name, parameter in unit.named_parameters():
        parameter.requires_grad = name in trained
    assert_equals_plain(unit, plain_tada, torch.randn(8, 3, 5, 8, dtype=torch.double), 4)


def test_tada_unit_without_gradients_equals_plain_operations() -> None:
    unit = randomize(TAdaConvBN(3, 4, 3)).double().eval()
    x = torch.randn(8, 3, 5, 8, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(unit(x, 4), plain_tada(unit, x, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", [True, False])
def test_tada_unit_equals_plain_operations_with_autocast(mode: bool, dtype: torch.dtype) -> None:
    unit = randomize(TAdaConvBN(8, 16, 3)).train(mode)
    x = torch.randn(8, 8, 9, 8).to(dtype)
    reference, inputs = copy.deepcopy(unit).float(), [x.clone().requires_grad_(), x.float().requires_grad_()]
    with torch.autocast("cpu", dtype):
        output = unit(inputs[0], 4)
    expected = plain_tada(reference, inputs[1], 4)
    assert output.dtype == dtype
    grad = torch.randn_like(output)
    output.backward(grad)
    expected.backward(grad.float())

    def error(actual: Tensor | None, exact: Tensor | None) -> float:
        assert actual is not None and exact is not None
        return float((actual.detach().float() - exact.detach()).norm() / exact.detach().norm())

    assert error(output, expected) < 0.02
    assert error(inputs[0].grad, inputs[1].grad) < 0.03
    for name in ("conv.weight", "bn.weight", "bn.bias", "pool_bn.weight", "pool_bn.bias"):
        parameter = unit.get_parameter(name)
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert error(parameter.grad, reference.get_parameter(name).grad) < 0.03, name


def test_aggregation_of_frames_equals_plain_operations_with_other_momentum() -> None:
    unit = randomize(TAdaAggregation(4)).double()
    for norm in (unit.bn, unit.pool_bn):
        norm.momentum, norm.eps = 0.3, 1e-3
    assert_equals_plain(unit, plain_aggregation, torch.randn(6, 4, 5, 3, dtype=torch.double), 3)


def cumulative(norm: nn.BatchNorm2d) -> nn.Module:
    norm.momentum = None
    return norm


def without_statistics(norm: nn.BatchNorm2d) -> nn.Module:
    return nn.BatchNorm2d(norm.num_features, track_running_stats=False)


def synchronized(norm: nn.BatchNorm2d) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(norm)


@pytest.mark.parametrize("change", [cumulative, without_statistics, synchronized])
def test_other_norms_use_the_plain_operations(change: Callable[[nn.BatchNorm2d], nn.Module]) -> None:
    unit = randomize(TAdaAggregation(4)).double().eval()
    unit.pool_bn = change(unit.pool_bn).double()
    y = torch.randn(6, 4, 5, 3, dtype=torch.double)
    assert not can_inline(y, unit.bn, unit.pool_bn)
    if change is not synchronized:  # SyncBatchNorm trains only on a GPU
        unit.train()
    assert_equals_plain(unit.eval() if change is synchronized else unit, plain_aggregation, y, 3)


@pytest.mark.parametrize("name", ["bn", "pool_bn"])
def test_hooks_of_norms_are_called(name: str) -> None:
    unit = randomize(TAdaAggregation(4))
    calls: list[torch.Size] = []
    unit.get_submodule(name).register_forward_hook(lambda module, args, output: calls.append(output.shape))
    unit(torch.randn(6, 4, 5, 3), 3)
    assert calls == [(6, 4, 5, 3)]


def test_one_value_per_channel_is_an_error_in_training() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        TAdaAggregation(4)(torch.randn(1, 4, 1, 1), 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("stride", "size"), [(1, (5, 7)), (2, (5, 7)), (2, (6, 8))])
def test_pointwise_unit_equals_plain_operations(stride: int, size: tuple[int, int], layout: Any) -> None:
    unit = randomize(ConvBN(3, 8, 1, stride)).double()
    x = torch.randn(4, 3, *size, dtype=torch.double).contiguous(memory_format=layout)
    assert can_recompute(x, unit.conv, unit.bn)
    assert_equals_plain(unit, plain_conv, x, 4)
    unit.conv.weight.requires_grad = False
    unit.zero_grad()
    assert_equals_plain(unit, plain_conv, x, 4)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_pointwise_unit_is_as_accurate_as_plain_operations_in_float32(shift: float) -> None:
    """Its gradients are differences of sums, which must not lose digits, also far from a mean of zero."""
    unit = randomize(ConvBN(16, 64, 1))
    x = torch.randn(8, 16, 14, 14).relu() + shift
    exact, plain = copy.deepcopy(unit).double(), copy.deepcopy(unit)
    grad = torch.randn(8, 64, 14, 14)
    unit(x, 4).backward(grad)
    plain_conv(plain, x, 4).backward(grad)
    plain_conv(exact, x.double(), 4).backward(grad.double())
    for ours, theirs, value in zip(unit.parameters(), plain.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and value.grad is not None
        error, plain_error = ((g.double() - value.grad).norm() / value.grad.norm() for g in (ours.grad, theirs.grad))
        assert error < 3 * plain_error + 1e-6


def test_pointwise_unit_is_plain_without_gradients_and_with_autocast() -> None:
    unit, x = randomize(ConvBN(3, 8, 1)), torch.randn(4, 3, 5, 7)
    with torch.no_grad():
        assert not can_recompute(x, unit.conv, unit.bn)
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_recompute(x, unit.conv, unit.bn)
    assert not can_recompute(x, unit.conv, unit.eval().bn)


def test_tada_unit_keeps_only_the_output_of_its_convolution() -> None:
    unit, x = TAdaConvBN(8, 8, 3), torch.randn(8, 8, 32, 32)
    kept = saved_elements(lambda: unit(x, 4), x, *unit.parameters())
    assert kept < 1.2 * x.numel()  # and statistics and the routing function's values


def test_pointwise_unit_does_not_keep_the_output_of_its_convolution() -> None:
    unit, x = ConvBN(8, 32, 1), torch.randn(8, 8, 32, 32)
    assert saved_elements(lambda: unit(x, 4), x, *unit.parameters()) < 0.1 * x.numel()


@pytest.mark.parametrize("arch", ["tada2d_r50", "tada2d_r18", "c2d_r50"])
def test_training_step_of_a_network_equals_plain_operations(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(arch).double().train()
    for norm in network.modules():
        if isinstance(norm, AggregationBN) and norm.pool_bn is not None:
            nn.init.normal_(norm.pool_bn.weight)
    plain, clips = copy.deepcopy(network), torch.randn(2, 3, 4, 32, 32, dtype=torch.double)
    network(clips).square().sum().backward()
    monkeypatch.setattr(conv_unit, "can_inline", lambda *args: False)
    monkeypatch.setattr(conv_unit, "can_recompute", lambda *args: False)
    monkeypatch.setattr(tadaconv, "_scaled_conv", lambda x, alpha, *args: F.conv2d(x * alpha, args[0], None, *args[1:]))
    plain(clips).square().sum().backward()
    for (name, parameter), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=lambda m, n=name: f"{n}: {m}")
    for (name, buffer), other in zip(network.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=lambda m, n=name: f"{n}: {m}")
