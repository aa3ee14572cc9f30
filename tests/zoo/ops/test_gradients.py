"""Operators with manual gradients compared with plain implementations, in value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALL
from torch import Tensor

import zoo
from zoo.ops import TemporalShift, stha_conv2d
from zoo.ops import stam_conv as module
from zoo.ops.frames import neighbor_frames, temporal_product, with_spatial_mean
from zoo.ops.shift import shift_kernel
from zoo.ops.stam_aggregation import OmniAggregation
from zoo.ops.tam import adaptive_temporal_conv

# clips, frames, channels, height, width
SHAPES = [(2, 4, 16, 5, 6), (1, 1, 8, 3, 3), (1, 2, 9, 7, 1), (3, 7, 12, 1, 2)]
FORMATS = [torch.contiguous_format, torch.channels_last]


def random_maps(shape: tuple[int, ...], memory_format: torch.memory_format) -> Tensor:
    clips, frames, *rest = shape
    x = torch.randn(clips * frames, *rest, dtype=torch.double)
    return x.contiguous(memory_format=memory_format).requires_grad_()


def assert_same(actual: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compare two results and their gradients with respect to the inputs."""
    torch.testing.assert_close(actual, expected)
    direction = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, inputs, direction, retain_graph=True) for y in (actual, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shift_equals_its_kernel_and_preserves_the_memory_format(shape: Any, memory_format: Any) -> None:
    frames = shape[1]
    x = random_maps(shape, memory_format)
    y = TemporalShift(8)(x, frames)
    kernel = shift_kernel(shape[2]).double().transpose(0, 1)
    assert_same(y, temporal_product(x, kernel, frames), [x])
    (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert all(v.is_contiguous(memory_format=memory_format) for v in (y, gradient))
    with torch.no_grad():
        assert torch.equal(TemporalShift(8)(x, shape[1]), y)


def test_shift_saves_no_tensors() -> None:
    saved: list[Tensor] = []
    x = torch.randn(4, 8, 3, 3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        TemporalShift(4)(x, 2)
    assert not saved


@pytest.mark.parametrize("local_first", [True, False])
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_adaptive_temporal_convolution_equals_its_compiled_form(
    shape: Any, memory_format: Any, taps: int, local_first: bool
) -> None:
    clips, frames, channels = shape[:3]
    x = random_maps(shape, memory_format)
    gate = torch.rand(clips, channels, frames, dtype=torch.double, requires_grad=True)
    kernel = torch.rand(clips, channels, taps, dtype=torch.double, requires_grad=True)
    scale = gate.transpose(1, 2).flatten(0, 1)[..., None, None]
    plain = temporal_product(x * scale, kernel, frames) if local_first else temporal_product(x, kernel, frames) * scale
    y = adaptive_temporal_conv(x, gate, kernel, local_first)
    assert_same(y, plain, [x, gate, kernel])
    (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert all(v.is_contiguous(memory_format=memory_format) for v in (y, gradient))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_spatial_mean_adds_its_gradient_to_that_of_the_frames(shape: Any, memory_format: Any) -> None:
    x = random_maps(shape, memory_format)
    same, descriptor = with_spatial_mean(x, shape[1])
    plain = x.mean((2, 3)).unflatten(0, shape[:2]).transpose(1, 2)
    torch.testing.assert_close(descriptor, plain)
    weight = torch.randn_like(descriptor)
    assert_same((same**2).sum() + (weight * descriptor).sum(), (x**2).sum() + (weight * plain).sum(), [x])


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("channels", [4, 9, 16])
def test_omni_aggregation_equals_average_pooling_of_clips(channels: int, memory_format: Any) -> None:
    aggregation = OmniAggregation(channels).double()
    y = random_maps((2, 3, channels, 5, 6), memory_format)
    clip = y.unflatten(0, (2, 3)).transpose(1, 2)
    sizes = ((3, 1, 1), (3, 3, 1), (3, 1, 3), (3, 3, 3))
    pooled = [
        F.avg_pool3d(quarter, kernel, 1, [k // 2 for k in kernel])
        for quarter, kernel in zip(clip.tensor_split(4, dim=1), sizes, strict=True)
    ]
    gate = aggregation.gate(clip.mean((2, 3, 4))).sigmoid()[:, :, None, None, None]
    expected = (gate * torch.cat(pooled, 1)).transpose(1, 2).flatten(0, 1)
    assert_same(aggregation(y, 3), expected, [y, *aggregation.parameters()])


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("geometry", [(1, 1, 1), (2, 1, 1), (1, 2, 2), ((2, 1), (0, 1), (1, 2))])
def test_scaled_kernels_and_scaled_windows_give_the_same_result(
    geometry: Any, memory_format: Any, monkeypatch: Any
) -> None:
    x = random_maps((2, 2, 3, 11, 8), memory_format)
    calibration = torch.randn(4, 3, 3, 3, dtype=torch.double, requires_grad=True)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.double, requires_grad=True)
    results = []
    for scales_kernels in (True, False):
        monkeypatch.setattr(module, "_scales_kernels", lambda *_, value=scales_kernels: value)
        y = stha_conv2d(x, calibration, weight, *geometry)
        gradients = torch.autograd.grad(y, [x, calibration, weight], torch.ones_like(y))
        results.append((y, *gradients))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("arch", ["tsm_r18", "tsm_r50", "tanet_r18", "stam_r18"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_train_in_autocast(arch: str, dtype: torch.dtype) -> None:
    network = zoo.create(arch, **SMALL).train()
    with torch.autocast("cpu", dtype):
        loss = network(torch.randn(2, 3, 4, 32, 32)).float().square().mean()
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert network.stem.conv.weight.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("offset", [-9, -2, -1, 0, 1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_neighbor_frames_are_zero_beyond_the_clip(shape: Any, offset: int) -> None:
    clips, frames = shape[:2]
    x = random_maps(shape, torch.channels_last)
    clip, expected = x.unflatten(0, (clips, frames)), (0 * x).unflatten(0, (clips, frames))
    for step in range(frames):
        if 0 <= step + offset < frames:
            expected[:, step] = clip[:, step + offset]
    assert_same(neighbor_frames(x, frames, offset), expected.flatten(0, 1), [x])


def test_neighbor_frames_do_not_spread_infinite_values_to_other_clips() -> None:
    x = torch.zeros(4, 1, 1, 1)
    x[2] = torch.inf
    assert neighbor_frames(x, 2, 1).flatten().tolist() == [0, 0, 0, 0]
