"""3D convolutions of clips with fewer frames than the kernel has taps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import small
from torch import Tensor, nn

from zoo.ops.conv3d import Conv3d, conv3d

SHAPES = [(2, 3), (2, 5), (3, 5), (4, 7), (1, 3), (3, 3), (8, 3)]  # frames, taps


def gradients(layer: nn.Module, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    layer, x = layer.to(dtype), x.to(dtype).requires_grad_()
    y = layer(x)
    direction = torch.linspace(-1, 1, y.numel()).view(y.shape).to(dtype)
    return [v.float() for v in torch.autograd.grad(y, [x, *layer.parameters()], direction)]


@pytest.mark.parametrize(("frames", "taps"), SHAPES)
def test_values_and_gradients_equal_those_of_pytorch(frames: int, taps: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, frames, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 2, taps, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    geometry = ((2, 1, 2), (taps // 2, 1, 0), (1, 1, 1), 2)
    ours, expected = conv3d(x, weight, bias, *geometry), F.conv3d(x, weight, bias, *geometry)
    torch.testing.assert_close(ours, expected)
    to_y, inputs = torch.randn_like(expected), [x, weight, bias]
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, to_y), torch.autograd.grad(expected, inputs, to_y))


@pytest.mark.parametrize(("frames", "taps"), SHAPES)
def test_gradients_in_bfloat16_are_those_in_float32(frames: int, taps: int) -> None:
    torch.manual_seed(0)
    layer = Conv3d(16, 16, (taps, 3, 3), padding=(taps // 2, 1, 1)).bfloat16()
    x = torch.randn(8, 16, frames, 3, 3).bfloat16()
    torch.full((1 << 22,), float("nan"))  # values of freed memory
    for ours, exact in zip(*(gradients(layer, x, dtype) for dtype in (torch.bfloat16, torch.float32)), strict=True):
        assert (ours - exact).norm() <= 0.01 * exact.norm()


@pytest.mark.parametrize("arch", ["r2d3d_r18", "ptv_slowfast_r50"])
def test_gradients_of_3d_networks_in_bfloat16(arch: str) -> None:
    network = small(arch, num_frames=4).train()
    clips = torch.randn(4, 3, 4, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        network(clips).square().mean().backward()
    kernels = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
    assert kernels and all(type(module) is Conv3d for module in kernels)
    assert all(module.weight.grad is not None and module.weight.grad.isfinite().all() for module in kernels)
