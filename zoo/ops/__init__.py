"""Temporal operators. Each takes folded frames ``(B*T, C, H, W)`` and the number of frames ``T``."""

from zoo.ops.tadaconv import RouteMLP, TAdaConv2d, TAdaConvBN, tada_conv2d, tada_conv3d
from zoo.ops.tam import TAM

__all__ = ["TAM", "RouteMLP", "TAdaConv2d", "TAdaConvBN", "tada_conv2d", "tada_conv3d"]
