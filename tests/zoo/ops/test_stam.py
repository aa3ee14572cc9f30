"""STAM compared with a literal implementation, its identity initialization, and its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALL
from torch import Tensor, nn

import zoo
from zoo.errors import ConfigError
from zoo.ops import STAM, STHAConv2d, stha_conv2d, tada_conv2d
from zoo.ops import stam_conv as module
from zoo.ops.stam import tap_masks
from zoo.ops.stam_aggregation import GroupContext, OmniAggregation


def kernel_per_frame(x: Tensor, calibration: Tensor, weight: Tensor, *geometry: Any, groups: int = 1) -> Tensor:
    """``(A_t . W) * X_t`` literally: one kernel per frame, computed as N (times ``groups``) groups."""
    per_group = calibration.unflatten(1, (groups, -1)).repeat_interleave(
        len(weight) // groups, 1
    )  # (N, O, I / g, k, k)
    kernels = (per_group * weight).flatten(0, 1)
    y = F.conv2d(x.flatten(0, 1)[None], kernels, None, *geometry, groups=groups * len(x))
    return y.unflatten(1, (len(x), -1))[0]


def randomize(layer: nn.Module) -> Any:
    """Convert to double precision, and replace the initial values of all parameters by random ones."""
    layer = layer.double().eval()
    for p in layer.parameters():
        nn.init.normal_(p, std=0.3)
    return layer


GEOMETRIES = [
    (3, 1, 1, 1, 1),
    (3, 2, 1, 1, 1),
    (3, 1, 2, 2, 1),
    (1, 1, 0, 1, 1),
    ((3, 5), (2, 1), (1, 2), (1, 1), 1),
    (3, 2, 1, 1, 2),
    (5, 1, 2, 1, 8),
]


@pytest.mark.parametrize("values_at_once", [1, 2**21])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "groups"), GEOMETRIES)
def test_layer_and_gradients_equal_a_kernel_per_frame(
    kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, values_at_once: int, monkeypatch: Any
) -> None:
    monkeypatch.setitem(module.CHUNK, "cpu", values_at_once)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    layer = randomize(STHAConv2d(8, 16, kernel, **geometry, groups=groups, bias=True))
    x = (torch.randn(2 * 3, 8, 9, 10) + torch.randn(2 * 3, 8, 1, 1)).double().requires_grad_()
    calibration = layer.routing(x, 3)
    assert calibration.std(0).min() > 0.01  # every channel and tap differs between frames
    y = layer(x, 3)
    literal = kernel_per_frame(x, calibration, layer.weight, stride, padding, dilation, groups=groups)
    literal = literal + layer.bias[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(layer(x, 3), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y, literal, rtol=1e-9, atol=1e-9)
    direction = torch.randn_like(y)
    inputs = [x, *layer.parameters()]
    actual = torch.autograd.grad(y, inputs, direction, retain_graph=True)
    expected = torch.autograd.grad(literal, inputs, direction)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_custom_gradients_match_finite_differences() -> None:
    x, a, w = (torch.randn(s, dtype=torch.double).requires_grad_() for s in ((2, 2, 4, 5), (2, 2, 3, 3), (3, 2, 3, 3)))
    assert torch.autograd.gradcheck(lambda *v: stha_conv2d(*v, stride=2, padding=1), (x, a, w))
    frozen = w.detach()
    assert torch.autograd.gradcheck(lambda *v: stha_conv2d(*v, frozen, padding=1), (x, a))


def test_backward_saves_inputs_but_no_unfolded_windows() -> None:
    saved_sizes: list[int] = []
    x, a, w = torch.randn(2, 4, 12, 12, requires_grad=True), torch.rand(2, 4, 3, 3), torch.randn(4, 4, 3, 3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved_sizes.append(t.numel()) or t, lambda t: t):
        stha_conv2d(x, a, w, padding=1)
    assert sorted(saved_sizes) == [a.numel(), w.numel(), x.numel()]


def test_one_filter_of_ones_equals_tadaconv() -> None:
    layer = randomize(STHAConv2d(8, 5, 3, stride=2, padding=1, num_filters=1))
    nn.init.ones_(layer.routing.bank)
    x = torch.randn(2 * 4, 8, 7, 9, dtype=torch.double)
    alpha = 1 + layer.routing.modulate(layer.routing.temporal(x, 4))
    assert alpha.std() > 0.1
    expected = tada_conv2d(x, alpha, layer.weight, stride=2, padding=1)
    torch.testing.assert_close(layer(x, 4), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("filters", ["bank", "outer"])
@pytest.mark.parametrize("coefficients", ["channel", "scalar"])
def test_calibration_equals_the_weighted_sum_of_filters(filters: str, coefficients: str) -> None:
    count, channels, frames = 3, 8, 4
    mixture = randomize(
        STHAConv2d(channels, 4, 3, num_filters=count, filters=filters, coefficients=coefficients)
    ).routing
    x = torch.randn(2 * frames, channels, 5, 6, dtype=torch.double)
    spatial, z = mixture.spatial(x), mixture.temporal(x, frames)
    a, p = mixture.mix(spatial).softmax(1), z @ mixture.modulate.weight.T
    expected = torch.ones(len(x), channels, 3, 3, dtype=torch.double)
    for t in range(len(x)):
        for n in range(count):
            if filters == "bank":
                one = mixture.bank[n]
            else:
                values = mixture.generate(spatial[t]).unflatten(0, (count, -1))[n]
                one = torch.outer(values[:channels], values[channels:]).unflatten(1, (3, 3))
            scale = p[t, n * channels : (n + 1) * channels, None, None] if coefficients == "channel" else p[t, n]
            expected[t] += count * a[t, n] * scale * one
    torch.testing.assert_close(mixture(x, frames), expected, rtol=1e-9, atol=1e-9)


def test_attention_stays_within_a_clip() -> None:
    layer = randomize(STAM(8, 8, 3)).eval()
    x = torch.randn(2 * 5, 8, 6, 6, dtype=torch.double)
    changed = x.clone()
    changed[0] += 1  # frame 0 of clip 0
    difference = (layer(changed, 5) - layer(x, 5)).abs().amax((1, 2, 3))
    assert (difference[:5] > 1e-6).all()  # attention reaches the last frame
    assert not difference[5:].any()


def test_spatial_branch_has_three_scales() -> None:
    """The literal form: three consecutive depthwise convolutions with dilation 1, 2 and 3."""
    branch = randomize(STHAConv2d(4, 4, 3)).routing.spatial
    x = torch.randn(3, 4, 7, 7, dtype=torch.double)
    y = F.relu(branch.bn(F.conv2d(x, branch.reduce.weight)))
    means = []
    for m in (1, 2, 3):
        maps = [F.conv2d(y[:, [c]], branch.scales[m - 1, [c]], padding=m, dilation=m) for c in range(16)]
        y = torch.cat(maps, 1)
        means.append(y.mean((2, 3)))
    torch.testing.assert_close(branch(x), torch.cat(means, 1))


def test_initial_masks_are_distinct() -> None:
    masks = tap_masks(6, (3, 3))
    assert masks[:4].flatten(1).tolist() == [
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 0, 0, 0, 0],
        [0, 1, 0, 1, 1, 1, 0, 1, 0],
        [1, 0, 1, 0, 0, 0, 1, 0, 1],
    ]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 6


def test_omni_aggregation_pools_each_quarter_of_channels_differently() -> None:
    """Each quarter of the channels equals a three-dimensional average pooling of the clip."""
    aggregation = randomize(OmniAggregation(8))
    y = torch.randn(2 * 4, 8, 5, 6, dtype=torch.double)
    clip = y.unflatten(0, (2, 4)).transpose(1, 2)
    pooled = [
        F.avg_pool3d(clip[:, 2 * i : 2 * i + 2], kernel, 1, [k // 2 for k in kernel])
        for i, kernel in enumerate(((3, 1, 1), (3, 3, 1), (3, 1, 3), (3, 3, 3)))
    ]
    gate = aggregation.gate(clip.mean((2, 3, 4))).sigmoid()[:, :, None, None, None]
    expected = (gate * torch.cat(pooled, 1)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(aggregation(y, 4), expected)


def test_group_context_gates_each_quarter_by_its_context() -> None:
    gates = randomize(GroupContext(9))  # quarters of 3, 2, 2 and 2 channels
    y = torch.randn(2 * 3, 9, 4, 5, dtype=torch.double)
    clip = y.unflatten(0, (2, 3)).transpose(1, 2)  # (B, C, T, H, W)
    near = F.avg_pool3d(clip[:, 7:], (3, 1, 1), 1, (1, 0, 0))
    contexts = [clip[:, :3].mean((2, 3, 4), True), clip[:, 3:5].mean((3, 4), True), clip[:, 5:7].mean(2, True), near]
    scales = [
        F.conv3d(context, gate.weight[:, :, None, None, None], gate.bias).sigmoid().expand(-1, -1, 3, 4, 5)
        for gate, context in zip(gates.gates, contexts, strict=True)
    ]
    torch.testing.assert_close(gates(y, 3), (clip * torch.cat(scales, 1)).transpose(1, 2).flatten(0, 1))


OPTIONS = [
    {},
    {"num_filters": 1},
    {"num_filters": 6, "reduction": 4},
    {"filters": "outer"},
    {"coefficients": "scalar"},
    {"filters": "outer", "coefficients": "scalar"},
    {"aggregation": "group_context"},
    {"aggregation": "none"},
]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("options", OPTIONS)
def test_unit_is_initialized_as_convolution_and_norm_and_all_parameters_learn(options: dict, stride: int) -> None:
    unit = STAM(8, 12, 3, stride, **options)
    x = torch.randn(2 * 4, 8, 6, 5)
    with torch.no_grad():
        static = unit.bn.eval()(F.conv2d(x, unit.conv.weight, stride=stride, padding=1))
        torch.testing.assert_close(unit.eval()(x, 4), static, rtol=1e-6, atol=1e-6)
    unit.train()
    target = torch.randn_like(static)
    optimizer = torch.optim.SGD(unit.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (unit(x, 4) - target).square().mean().backward()
        optimizer.step()
    idle = [name for name, p in unit.named_parameters() if p.grad is None or not p.grad.any()]
    # a softmax over one filter is constant, so layers before it get no gradient
    constant = ("conv.routing.spatial.", "conv.routing.mix.") if options == {"num_filters": 1} else ()
    assert idle == [name for name, _ in unit.named_parameters() if name.startswith(constant)]


@pytest.mark.parametrize("arch", ["stam_r18", "stam_r50"])
def test_untrained_network_averages_the_image_networks_logits(arch: str) -> None:
    """The operator is initialized as the identity, so the logits of a clip are the mean over its frames."""
    image = zoo.create(arch.replace("stam", "c2d"), **SMALL, stem_pool=False).double()
    video = zoo.create(arch, **SMALL).double()
    video.load_state_dict(video.state_dict() | image.state_dict())
    x = torch.randn(2, 3, 4, 40, 40, dtype=torch.double)
    frames = torch.stack([image(x[:, :, t : t + 1]) for t in range(4)]).mean(0)
    torch.testing.assert_close(video(x), frames, rtol=1e-6, atol=1e-6)


def test_all_parameters_have_gradients_after_one_step() -> None:
    network = zoo.create("stam_r18", **SMALL).train()
    x, target = torch.randn(2, 3, 4, 48, 48), torch.tensor([0, 3])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(x), target).backward()
        optimizer.step()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_number_of_parameters_added_to_a_resnet50() -> None:
    with torch.device("meta"):
        networks = [zoo.create(arch) for arch in ("c2d_r50", "stam_r50")]
    host, stam = (sum(p.numel() for p in network.parameters()) for network in networks)
    assert stam - host == 869_584


def test_forward_accepts_any_number_of_frames_and_small_maps() -> None:
    network = zoo.create("stam_r18", **SMALL)
    for shape in ((1, 3, 1, 16, 16), (1, 3, 7, 33, 20)):
        assert network(torch.randn(shape)).isfinite().all()


def test_half_precision_and_autocast_are_supported() -> None:
    unit = STAM(8, 8, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = unit(torch.randn(4, 8, 6, 6), 2)
    y.float().square().mean().backward()
    assert unit.conv.weight.grad is not None and unit.conv.weight.grad.isfinite().all()
    assert unit.eval().bfloat16()(torch.randn(4, 8, 6, 6).bfloat16(), 2).dtype == torch.bfloat16


def test_logits_depend_on_the_order_of_frames() -> None:
    """Only the parameters named ``order`` depend on the order of frames."""
    network = zoo.create("stam_r18", **SMALL).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 3, 4, 32, 32, dtype=torch.double)
    assert not torch.allclose(network(x), network(x.flip(2)), rtol=1e-3)
    for name, parameter in network.named_parameters():
        if ".order." in name:
            torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(network(x), network(x.flip(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_filters": 0}, "num_filters is 0"),
        ({"reduction": 0}, "reduction is 0"),
        ({"filters": "banks"}, "filters is 'banks'; choose from bank, outer"),
        ({"coefficients": "tap"}, "choose from channel, scalar"),
        ({"aggregation": "mean"}, "choose from omni, group_context, none"),
        ({"kernels": 3}, "kernels"),
    ],
)
def test_create_names_invalid_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        zoo.create("stam_r18", **SMALL, op_options=options)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [1, (2, 0), "same", "valid"])
def test_extra_macs_match_a_count_by_hand(padding: Any, groups: int) -> None:
    stride = 1 if padding == "same" else 2
    layer = STHAConv2d(4, 6, 3, stride=stride, padding=padding, groups=groups)
    x = torch.randn(5, 4, 8, 11)
    positions = layer._conv_forward(x, layer.weight, None)[0, 0].numel()
    assert layer.extra_macs(x, 5) == 5 * (9 * 4 * positions if groups == 1 else 6 * 2 * 9)


def test_tensors_of_wrong_shape_are_named() -> None:
    with pytest.raises(ConfigError, match=r"the kernel \(4, 8, 3, 3\) in 1 group\(s\) require \(6, 8, 3, 3\)"):
        stha_conv2d(torch.randn(6, 8, 5, 5), torch.ones(6, 4, 3, 3), torch.randn(4, 8, 3, 3))
    with pytest.raises(ConfigError, match="padding is 'same'"):
        STHAConv2d(8, 4, 3, padding="same")(torch.randn(6, 8, 5, 5), 3)
    with pytest.raises(ConfigError, match="requires 4 channels or more, got 3"):
        STAM(8, 3, 3)
