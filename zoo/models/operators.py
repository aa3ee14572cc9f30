"""Which operator goes where in a residual block.

To add an operator: write its module in a file of ``zoo/ops`` and add a line to ``OPERATORS`` here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError, check_counts
from zoo.ops import (
    TAM,
    InflatedConv2d,
    NonLocal,
    TAdaConv2dV2,
    TAdaConvBN,
    TEIModule,
    TemporalConv,
    TemporalPool,
    TemporalShift,
)
from zoo.ops.stam import STAM


class ConvBN(nn.Module):
    """Convolution without bias and batch norm, frame by frame."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(N, C_in, H, W)`` -> ``(N, C_out, H', W')``; no activation."""
        return self.bn(self.conv(x))


class InflatedConvBN(nn.Module):
    """Convolution over three frames and batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = InflatedConv2d(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``; no activation."""
        return self.bn(self.conv(x, num_frames))


@dataclass(frozen=True)
class Place:
    """A residual block: its stage (2 to 5, as in "res2"), its number there, and how many blocks the stage has."""

    stage: int
    index: int
    count: int
    num_frames: int


@dataclass(frozen=True)
class BlockOperator:
    """What a block has instead of, or beside, its plain convolutions. All modules are called ``(x, num_frames)``.

    first_conv, spatial_conv: ``(in, out, kernel, stride) -> module`` for the block's first convolution, and for its
        3x3 ones; each stands for convolution and batch norm.
    temporal: ``(channels) -> module``, added at ``position``: before conv1 (on the residual branch), after conv1 and
        its ReLU, after conv2 and its ReLU, or after conv3 (before the sum).
    """

    first_conv: Callable[[int, int, int, int], nn.Module] | None = None
    spatial_conv: Callable[[int, int, int, int], nn.Module] = ConvBN
    temporal: Callable[[int], nn.Module] | None = None
    position: str = "after_conv1"


POSITIONS = ("before_conv1", "after_conv1", "after_conv2", "after_conv3")


def _none(place: Place) -> BlockOperator:
    return BlockOperator()


def _tadaconv(place: Place, **options: Any) -> BlockOperator:
    return BlockOperator(spatial_conv=lambda *conv: TAdaConvBN(*conv, **options))


def _tadaconv_v2(place: Place, **options: Any) -> BlockOperator:
    return BlockOperator(spatial_conv=lambda *conv: TAdaConvBN(*conv, operator=TAdaConv2dV2, **options))


def _stam(place: Place, **options: Any) -> BlockOperator:
    return BlockOperator(spatial_conv=lambda *conv: STAM(*conv, **options))


def _tam(place: Place, style: str = "b", **options: Any) -> BlockOperator:
    if style not in ("a", "b", "c", "d"):
        raise ConfigError(f"style is {style!r}; TAM goes before conv1 (a), or after conv1, 2 or 3 (b, c, d).")
    position = POSITIONS["abcd".index(style)]
    return BlockOperator(temporal=lambda channels: TAM(channels, place.num_frames, **options), position=position)


def _pool(place: Place, **options: Any) -> BlockOperator:
    return BlockOperator(temporal=lambda channels: TemporalPool(**options))


def _tconv(place: Place, **options: Any) -> BlockOperator:
    return BlockOperator(temporal=lambda channels: TemporalConv(channels, **options))


def _tsm(place: Place, every: int = 1, **options: Any) -> BlockOperator:
    check_counts(every=every)
    if place.index % every:  # the published ResNet-101 shifts in every second block
        return BlockOperator()
    return BlockOperator(temporal=lambda channels: TemporalShift(**options), position="before_conv1")


def _tei(place: Place, **options: Any) -> BlockOperator:
    return BlockOperator(temporal=lambda channels: TEIModule(channels, **options))


def _i3d(place: Place) -> BlockOperator:
    return BlockOperator(first_conv=InflatedConvBN)


OPERATORS: dict[str, Callable[..., BlockOperator]] = {
    "none": _none,
    "tadaconv": _tadaconv,
    "tadaconv_v2": _tadaconv_v2,
    "tam": _tam,
    "stam": _stam,
    "pool": _pool,
    "tconv": _tconv,
    "tsm": _tsm,
    "tei": _tei,
    "i3d": _i3d,
}


def non_local_block(place: Place, blocks: Sequence[Sequence[int]] | None = None, **options: Any) -> Callable | None:
    """``(channels) -> NonLocal`` for behind this block, or None.

    Args:
        blocks: numbers, from 0, of the blocks in each of the four stages. Default: five blocks, two spread over res3
            and three over res4 (arXiv 1711.07971, section 5.1); a ResNet-18 has only four there.
        options: of NonLocal.
    """
    if blocks is None:
        wanted = {3: 2, 4: 3}.get(place.stage, 0)
        here = [place.count * (k + 1) // wanted - 1 for k in range(wanted)]
    else:
        if len(blocks) != 4 or not all(isinstance(i, int) and 0 <= i < place.count for i in blocks[place.stage - 2]):
            raise ConfigError(
                f"non_local blocks is {blocks}; give four lists of block numbers, in stage {place.stage} each below "
                f"{place.count}."
            )
        here = list(blocks[place.stage - 2])
    if place.index not in here:
        return None
    return lambda channels: NonLocal(channels, **options)
