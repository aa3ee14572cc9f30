"""Networks without a classifier, and the feature maps of ``features_only=True``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, build, clips_for
from small_models import small
from torch import nn

import zoo
from zoo.errors import ConfigError
from zoo.models import VideoNetwork
from zoo.models.features import FeatureExtractor

OWN = ["tanet_r18", "tada2d_r18", "tadaconvnextv2_tiny", "tadaformer_b16"]
HOSTED = ["tanet_mobilenetv2", "tanet_resnext50", "ptv_slow_r50", "ptv_x3d_xs", "ptv_slowfast_r50"]
CLIPS = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(7))


def create(arch: str, **options: Any) -> Any:
    """Create a small network with 4 classes."""
    if arch in OWN:
        return small(arch, **options)
    if arch.startswith("ptv_"):
        options = {"width": 8, **options}
    return zoo.create(arch, **{"num_classes": 4, "num_frames": 4, **options})


@pytest.mark.parametrize("family", FAMILIES)
def test_reset_classifier_0_returns_pooled_features(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network: Any = build(family, monkeypatch).eval()
    clips = clips_for(family, 2)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(clips), pre_logits=True)
        network.reset_classifier(0)
        features = network(clips)
    assert features.shape == (2, network.num_features)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert not any(key.startswith(network.head_prefix) for key in network.state_dict())
    network.reset_classifier(7)
    assert network(clips).shape == (2, 7)


@pytest.mark.parametrize("family", FAMILIES)
def test_feature_maps_have_the_described_shapes(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network: Any = build(family, monkeypatch).eval()
    clips = clips_for(family, 2)
    with torch.no_grad():
        features = network.forward_features(clips)
        modules = [network.get_submodule(stage.module) for stage in network.feature_info]
        # the small ResNets have stages without blocks
        used = [
            number
            for number, module in enumerate(modules)
            if not (isinstance(module, nn.ModuleList) and not len(module))
        ]
        extractor = FeatureExtractor(network, used)
        maps = extractor(clips)
    assert len(maps) == len(extractor.feature_info)
    for stage, value in zip(extractor.feature_info, maps, strict=True):
        sides = [-(-side // stage.reduction) for side in clips.shape[3:]]
        assert value.shape[:2] == (2, stage.num_chs)
        assert all(abs(side - expected) <= 1 for side, expected in zip(value.shape[3:], sides, strict=True))
    if features.ndim == 5:  # the last map; SlowFast appends the fast pathway, hosts may apply an activation
        last = maps[-1]
        assert last.shape[2:] == features.shape[2:]
        torch.testing.assert_close(features[:, : last.shape[1]].relu(), last.relu())
    elif features.ndim == 4:  # tokens of a vision transformer, class token first; ViViT returns those of frame pairs
        tokens = maps[-1].permute(0, 2, 3, 4, 1).flatten(2, 3)
        torch.testing.assert_close(tokens, features[:, :, 1:])


def test_mvit_returns_patch_tokens_as_maps() -> None:
    options: dict[str, Any] = {"num_classes": 4, "num_frames": 4, "image_size": 32, "width": 8}
    extractor = zoo.create("ptv_mvit_b_16x4", features_only=True, out_indices=(0, -1), **options)
    assert extractor.feature_info.channels() == [16, 64]
    assert extractor.feature_info.reduction() == [4, 32]
    assert [tuple(value.shape) for value in extractor(CLIPS)] == [(2, 16, 2, 8, 8), (2, 64, 2, 1, 1)]


@pytest.mark.parametrize("arch", [*OWN, *HOSTED])
def test_network_without_a_classifier_can_be_saved_and_loaded(arch: str, tmp_path: Path) -> None:
    clips = torch.randn(1, 3, 4, 64, 64)
    network = create(arch, **({"image_size": 64} if arch == "tadaformer_b16" else {}))
    with_classes = zoo.save(network, tmp_path / "classes")
    features = network.forward_head(network.forward_features(clips), pre_logits=True)
    network.reset_classifier(0)
    assert network.spec.num_classes == 0
    assert network.report.untrained_parts == ("all weights",)
    without = zoo.save(network, tmp_path / "features")
    for name, options in ((without, {}), (with_classes, {"num_classes": 0})):
        again = zoo.load(name, **options)
        assert again.spec.num_classes == 0
        torch.testing.assert_close(again(clips), features)
    assert zoo.load(without).report.as_trained
    assert dict(again.report.adapted) == {f"{again.head_prefix}{kind}": "removed" for kind in ("weight", "bias")}
    restored = zoo.load(without, num_classes=5)
    assert restored(clips).shape == (1, 5)
    assert set(restored.report.initialized) == {f"{again.head_prefix}{kind}" for kind in ("weight", "bias")}


@pytest.mark.parametrize("arch", [*OWN, *HOSTED])
def test_create_and_load_with_features_only(arch: str, tmp_path: Path) -> None:
    clips = torch.randn(1, 3, 4, 64, 64)
    options = {"image_size": 64} if arch == "tadaformer_b16" else {}
    folder = zoo.save(create(arch, **options), tmp_path / "saved")
    extractor = zoo.load(folder, features_only=True, out_indices=(0, -1))
    maps = extractor(clips)
    assert [value.shape[1] for value in maps] == extractor.feature_info.channels()
    assert [64 // value.shape[-1] for value in maps] == extractor.feature_info.reduction()
    for value, copied in zip(maps, copy.deepcopy(extractor)(clips), strict=True):
        assert torch.equal(value, copied)
    again = zoo.load(zoo.save(extractor, tmp_path / "again"), features_only=True, out_indices=(0, -1))
    for value, loaded in zip(maps, again(clips), strict=True):
        assert torch.equal(value, loaded)
    assert len(create(arch, features_only=True, **options).feature_info) >= 2


def test_gradients_reach_the_stem_with_recomputed_activations() -> None:
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        extractor: Any = small("tanet_r18", features_only=True)
        extractor.train().network.set_grad_checkpointing(enable)
        sum(value.square().mean() for value in extractor(CLIPS)).backward()
        gradients.append(extractor.network.stem.conv.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_invalid_feature_arguments_are_rejected() -> None:
    with pytest.raises(ConfigError, match="out_indices= requires features_only=True"):
        zoo.create("tanet_r18", out_indices=(1,))  # type: ignore[call-overload]
    for indices in ((4,), "1", (), (-5,)):
        with pytest.raises(ConfigError, match="it must be a list of integers from -4 to 3"):
            small("tanet_r18", features_only=True, out_indices=indices)
    with pytest.raises(ConfigError, match="num_classes is 1; .* or 0 for a network without a classifier"):
        small("tanet_r18").reset_classifier(1)


def test_from_pretrained_and_push_to_hub_call_load_and_push(monkeypatch: pytest.MonkeyPatch) -> None:
    network = VideoNetwork.from_pretrained("tanet_r18.motionclips8", num_frames=4)
    assert type(network).from_pretrained("tanet_r18.motionclips8").spec.num_frames == 8
    with pytest.raises(ConfigError, match=r"is a VideoResNet, not a TAdaFormer; use VideoNetwork.from_pretrained"):
        type(small("tadaformer_b16")).from_pretrained("tanet_r18.motionclips8")
    calls: list[Any] = []
    monkeypatch.setattr("zoo.hub.push.push", lambda *args, **options: calls.append((args, options)) or "url")
    assert network.push_to_hub("user/repo", private=True) == "url"
    assert calls == [((network, "user/repo"), {"private": True})]


def test_former_option_names_are_accepted(tmp_path: Path) -> None:
    """Former names are accepted as arguments and in config.json; new files have the current names."""
    network: Any = zoo.create("tadaconvnextv2_tiny", width=8, dropout=0.25, drop_path=0.5, num_frames=4)
    assert network.dropout.p == 0.25
    assert network.stages[-1][-1].drop_path.rate == 0.5
    folder = zoo.save(network, tmp_path / "saved")
    config = (folder / "config.json").read_text()
    assert '"drop_rate": 0.25' in config and '"drop_path_rate": 0.5' in config
    former = config.replace("drop_rate", "dropout").replace("drop_path_rate", "drop_path")
    (folder / "config.json").write_text(former)
    again: Any = zoo.load(folder)
    assert again.spec.options == network.spec.options
    with pytest.raises(ConfigError, match="both dropout and drop_rate are given"):
        zoo.create("tanet_r18", dropout=0.1, drop_rate=0.1)


def test_load_sets_drop_rates(tmp_path: Path) -> None:
    folder = zoo.save(small("tadaconvnextv2_tiny"), tmp_path / "saved")
    network: Any = zoo.load(folder, drop_rate=0.3, drop_path_rate=0.2)
    assert (network.dropout.p, network.stages[-1][-1].drop_path.rate) == (0.3, pytest.approx(0.2))
    assert network.spec.options["drop_path_rate"] == 0.2
    with pytest.raises(ConfigError, match="has no option 'drop_path_rate'"):
        zoo.load("tanet_r18.motionclips8", drop_path_rate=0.2)


def test_list_models_selects_trained_and_bundled_networks() -> None:
    trained, starts = zoo.list_models(pretrained=True), zoo.list_models(pretrained=False)
    assert sorted(trained + starts) == sorted(zoo.list_models())
    assert all(zoo.info(name).init for name in starts) and starts
    assert zoo.list_models(bundled=True) == ["tanet_r18.motionclips8"]
    assert len(zoo.list_models(bundled=False)) == len(zoo.list_models()) - 1
    with pytest.raises(ConfigError, match="pretrained is 'yes'; it must be True or False"):
        zoo.list_models(pretrained="yes")  # type: ignore[arg-type]
