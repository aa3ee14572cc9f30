"""Static twins of the adaptive networks: the same network without its temporal operator, for comparisons of cost.

from benchmarks.twins import static_twin
twin = static_twin("tadaconvnextv2_tiny", num_frames=16)
"""

from __future__ import annotations

import functools
from typing import cast

from torch import Tensor, nn

from zoo.models import ARCHITECTURES, build
from zoo.models.convnext import ConvNeXtBlock, TAdaConvNeXt
from zoo.models.resnet import VideoResNet
from zoo.models.vit import TAdaBlock, TAdaFormer, TAdaFormerBlock
from zoo.ops.operator import OPERATORS


def static_twin(arch: str, **options: object) -> nn.Module:
    """Build the static twin of an architecture.

    The twin has the layers, the stem, the memory format and the code of its adaptive network, except for the operator:

    - Video ResNets (``tada2d_*``, ``tanet_*``, ``tsm_*``, ``stam_*``, ...): C2D with the same stem.
    - ``tadaconvnext*``: plain depthwise convolutions, no temporal aggregation.
    - ``tadaformer*``: no TAda blocks.

    Args:
        options: options of ``zoo.create`` for ``arch``. ``op_options`` and ``non_local`` are ignored.

    Raises:
        ValueError: architecture without a twin.
    """
    builder = cast(functools.partial, ARCHITECTURES[arch])
    family = getattr(builder, "func", None)
    if family is VideoResNet:
        options = {"stem_pool": OPERATORS[builder.args[0]].stem_pool} | options
        for option in ("op_options", "op_stages", "non_local"):
            options.pop(option, None)
        return build(f"c2d_{arch.rpartition('_')[2]}", **options)
    if family not in (TAdaConvNeXt, TAdaFormer):
        raise ValueError(f"{arch} has no static twin.")
    network = build(arch, **options)
    for module in list(network.modules()):
        if isinstance(module, ConvNeXtBlock):
            module.conv, module.pool_norm = FrameConv2d.like(cast(nn.Conv2d, module.conv)), None
        elif isinstance(module, TAdaFormerBlock):
            module.__class__ = StaticFormerBlock
            module.tada = module.tada2 = None
    return network


class FrameConv2d(nn.Conv2d):
    """A plain convolution that is called like the adaptive ones."""

    @classmethod
    def like(cls, conv: nn.Conv2d) -> FrameConv2d:
        """Create a convolution with the geometry and the parameters of ``conv``."""
        plain = cls(
            conv.in_channels,
            conv.out_channels,
            cast(tuple[int, int], conv.kernel_size),
            padding=cast(tuple[int, int], conv.padding),
            groups=conv.groups,
        )
        plain.weight, plain.bias = conv.weight, conv.bias
        return plain

    def forward(self, x: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        return super().forward(x)


class StaticFormerBlock(TAdaFormerBlock):
    """Transformer block of TAdaFormer without TAda blocks."""

    def _add_tada(self, tada: TAdaBlock, x: Tensor, num_frames: int, grid: int) -> Tensor:
        return x
