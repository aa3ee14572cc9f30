"""Files of MMAction2 (TSM, TSN) and of the TAdaConv authors (ViViT, 3D ResNets): conversion, logits and sizes.

``plain_networks`` has these networks in plain PyTorch, with the publishers' key names.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden_weights as gw
import plain_networks as plain
import pytest
import torch
import torchvision
from families import resnet_of
from paths import GOLDEN
from torch import Tensor, nn

import zoo
from zoo.models import build_on_meta
from zoo.models.resnet3d import ResNet3D
from zoo.models.temporalize import TemporalNetwork
from zoo.weights.converters import CONVERTERS, apply_rules

RESNETS = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True), 101: ((3, 4, 23, 3), True)}
SMALL_VIT = {"width": 48, "depth": 2, "temporal_depth": 2, "heads": 3, "patch": 8, "image_size": 32}
MODES = ("embedded_gaussian", "gaussian", "dot_product")
BLOCKS = (1, 3, 1, 1)  # of small ResNets
SMALL = {"width": 8, "num_classes": 5, "num_frames": 4}

Layout = tuple[str, Callable[[], nn.Module], Callable[[pytest.MonkeyPatch], nn.Module]]  # format, theirs, ours


def small_resnet(arch: str, bottleneck: bool, shift: int = 0, mode: str | None = None) -> Layout:
    """Return a layout of MMAction2's ResNets with few blocks of few channels."""
    options: dict[str, Any] = {"op_options": {"every": shift}} if shift > 1 else {}
    if mode:
        options["non_local"] = {"mode": mode, "blocks": [[], [0, 2], [0], []]}
    theirs = functools.partial(plain.MMAResNet, BLOCKS, bottleneck, 8, shift, mode)
    ours = resnet_of(arch, *BLOCKS, **{**SMALL, **options})
    return "mmaction2", lambda: plain.MMARecognizer(theirs(), 5, average_logits=bool(shift)), ours


def small_resnext() -> nn.Module:
    """Return the host of ours with one block per stage."""
    blocks = torchvision.models.resnet.Bottleneck, [1, 1, 1, 1]
    return TemporalNetwork(torchvision.models.ResNet(*blocks, num_classes=5, groups=32, width_per_group=4), 4)


def small_vivit(**classes: int) -> Layout:
    backbone = functools.partial(plain.FactorizedViT, 4, 32, 8, 48, (2, 2), 3)
    ours = functools.partial(zoo.create, "vivit_b16", num_classes=sum(classes.values()), num_frames=4, **SMALL_VIT)
    return "tadaconv", lambda: plain.WithHeads(backbone(), 48, **classes), lambda _: ours()


def small_resnet3d(kind: str, **classes: int) -> Layout:
    def theirs() -> nn.Module:
        backbone = plain.PlainResNet3d(kind, width=16)
        return plain.WithHeads(backbone, backbone.out_channels, **classes)

    ours = functools.partial(ResNet3D, kind, width=16, num_classes=sum(classes.values()), num_frames=4)
    return "tadaconv_3d", theirs, lambda _: ours()


LAYOUTS: dict[str, Layout] = {
    "tsn r18": small_resnet("c2d_r18", bottleneck=False),
    "tsn r50": small_resnet("c2d_r50", bottleneck=True),
    "tsm r50": small_resnet("tsm_r50", bottleneck=True, shift=1),
    "tsm r101": small_resnet("tsm_r101", bottleneck=True, shift=2),
    **{f"tsm {mode}": small_resnet("tsm_r50", bottleneck=True, shift=1, mode=mode) for mode in MODES},
    "tsm mobilenetv2": (
        "mmaction2_mobilenet",
        lambda: plain.MMARecognizer(plain.MMAMobileNetV2(), 5, average_logits=True),
        lambda _: zoo.create("tsm_mobilenetv2", num_classes=5, num_frames=4),
    ),
    "tsn resnext": (
        "mmaction2_resnext",
        lambda: plain.MMARecognizer(plain.ResNeXt((1, 1, 1, 1)), 5, average_logits=False),
        lambda _: small_resnext(),
    ),
    "vivit": small_vivit(linear=5),
    "vivit of two heads": small_vivit(linear1=3, linear2=4),
    "csn of two heads": small_resnet3d("csn", linear1=3, linear2=4),
    "r2d3d": small_resnet3d("r2d3d", out=5),
    "r2plus1d": small_resnet3d("r2plus1d", out=5),
    "r2plus1d of mosi": small_resnet3d("r2plus1d", out_joint=9),
}


def official(network: nn.Module) -> dict[str, Tensor]:
    """Return tensors for the publisher's keys, from the formula of the golden files."""
    state = network.state_dict()
    return gw.state_dict_for([key, value.shape, str(value.dtype)] for key, value in state.items())


@pytest.mark.parametrize("name", LAYOUTS)
def test_converted_files_have_the_publishers_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    converter, make_theirs, make_ours = LAYOUTS[name]
    theirs, ours = make_theirs().double().eval(), make_ours(monkeypatch).double().eval()
    tensors = official(theirs)
    theirs.load_state_dict(tensors)
    conversion = apply_rules(CONVERTERS[converter], tensors)
    assert not conversion.unknown and not conversion.ignored
    ours.load_state_dict(conversion.tensors)
    clips = torch.from_numpy(gw.clip_for(f"input:{name}", 2, 4, 32, 32)).double()
    with torch.no_grad():
        expected = theirs(clips)
        assert expected.std() > 1e-3  # clips and classes are distinguishable
        torch.testing.assert_close(ours(clips), expected, rtol=1e-9, atol=1e-9)


# full size, on the meta device -----------------------------------------------------------------------------------


def published_network(entry: zoo.index.Entry) -> nn.Module:
    """Return the publisher's network of an entry."""
    kind, _, host = entry.arch.partition("_")
    options, heads = entry.options, dict(entry.protocol.heads)
    classes = {f"linear{n}": count for n, count in enumerate(heads.values(), 1)}
    if entry.arch == "vivit_b16":
        backbone = plain.FactorizedViT(options["num_frames"], options["image_size"], 16, 768, (12, 4), 12)
        return plain.WithHeads(backbone, 768, **(classes or {"linear": options["num_classes"]}))
    if kind in plain.RESNETS_3D:
        resnet = plain.PlainResNet3d(kind)
        return plain.WithHeads(resnet, resnet.out_channels, **(classes or {"out": options["num_classes"]}))
    network: Any
    if host == "mobilenetv2":
        network = plain.MMAMobileNetV2()
    elif host == "resnext101":
        network = plain.ResNeXt(RESNETS[101][0])
    else:
        shift = options.get("op_options", {}).get("every", 1) if kind == "tsm" else 0
        mode = options.get("non_local", {}).get("mode")
        network = plain.MMAResNet(*RESNETS[int(host[1:])], 64, shift, mode)
    return plain.MMARecognizer(network, options["num_classes"], average_logits=kind == "tsm")


NEW = [
    *zoo.list_models("*.mma0_*", arch="tsm_*"), *zoo.list_models("*.mma0_*", arch="c2d_*"),
    *zoo.list_models("*.mma_*", arch="tsm_*"), *zoo.list_models("*.mma_*", arch="c2d_*"),
    *zoo.list_models("vivit_*"), *zoo.list_models("csn_*"), *zoo.list_models("*.mosi_*"),
]  # fmt: skip


def layers_of(name: str) -> str:
    """Return a text that is the same for entries that differ only in their numbers of frames and classes."""
    entry = zoo.info(name)
    options = {key: value for key, value in entry.options.items() if key not in ("num_frames", "num_classes")}
    return f"{entry.arch} {json.dumps(options)} {bool(entry.protocol.heads)}"


ONE_PER_NETWORK = {layers_of(name): name for name in NEW}


@pytest.mark.parametrize("name", ONE_PER_NETWORK.values())
def test_published_keys_and_shapes_are_those_of_the_network(name: str) -> None:
    entry = zoo.info(name)
    with torch.device("meta"):
        state = published_network(entry).state_dict()
    assert entry.converter is not None
    conversion = apply_rules(CONVERTERS[entry.converter], state)
    assert not conversion.unknown
    ours = build_on_meta(entry.arch, **entry.options).state_dict()
    assert {key: value.shape for key, value in conversion.tensors.items()} == {k: v.shape for k, v in ours.items()}


OF_ANOTHER_FILE = {  # whose published sizes are those of another network
    "c2d_r18.mma0_hvu_concept_8f": "c2d_r18.mma0_hvu_object_8f",
}
SYNCHRONIZED = "c2d_r50.mma0_ssv1_"  # trained with synchronized batch norms, which MMAction2 does not count


@functools.cache
def counts_per_frame(layers: str, size: int) -> dict[str, int]:
    """Count the operations of a backbone for one frame, as MMAction2's tool does: by kind of layer."""
    counts = {"conv": 0, "norm": 0, "other": 0}

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            positions = output.numel() // output.shape[1]
            counts["conv"] += positions * module.weight.numel() + (output.numel() if module.bias is not None else 0)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            counts["norm"] += 2 * output.numel()
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            counts["other"] += output.numel()
        elif isinstance(module, nn.MaxPool2d | nn.MaxPool3d | nn.AdaptiveAvgPool2d):
            counts["other"] += args[0].numel()

    with torch.device("meta"):
        network = published_network(zoo.info(ONE_PER_NETWORK[layers])).eval()
        for module in network.modules():
            module.register_forward_hook(count)
        network(torch.empty(1, 3, 1, size, size))
    return counts


def test_published_sizes_are_accounted_for_exactly() -> None:
    """Parameters, and multiply-accumulates including those of norms, activations and pooling."""
    with (GOLDEN / "mmaction2_sizes.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert len(rows) == 77
    for name, row in rows.items():
        counted = zoo.info(OF_ANOTHER_FILE.get(name, name))
        assert counted.params == int(row["params"]), name
        stated = zoo.info(name).stated
        assert stated is not None
        frames, size, _ = map(int, stated.input.split("x"))
        counts = counts_per_frame(layers_of(counted.name), size)
        features = 1280 if "mobilenet" in counted.arch else 512 if counted.arch.endswith("r18") else 2048
        times = frames if counted.arch.startswith("tsm") else 1  # TSM classifies every frame
        classifier = times * features * counted.options["num_classes"]
        skipped = counts["norm"] if name.startswith(SYNCHRONIZED) else 0
        assert frames * (sum(counts.values()) - skipped) + classifier == int(row["flops"]), name
        assert (stated.params_m, stated.gmacs) == (
            round(int(row["params"]) / 1e6, 3),
            round(int(row["flops"]) / 1e9, 3),
        ), name


# files -----------------------------------------------------------------------------------------------------------


def distilled(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a file of a distillation: the student next to its teacher."""
    student = {f"architecture.{key}": value for key, value in tensors.items()}
    return {"state_dict": {**student, "teacher.backbone.conv1.conv.weight": torch.zeros(2)}, "meta": {"epoch": 100}}


FILES: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "tsm_mobilenetv2.mma0_k400_dense_8f": lambda tensors: {"state_dict": tensors, "meta": {}},
    "tsm_mobilenetv2.mma_kd_k400_8f": distilled,
    "r2plus1d_r10.mosi_hmdb51_16f": lambda tensors: {"model_state": tensors, "epoch": 99, "cfg": "{}"},
}


@pytest.mark.parametrize("name", FILES)
def test_published_files_load_adapt_and_save(name: str, tmp_path: Path) -> None:
    entry = zoo.info(name)
    tensors = published_network(entry).state_dict()
    if "mosi" in name:
        tensors = {key.replace("head.out.", "head.out_joint."): value for key, value in tensors.items()}
    torch.save(FILES[name](tensors), tmp_path / "file.pth")
    network = zoo.load(name, weights=tmp_path / "file.pth")
    assert network.report.as_trained and network.spec.protocol == entry.protocol
    again = zoo.load(zoo.save(network, tmp_path / "saved"), num_classes=3, num_frames=4)
    assert set(again.report.initialized) == {f"{again.head_prefix}weight", f"{again.head_prefix}bias"}
    clips = torch.randn(1, 3, 4, 32, 32)
    network.reset_classifier(0)
    again.reset_classifier(0)
    with torch.no_grad():
        assert torch.equal(again(clips), network(clips))


def test_both_heads_of_a_file_become_one_classifier() -> None:
    tensors = {"head.linear1.weight": torch.zeros(2, 4), "head.linear2.weight": torch.ones(3, 4)}
    for order in (list(tensors), list(tensors)[::-1]):
        conversion = apply_rules(CONVERTERS["tadaconv"], {key: tensors[key] for key in order})
        assert conversion.tensors["fc.weight"].mean(1).tolist() == [0, 0, 1, 1, 1]
    mixed = {**tensors, "head.linear.weight": torch.zeros(5, 4)}
    assert apply_rules(CONVERTERS["tadaconv"], mixed).unknown == ["head.linear.weight"]
