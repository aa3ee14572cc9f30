"""Parameters and multiply-accumulates, compared with published values and counts by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALL
from torch import Tensor, nn

import zoo
from benchmarks.dynamic_convs import DYNAMIC, added_costs, main
from zoo.errors import ConfigError
from zoo.models import build
from zoo.ops.stam_aggregation import OmniAggregation
from zoo.profiling import Profile

SSV2 = {"temporal_projection": True, "double_tada": True, "num_classes": 174}  # options of the published TAdaFormer
# architecture, options, frames, size, millions of parameters and GMACs of one view of the official code
PUBLISHED = [
    ("tada2d_r50", {}, 8, 224, 27.48, 33.02),
    ("tada2d_r50", {}, 16, 256, 27.48, 86.25),
    ("tanet_r50", {}, 8, 224, 25.59, 32.76),
    ("tanet_r50", {}, 16, 256, 25.60, 85.57),
    ("tanet_r101", {}, 8, 256, 45.70, 81.61),
    ("tanet_r101", {}, 16, 224, 45.72, 124.98),
    ("tadaconvnextv2_tiny", {}, 16, 224, 45.97, 36.01),
    ("tadaconvnextv2_small", {}, 32, 256, 82.25, 182.58),
    ("tadaconvnextv2_base", {}, 16, 256, 145.69, 161.3),
    ("tadaformer_b16", {}, 16, 224, 104.20, 153.6),
    ("tadaformer_b16", SSV2, 32, 224, 135.09, 374.07),
    ("tadaformer_l14", {}, 64, 224, 364.83, 2810.43),
    ("tadaformer_l14", SSV2, 16, 224, 474.96, 857.73),
]


def on_meta(arch: str, **options: Any) -> Any:
    with torch.device("meta"):
        return build(arch, **options)


@pytest.mark.parametrize(("arch", "options", "frames", "size", "params", "gmacs"), PUBLISHED)
def test_costs_match_the_official_code(
    arch: str, options: dict, frames: int, size: int, params: float, gmacs: float
) -> None:
    model = on_meta(arch, num_frames=frames, **options).train()
    costs = zoo.profile(model, (frames, size, size))
    assert costs.gmacs == pytest.approx(gmacs, rel=5e-3)
    assert costs.params / 1e6 == pytest.approx(params, abs=0.01)
    assert (costs.input_shape, costs.training) == ((1, 3, frames, size, size), True)


@pytest.mark.parametrize(("arch", "gmacs", "saved"), [("tadaformer_b16", 153.6, 9.7), ("tadaformer_l14", 702.61, 22.5)])
def test_tadaformer_skips_unused_tokens_in_eval_mode(arch: str, gmacs: float, saved: float) -> None:
    costs = zoo.profile(on_meta(arch).eval(), (16, 224, 224))
    assert costs.gmacs == pytest.approx(gmacs - saved, abs=0.1)


@pytest.mark.parametrize(
    ("name", "shape", "published"),
    [  # GMACs as published by torchvision
        ("vit_b_16", (1, 3, 224, 224), 17.564),  # nn.MultiheadAttention
        ("swin_t", (1, 3, 224, 224), 4.491),
        ("r2plus1d_18", (16, 112, 112), 40.519),
    ],
)
def test_costs_match_torchvision(name: str, shape: tuple[int, ...], published: float) -> None:
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.get_model(name).eval()
    assert zoo.profile(model, shape).gmacs == pytest.approx(published, abs=1e-3)


def test_costs_match_pytorchvideo() -> None:
    """Its model zoo lists Slow R50 8x8 with 54.52 GMACs for one crop of 256 pixels and 32.45 M parameters."""
    hub = pytest.importorskip("pytorchvideo.models.hub")
    with torch.device("meta"):
        model = hub.slow_r50(pretrained=False).eval()
    costs = zoo.profile(model, (8, 256, 256))
    assert (round(costs.gmacs, 2), round(costs.params / 1e6, 2)) == (54.52, 32.45)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v)


class DataDependent(nn.Module):
    """A module whose control flow depends on its input, so it cannot run on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.norm, self.dropout = Attention(), nn.BatchNorm1d(5), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(x))
        return self.attend(x if x.sum() > 1e9 else x[:, :2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_counts_as_two_matrix_products(dtype: torch.dtype) -> None:
    expected = {"qkv": 2 * 5 * 32 * 96, "(itself)": 2 * 2 * 5 * 5 * 32}
    assert zoo.profile(Attention().to(dtype), torch.zeros(2, 5, 32, dtype=dtype)).by_module == expected


def test_data_dependent_networks_run_with_values_and_are_not_changed() -> None:
    model = DataDependent().train()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    costs = zoo.profile(model, torch.ones(3, 5, 32))
    assert costs.macs == 3 * 2 * 32 * 96 + 2 * 3 * 2 * 2 * 32
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training and torch.equal(random, torch.get_rng_state())


def test_profile_does_not_change_the_network() -> None:
    model: Any = zoo.create("tanet_r18", **SMALL).train()
    model.layer1[0].eval()
    model.stem.requires_grad_(False)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    costs = zoo.profile(model, (4, 32, 32))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()
    assert costs.params - costs.trainable == sum(p.numel() for p in model.stem.parameters())
    assert sum(costs.by_module.values()) == costs.macs
    assert list(costs.by_module) == ["stem", "layer1", "layer2", "layer3", "layer4", "dropout", "fc"]
    assert costs.by_module["stem"] == 4 * 16 * 16 * 8 * 3 * 49
    assert zoo.profile(model, torch.zeros(1, 3, 4, 32, 32)) == costs
    assert zoo.profile(model, (2, 3, 4, 32, 32)).macs == 2 * costs.macs


def test_tam_and_stam_count_elementwise_products() -> None:
    """TAM: three taps per value. STAM: one product per value and tap."""
    tanet, stam = (on_meta(f"{family}_r50", stem_pool=False) for family in ("tanet", "stam"))
    plain = [copy.deepcopy(network) for network in (tanet, stam)]
    for network in plain:
        for module in network.modules():
            if hasattr(module, "extra_macs") and not isinstance(module, OmniAggregation):  # subtracts its pooling
                module.extra_macs = lambda *_: 0
    sizes = ((64, (112, 56, 56)), (128, (56, 28, 28, 28)), (256, (28, *[14] * 5)), (512, (14, 7, 7)))
    macs = [zoo.profile(network, (8, 224, 224)).macs for network in (tanet, stam, *plain)]
    extra = (macs[0] - macs[2], macs[1] - macs[3])
    assert extra[0] == sum(3 * 8 * c * side**2 for c, sides in sizes for side in sides)
    assert extra[1] == sum(9 * 8 * c * min(sides) ** 2 * len(sides) for c, sides in sizes)


def test_profile_is_printed_as_a_table() -> None:
    costs = Profile(2_000_000, 1_500_000, 4_000_000_000, (1, 3, 8, 32, 32), {"stem": 10**9, "layer1": 3 * 10**9})
    assert str(costs).splitlines() == [
        "2.00 M parameters (1.50 M trainable), 4.00 GMACs for 1 x 3 x 8 x 32 x 32",
        "  stem         1.000   25.0 %",
        "  layer1       3.000   75.0 %",
    ]


@pytest.mark.parametrize("shape", [(8,), (8, 0, 224), (8.0, 224, 224)])
def test_invalid_inputs_are_named(shape: Any) -> None:
    with pytest.raises(ConfigError, match="the input to profile is"):
        zoo.profile(nn.Identity(), shape)
    with pytest.raises(ConfigError, match="built for 4 frames"):
        zoo.profile(zoo.create("tanet_r18", **SMALL), (5, 32, 32))


# dynamic convolutions --------------------------------------------------------------------------------------------


def test_stam_adds_less_than_other_dynamic_convolutions() -> None:
    costs = added_costs()
    assert list(costs) == ["TAdaConv", "TAM", "STAM", "CondConv x4", "DyConv x4", "ODConv x4"]
    for name in list(costs)[3:]:
        assert costs["STAM"][0] < costs[name][0] / 30
        assert costs["STAM"][1] < costs[name][1] / 2
    kernels = {c: (count, 9 * c * c) for c, count in ((64, 3), (128, 4), (256, 6), (512, 3))}
    assert costs["CondConv x4"] == (
        sum(count * (3 * kernel + 4 * c + 4) for c, (count, kernel) in kernels.items()),
        8 * sum(count * (4 * kernel + 4 * c) for c, (count, kernel) in kernels.items()),
    )


def test_comparison_prints_and_writes_a_table(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    file = tmp_path / "costs.csv"
    monkeypatch.setattr("sys.argv", ["dynamic_convs.py", "--frames", "4", "--size", "64", "--csv", str(file)])
    main()
    assert file.read_text().splitlines()[3] == "STAM,0.870,0.025"
    assert "one clip of 4 x 64 x 64" in capsys.readouterr().out


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_convolutions_equal_a_kernel_per_image(name: str) -> None:
    layer: Any = DYNAMIC[name](6, 8, 3, 2, 1, kernels=3).double().eval()
    x = torch.randn(4, 6, 7, 7, dtype=torch.double)
    pooled = x.mean((2, 3))
    inputs = outputs = taps = torch.ones(4, 1)
    if name == "ODConv":
        z = layer.squeeze(pooled)
        inputs, outputs, taps = (getattr(layer, f"to_{d}")(z).sigmoid() for d in ("inputs", "outputs", "taps"))
        mixture = layer.to_kernels(z).softmax(1)
    elif name == "DyConv":
        mixture = (layer.route(pooled) / 30).softmax(1)
    else:
        mixture = layer.route(pooled).sigmoid()
    for n in range(4):
        kernel = sum(mixture[n, k] * layer.weight[k] for k in range(3)) * taps[n].view(-1, taps.shape[1] // 3 or 1)
        kernel = kernel * inputs[n][:, None, None] * outputs[n][:, None, None, None]
        torch.testing.assert_close(layer(x)[n], F.conv2d(x[n], kernel, stride=2, padding=1))


@pytest.mark.slow
def test_differences_from_published_costs_are_explained() -> None:
    from benchmarks.costs import published

    rows, unexplained = published()
    assert len(rows) > 70
    assert not unexplained


@pytest.mark.slow
def test_gmacs_of_every_entry_are_correct() -> None:
    from benchmarks.costs import measure

    for name in zoo.list_models():
        entry = zoo.info(name)
        _, gmacs = measure(entry.arch, dict(entry.options), entry.gmacs.input)
        if name != "tsm_r50.mma_nl_dot_k400_8f":  # the official code computes the larger product first
            assert gmacs == pytest.approx(entry.gmacs.value, rel=3e-3), name
