"""Small networks of every architecture family, for tests that are slow with large networks."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import VIT
from torch import Tensor, nn

import zoo
from zoo.models import resnet
from zoo.models.convnext import TAdaConvNeXt
from zoo.models.plugins import TAdaNet, TAdaSlowFast, TAMSlowFast
from zoo.models.pytorchvideo import PTVX3D, SLOW, PTVNet, PTVSlowFast
from zoo.ops import OPERATORS

Builder = Callable[[pytest.MonkeyPatch], nn.Module]
Shape = tuple[int, int, int, int, int]

SMALL: dict[str, Any] = {"width": 16, "num_classes": 4, "num_frames": 4, "drop_rate": 0.0}
BLOCKS = (1, 1, 0, 0)  # blocks per stage of a ResNet
SQUARE = (3, 3, 4, 32, 32)  # feature maps of 8 x 8 and 4 x 4 in a ResNet, a multiple of the vector width
STAND_INS = [name for name, operator in OPERATORS.items() if operator.stand_in]
ODD = (3, 3, 4, 33, 47)  # feature maps of 9 x 12 and 5 x 6


def build(family: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Build a network of a family, with random noise on all tensors, so that no branch is zero."""
    network = FAMILIES[family][0](monkeypatch)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator) - 0.5
                value += 0.5 * noise.abs() if name.endswith("running_var") else 0.2 * noise
    return network


def clips_for(family: str, count: int = 3) -> Tensor:
    """Random clips of the input size of a family."""
    return torch.randn(count, *FAMILIES[family][1][1:], generator=torch.Generator().manual_seed(1))


def resnet_of(arch: str, *blocks: int, **options: Any) -> Builder:
    """Return a builder of a ResNet with the given number of blocks per stage."""

    def make(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
        for depth, (bottleneck, _) in resnet.DEPTHS.items():
            monkeypatch.setitem(resnet.DEPTHS, depth, (bottleneck, blocks))
        return zoo.create(arch, **{**SMALL, **options})

    return make


def tam_of(**options: Any) -> Builder:
    return resnet_of("tanet_r50", *BLOCKS, op_options=options)


def host(op: str) -> nn.Module:
    """Convert a small image network with plain, strided, grouped and dilated convolutions to a video network."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 4, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding="same", groups=4), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 2, dilation=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip
    return zoo.temporalize(net, op, num_frames=4)


def shallow(make: Callable[[], nn.Module]) -> Builder:
    """Return a builder of a pytorchvideo network with one block per stage."""

    def build(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
        for module in ("resnet", "slowfast"):
            depths = importlib.import_module(f"pytorchvideo.models.{module}")._MODEL_STAGE_DEPTH
            for depth in depths:
                monkeypatch.setitem(depths, depth, (1, 1, 1, 1))
        return make()

    return build


def convnext(version: int, **options: Any) -> Builder:
    return lambda _: TAdaConvNeXt(version, (1, 1, 1, 1), **SMALL, layer_scale=0.5, **options)


def former(**options: Any) -> Builder:
    return lambda _: zoo.create("tadaformer_b16", **VIT, **options)


NON_LOCAL = [[], [0], [], []]
FAMILIES: dict[str, tuple[Builder, Shape]] = {
    "c2d": (resnet_of("c2d_r18", *BLOCKS), ODD),
    "c2d_pool": (resnet_of("c2d_pool_r18", *BLOCKS), ODD),
    "c2d_tconv": (resnet_of("c2d_tconv_r18", *BLOCKS), ODD),
    "i3d": (resnet_of("i3d_r50", *BLOCKS), ODD),
    "tsm": (resnet_of("tsm_r18", *BLOCKS), SQUARE),
    "tsm odd": (resnet_of("tsm_r50", *BLOCKS), ODD),
    "teinet": (resnet_of("teinet_r18", *BLOCKS), SQUARE),
    "teinet odd": (resnet_of("teinet_r50", *BLOCKS), ODD),
    "tanet": (resnet_of("tanet_r18", *BLOCKS), SQUARE),
    "tanet odd": (resnet_of("tanet_r50", *BLOCKS), ODD),
    "tanet a": (tam_of(style="a", kernel_size=5), SQUARE),
    "tanet c": (tam_of(style="c", branches="global"), SQUARE),
    "tanet d": (tam_of(style="d", branches="local"), SQUARE),
    "tanet global first": (tam_of(order="global_first"), SQUARE),
    "tanet squeeze": (tam_of(branches="global_se"), SQUARE),
    "tada2d": (resnet_of("tada2d_r18", *BLOCKS), SQUARE),
    "tada2d odd": (resnet_of("tada2d_r50", *BLOCKS), ODD),
    "tada2dv2": (resnet_of("tada2dv2_r18", *BLOCKS), SQUARE),
    "stam": (resnet_of("stam_r18", *BLOCKS), SQUARE),
    "stam odd": (resnet_of("stam_r50", *BLOCKS, op_options={"filters": "outer"}), ODD),
    "stam context": (resnet_of("stam_r18", *BLOCKS, op_options={"aggregation": "group_context"}), SQUARE),
    "nonlocal": (resnet_of("nonlocal_r18", *BLOCKS, non_local={"blocks": NON_LOCAL}), SQUARE),
    "nonlocal product": (
        resnet_of("nonlocal_r18", *BLOCKS, non_local={"blocks": NON_LOCAL, "mode": "dot_product"}), ODD,
    ),
    "tadaconvnext": (convnext(1), SQUARE),
    "tadaconvnext layer": (convnext(1, routing={"norm": "layer", "calibrate_bias": True}), ODD),
    "tadaconvnextv2": (convnext(2), SQUARE),
    "tadaformer": (former(), (3, 3, 4, 32, 32)),
    "tadaformer ssv2": (former(temporal_projection=True, double_tada=True), (3, 3, 7, 32, 32)),
    "vivit": (lambda _: zoo.create("vivit_b16", **VIT, temporal_depth=2), (3, 3, 4, 32, 32)),
    "csn": (lambda _: zoo.create("csn_r152", **SMALL), ODD),
    "r2plus1d": (lambda _: zoo.create("r2plus1d_r10", **SMALL), ODD),
    "ptv_slow": (shallow(lambda: PTVNet("resnet", "create_resnet", SLOW, **SMALL)), ODD),
    "ptv_i3d": (shallow(lambda: zoo.create("ptv_i3d_r50", **SMALL)), ODD),
    "ptv_slowfast": (shallow(lambda: PTVSlowFast(50, **SMALL)), ODD),
    "ptv_r2plus1d": (shallow(lambda: zoo.create("ptv_r2plus1d_r50", **SMALL)), ODD),
    "ptv_csn": (shallow(lambda: zoo.create("ptv_csn_r101", **SMALL)), ODD),
    "ptv_x3d": (lambda _: PTVX3D(64, 0.2, **SMALL), SQUARE),
    "slowonly_tada": (shallow(lambda: TAdaNet("resnet", "create_resnet", SLOW, **SMALL)), SQUARE),
    "slowfast_tada": (shallow(lambda: TAdaSlowFast(50, **SMALL)), ODD),
    "slowfast_tam": (shallow(lambda: TAMSlowFast(50, **SMALL)), SQUARE),
    "r2plus1d_tada": (shallow(lambda: zoo.create("r2plus1d_tada_r50", parts="2d+1d", **SMALL)), ODD),
    "r3d_tada": (shallow(lambda: zoo.create("r3d_tada_r50", **SMALL)), SQUARE),
    **{f"host {op}": (functools.partial(lambda op, _: host(op), op), SQUARE) for op in STAND_INS},
}  # fmt: skip
