"""Operators from the papers' comparisons, and TAM variants, compared with literal implementations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.models import build
from zoo.ops import (
    TAM,
    InflatedConv2d,
    NonLocal,
    TAdaConv2d,
    TAdaConv2dV2,
    TAdaConv3d,
    TEIModule,
    TemporalConv,
    TemporalPool,
    TemporalShift,
)
from zoo.ops.frames import fold_frames, inflate, spatial_mean, unfold_frames

B, C, T, H, W = 2, 16, 5, 6, 7


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B * T, C, H, W, dtype=torch.double)


def frame(x: Tensor, t: int) -> Tensor:
    """Return frame t of every clip, ``(B, C, H, W)``; zeros outside of the clip."""
    clip = unfold_frames(x, T)
    return clip[:, :, t] if 0 <= t < T else torch.zeros_like(clip[:, :, 0])


def test_shift_moves_an_eighth_of_channels_in_each_direction(x: Tensor) -> None:
    y = unfold_frames(TemporalShift(8)(x, T), T)
    for t in range(T):
        expected = torch.cat([frame(x, t + 1)[:, :2], frame(x, t - 1)[:, 2:4], frame(x, t)[:, 4:]], dim=1)
        assert torch.equal(y[:, :, t], expected)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_pool_averages_only_existing_frames(x: Tensor, size: int) -> None:
    y = unfold_frames(TemporalPool(size)(x, T), T)
    for t in range(T):
        near = [frame(x, s) for s in range(t - size // 2, t + size // 2 + 1) if 0 <= s < T]
        torch.testing.assert_close(y[:, :, t], torch.stack(near).mean(0))
    still = x[:1].expand(T, -1, -1, -1)
    torch.testing.assert_close(TemporalPool(size)(still, T), still)


def test_temporal_convolution_mixes_all_channels(x: Tensor) -> None:
    layer = TemporalConv(C).double()
    y = unfold_frames(layer(x, T), T)
    for t in range(T):
        taps = [torch.einsum("oi,bihw->bohw", layer.conv.weight[:, :, k, 0, 0], frame(x, t + k - 1)) for k in range(3)]
        torch.testing.assert_close(y[:, :, t], sum(taps))


def test_tei_equals_motion_gate_and_temporal_convolution(x: Tensor) -> None:
    layer = TEIModule(C).double()
    nn.init.normal_(layer.kernel)
    means = spatial_mean(x, T)  # (B, C, T)
    gated = []
    for t in range(T):
        if t + 1 < T:
            motion = layer.following(means[..., t + 1]) - layer.current(means[..., t])
            gated.append(frame(x, t) * torch.sigmoid(layer.gate(motion))[..., None, None])
        else:
            gated.append(frame(x, t))
    stacked = fold_frames(torch.stack(gated, dim=2))
    y = unfold_frames(layer(x, T), T)
    for t in range(T):
        taps = [layer.kernel[:, 0, k, None, None] * frame(stacked, t + k - 1) for k in range(3)]
        torch.testing.assert_close(y[:, :, t], sum(taps))


def test_untrained_tei_with_open_gate_equals_shift(x: Tensor) -> None:
    layer = TEIModule(C).double()
    nn.init.zeros_(layer.gate.weight)
    nn.init.constant_(layer.gate.bias, 100)  # the gate is open
    torch.testing.assert_close(layer(x, T), TemporalShift(8)(x, T))


@pytest.mark.parametrize("stride", [1, 2])
def test_inflated_convolution_preserves_still_clips(x: Tensor, stride: int) -> None:
    image = nn.Conv2d(C, 4, 3, stride, 1, bias=False).double()
    layer = InflatedConv2d(C, 4, 3, stride=stride, padding=1).double()
    still = x[:1].expand(T, -1, -1, -1)
    layer.weight.data = inflate(image.weight, 3, "mean").clone()
    torch.testing.assert_close(layer(still, T)[1:-1], image(still)[1:-1])  # the first and last frame have zero padding
    layer.weight.data = inflate(image.weight, 3, "center")
    torch.testing.assert_close(layer(x, T), image(x))
    with pytest.raises(ConfigError, match="choose from 'mean' and 'center'"):
        inflate(image.weight, 3, "middle")


@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("mode", ["embedded_gaussian", "gaussian", "dot_product"])
def test_non_local_block_equals_attention_over_space_and_time(x: Tensor, mode: str, subsample: bool) -> None:
    layer = NonLocal(C, mode, subsample).double().eval()
    assert torch.equal(layer(x, T), x)  # initialized as the identity
    nn.init.ones_(layer.bn.weight)

    def positions(y: Tensor, pooled: bool) -> Tensor:
        y = F.max_pool2d(y, 2) if pooled and subsample else y
        return unfold_frames(y, T).flatten(2)  # (B, C', positions)

    query = positions(x if layer.theta is None else layer.theta(x), False)
    key = positions(x if layer.phi is None else layer.phi(x), True)
    value = positions(layer.g(x), True)
    affinity = torch.einsum("bcq,bck->bqk", query, key)
    weights = affinity / affinity.shape[2] if mode == "dot_product" else affinity.softmax(2)
    y = torch.einsum("bqk,bck->bcq", weights, value).unflatten(2, (T, H, W))
    torch.testing.assert_close(layer(x, T), x + layer.bn(layer.out(fold_frames(y))))


def test_non_local_network_has_the_five_blocks_of_the_paper() -> None:
    with torch.device("meta"):
        names = [name for name, module in build("nonlocal_r50").named_modules() if isinstance(module, NonLocal)]
    assert names == [f"layer{s}.{b}.non_local" for s, b in ((2, 1), (2, 3), (3, 1), (3, 3), (3, 5))]


# TAM's variants --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize(
    ("branches", "order"),
    [
        ("both", "local_first"),
        ("both", "global_first"),
        ("global", "local_first"),
        ("local", "local_first"),
        ("global_se", "local_first"),
    ],
)
def test_tam_variants_equal_literal_form(x: Tensor, branches: str, order: str, taps: int) -> None:
    layer = TAM(C, T, kernel_size=taps, branches=branches, order=order, alpha=1, beta=8).double().eval()
    means = spatial_mean(x, T)  # (B, C, T)
    gate, kernel = torch.ones_like(means), torch.zeros(B, C, taps, dtype=torch.double)
    kernel[..., taps // 2] = 1
    if layer.L is not None:
        gate = layer.L(means.mean(2, keepdim=True) if branches == "global_se" else means).expand_as(means)
    if layer.G is not None:
        kernel = layer.G(means.flatten(0, 1)).unflatten(0, (B, C))
    assert (layer.L is None, layer.G is None) == (branches == "global", branches == "local")
    clip = unfold_frames(x, T) * (gate[..., None, None] if order == "local_first" else 1)
    y = unfold_frames(layer(x, T), T)
    for t in range(T):
        near = [kernel[..., k, None, None] * frame(fold_frames(clip), t + k - taps // 2) for k in range(taps)]
        expected = sum(near) * (gate[..., t, None, None] if order == "global_first" else 1)
        torch.testing.assert_close(y[:, :, t], expected)


@pytest.mark.parametrize(("style", "channels"), [("a", 64), ("b", 8), ("c", 8), ("d", 32)])
def test_tam_styles_determine_the_position_in_the_block(style: str, channels: int) -> None:
    """In the second block of res2: before it, inside the bottleneck, or after it."""
    network = build("tanet_r50", width=8, num_frames=4, op_options={"style": style})
    tam = network.layer1[1].temporal  # type: ignore[union-attr, index]
    assert tam.L[3].out_channels == (32 if style in "ad" else 8)
    x = torch.randn(1, 3, 4, 32, 32)
    seen: list[Tensor] = []
    tam.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    network.eval()(x)
    after_relu = style in "abc"  # style d is applied to the output of conv3, before the ReLU
    assert (seen[0].min() >= 0) == after_relu


def test_op_stages_selects_stages() -> None:
    network = build("tanet_r50", width=8, op_stages=[4, 5])
    with_tam = {name.split(".")[0] for name, module in network.named_modules() if isinstance(module, TAM)}
    assert with_tam == {"layer3", "layer4"}


def test_tam_parameter_count_matches_the_published_formula() -> None:
    """C^2 + C/2 + 2T^2 + 10T per block (including the affine parameters of batch norms)."""
    for channels, frames in ((64, 8), (512, 16)):
        count = sum(p.numel() for p in TAM(channels, frames).parameters())
        assert count == channels**2 + channels // 2 + 2 * frames**2 + 10 * frames


# TAdaConv's other forms ------------------------------------------------------------------------------------------


def with_random_routing(module: nn.Module) -> nn.Module:
    """Convert to double precision, and randomize the routing function."""
    for name, parameter in module.double().named_parameters():
        if "routing.b" in name:
            nn.init.normal_(parameter)
    return module.eval()


@pytest.mark.parametrize("operator", [TAdaConv2d, TAdaConv2dV2])
@pytest.mark.parametrize(
    "options",
    [
        {"out_channels": 8},
        {"out_channels": 32, "groups": 16},
        {"out_channels": 16, "groups": 4, "bias": True, "stride": 2, "dilation": 2},
        {"out_channels": 8, "bias": True},
    ],
)
def test_adaptive_convolutions_equal_a_kernel_per_frame(operator: type, options: dict, x: Tensor) -> None:
    layer = with_random_routing(operator(C, kernel_size=3, padding=1, **({"bias": False} | options)))
    alpha, beta = layer.routing(spatial_mean(x, T))
    assert alpha.std() > 0.02
    scale = alpha.transpose(1, 2).flatten(0, 1)  # (N, C)
    groups = options.get("groups", 1)
    kernels = layer.weight * (scale[:, None, :, None, None] if groups == 1 else scale[:, :, None, None, None])
    y = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), None, layer.stride, 1, layer.dilation, groups * len(x))[
        0
    ].unflatten(0, (len(x), -1))
    if layer.bias is not None:
        scale = 1 if beta is None else beta.transpose(1, 2).flatten(0, 1)
        y = y + (layer.bias * scale).expand(len(x), -1)[:, :, None, None]
    torch.testing.assert_close(layer(x, T), y)


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), (2, 2, 2)), ((1, 3, 3), (1, 2, 2)), ((3, 1, 1), (2, 1, 1))])
def test_strided_tadaconv3d_calibrates_the_remaining_frames(kernel: tuple, stride: tuple, x: Tensor) -> None:
    clip = unfold_frames(x, T)
    padding = tuple(k // 2 for k in kernel)
    layer = with_random_routing(TAdaConv3d(C, 8, kernel, stride=stride, padding=padding, bias=False))
    host = nn.Conv3d(C, 8, kernel, stride, padding, bias=False).double()
    host.weight.data = layer.weight.data
    alpha, _ = layer.routing(clip.mean((3, 4)))
    y = layer(clip)
    assert y.shape == host(clip).shape
    for position in range(y.shape[2]):
        scaled = clip * alpha[:, :, position * stride[0], None, None, None]
        torch.testing.assert_close(y[:, :, position], host(scaled)[:, :, position])
    for options in ({"groups": C}, {"padding_mode": "circular"}):
        with pytest.raises(ConfigError, match="groups=1, dilation=1 and zero padding"):
            TAdaConv3d(C, C, 3, padding=1, **options)


def test_operators_reject_partial_clips(x: Tensor) -> None:
    for layer in (TemporalShift(), TemporalPool(), TAM(C, 4, branches="local"), TAdaConv2d(C, C, 3)):
        with pytest.raises(ConfigError, match="10 frames cannot be split into clips of num_frames=4"):
            layer(x.float(), 4)
