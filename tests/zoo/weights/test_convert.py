"""Conversion of every publisher's tensors uses all keys and results in exactly the network's keys and shapes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from paths import GOLDEN
from torch import Tensor

import zoo
from zoo.adapt import load_adapted
from zoo.models import build
from zoo.weights.converters import CONVERTERS, apply_rules

Shapes = dict[str, tuple[int, ...]]


@functools.cache
def network_of(name: str) -> Any:
    """Build the network of an index entry on the meta device."""
    entry = zoo.info(name)
    with torch.device("meta"):
        return build(entry.arch, **entry.options)


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in tensors.items()}


def empty(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {key: torch.empty(shape, dtype=dtype, device="meta") for key, shape in shapes.items()}


def converted(name: str, theirs: Mapping[str, tuple[int, ...]]) -> Any:
    """Convert empty tensors of these shapes by an entry's rules, after checking that no key is unknown."""
    conversion = apply_rules(CONVERTERS[zoo.info(name).converter], empty(theirs))
    assert not conversion.unknown
    assert len(conversion.tensors) + len(conversion.ignored) == len(theirs)
    return conversion


def golden_shapes(name: str) -> Shapes:
    listed = json.loads((GOLDEN / f"{name}.json").read_text())["state_dict"]
    return {key: tuple(shape) for key, shape, _ in listed}


def renamed(ours: Shapes, table: list[tuple[str, str, Any]]) -> Shapes:
    """Rename our keys to a publisher's. Each row of ``table`` has a pattern, a replacement and a change of shape."""
    theirs = {}
    for key, shape in ours.items():
        matches = [(pattern, new, change) for pattern, new, change in table if re.match(pattern, key)]
        assert matches, f"{key} has no name in the publisher's file"
        pattern, new, change = matches[0]
        theirs[re.sub(pattern, new, key)] = change(shape) if change else shape
    assert len(theirs) == len(ours)
    return theirs


# TAdaConvNeXtV2 and TAdaFormer of the TAdaConv authors -----------------------------------------------------------


def lead(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, 1, *shape)


def flat_space(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1)


def position(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1, 1)


def routing(ours: str, theirs: str) -> list[tuple[str, str, Any]]:
    return [
        (rf"{ours}(a|b|b_bias)\.weight$", rf"{theirs}\g<2>.weight", flat_space),
        (rf"{ours}qkv\.weight", rf"{theirs}qkv_proj.weight", position),
        (rf"{ours}proj\.weight", rf"{theirs}attn_out.weight", position),
        (rf"{ours}qkv\.", rf"{theirs}qkv_proj.", None),
        (rf"{ours}proj\.", rf"{theirs}attn_out.", None),
        (rf"{ours}norm_attn\.", rf"{theirs}norm_transformer.", None),
        (ours, theirs, None),
    ]


def tada_block(number: str, flat: bool) -> list[tuple[str, str, Any]]:
    """Return the rows of a TAda block. ``flat``: the variant for Kinetics, whose projections are linear layers."""
    ours, theirs = rf"blocks\.(\d+)\.{number}\.", rf"backbone.layers.\1.{number}."
    return [
        (ours + r"pre\.weight", theirs + "tada_pre_proj.weight", None if flat else flat_space),
        (ours + r"pre\.", theirs + "tada_pre_proj.", None),
        (ours + r"proj\.weight", theirs + "tada_proj.weight", None if flat else position),
        (ours + r"proj\.", theirs + "tada_proj.", None),
        (ours + r"conv\.(weight|bias)", theirs + r"tadaconv.\2", lead),
        (ours + r"aggregation\.bn\.", theirs + "tadaconv.bn_a.", None),
        (ours + r"aggregation\.pool_bn\.", theirs + "tadaconv.bn_b.", None),
        *routing(ours + r"conv\.routing\.", theirs + "tadaconv.rf_func."),
    ]


def official_shapes(name: str) -> Shapes:
    """Return keys and shapes of the authors' file of an entry, from our network by the inverse rules."""
    stage, layer = r"stages\.(\d+\.\d+)\.", r"blocks\.(\d+)\."
    theirs, flat = r"backbone.stages.\1.", "ssv2" not in name
    table = [
        (r"fc\.", "head.out.", None),
        (r"stem\.conv\.", "backbone.downsample_layers.0.0.", None),
        (r"stem\.norm\.", "backbone.downsample_layers.0.1.", None),
        *(
            (rf"downsamples\.{n}\.1\.weight", rf"backbone.downsample_layers.{n + 1}.1.weight", one_frame)
            for n in range(3)
        ),
        *((rf"downsamples\.{n}\.", rf"backbone.downsample_layers.{n + 1}.", None) for n in range(3)),
        (stage + r"conv\.(weight|bias)", theirs + r"dwconv.\2", lead),
        *routing(stage + r"conv\.routing\.", theirs + "dwconv_rf."),
        (stage + r"pool_norm\.", theirs + "norm_avgpool.", None),
        (stage + r"fc(\d)\.", theirs + r"pwconv\2.", None),
        (stage, theirs, None),
        *tada_block("tada", flat),
        *tada_block("tada2", flat),
        (r"stem\.weight", "backbone.conv1.weight", None),
        (r"class_embedding", "backbone.class_embedding", None),
        (r"pos_embed", "backbone.positional_embedding", None),
        (r"norm_pre\.", "backbone.ln_pre.", None),
        (r"norm\.", "backbone.norm." if "convnext" in name else "backbone.ln_post.", None),
        (layer + r"attn\.qkv\.", r"backbone.layers.\1.attn.in_proj_", None),
        (layer + r"attn\.proj\.", r"backbone.layers.\1.attn.out_proj.", None),
        (layer + r"norm(\d)\.", r"backbone.layers.\1.ln_\2.", None),
        (layer + r"fc1\.", r"backbone.layers.\1.mlp.c_fc.", None),
        (layer + r"fc2\.", r"backbone.layers.\1.mlp.c_proj.", None),
    ]
    return renamed(shapes_of(network_of(name).state_dict()), table)


def one_frame(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], 1, *shape[2:])


GOLDEN_ENTRIES = {
    "tadaconvnextv2_tiny_k400_16f": "tadaconvnextv2_tiny.in1k_k400_16f",
    "tadaconvnextv2_base_k400_16f": "tadaconvnextv2_base.in1k_k400_16f",
    "tadaformer_b16_k400_16f": "tadaformer_b16.clip_k400_16f",
    "tadaformer_b16_ssv2_16f": "tadaformer_b16.clip_ssv2_16f",
}
OFFICIAL = [n for n in zoo.list_models() if zoo.info(n).paper.venue == "arXiv 2023" and not zoo.info(n).init]


@pytest.mark.parametrize(("golden", "name"), GOLDEN_ENTRIES.items())
def test_official_files_match_the_networks(golden: str, name: str) -> None:
    theirs = golden_shapes(golden)
    conversion = converted(name, theirs)
    assert conversion.ignored == []
    assert shapes_of(conversion.tensors) == shapes_of(network_of(name).state_dict())
    assert official_shapes(name) == theirs  # so the inverse rules are valid for files without a golden list


@pytest.mark.parametrize("name", OFFICIAL)
def test_all_official_files_convert(name: str) -> None:
    assert shapes_of(converted(name, official_shapes(name)).tensors) == shapes_of(network_of(name).state_dict())


@pytest.mark.parametrize("name", ["tadaconvnextv2_small.in1k_k400_32f", "tadaformer_l14.clip_ssv2_32f"])
def test_official_files_have_as_many_entries_as_the_official_networks(name: str) -> None:
    assert len(official_shapes(name)) == {"tadaconvnextv2_small": 848, "tadaformer_l14": 1641}[name.partition(".")[0]]


# image networks --------------------------------------------------------------------------------------------------


def convnext_keys(depths: tuple[int, ...], width: int, classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """ConvNeXt as its authors' code names it."""

    def both(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]

    yield from both("downsample_layers.0.0", width, 3, 4, 4)
    yield from both("downsample_layers.0.1", width)
    for stage, depth in enumerate(depths):
        channels = width * 2**stage
        if stage:
            yield from both(f"downsample_layers.{stage}.0", channels // 2)
            yield from both(f"downsample_layers.{stage}.1", channels, channels // 2, 2, 2)
        for block in range(depth):
            at = f"stages.{stage}.{block}"
            yield f"{at}.gamma", (channels,)
            yield from both(f"{at}.dwconv", channels, 1, 7, 7)
            yield from both(f"{at}.norm", channels)
            yield from both(f"{at}.pwconv1", 4 * channels, channels)
            yield from both(f"{at}.pwconv2", channels, 4 * channels)
    yield from both("norm", channels)
    yield from both("head", classes, channels)


def transformer_keys(at: str, depth: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for block in range(depth):
        layer = f"{at}transformer.resblocks.{block}"
        yield f"{layer}.attn.in_proj_weight", (3 * width, width)
        yield f"{layer}.attn.in_proj_bias", (3 * width,)
        for name, out, inner in (
            ("attn.out_proj", width, width), ("mlp.c_fc", 4 * width, width), ("mlp.c_proj", width, 4 * width)
        ):  # fmt: skip
            yield f"{layer}.{name}.weight", (out, inner)
            yield f"{layer}.{name}.bias", (out,)
        for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"):
            yield f"{layer}.{name}", (width,)


def clip_keys(patch: int, depth: int, width: int, shared: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """CLIP with a vision transformer as its authors' archives name it."""
    yield "visual.conv1.weight", (width, 3, patch, patch)
    yield "visual.class_embedding", (width,)
    yield "visual.positional_embedding", (1 + (224 // patch) ** 2, width)
    yield "visual.proj", (width, shared)
    for name in ("ln_pre.weight", "ln_pre.bias", "ln_post.weight", "ln_post.bias"):
        yield f"visual.{name}", (width,)
    yield from transformer_keys("visual.", depth, width)
    yield from transformer_keys("", 12, shared)  # the text tower is as wide as the shared space
    yield "token_embedding.weight", (49408, shared)
    yield "positional_embedding", (77, shared)
    yield "text_projection", (shared, shared)
    yield "ln_final.weight", (shared,)
    yield "ln_final.bias", (shared,)
    for name in ("logit_scale", "input_resolution", "context_length", "vocab_size"):
        yield name, ()


def image_keys(name: str) -> Shapes:
    arch, _, data = name.partition(".")
    if data.startswith("clip"):
        return dict(clip_keys(16, 12, 768, 512) if arch.endswith("b16") else clip_keys(14, 24, 1024, 768))
    depths = (3, 3, 9 if arch.endswith("tiny") else 27, 3)
    return dict(convnext_keys(depths, 128 if arch.endswith("base") else 96, {"in1k": 1000, "in21k": 21841}[data]))


STARTS = [name for name in zoo.list_models() if zoo.info(name).converter in ("convnext", "clip")]


@pytest.mark.parametrize("name", STARTS)
def test_image_networks_initialize_all_but_the_operator(name: str) -> None:
    """All tensors of the image network are used; only the operator, and a missing head, start untrained."""
    entry, model = zoo.info(name), network_of(name)
    theirs = image_keys(name)
    if name == "tadaconvnextv2_tiny.in1k":
        assert len(theirs) == 180 + 2  # what the official code takes over, and the head
    conversion = converted(name, theirs)
    assert all(not key.startswith("visual.") or key == "visual.proj" for key in conversion.ignored)
    assert (len(conversion.ignored) > 0) == (entry.converter == "clip")
    initialized, adapted = load_adapted(
        model, conversion.tensors, entry.options, entry.options, where=name, operator_untrained=True
    )
    head = {"fc.weight", "fc.bias"} if entry.converter == "clip" else set()
    assert set(initialized) == model.operator_keys() | head
    counters = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}
    assert set(adapted) - counters == {model.stem_key}


@pytest.mark.parametrize(
    ("arch", "frames"),
    [("tadaconvnextv2_tiny", [0, 1, 0]), ("tadaformer_b16", [0, 1, 0]), ("tadaconvnext_tiny", [0.5, 0.5])],
)
def test_image_stems_are_inflated(arch: str, frames: list[float]) -> None:
    """The kernel fills the middle one of three frames, as published, or half of each of TAdaConvNeXt's two frames."""
    small = {"width": 16, "num_frames": 4, "num_classes": 5}
    small |= {"image_size": 32, "depth": 1, "heads": 2} if "former" in arch else {}
    model: Any = build(arch, **small)
    state = model.state_dict()
    tensors = {key: torch.randn_like(value) for key, value in state.items() if key not in model.operator_keys()}
    tensors[model.stem_key] = image = torch.randn_like(state[model.stem_key][:, :, 0])
    load_adapted(model, tensors, small, small, where="a file", operator_untrained=True)
    expected = torch.stack([image * weight for weight in frames], 2)
    torch.testing.assert_close(model.state_dict()[model.stem_key], expected)


# MMAction2 -------------------------------------------------------------------------------------------------------


def mma_shapes(name: str) -> Shapes:
    """Return keys and shapes of MMAction2's file of an entry, from our network by the inverse rules."""
    options = zoo.info(name).options
    every = dict(options.get("op_options", {})).get("every", 1)
    wrapped = [f"layer{stage + 1}.{block}." for stage, blocks in enumerate(
        dict(options.get("non_local", {})).get("blocks", [])) for block in blocks]  # fmt: skip
    theirs: Shapes = {}
    for key, shape in shapes_of(network_of(name).state_dict()).items():
        new = key.replace("stem.", "backbone.conv1.").replace("fc.", "cls_head.fc_cls.")
        if match := re.match(r"layer\d\.(\d+)\.", key):
            at, rest = match[0], key[match.end() :]
            if rest.startswith("non_local."):
                rest = rest.removeprefix("non_local.")
                module, _, kind = rest.partition(".")
                if module == "bn":
                    rest = f"conv_out.bn.{kind}"
                else:
                    inner = {"out": "conv_out", "g": "g.0", "phi": "phi.0", "theta": "theta"}[module]
                    rest, shape = f"{inner}.conv.{kind}", one_frame(shape) if kind == "weight" else shape
                new = f"backbone.{at}non_local_block.{rest}"
            else:
                if rest == "conv1.conv.weight" and name.startswith("tsm") and int(match[1]) % every == 0:
                    rest = "conv1.conv.net.weight"
                new = f"backbone.{at}block.{rest}" if at in wrapped else f"backbone.{at}{rest}"
        theirs[new] = shape
    return theirs


TSN_AND_TSM = [
    name for name in zoo.list_models("*.mma_*") if name.startswith(("c2d_r50", "c2d_r101", "tsm_r50", "tsm_r101"))
]


@pytest.mark.parametrize("name", TSN_AND_TSM)
def test_mmaction2_files_match_the_networks(name: str) -> None:
    theirs = mma_shapes(name)
    conversion = converted(name, theirs | {"data_preprocessor.mean": (3, 1, 1), "data_preprocessor.std": (3, 1, 1)})
    assert shapes_of(conversion.tensors) == shapes_of(network_of(name).state_dict())
    assert len(conversion.ignored) == 2


def test_mmaction2_keys_are_those_of_its_modules() -> None:
    """The inverse rules above result in the keys of MMAction2's code."""
    shifted, nonlocal_ = mma_shapes("tsm_r101.mma_ssv2_8f"), mma_shapes("tsm_r50.mma_nl_dot_k400_8f")
    assert "backbone.layer3.22.conv1.conv.net.weight" in shifted
    assert "backbone.layer3.21.conv1.conv.weight" in shifted
    assert nonlocal_["backbone.layer2.0.block.conv1.conv.net.weight"] == (128, 256, 1, 1)
    assert nonlocal_["backbone.layer2.0.non_local_block.g.0.conv.weight"] == (256, 512, 1, 1, 1)
    assert nonlocal_["backbone.layer3.4.non_local_block.conv_out.bn.running_mean"] == (1024,)
    assert "backbone.layer2.1.conv1.conv.net.weight" in nonlocal_
    gaussian = mma_shapes("tsm_r50.mma_nl_gaussian_k400_8f")
    assert not any("theta" in key or "phi" in key for key in gaussian)


def test_each_file_matches_one_format_only() -> None:
    """A file's keys are all known in one format only, so load() cannot select a wrong one."""
    lists = {
        "tadaconv": golden_shapes("tadaformer_b16_k400_16f"),
        "convnext": image_keys("tadaconvnextv2_tiny.in1k"),
        "clip": image_keys("tadaformer_b16.clip"),
        "mmaction2": mma_shapes("tsm_r50.mma_k400_8f"),
    }
    for expected, shapes in lists.items():
        fits = [name for name, rules in CONVERTERS.items() if not apply_rules(rules, empty(shapes)).unknown]
        assert fits == [expected]
