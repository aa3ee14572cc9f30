"""Temporal operators. Each takes folded frames ``(B*T, C, H, W)`` and the number of frames ``T``."""

from zoo.ops.non_local import NonLocal
from zoo.ops.shift import TemporalShift
from zoo.ops.stam import STAM, STHAConv2d
from zoo.ops.stam_conv import stha_conv2d
from zoo.ops.tadaconv import (
    RouteMLP,
    TAdaAggregation,
    TAdaConv2d,
    TAdaConv3d,
    TAdaConvBN,
    tada_conv2d,
    tada_conv3d,
)
from zoo.ops.tadaconv_v2 import RouteTransformer, TAdaConv2dV2
from zoo.ops.tam import TAM
from zoo.ops.tei import TEIModule
from zoo.ops.temporal import InflatedConv2d, TemporalConv, TemporalPool

__all__ = [
    "STAM",
    "TAM",
    "InflatedConv2d",
    "NonLocal",
    "RouteMLP",
    "RouteTransformer",
    "STHAConv2d",
    "TAdaAggregation",
    "TAdaConv2d",
    "TAdaConv2dV2",
    "TAdaConv3d",
    "TAdaConvBN",
    "TEIModule",
    "TemporalConv",
    "TemporalPool",
    "TemporalShift",
    "stha_conv2d",
    "tada_conv2d",
    "tada_conv3d",
]
