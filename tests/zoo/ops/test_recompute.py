"""ReLU outputs that are computed again: gradients, kept memory, and errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import small
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from zoo.models.resnet import ResidualBlock
from zoo.ops import average_norm, conv_unit
from zoo.ops.conv_unit import ConvBN
from zoo.ops.operator import OPERATORS, BlockModules, BlockPosition
from zoo.ops.recompute import is_recomputable, record, relu

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def keep_relus(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (average_norm, conv_unit):
        monkeypatch.setattr(module, "record", lambda x, compute, *tensors: x)


def build_block(op: str = "tadaconv", channels: int = 16) -> ResidualBlock:
    """Build a bottleneck without shortcut convolution, whose parameters are random."""
    modules = OPERATORS[op].block(BlockPosition(2, 0, 1, 4)) if op != "none" else BlockModules()
    block = ResidualBlock(channels, channels // 4, 1, True, modules)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block.double()


def random_input(channels: int = 16, side: int = 6) -> Tensor:
    return torch.randn(8, channels, side, side + 1, dtype=torch.double).requires_grad_()


def gradients(block: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return list(torch.autograd.grad(y, [x, *block.parameters()], direction, retain_graph=True, allow_unused=True))


def assert_identical(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert [v is None for v in actual] == [v is None for v in expected]
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True) if a is not None)


def plain_relus(unit: ConvBN, following: ConvBN, x: Tensor) -> Tensor:
    return following.bn(following.conv(F.relu(unit.bn(unit.conv(x)))))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 8, 17])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_convolutions_around_a_relu_equal_plain_modules(kernel_size: int, channels: int, layout: Any) -> None:
    unit, following = ConvBN(5, channels, 3).double(), ConvBN(channels, 6, kernel_size, 2).double()
    for parameter in (*unit.parameters(), *following.parameters()):
        nn.init.normal_(parameter)
    units = nn.ModuleList([unit, following])
    plain = copy.deepcopy(units)
    x = torch.randn(4, 5, 7, channels + 1, dtype=torch.double).contiguous(memory_format=layout).requires_grad_()
    z = relu(unit(x, 4))
    assert is_recomputable(z)
    y, expected = following(z, 4), plain_relus(plain[0], plain[1], x)  # type: ignore[arg-type]
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    for actual, exact in zip(gradients(units, x, y), gradients(plain, x, expected), strict=True):
        assert (actual - exact).norm() <= 1e-12 * max(float(exact.norm()), 1)


@pytest.mark.parametrize("arch", ["tada2d_r50", "tada2d_r18", "tanet_r50", "tsm_r50", "stam_r50", "c2d_r50"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_equal_those_that_keep_relus(arch: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(arch).train()
    other, clips, results = copy.deepcopy(network), torch.randn(2, 3, 4, 32, 32).requires_grad_(), []
    for model in (network, other):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = model(clips)
        results.append([y, *gradients(model, clips, y), *model.buffers()])
        keep_relus(monkeypatch)
    assert_identical(*results)


@pytest.mark.parametrize("op", ["tadaconv", "none", "tsm"])
def test_block_keeps_two_feature_maps_less(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block, x, sizes = build_block(op), random_input(), []
    outside = {v.untyped_storage().data_ptr() for v in (x, *block.parameters(), *block.buffers())}
    for _ in range(2):
        kept: dict[int, Tensor] = {}
        with saved_tensors_hooks(lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t):  # noqa: B023
            y = block(x, 4)
        sizes.append(sum(v.numel() for pointer, v in kept.items() if pointer not in outside))
        keep_relus(monkeypatch)
        del y
    factors = 4 if op == "tadaconv" else 2  # values per channel: of a norm 1, of the two norms of TAda2D 3
    assert sizes[1] - sizes[0] == 2 * x.numel() // 4 - factors * 4


def test_second_backward_pass_of_a_graph_equals_the_first() -> None:
    block, x = build_block(), random_input()
    y = block(x, 4)
    assert_identical(gradients(block, x, y), gradients(block, x, y))


@pytest.mark.parametrize("op", ["tadaconv", "none"])
def test_checkpointed_block_keeps_only_its_input(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block, x, storages = build_block(op), random_input(), []

    def spy(x: Tensor, compute: Any, *tensors: Tensor) -> Tensor:
        storages.append(StorageWeakRef(tensors[0].untyped_storage()))
        return record(x, compute, *tensors)

    expected = gradients(block, x, block(x, 4))
    for module in (average_norm, conv_unit):
        monkeypatch.setattr(module, "record", spy)
    y: Any = checkpoint(block, x, 4, use_reentrant=False)
    assert len(storages) >= 2 and all(storage.expired() for storage in storages)
    assert_identical(gradients(block, x, y), expected)


def test_frozen_norms_keep_relus() -> None:
    unit = ConvBN(4, 4, 3)
    unit.bn.eval()
    y = unit(torch.randn(2, 4, 5, 5), 2)
    assert y.requires_grad and not is_recomputable(y)


def test_hooks_of_the_next_convolution_are_called() -> None:
    unit, following, calls = ConvBN(4, 4, 3), ConvBN(4, 4, 3), []
    following.conv.register_forward_hook(lambda module, args, output: calls.append(is_recomputable(args[0])))
    following(relu(unit(torch.randn(2, 4, 5, 5), 2)), 2)
    assert calls == [True]


def test_activation_modified_by_a_hook_is_kept() -> None:
    unit, following = ConvBN(4, 4, 3).double(), ConvBN(4, 4, 3).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.double)
    y = following(relu(unit(x, 2)).mul_(2), 2)
    expected = following.bn(following.conv(F.relu(unit.bn(unit.conv(x))) * 2))
    direction, kernels = torch.randn_like(y), [unit.conv.weight, following.conv.weight]
    torch.testing.assert_close(*(torch.autograd.grad(v, kernels, direction) for v in (y, expected)))


def test_modified_input_of_the_norm_is_an_error() -> None:
    maps: list[Tensor] = []
    unit, following = ConvBN(4, 4, 3), ConvBN(4, 4, 3)
    unit.conv.register_forward_hook(lambda module, args, output: maps.append(output))
    y = following(relu(unit(torch.randn(2, 4, 5, 5), 2)), 2)
    maps[0].detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_second_derivatives_are_an_error() -> None:
    block, x = build_block("none"), random_input()
    (gradient,) = torch.autograd.grad(block(x, 4).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_gradient_of_an_activation_is_available() -> None:
    unit, following = ConvBN(4, 4, 3), ConvBN(4, 4, 3)
    z = relu(unit(torch.randn(2, 4, 5, 5), 2))
    y = following(z, 2)
    z_kept = z.detach().clone().requires_grad_()
    direction = torch.randn_like(y)
    assert torch.equal(
        torch.autograd.grad(y, z, direction)[0], torch.autograd.grad(following(z_kept, 2), z_kept, direction)[0]
    )
