"""Functions with their own backward pass have the values and gradients of the plain formulas, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_models import small_trained
from torch import Tensor, nn

from zoo.models.vit import add_to_patches
from zoo.ops.activation import quick_gelu
from zoo.ops.calibration import scale_and_shift
from zoo.ops.frame_norm import norm_with_average
from zoo.ops.tadaconv import temporal_average
from zoo.ops.tadaconv_v2 import TemporalConv1d

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def double(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    return torch.randn(shape, dtype=torch.double).contiguous(memory_format=layout).requires_grad_()


def assert_equal(ours: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Compare values with and without gradients, and the gradients, also with each input in turn frozen."""
    expected = plain(*inputs)
    with torch.no_grad():  # copies, since some functions may overwrite their input
        torch.testing.assert_close(ours(*(tensor.clone() for tensor in inputs)), expected)
    weight = torch.randn_like(expected)
    for frozen in (None, *range(len(inputs))):
        leaves = [tensor.detach().requires_grad_(index != frozen) for index, tensor in enumerate(inputs)]
        trained = [leaf for leaf in leaves if leaf.requires_grad]
        if not trained:
            continue
        value = ours(*leaves)
        torch.testing.assert_close(value, expected)
        gradients = torch.autograd.grad(value, trained, weight)
        torch.testing.assert_close(gradients, torch.autograd.grad(plain(*leaves), trained, weight))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_quick_gelu_equals_its_formula(layout: torch.memory_format) -> None:
    x = double(2, 3, 5, 4, layout=layout)
    assert_equal(quick_gelu, lambda x: x * torch.sigmoid(1.702 * x), [3 * x])


def test_quick_gelu_does_not_change_its_input() -> None:
    x = torch.randn(5)
    before = x.clone()
    quick_gelu(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (4, 3, 5, 7)])
def test_scale_and_shift_equals_its_formula(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    scales = [double(*shape[:2], 1, 1) for _ in range(2)]
    assert_equal(scale_and_shift, lambda y, a, b: y * a + b, [double(*shape, layout=layout), *scales])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 4), (2, 2), (3, 5)])
def test_norm_with_average_equals_two_norms(batch: int, frames: int, layout: torch.memory_format) -> None:
    channels = 6
    norms = [nn.LayerNorm(channels, eps).double() for eps in (1e-2, 1e-3)]

    def plain(y: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        average = temporal_average(y, frames).permute(0, 2, 3, 1)
        first = F.layer_norm(y.permute(0, 2, 3, 1), (channels,), a, b, norms[0].eps)
        return first + F.layer_norm(average, (channels,), c, d, norms[1].eps)

    def ours(y: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        for norm, weight, bias in ((norms[0], a, b), (norms[1], c, d)):
            for name, tensor in (("weight", weight), ("bias", bias)):
                norm._parameters.pop(name, None)
                setattr(norm, name, tensor)
        return norm_with_average(y, norms[0], norms[1], frames)

    inputs = [double(batch * frames, channels, 3, 5, layout=layout), *(double(channels) for _ in range(4))]
    assert_equal(ours, plain, inputs)


@pytest.mark.parametrize("batch", [1, 3])
def test_add_to_patches_equals_concatenation(batch: int) -> None:
    inputs = [double(batch, 6, 4), double(batch, 5, 4)]
    assert_equal(add_to_patches, lambda x, y: torch.cat([x[:, :1], x[:, 1:] + y], dim=1), inputs)


@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize("frames", [1, 4])
def test_temporal_conv1d_equals_convolution(frames: int, taps: int) -> None:
    layer = TemporalConv1d(4, 6, taps).double()
    assert_equal(layer, lambda x: F.conv1d(x, layer.weight, layer.bias, padding=taps // 2), [double(2, 4, frames)])


@pytest.mark.parametrize("arch", ["tadaconvnextv2_tiny", "tadaformer_b16"])
def test_gradients_are_close_to_those_of_bfloat16_autocast(arch: str) -> None:
    """Under autocast, the types of the operands differ."""
    network = small_trained(arch).train()
    clips = torch.randn(2, 3, 4, 32, 32)
    results = []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = network(clips)
        logits.float().square().sum().backward()
        results.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(*results, dim=0) > 0.98
