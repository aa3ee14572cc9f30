"""Video networks from image networks of torchvision and others, compared with the image network on each frame."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

import zoo
from zoo.errors import ConfigError, UnknownNameError
from zoo.models import layer_depths
from zoo.models.temporalize import TemporalNetwork, temporalize
from zoo.ops import OPERATORS
from zoo.ops.stand_in import StandIn

T = 3
IDENTITIES = ["tadaconv", "tadaconv_v2", "stam"]

STAND_INS = [name for name, operator in OPERATORS.items() if operator.stand_in is not None]


class Plain(nn.Module):
    """A user's network: its pooling is a function rather than a module, and it has no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


class Shared(Plain):
    """A network that registers one convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = self.again = nn.Conv2d(8, 12, 3, padding=1)


def sequential() -> nn.Module:
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(8, 4))


SMALL_HOSTS: dict[str, Callable[..., nn.Module]] = {
    "plain": Plain,
    "sequential": sequential,
    "resnet": functools.partial(tv.ResNet, BasicBlock, [1, 1, 1, 1]),
    "resnext": functools.partial(tv.ResNet, Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=4),
    "mobilenetv2": functools.partial(
        tv.MobileNetV2, width_mult=0.25, inverted_residual_setting=[[1, 16, 1, 1], [6, 32, 2, 2]]
    ),
    "shufflenetv2": functools.partial(tv.ShuffleNetV2, [2, 2, 2], [8, 16, 32, 64, 64]),
    "convnext": functools.partial(tv.ConvNeXt, [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)]),
    "efficientnet": functools.partial(
        tv.EfficientNet, [MBConvConfig(1, 3, 1, 8, 8, 1, 1, 1), MBConvConfig(4, 5, 2, 8, 16, 1, 1, 1)], 0.2
    ),
    "densenet": functools.partial(tv.DenseNet, growth_rate=8, block_config=(2, 2), num_init_features=16),
}


def build_host(name: str, **options: Any) -> nn.Module:
    """Build a host in double precision and eval mode, with random running statistics."""
    if name not in ("plain", "sequential"):
        options.setdefault("num_classes", 4)
    host = SMALL_HOSTS[name](**options).double().eval()
    for module in host.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.2, 0.6)
            nn.init.normal_(module.running_mean, std=0.1)
    return host


def clips(batch: int = 2, frames: int = T, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, frames, size, size, dtype=torch.double)


def frame_by_frame(host: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([host(frame) for frame in x.unbind(2)]).mean(0)


def randomize_operators(module: nn.Module) -> None:
    """Replace the initial values of the operators' parameters."""
    for name, parameter in module.named_parameters():
        if "routing." in name or "temporal." in name:
            nn.init.normal_(parameter, std=0.3)
            if name.endswith("bn.bias"):
                nn.init.ones_(parameter)  # so that the ReLU does not disable all of the few units


# conversion -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", IDENTITIES)
@pytest.mark.parametrize("name", SMALL_HOSTS)
def test_untrained_network_averages_the_hosts_logits(name: str, op: str) -> None:
    host, x = build_host(name), clips()
    before = copy.deepcopy(host.state_dict())
    video = temporalize(host, op, num_frames=T)
    assert any(isinstance(m, StandIn) for m in video.modules())
    assert not any(isinstance(m, StandIn) for m in host.modules())  # the argument is not modified
    assert not video.training
    torch.testing.assert_close(video(x), frame_by_frame(host, x))
    operator = video.operator_keys()
    assert operator and set(video.state_dict()) - operator == {f"net.{key}" for key in before}
    assert all(torch.equal(host.state_dict()[key], value) for key, value in before.items())

    other = build_host(name)  # load the tensors of another host by their keys
    video.load_state_dict(video.state_dict() | {f"net.{key}": value for key, value in other.state_dict().items()})
    torch.testing.assert_close(video(x), frame_by_frame(other, x))


@pytest.mark.parametrize("op", STAND_INS)
@pytest.mark.parametrize("name", ["plain", "resnext", "convnext"])
def test_operators_mix_frames_within_a_clip_and_get_gradients(name: str, op: str) -> None:
    host, x = build_host(name), clips(batch=3)
    video = temporalize(host, op, num_frames=T)
    randomize_operators(video)
    y = video.forward_features(x)
    torch.testing.assert_close(video.forward_features(x[1:2]), y[1:2])
    x[1, :, 0] = 0
    changed = (video.forward_features(x) - y).abs().flatten(3).amax((1, 3)) > 1e-6 * y.abs().max()  # (B, T)
    assert changed[1, :2].all() and not changed[[0, 2]].any()
    plain = TemporalNetwork(host, T)
    torch.testing.assert_close(plain.forward_features(x)[:, :, 1:], plain.forward_features(x[:, :, 1:]))
    video.train()
    video(x).logsumexp(1).sum().backward()
    for key, parameter in video.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    reached = {key for key, p in video.named_parameters() if p.grad.abs().max() > 0}
    assert {key for key in video.operator_keys() if key.endswith(("b.weight", "modulate.weight", "kernel"))} <= reached


@pytest.mark.parametrize(("op", "options"), [("tam", {"kernel_size": 5}), ("tsm", {}), ("tei", {}), ("pool", {})])
def test_operators_without_weights_of_the_convolution_are_applied_to_its_input(op: str, options: dict) -> None:
    host, x = build_host("plain"), clips()
    video = temporalize(host, op, num_frames=T, **options)
    randomize_operators(video)
    (operator,) = (m.temporal for m in video.modules() if isinstance(m, StandIn))
    with torch.no_grad():
        y = F.relu(host.conv2(operator(F.relu(host.conv1(x.transpose(1, 2).flatten(0, 1))), T)))
        expected = host.out(y.mean((2, 3))).unflatten(0, (2, T)).mean(1)
        torch.testing.assert_close(video(x), expected)


def test_where_accepts_patterns_and_functions() -> None:
    host = build_host("resnext")
    names = lambda video: [name for name, m in video.net.named_modules() if isinstance(m, StandIn)]  # noqa: E731
    all_names = [f"layer{n}.0.conv2" for n in (1, 2, 3, 4)]
    assert names(temporalize(host)) == all_names
    assert names(temporalize(host, where="layer[34]*.conv2")) == all_names[2:]
    assert names(temporalize(host, where=["layer1.0.conv?", "layer4.0.conv1"])) == [
        *(f"layer1.0.conv{n}" for n in (1, 2, 3)),
        "layer4.0.conv1",
    ]
    assert names(temporalize(host, where=lambda name, conv: conv.out_channels == 64)) == [
        name for name, m in host.named_modules() if isinstance(m, nn.Conv2d) and m.out_channels == 64
    ]
    assert temporalize(host, where="conv1", op="tadaconv").stem_key == "net.conv1.weight"


def test_shared_convolution_stays_shared() -> None:
    video = temporalize(Shared().eval(), num_frames=T)
    assert video.net.conv2 is video.net.again and isinstance(video.net.again, StandIn)


def test_inplace_conversion_keeps_the_hosts_parameters() -> None:
    host = build_host("plain")
    weight = host.conv2.weight
    video = temporalize(host, num_frames=T, inplace=True)
    assert video.net is host and host.conv2.weight is weight


# the converted network -------------------------------------------------------------------------------------


def test_any_number_of_frames_is_accepted_except_with_tam() -> None:
    host, x = build_host("resnet"), clips(frames=5, size=20)
    video = temporalize(host, num_frames=T)
    torch.testing.assert_close(video(x), frame_by_frame(host, x))
    video = temporalize(host, "tam", num_frames=T)
    assert video(x[:, :, :T]).shape == (2, 4)
    with pytest.raises(ConfigError, match="built for 3 frames and got 5"):
        video(x)
    with pytest.raises(ConfigError, match="takes clips"):
        video(x[:, :, 0])


@pytest.mark.parametrize("name", SMALL_HOSTS)
def test_forward_equals_features_and_head(name: str) -> None:
    video, x = temporalize(build_host(name), "tsm", num_frames=T), clips(size=64)
    features = video.forward_features(x)
    channels, reduction = video.feature_info[-1].num_chs, video.feature_info[-1].reduction
    assert features.ndim == 5 and features.shape[:3] == (2, channels, T)
    if name != "sequential":  # its convolutions are not padded
        assert features.shape[3:] == (64 // reduction, 64 // reduction)
    torch.testing.assert_close(video.forward_head(features), video(x))
    pooled = video.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, video.num_features)
    torch.testing.assert_close(video.get_classifier()(pooled), video(x))


class WithNeck(Plain):
    """A network with a linear layer between pooling and classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Linear(12, 8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 4)
        del self.out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3))
        return self.fc(self.drop(self.neck(y)))


def test_features_are_the_classifiers_input_if_layers_follow_the_pooling() -> None:
    video, x = temporalize(WithNeck().double().eval(), num_frames=T), clips()
    features = video.forward_features(x)
    assert features.shape == (2, 8, T, 1, 1) and video.dropout is video.net.drop
    torch.testing.assert_close(video.forward_head(features), video(x))
    torch.testing.assert_close(video.train().forward_features(x), features)  # before dropout


@pytest.mark.parametrize("name", ["resnet", "mobilenetv2", "sequential", "convnext"])
def test_dropout_of_the_host_is_used_or_one_is_added(name: str) -> None:
    host, x = build_host(name), clips()
    dropouts = [m for m in host.modules() if isinstance(m, nn.Dropout)]
    video = temporalize(host, num_frames=T)
    assert video.dropout.p == (dropouts[-1].p if dropouts else 0)
    video.reset_classifier(7)
    assert video(x).shape == (2, 7) and set(video.net.state_dict()) >= set(host.state_dict())
    logits = video(x)
    video.dropout.p = 0.9
    torch.testing.assert_close(video(x), logits)
    video.dropout.train()
    assert (video(x) - logits).abs().max() > 0
    assert (video.forward_head(video.forward_features(x)) - logits).abs().max() > 0


@pytest.mark.parametrize("name", ["resnext", "convnext", "densenet"])
def test_grad_checkpointing_preserves_gradients_and_statistics(name: str) -> None:
    video = temporalize(build_host(name), num_frames=T).train()
    twin, x = copy.deepcopy(video), clips()
    twin.set_grad_checkpointing()
    twin = copy.deepcopy(twin)  # a copy checkpoints its own blocks
    for network in (video, twin):
        torch.manual_seed(1)
        network(x).logsumexp(1).sum().backward()
    for (key, p), q in zip(video.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=key)
    for (key, b), c in zip(video.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(c, b, msg=key)
    twin.set_grad_checkpointing(False)
    assert not any("forward" in vars(m) for m in twin.modules())


def test_another_forward_pass_before_backward_does_not_change_gradients() -> None:
    video, x = temporalize(build_host("resnet"), "tsm", num_frames=4), clips(batch=1, frames=4)
    grads = []
    for recompute in (False, True):
        video.set_grad_checkpointing(recompute)
        video.zero_grad()
        y = video(x)
        video(x[:, :, :2])
        y.sum().backward()
        grads.append(video.net.layer1[0].conv1.weight.grad.clone())
    torch.testing.assert_close(*grads)


def test_layer_depths_follow_the_blocks() -> None:
    depths = layer_depths(temporalize(build_host("resnet"), num_frames=T))
    assert depths["net.conv1.weight"] == depths["net.bn1.bias"] == 0
    assert [depths[f"net.layer{n}.0.conv2.routing.b.weight"] for n in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert depths["net.fc.weight"] == 5
    depths = layer_depths(temporalize(build_host("densenet"), num_frames=T))
    names = ["conv0", "denseblock1.denselayer1.conv1", "denseblock1.denselayer2.conv2", "transition1.conv"]
    assert [depths[f"net.features.{name}.weight"] for name in names] == [0, 1, 2, 3]
    assert depths["net.features.norm5.bias"] == 5 and depths["net.classifier.weight"] == 6


def test_stages_are_the_last_modules_of_each_resolution() -> None:
    video, seen = temporalize(build_host("convnext"), num_frames=T), {}
    for stage in video.feature_info:
        video.get_submodule(stage.module).register_forward_hook(
            lambda module, args, y, name=stage.module: seen.update({name: y.shape})
        )
    video(clips(size=64))
    assert [(s.module, s.num_chs, s.reduction) for s in video.feature_info] == [
        ("net.features.1", 16, 4),
        ("net.features", 32, 8),
    ]
    for stage in video.feature_info:
        assert seen[stage.module] == (2 * T, stage.num_chs, 64 // stage.reduction, 64 // stage.reduction)


def test_i3d_inflates_the_hosts_kernels() -> None:
    host = build_host("plain")
    video = temporalize(build_host("plain"), "i3d", num_frames=T)
    tensors = {f"net.{key}": value for key, value in host.state_dict().items()}
    assert video.adapt_image(tensors) == ["net.conv2.weight"] and not video.operator_keys()
    video.load_state_dict(tensors)
    torch.testing.assert_close(video.net.conv2.weight.sum(2), host.conv2.weight)


def test_network_can_be_copied_pickled_and_exported() -> None:
    video, x = temporalize(build_host("convnext"), "tam", num_frames=T), clips()
    y = video(x)
    torch.testing.assert_close(pickle.loads(pickle.dumps(copy.deepcopy(video)))(x), y)
    torch.testing.assert_close(torch.export.export(video, (x,)).module()(x), y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"where": "layer*"}, ConfigError, "'layer\\*' matches no convolution of Plain; it has, for instance, conv2"),
        ({"where": "out"}, ConfigError, "matches no convolution"),
        ({"op": "tadaconf"}, UnknownNameError, "Did you mean 'tadaconv'"),
        ({"num_frames": 0}, ConfigError, "num_frames is 0"),
        ({"taps": 3}, ConfigError, "conv2: the operator 'tadaconv' cannot be built with {'taps': 3}"),
        ({"op": "tam", "kernel_size": 4}, ConfigError, "conv2: TAM's kernel_size is 4"),
        ({"module": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))}, ConfigError, "no nn.Linear"),
        ({"module": nn.Sequential(nn.Flatten(), nn.Linear(4, 4))}, ConfigError, "no nn.Conv2d"),
        ({"module": TemporalNetwork(Plain(), T)}, ConfigError, "takes an image network"),
        ({"module": "resnet18"}, ConfigError, "takes an image network"),
    ],
)
def test_invalid_arguments_are_named(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        zoo.temporalize(**({"module": Plain()} | options))


def test_hosts_that_do_not_return_their_classifiers_logits_are_rejected() -> None:
    class ReturnsTuple(Plain):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), None

    class Misnamed(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(5, 6)

    with pytest.raises(ConfigError, match=r"returns 4 logits, but its last linear layer, 'unused', has 6; .*define it"):
        temporalize(Misnamed(), num_frames=T)(torch.randn(1, 3, T, 8, 8))
    with pytest.raises(ConfigError, match=r"ReturnsTuple returns tuple, not logits .* aux_logits=False"):
        temporalize(ReturnsTuple(), num_frames=T)(torch.randn(1, 3, T, 8, 8))


def test_failed_inplace_conversion_changes_nothing() -> None:
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    with pytest.raises(ConfigError, match=r"no nn\.Linear"):
        temporalize(bare, inplace=True)
    assert all(type(module) is nn.Conv2d for module in bare)


def test_grad_checkpointing_supports_keyword_arguments() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
            return x + gain * self.conv(x)

    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3)
            self.blocks = nn.ModuleList([Block(), Block()])
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = block(x, gain=2.0)
            return self.fc(x.mean((2, 3)))

    video = temporalize(Host(), num_frames=2)
    x = torch.randn(1, 3, 2, 16, 16)
    expected = video(x)
    video.set_grad_checkpointing()
    torch.testing.assert_close(video(x), expected)
    video(x).sum().backward()
