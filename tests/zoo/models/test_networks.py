"""The interface of all networks, and properties of each family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SMALL, VIT, small
from torch import Tensor, nn

import zoo
from zoo.adapt import load_adapted
from zoo.errors import CheckpointError, ConfigError
from zoo.models import ARCHITECTURES, has_option, layer_depths
from zoo.models.convnext import TAdaConvNeXt
from zoo.models.network import DropPath
from zoo.models.resnet import VideoResNet
from zoo.models.resnet3d import ResNet3D
from zoo.models.vit import TAdaFormer, TemporalLinear, resample_grid
from zoo.models.vivit import ViViT
from zoo.ops import TAdaConv2d

FAMILIES = (
    VideoResNet,
    TAdaConvNeXt,
    TAdaFormer,
    ViViT,
    ResNet3D,
)  # the others are built from hosts and have other tests
OURS = [
    name for name, build in ARCHITECTURES.items() if getattr(build, "func", None) in FAMILIES and "r101" not in name
]
ONE_PER_FAMILY = ["tanet_r18", "tada2d_r18", "stam_r18", "nonlocal_r18", "tadaconvnext_tiny", "tadaconvnextv2_tiny"]
ONE_PER_FAMILY += ["tadaformer_b16", "vivit_b16", "r2plus1d_r10"]
CLIPS = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(7))


def randomize(model: nn.Module) -> Any:
    """Add noise to every parameter and statistic, so that zero-initialized branches contribute."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.add_(0.2 * torch.rand(value.shape, generator=generator))
    return model


@pytest.mark.parametrize("arch", OURS)
def test_networks_implement_the_interface(arch: str) -> None:
    model = small(arch)
    features = model.forward_features(CLIPS)
    assert features.shape[0] == 2
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    logits = model(CLIPS)
    torch.testing.assert_close(logits, model.forward_head(features), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.get_classifier()(pooled), model.forward_head(features))
    # feature_info describes the outputs of the stages
    for feature in model.feature_info:
        stage: Any = model.get_submodule(feature.module)
        outputs: list[Tensor] = []
        block = stage[-1] if isinstance(stage, nn.ModuleList) else stage
        handle = block.register_forward_hook(lambda _m, _i, output, outputs=outputs: outputs.append(output))
        model.forward_features(CLIPS)
        handle.remove()
        size = -(-32 // feature.reduction)
        if outputs[0].ndim == 5:
            assert outputs[0].shape[1] == feature.num_chs and outputs[0].shape[3:] == (size, size)
        elif outputs[0].ndim == 4:
            assert outputs[0].shape[1:] == (feature.num_chs, size, size)
        else:
            assert outputs[0].shape[1:] == (1 + (32 // feature.reduction) ** 2, feature.num_chs)
    assert model.feature_info[-1].num_chs == model.num_features
    # parameter groups
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() <= names
    depths = layer_depths(model)
    assert depths[model.stem_key] == 0
    assert depths[f"{model.head_prefix}weight"] == max(depths.values()) >= 2 + len(model.feature_info) - 1
    coarse = model.group_matcher(coarse=True)
    assert {"stem", "blocks"} <= set(coarse)
    # replacing the classifier
    model.reset_classifier(7)
    assert model(CLIPS).shape == (2, 7)
    assert {key for key in model.state_dict() if key.startswith(model.head_prefix)} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("arch", ONE_PER_FAMILY)
def test_replaced_classifier_can_be_saved(arch: str, tmp_path: Path) -> None:
    model = small(arch, labels=list("abcd"))
    model.reset_classifier(7)
    again: Any = zoo.load(zoo.save(model, tmp_path / "saved"))
    assert again.labels is None
    assert again.report.as_trained
    assert torch.equal(again(CLIPS), model(CLIPS))
    with pytest.raises(ConfigError, match="num_classes is 1"):
        model.reset_classifier(1)


@pytest.mark.parametrize("arch", OURS)
def test_all_parameters_have_gradients_and_clips_are_independent(arch: str) -> None:
    """Convolutional networks are tested with odd image sizes."""
    model = small(arch)
    x = torch.randn(3, 3, 4, *((32, 32) if has_option(arch, "patch") else (33, 47)))
    y = model(x)
    assert y.shape == (3, 4)
    torch.testing.assert_close(model(x[1:2]), y[1:2], rtol=1e-4, atol=1e-5)
    model.train()
    model(x).logsumexp(1).sum().backward()
    without_gradient = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without_gradient


@pytest.mark.parametrize("arch", ONE_PER_FAMILY)
def test_grad_checkpointing_preserves_results(arch: str) -> None:
    """Compare logits, gradients and batch statistics, which are updated once although the blocks run twice."""
    results = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = randomize(small(arch)).train()
        model.set_grad_checkpointing(enable)
        logits = model(CLIPS)
        logits.square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((logits, gradients, dict(model.named_buffers())))
    torch.testing.assert_close(results[1], results[0])


def test_layer_depths_follow_the_blocks() -> None:
    depths = layer_depths(small("tadaformer_b16"))
    assert depths["pos_embed"] == depths["stem.weight"] == 0
    assert depths["blocks.0.tada.proj.weight"] == 1
    assert depths["blocks.1.fc1.weight"] == 2
    assert depths["norm.weight"] == depths["fc.bias"] == 3
    depths = layer_depths(small("tadaconvnextv2_tiny"))
    assert depths["stages.1.0.gamma"] == depths["downsamples.0.1.weight"] == 4
    assert max(depths.values()) == 1 + 18


@pytest.mark.parametrize("version", [1, 2])
def test_untrained_convnext_treats_frames_independently(version: int) -> None:
    """With a stem that reads one frame, the features of a frame do not depend on other frames at initialization."""
    model = small("tadaconvnext_tiny" if version == 1 else "tadaconvnextv2_tiny").double()
    with torch.no_grad():
        model.stem.conv.weight[:, :, 1:] = 0
        if version == 2:
            model.stem.conv.weight[:, :, 1] = model.stem.conv.weight[:, :, 0]
            model.stem.conv.weight[:, :, 0] = 0
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    clip = CLIPS[:1].double()
    features = model.forward_features(clip)
    other = torch.cat([clip[:, :, :2], clip[:, :, :2].flip(2)], dim=2)
    torch.testing.assert_close(model.forward_features(other)[:, :, 0], features[:, :, 0])
    assert not torch.allclose(model.forward_features(other)[:, :, 1], features[:, :, 1])


@pytest.mark.parametrize("routing", [{}, {"norm": "layer"}, {"norm": "layer", "calibrate_bias": True}])
def test_routing_variants_of_convnext_version_1(routing: dict[str, Any]) -> None:
    model = randomize(small("tadaconvnext_tiny", routing=routing))
    layer = model.stages[0][0].conv
    assert isinstance(layer, TAdaConv2d)
    assert (layer.routing.bn is None) == ("norm" in routing)
    x = torch.randn(4, 8, 9, 9)
    alpha, beta = layer.routing(x.mean((2, 3)).T[None])
    kernel_per_frame = alpha[0].T[:, :, None, None, None] * layer.weight  # (T, C, 1, 7, 7)
    bias = layer.bias if beta is None else beta[0].T * layer.bias
    assert (beta is None) == ("calibrate_bias" not in routing)
    y = nn.functional.conv2d(x.flatten(0, 1)[None], kernel_per_frame.flatten(0, 1), padding=3, groups=32)
    expected = y[0].unflatten(0, (4, 8)) + bias.expand(4, 8)[:, :, None, None]
    torch.testing.assert_close(layer(x, 4), expected, rtol=1e-4, atol=1e-5)


def test_untrained_tadaformer_treats_frames_independently() -> None:
    """The last layers of TAda blocks are zero-initialized, so only the stem mixes frames."""
    model = small("tadaformer_b16", temporal_projection=True, double_tada=True, num_frames=8)
    clip = torch.randn(1, 3, 8, 32, 32)
    other = clip.clone()
    other[:, :, 4:] = 0
    features, changed = model.forward_features(clip), model.forward_features(other)
    torch.testing.assert_close(features[:, 0], changed[:, 0])
    assert not torch.allclose(features[:, 3], changed[:, 3])


@pytest.mark.parametrize("double_tada", [False, True])
def test_skipping_patch_tokens_preserves_logits(double_tada: bool) -> None:
    model = randomize(small("tadaformer_b16", temporal_projection=double_tada, double_tada=double_tada))
    logits = model.forward_head(model.forward_features(CLIPS))
    torch.testing.assert_close(model(CLIPS), logits, rtol=1e-4, atol=1e-4)
    model.train()(CLIPS).sum().backward()  # nothing is skipped in training: DDP expects all gradients
    assert all(p.grad is not None for p in model.parameters())


def test_temporal_linear_equals_a_convolution_over_three_frames() -> None:
    layer = TemporalLinear(6, 5)
    x = torch.randn(2 * 4, 9, 6)
    clip = x.unflatten(0, (2, 4)).permute(0, 3, 1, 2)  # (B, C, T, L)
    expected = nn.functional.conv2d(clip, layer.weight[..., None], layer.bias, padding=(1, 0))
    torch.testing.assert_close(layer(x, 4), expected.permute(0, 2, 3, 1).flatten(0, 1))


def test_position_embeddings_are_resampled_in_space() -> None:
    rows = torch.arange(4.0)[:, None].expand(4, 4)
    table = torch.stack([rows.flatten(), rows.T.flatten()], dim=1)  # channel 0 grows downwards, channel 1 rightwards
    finer = resample_grid(table, 8).unflatten(0, (8, 8))
    assert (finer[1:, :, 0] > finer[:-1, :, 0]).all()
    torch.testing.assert_close(finer[..., 0], finer[..., 1].T)
    torch.testing.assert_close(resample_grid(table, 4), table)
    with pytest.raises(ConfigError, match="12 rows"):
        resample_grid(torch.randn(12, 2), 4)


def test_load_resamples_position_embeddings_and_reports_it(tmp_path: Path) -> None:
    """Embeddings of the requested size are unchanged, others are resampled, or rejected without ``image_size=``."""
    folder = zoo.save(small("tadaformer_b16"), tmp_path / "saved")  # 32 pixels, patches of 8
    model: Any = zoo.load(folder, image_size=48)
    assert dict(model.report.adapted) == {"pos_embed": "resampled to 48 pixels"}
    assert model.protocol.crop == model.spec.options["image_size"] == 48
    assert model(torch.randn(1, 3, 4, 48, 48)).shape == (1, 4)
    again: Any = zoo.load(zoo.save(model, tmp_path / "again"))
    assert again.report.as_trained
    assert torch.equal(again.pos_embed, model.pos_embed)
    tensors = dict(small("tadaformer_b16", image_size=48).state_dict())  # a file of another size than its entry's
    options = dict(model.spec.options)
    adapted = load_adapted(model, dict(tensors), options | {"image_size": 32}, options, where="file")[1]
    assert not adapted
    assert torch.equal(model.pos_embed, tensors["pos_embed"])
    with pytest.raises(CheckpointError, match="wrong shape pos_embed.*pass image_size="):
        load_adapted(small("tadaformer_b16"), tensors, options, options, where="file")


def test_drop_path_drops_entire_clips() -> None:
    layer = DropPath(0.5).train()
    torch.manual_seed(0)
    y = layer(torch.ones(64 * 4, 3, 2, 2), 4).unflatten(0, (64, 4))
    per_clip = y[:, 0, 0, 0, 0]
    assert torch.equal(y, per_clip[:, None, None, None, None].expand_as(y))
    assert set(per_clip.tolist()) == {0.0, 2.0}
    assert torch.equal(layer.eval()(y, 4), y)


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        (
            "tadaformer_b16",
            {**VIT, "image_size": 30},
            "image_size is 30; it must be a multiple of the patch, 8: try 32",
        ),
        ("tadaformer_b16", {**VIT, "width": 50}, "width is 50"),
        ("tadaconvnextv2_tiny", {**SMALL, "drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
        ("tadaconvnext_tiny", {**SMALL, "routing": {"norm": "group"}}, "norm of the routing function is 'group'"),
        ("tadaconvnextv2_tiny", {**SMALL, "routing": {"head_dim": 3}}, "head_dim is 3; it must divide"),
        ("tanet_r18", {**SMALL, "op_options": {"style": "d"}}, "no third convolution"),
        ("tanet_r18", {**SMALL, "op_options": {"style": "e"}}, "style is 'e'"),
        ("tanet_r18", {**SMALL, "op_options": {"branches": "none"}}, "branches is 'none'; choose from both"),
        ("tanet_r18", {**SMALL, "op_options": {"kernel_size": 2}}, "kernel_size is 2; it must be odd"),
        ("tanet_r18", {**SMALL, "op_stages": [1]}, r"op_stages is \[1\]"),
        ("nonlocal_r18", {**SMALL, "non_local": {"mode": "x"}}, "mode is 'x'; choose from embedded_gaussian"),
        ("tsm_r18", {**SMALL, "op_options": {"divisor": 1}}, "divisor is 1"),
        ("tsm_r18", {**SMALL, "op_options": {"every": 0}}, "every is 0"),
        ("teinet_r18", {**SMALL, "op_options": {"divisor": 1}}, "divisor is 1"),
        ("teinet_r18", {**SMALL, "op_options": {"reduction": 0}}, "reduction is 0"),
        ("tada2d_r18", {**SMALL, "op_options": {"reduction": 0}}, "reduction is 0"),
        ("tada2d_r18", {**SMALL, "op_options": {"kernels": (2, 3)}}, "kernels is 2; it must be odd"),
        ("tada2dv2_r18", {**SMALL, "op_options": {"kernels": (3, 4)}}, "kernels is 4; it must be odd"),
        ("tanet_r18", {**SMALL, "op_options": {"beta": 0}}, "beta is 0"),
        ("tanet_r18", {**SMALL, "op_options": {"alpha": 0}}, "alpha is 0"),
        ("c2d_pool_r18", {**SMALL, "op_options": {"kernel_size": 2.5}}, "kernel_size is 2.5"),
        ("tanet_r18", {**SMALL, "op_stages": {4, 5}}, "must be a list of stages|a value in op_stages is a set"),
        ("nonlocal_r18", {**SMALL, "non_local": {"blocks": [[], [9], [], []]}}, "in stage 3 each below 2"),
        ("nonlocal_r18", {**SMALL, "non_local": {"blocks": [[], [1]]}}, "must be four lists"),
        ("tadaformer_b16", {**VIT, "heads": 0}, "heads is 0"),
        ("c2d_r18", {**SMALL, "labels": ["a"]}, "1 labels for 4 classes"),
        ("tanet_r18", {**SMALL, "foo": 1}, "no option 'foo'; its options are num_classes, .*, op_options, non_local.$"),
        ("slowfast_tada_r50", {"depth": 18}, "no option 'depth'; its options are adapted, routing, .*, drop_rate.$"),
        ("r2plus1d_tada_r50", {"foo": 1}, "no option 'foo'; its options are parts, num_classes"),
        ("tanet_r18", {**SMALL, "op_options": {"foo": 1}}, r"TAM.__init__\(\) got an unexpected"),
    ],
)
def test_create_names_invalid_options(arch: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        zoo.create(arch, **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 4, 40, 42), r"built for frames of 32 x 32 pixels.*load it with image_size=40"),
        ((1, 3, 1, 32, 32), "2 frames or more"),
        ((1, 3, 0, 32, 32), "2 frames or more"),
    ],
)
def test_tadaformer_rejects_clips_of_other_sizes(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small("tadaformer_b16")(torch.randn(shape))


def test_integer_clips_are_rejected() -> None:
    with pytest.raises(ConfigError, match="torch.uint8. Divide by 255"):
        small("c2d_r18")(torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("arch", ONE_PER_FAMILY)
def test_every_family_can_be_exported_with_dynamic_batch_size(arch: str) -> None:
    network = small(arch)
    dynamic = ({0: torch.export.Dim("clips", max=64)},)
    program = torch.export.export(network, (CLIPS,), dynamic_shapes=dynamic)
    x = torch.randn(5, 3, 4, 32, 32)
    torch.testing.assert_close(program.module()(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", OURS)
def test_every_network_runs_in_half_precision(arch: str) -> None:
    logits = small(arch).bfloat16()(CLIPS.bfloat16())
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


def test_convnext_rejects_small_clips() -> None:
    with pytest.raises(ConfigError, match="2 frames and 32 x 32 pixels or more"):
        small("tadaconvnextv2_tiny")(torch.randn(1, 3, 4, 16, 16))
