"""Temporal operators. Each takes folded frames ``(B*T, C, H, W)`` and the number of frames ``T``."""

from zoo.ops.inflated import InflatedConv2d
from zoo.ops.non_local import NonLocal
from zoo.ops.operator import OPERATORS, BlockModules, BlockPosition, FrameSized, Operator, register_operator
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
from zoo.ops.temporal_conv import TemporalConv
from zoo.ops.temporal_pool import TemporalPool

__all__ = [
    "OPERATORS",
    "STAM",
    "TAM",
    "BlockModules",
    "BlockPosition",
    "FrameSized",
    "InflatedConv2d",
    "NonLocal",
    "Operator",
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
    "register_operator",
    "stha_conv2d",
    "tada_conv2d",
    "tada_conv3d",
]
