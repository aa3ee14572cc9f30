"""Networks of pytorchvideo, compared with that library, and TAdaConv and TAM in them, compared with their hosts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALL
from torch import Tensor, nn

import zoo
from zoo.adapt import load_adapted
from zoo.errors import ConfigError
from zoo.models import ARCHITECTURES, build, layer_depths
from zoo.ops import TAM, TAdaConv3d
from zoo.weights.converters import CONVERTERS, apply_rules

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
HUB = {  # architecture -> name in pytorchvideo, millions of parameters as published
    "ptv_c2d_r50": ("c2d_r50", 24.33),
    "ptv_i3d_r50": ("i3d_r50", 28.04),
    "ptv_slow_r50": ("slow_r50", 32.45),
    "ptv_slowfast_r50": ("slowfast_r50", 34.57),
    "ptv_slowfast_r101": ("slowfast_r101", 62.83),
    "ptv_slowfast_16x8_r101": ("slowfast_16x8_r101_50_50", 53.77),
    "ptv_r2plus1d_r50": ("r2plus1d_r50", 28.11),
    "ptv_csn_r101": ("csn_r101", 22.21),
    "ptv_x3d_xs": ("x3d_xs", 3.79),
    "ptv_x3d_s": ("x3d_s", 3.79),
    "ptv_x3d_m": ("x3d_m", 3.79),
    "ptv_x3d_l": ("x3d_l", 6.15),
    "ptv_mvit_b_16x4": ("mvit_base_16x4", 36.61),
    "ptv_mvit_b_32x3": ("mvit_base_32x3", 36.61),
}
PLUGINS: list[tuple[str, str, dict[str, Any]]] = [  # network with TAdaConv, its host, options of the network
    ("slowonly_tada_r50", "ptv_slow_r50", {}),
    ("slowfast_tada_r50", "ptv_slowfast_r50", {}),
    ("r2plus1d_tada_r50", "ptv_r2plus1d_r50", {}),
    ("r2plus1d_tada_r50", "ptv_r2plus1d_r50", {"parts": "2d+1d"}),
    ("r3d_tada_r50", "r3d_r50", {}),
]


def hub(name: str, **options: Any) -> Any:
    from pytorchvideo.models import hub as functions

    return getattr(functions, name)(pretrained=False, **options)


def randomize_norms(network: nn.Module) -> nn.Module:
    """Randomize norms, since zero-initialized ones disable residual branches; return the network in eval mode."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
    return network.eval()


def converted(net: nn.Module) -> dict[str, Tensor]:
    conversion = apply_rules(CONVERTERS["pytorchvideo"], net.state_dict())
    assert not conversion.unknown
    assert not conversion.ignored
    return conversion.tensors


@pytest.mark.parametrize("arch", HUB)
def test_keys_and_shapes_match_pytorchvideo(arch: str) -> None:
    """Keys and shapes must match for the published files to fit; the number of parameters is as published."""
    name, millions = HUB[arch]
    with torch.device("cpu" if "mvit" in arch else "meta"):
        expected = converted(hub(name))
    with torch.device("meta"):
        network = build(arch)
    state = network.state_dict()
    assert all(value.is_meta for value in state.values())
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in expected.items()}
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(millions * 1e6, rel=0.01)
    assert not network.operator_keys()


@pytest.mark.parametrize(
    ("arch", "options", "size"),
    [
        ("ptv_c2d_r50", {"stem_dim_out": 8}, 256),
        ("ptv_i3d_r50", {"stem_dim_out": 8}, 256),
        ("ptv_slow_r50", {"stem_dim_out": 8}, 256),
        ("ptv_slowfast_r50", {"stem_dim_outs": (8, 1)}, 256),
        ("ptv_slowfast_16x8_r101", {"stem_dim_outs": (8, 1)}, 224),
        ("ptv_r2plus1d_r50", {"stem_dim_out": 8, "head_activation": None}, 256),
        ("ptv_csn_r101", {"stem_dim_out": 8}, 256),
        ("ptv_x3d_xs", {"stem_dim_in": 8, "head_activation": None}, 182),
        ("ptv_x3d_m", {"stem_dim_in": 8, "head_activation": None}, 256),
    ],
)
def test_logits_match_pytorchvideo(arch: str, options: dict[str, Any], size: int) -> None:
    """At the published frame counts and sizes, with converted tensors."""
    theirs = randomize_norms(hub(HUB[arch][0], model_num_class=5, **options))
    ours = build(arch, num_classes=5, width=8).eval()
    ours.load_state_dict(converted(theirs))
    x = torch.randn(1, 3, ours.num_frames, size, size)
    inputs = x
    if "slowfast" in arch:
        inputs = [x[:, :, torch.linspace(0, x.shape[2] - 1, x.shape[2] // 4).long()], x]
    with torch.no_grad():
        expected = theirs(inputs)
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(x), expected, rtol=1e-3, atol=1e-4)


def test_mvit_matches_pytorchvideo() -> None:
    theirs = hub("mvit_base_16x4", spatial_size=64, temporal_size=8, patch_embed_dim=8, head_num_classes=5).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = build("ptv_mvit_b_16x4", num_classes=5, num_frames=8, image_size=64, width=8).eval()
    ours.load_state_dict(converted(theirs))
    x = torch.randn(2, 3, 8, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_published_files_load_by_name(tmp_path: Path) -> None:
    """A file in pytorchvideo's layout loads without adaptation, and the head can be replaced."""
    theirs = randomize_norms(hub("x3d_xs", head_activation=None))
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "X3D_XS.pyth")
    model: Any = zoo.load("ptv_x3d_xs.k400_4x12", weights=tmp_path / "X3D_XS.pyth")
    assert model.report.as_trained
    x = torch.randn(1, 3, 4, 182, 182)
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-4, atol=1e-5)
    other: Any = zoo.load("ptv_x3d_xs.k400_4x12", weights=tmp_path / "X3D_XS.pyth", num_classes=7)
    assert set(other.report.initialized) == {"net.blocks.5.proj.weight", "net.blocks.5.proj.bias"}
    assert other(x).shape == (1, 7)


# interface of VideoNetwork ---------------------------------------------------------------------------------

BUILT_HERE = ("slow", "r2plus1d_tada", "r3d")
ALL = [arch for arch in ARCHITECTURES if arch in HUB or arch.startswith(BUILT_HERE)]


def small(arch: str, **options: Any) -> tuple[Any, Tensor]:
    """Return a network with random norms, and clips for it."""
    size = 32
    extra = {"image_size": size} if "mvit" in arch else {}
    model = randomize_norms(zoo.create(arch, **(SMALL | extra | options)))
    return model, torch.randn(2, options.get("in_channels", 3), model.num_frames, size, size)


@pytest.mark.parametrize("arch", ALL)
def test_networks_implement_the_interface(arch: str) -> None:
    """Features and head, gradients of all parameters, replacing the classifier, dropout, and layer depths."""
    model, x = small(arch)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    torch.testing.assert_close(model.get_classifier()(pooled), model(x))
    torch.testing.assert_close(model(x[1:]), model(x)[1:], rtol=1e-3, atol=1e-4)
    model.reset_classifier(6)
    model.dropout.p = 0.5
    assert model(x).shape == (2, 6)
    assert not torch.equal(model.train().forward_head(features), model.forward_head(features))
    model.eval().dropout.train()
    assert not torch.equal(model(x), model(x))
    assert [m for m in model.modules() if isinstance(m, nn.Dropout)] == [model.dropout]
    model(x).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    depths = layer_depths(model)
    assert depths[model.stem_key] == 0
    assert depths[f"{model.head_prefix}weight"] == max(depths.values()) >= 17
    for feature in model.feature_info:
        assert model.get_submodule(feature.module)


@pytest.mark.parametrize("arch", ["ptv_i3d_r50", "ptv_slowfast_r50", "ptv_x3d_s", "r2plus1d_tada_r50"])
def test_feature_info_describes_the_stages(arch: str) -> None:
    model, x = small(arch)
    shapes: list[tuple[int, ...]] = []
    for feature in model.feature_info:
        model.get_submodule(feature.module).register_forward_hook(lambda _, __, y: shapes.append(tuple(y.shape)))
    model(x)
    expected = [(f.num_chs, 32 // f.reduction) for f in model.feature_info]
    assert [(shape[1], shape[-1]) for shape in shapes] == expected
    assert [f.reduction for f in model.feature_info] == [4, 8, 16, 32]


@pytest.mark.parametrize("arch", ["ptv_slowfast_r50", "ptv_mvit_b_16x4", "ptv_x3d_xs"])
def test_grad_checkpointing_preserves_gradients(arch: str) -> None:
    model, x = small(arch)
    model.train()
    gradients = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).logsumexp(1).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("arch", "frames"), [("ptv_slow_r50", 3), ("ptv_csn_r101", 1), ("ptv_x3d_xs", 7)])
def test_other_frame_counts_and_odd_sizes_are_accepted(arch: str, frames: int) -> None:
    model, _ = small(arch)
    x = torch.randn(2, 3, frames, 33, 47)
    torch.testing.assert_close(model(x)[1:], model(x[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["ptv_slow_r50", "ptv_slowfast_r50", "ptv_x3d_xs", "ptv_mvit_b_16x4"])
def test_other_channel_counts_preserve_logits_of_gray_clips(arch: str, tmp_path: Path) -> None:
    model, x = small(arch)
    other: Any = zoo.load(zoo.save(model, tmp_path / "m"), in_channels=2)
    assert tuple(other.report.adapted) == model.stem_keys
    gray = x[:, :1]
    expected = model(gray.expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(other(gray.expand(-1, 2, -1, -1, -1)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("frames", "alpha"), [(32, 4), (64, 4), (32, 8), (8, 4), (4, 4), (24, 2)])
def test_slow_pathway_samples_frames_as_published(frames: int, alpha: int) -> None:
    model, _ = small("ptv_slowfast_r50", num_frames=frames, alpha=alpha)
    clip = torch.arange(float(frames)).view(1, 1, frames, 1, 1)
    slow, fast = model.pathways(clip)
    assert slow.flatten().tolist() == torch.linspace(0, frames - 1, frames // alpha).long().tolist()
    assert fast is clip


@pytest.mark.parametrize(
    ("arch", "options", "shape", "message"),
    [
        ("ptv_slowfast_r50", {"num_frames": 6}, None, "must be a multiple of 4 .* try 8"),
        ("ptv_slowfast_r50", {"width": 12}, None, "multiple of 8"),
        ("ptv_slowfast_r50", {"fusion_kernel": 4}, None, "fusion_kernel is 4; it must be odd"),
        ("ptv_slowfast_r50", {}, (1, 3, 10, 32, 32), "must be a multiple of 4 .* try 8"),
        ("ptv_c2d_r50", {}, (1, 3, 1, 32, 32), "pools pairs of frames"),
        ("ptv_slow_r50", {}, (1, 1, 4, 32, 32), r"takes clips \(B, 3, T, H, W\)"),
        ("ptv_mvit_b_16x4", {"num_frames": 5}, None, "num_frames is 5; for MViT"),
        ("ptv_mvit_b_16x4", {}, (1, 3, 8, 32, 32), "load it with num_frames=8, image_size=32"),
        ("r2plus1d_tada_r50", {"parts": "3d"}, None, r"choose from 2d, 2d\+1d"),
        ("slowfast_tam_r50", {}, (1, 3, 8, 32, 32), "built for 4 frames and got 8"),
        ("slowfast_tam_r50", {"hidden": [4]}, None, "must have two widths"),
        ("ptv_slow_r50", {"depth": 18}, None, "depth"),
    ],
)
def test_invalid_options_and_clips_are_named(
    arch: str, options: dict[str, Any], shape: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        small(arch, **options)[0](torch.randn(shape or (1, 3, 4, 32, 32)))


def test_missing_pytorchvideo_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorchvideo.models.resnet", None)
    with pytest.raises(ConfigError, match=r"Install it: pip install pytorchvideo==0\.1\.5"):
        build("ptv_slow_r50")


def test_mvit_resamples_position_embeddings(tmp_path: Path) -> None:
    """Linear position embeddings stay linear, and are unchanged, bit for bit, at the same size."""
    model, x = small("ptv_mvit_b_16x4", num_frames=8)
    encoding = model.net.cls_positional_encoding
    with torch.no_grad():
        encoding.pos_embed_temporal.copy_(torch.arange(4.0).view(1, 4, 1).expand(1, 4, 8))
        encoding.pos_embed_spatial.copy_(torch.arange(8.0).view(1, 1, 8).expand(1, 64, 8))
    folder = zoo.save(model, tmp_path / "m")
    assert torch.equal(zoo.load(folder)(x), model(x))
    other: Any = zoo.load(folder, num_frames=16, image_size=64)
    assert other(torch.randn(1, 3, 16, 64, 64)).shape == (1, 4)
    prefix = "net.cls_positional_encoding.pos_embed_"
    assert set(other.report.adapted) == {prefix + "temporal", prefix + "spatial"}
    assert (other.protocol.num_frames, other.protocol.crop) == (16, 64)
    encoding = other.net.cls_positional_encoding
    assert encoding.pos_embed_temporal[0, 1:-1, 0].tolist() == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]
    torch.testing.assert_close(encoding.pos_embed_spatial, torch.arange(8.0).view(1, 1, 8).expand(1, 256, 8))


# with TAdaConv and TAM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "host", "options"), PLUGINS)
def test_untrained_tadaconv_networks_equal_their_hosts(arch: str, host: str, options: dict[str, Any]) -> None:
    """With the host's tensors, only routing functions are initialized, and the logits are those of the host."""
    theirs, x = small(host, num_frames=8)
    model, _ = small(arch, num_frames=8, **options)
    tensors = converted(theirs.net)
    trained = {"num_classes": 4, "num_frames": 8}
    initialized, adapted = load_adapted(model, tensors, trained, trained, where="the host", operator_untrained=True)
    assert set(initialized) == model.operator_keys()
    assert all(".routing." in key for key in initialized)
    assert not adapted
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-4, atol=1e-5)
    convs = [m for m in model.modules() if isinstance(m, TAdaConv3d)]
    assert len(convs) == 16 * (2 if "slowfast" in arch or options else 1)
    before = model(x)
    nn.init.normal_(convs[-1].routing.b.weight)
    assert not torch.allclose(model(x), before, rtol=1e-3)


@pytest.mark.parametrize(("arch", "host", "options"), PLUGINS)
def test_routing_functions_get_gradients(arch: str, host: str, options: dict[str, Any]) -> None:
    """The last layers get gradients in the first step, all others in the second."""
    model, x = small(arch, num_frames=8, **options)
    optimizer = torch.optim.SGD(model.train().parameters(), 1e-3)
    for step in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        routing = {name: p.grad for name, p in model.named_parameters() if ".routing." in name}
        expected = {name for name in routing if name.endswith(".b.weight") or step}
        # a bias before a batch norm has no effect: its gradient is only rounding error
        expected -= {name for name in expected if name.endswith(".a.bias")}
        assert expected <= {name for name, grad in routing.items() if grad.abs().max() > 0}
        optimizer.step()


def test_tam_replaces_temporal_convolutions_of_slowfast() -> None:
    """The center taps of a published file are kept, and a block equals its parts applied to each clip."""
    theirs, _ = small("ptv_slowfast_r50", num_frames=8)
    model, _ = small("slowfast_tam_r50", num_frames=8)
    before = theirs.net.blocks[4].multipathway_blocks[0].res_blocks[0].branch2
    trained = {"num_classes": 4, "num_frames": 8}
    initialized, adapted = load_adapted(
        model, converted(theirs.net), trained, trained, where="x", operator_untrained=True
    )
    assert set(initialized) == model.operator_keys()
    tams = [m for m in model.modules() if isinstance(m, TAM)]
    assert len(tams) == len(adapted) == 9 + 16  # res4 and res5 of the slow pathway, all blocks of the fast pathway
    assert {tam.num_frames for tam in tams} == {2, 8}
    block = model.net.blocks[4].multipathway_blocks[0].res_blocks[0].branch2
    assert torch.equal(block.conv_a.weight, before.conv_a.weight[:, :, 1:2])
    clips = torch.randn(3, block.conv_a.in_channels, 2, 5, 5)
    frames = clips.transpose(1, 2).flatten(0, 1)  # (B*T, C, H, W)
    y = F.conv2d(frames, block.conv_a.weight[:, :, 0])
    norm = block.norm_a
    y = F.relu(F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    y = torch.cat([block.act_a.tam(clip, 2) for clip in y.split(2)])
    y = y.unflatten(0, (3, 2)).transpose(1, 2)
    expected = block.norm_c(block.conv_c(block.act_b(block.norm_b(block.conv_b(y)))))
    torch.testing.assert_close(block(clips), expected, rtol=1e-4, atol=1e-5)


def test_other_frame_counts_interpolate_tam_in_both_pathways(tmp_path: Path) -> None:
    """A clip in which each frame is repeated gets the same kernels, from the trained hidden units."""
    model, _ = small("slowfast_tam_r50", num_frames=8)
    folder = zoo.save(model, tmp_path / "m")
    slower: Any = zoo.load(folder, num_frames=16)
    assert slower(torch.randn(1, 3, 16, 32, 32)).shape == (1, 4)
    assert len(slower.report.adapted) == 25
    tams = {name: m for name, m in model.named_modules() if isinstance(m, TAM)}
    for name, tam in tams.items():
        other = slower.get_submodule(name)
        assert other.num_frames == 2 * tam.num_frames
        descriptor = torch.randn(5, tam.num_frames)
        torch.testing.assert_close(other.G(descriptor.repeat_interleave(2, 1)), tam.G(descriptor))
    assert zoo.load(zoo.save(slower, tmp_path / "again")).report.as_trained
