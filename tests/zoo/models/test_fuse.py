"""``VideoNetwork.fuse`` removes batch norms without changing outputs; fused networks are for inference only."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from families import FAMILIES, build, clips_for, host
from small_models import small, small_trained
from torch import Tensor, nn

import zoo
from zoo.errors import ConfigError
from zoo.models import VideoNetwork
from zoo.models.temporalize import temporalize

NORMS = nn.modules.batchnorm._BatchNorm
# families with norms that stay: of STAM's aggregation, and after convolutions with a calibrated bias
REMAINING = {"stam": 8, "stam odd": 4, "stam context": 8, "host tadaconv_v2": 2}


def count_norms(network: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in network.modules())


def assert_equal_outputs(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_network_equals_the_original(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(family, monkeypatch).eval()
    assert isinstance(network, VideoNetwork)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        original, clips = copy.deepcopy(network).to(dtype), clips_for(family).to(dtype)
        fused = copy.deepcopy(original).fuse()
        with torch.no_grad():
            assert_equal_outputs(fused(clips), original(clips), tolerance)
            assert_equal_outputs(fused.forward_features(clips), original.forward_features(clips), tolerance)
    assert count_norms(fused) == REMAINING.get(family, 0)


@pytest.mark.parametrize("family", ["tada2d", "tanet", "tadaformer", "ptv_slowfast"])
def test_fused_network_has_the_same_input_gradient(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(family, monkeypatch).double().eval()
    assert isinstance(network, VideoNetwork)
    gradients = []
    for model in (network, copy.deepcopy(network).fuse()):
        clips = clips_for(family).double().requires_grad_()
        model(clips).logsumexp(1).sum().backward()
        assert clips.grad is not None
        gradients.append(clips.grad)
    assert_equal_outputs(gradients[1], gradients[0], 1e-10)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_fused_filter_of_tada2d_accepts_any_number_of_frames(frames: int) -> None:
    network = small_trained("tada2d_r18").double()
    clips = torch.randn(2, 3, frames, 33, 47, dtype=torch.float64)
    with torch.no_grad():
        expected = network(clips)
        assert_equal_outputs(network.fuse()(clips), expected, 1e-10)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0", "densenet121", "convnext_tiny", "resnet18"])
def test_fused_image_hosts_equal_the_originals(name: str) -> None:
    import torchvision

    torch.manual_seed(0)
    network = temporalize(getattr(torchvision.models, name)(num_classes=4), "tsm", num_frames=2).double().eval()
    norms = count_norms(network)
    clips = torch.randn(1, 3, 2, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = network(clips)
        assert_equal_outputs(network.fuse()(clips), expected, 1e-10)
    assert count_norms(network) == (62 if name == "densenet121" else 0), norms  # it normalizes concatenated maps


class Branches(nn.Module):
    """A host in which a convolution is read twice, one is called twice, and one is pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn_stem = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.twice, self.bn_a, self.bn_b = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.normalized = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))
        self.bn_c, self.bn_batch = nn.BatchNorm2d(8), nn.BatchNorm2d(8, track_running_stats=False)
        self.bn_plain = nn.BatchNorm1d(8, affine=False)
        self.hidden, self.fc = nn.Linear(8, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        x = self.bn_stem(stem) + stem
        x = self.bn_b(self.twice(self.bn_a(self.twice(x))))
        x = self.bn_batch(self.bn_c(self.normalized(x)))
        return self.fc(self.bn_plain(self.hidden(x.mean((2, 3)))))


def test_only_exact_folds_are_made() -> None:
    torch.manual_seed(0)
    network = temporalize(Branches(), "tsm", "stem", num_frames=2).double()
    network.train()(torch.randn(4, 3, 2, 16, 16, dtype=torch.float64))  # updates the running statistics
    network.eval()
    clips = torch.randn(2, 3, 2, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = network(clips)
        assert_equal_outputs(network.fuse()(clips), expected, 1e-10)
    remaining = {name for name, module in network.named_modules() if isinstance(module, NORMS)}
    assert remaining == {f"net.{name}" for name in ("bn_stem", "bn_a", "bn_b", "bn_c", "bn_batch")}


class FixedSize(nn.Sequential):
    """A host that accepts frames of 64 x 64 pixels only."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(channels, 4))


@pytest.mark.parametrize(("side", "norms"), [(224, 0), (48, 1)])
def test_hosts_of_a_fixed_size_are_fused_at_the_default_size_or_not_at_all(side: int, norms: int) -> None:
    network = temporalize(FixedSize(4 * (side // 4) ** 2), "tsm", "0", num_frames=2).eval()
    clips = torch.randn(1, 3, 2, side, side)
    with torch.no_grad():
        expected = network(clips)
        torch.testing.assert_close(network.fuse()(clips), expected)
    assert count_norms(network) == norms


def test_parameters_are_replaced_not_modified() -> None:
    network = small_trained("tada2d_r18")
    tensors = {key: (value, value.clone()) for key, value in network.state_dict(keep_vars=True).items()}
    network.fuse()
    assert all(torch.equal(value, before) for value, before in tensors.values())


def test_fused_network_can_be_copied_and_fused_again() -> None:
    network = small_trained("tanet_r18").fuse()
    assert network.fuse() is network and copy.deepcopy(network).fused
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(network)(clips), network(clips))


def test_fuse_requires_evaluation_mode() -> None:
    network = small("tada2d_r18")
    network.layer1.train()
    with pytest.raises(ConfigError, match="in training mode; call eval"):
        network.fuse()
    assert not network.fused


def test_fused_network_can_be_neither_trained_nor_saved(tmp_path: Path) -> None:
    network = small("tada2d_r18").fuse()
    assert network.eval() is network
    with pytest.raises(ConfigError, match=r"cannot be trained: fuse\(\) has folded"):
        network.train()
    with pytest.raises(ConfigError, match=r"cannot save this network: fuse\(\) .* save it before fuse"):
        zoo.save(network, tmp_path / "model")
    with pytest.raises(ConfigError, match=r"cannot push this network: fuse\(\)"):
        zoo.push(network, "user/repo")
    assert list(tmp_path.iterdir()) == []


def test_fused_network_has_the_same_stages() -> None:
    network, fused = host("tam").eval(), host("tam").eval()
    fused.fuse()
    strides = [[(stage.num_chs, stage.reduction) for stage in model.feature_info] for model in (network, fused)]
    assert strides[0] == strides[1]
