"""TAdaConv and TAM as plug-ins of 3D networks: SlowOnly, SlowFast, R(2+1)D, R3D.

Sources: TAdaConv, arXiv 2110.06178, section 4.3 and its table of base networks; TAM instead of the 3 x 1 x 1
convolutions of SlowFast, arXiv 2005.06803. Fine-tuning starts from the published weights of the 3D network, or from
image ResNets for SlowOnly and for R3D, which has none. With TAdaConv, the initial network equals the 3D network.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.models.network import VideoNetwork
from zoo.models.pytorchvideo import SLOW, PTVNet, PTVSlowFast
from zoo.ops import TAM, TAdaConv3d
from zoo.ops.frames import fold_frames, unfold_frames

PARTS = {"2d": ("conv_xy",), "2d+1d": ("conv_xy", "conv_t")}  # R(2+1)D's 1x3x3 convolutions; also its 3x1x1 ones


class _TAdaConvs(VideoNetwork):
    """Base of 3D networks in which some convolutions are replaced by TAdaConvs.

    Args:
        adapted: attribute names of the replaced convolutions.
        routing: options of the routing functions.
        host: positional arguments of the host, ``options`` its others.
    """

    def __init__(
        self, *host: Any, adapted: Sequence[str] = ("conv_b",), routing: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(*host, **options)
        for parent in list(self.modules()):
            for name, conv in list(parent.named_children()):
                if name in adapted and isinstance(conv, nn.Conv3d):
                    setattr(parent, name, _adaptive(conv, routing or {}))

    def operator_keys(self) -> set[str]:
        """Return the state-dict keys of the routing functions."""
        return {key for key in self.state_dict() if ".routing." in key}


def _adaptive(conv: nn.Conv3d, routing: Mapping[str, Any]) -> TAdaConv3d:
    """Build a TAdaConv with the parameters of ``conv``."""
    sizes = {"stride": conv.stride, "padding": conv.padding, "bias": conv.bias is not None}
    adaptive = TAdaConv3d(conv.in_channels, conv.out_channels, conv.kernel_size, **sizes, **routing)
    adaptive.weight, adaptive.bias = conv.weight, conv.bias
    return adaptive


class TAdaNet(_TAdaConvs, PTVNet):
    """A single-pathway network with TAdaConvs."""


class TAdaSlowFast(_TAdaConvs, PTVSlowFast):
    """SlowFast with TAdaConvs in both pathways."""


def r2plus1d_tada(*, parts: str = "2d", **options: Any) -> TAdaNet:
    """R(2+1)D with TAdaConvs.

    Args:
        parts: convolutions to replace: "2d", the 1 x 3 x 3 ones, or "2d+1d", also the 3 x 1 x 1 ones.
    """
    if parts not in PARTS:
        raise ConfigError(f"parts is {parts!r}; choose from {', '.join(PARTS)}.")
    return TAdaNet("r2plus1d", "create_r2plus1d", {}, adapted=PARTS[parts], **{"num_frames": 16, **options})


class ActivationTAM(nn.Module):
    """An activation followed by TAM, on clips."""

    def __init__(self, activation: nn.Module, tam: TAM) -> None:
        super().__init__()
        self.activation, self.tam = activation, tam

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` -> same shape."""
        frames = x.shape[2]
        return unfold_frames(self.tam(fold_frames(self.activation(x)), frames), frames)


class TAMSlowFast(PTVSlowFast):
    """SlowFast with TAM instead of its 3 x 1 x 1 convolutions, of which the middle tap remains.

    TAM follows the norm and activation of the convolution, as in TANet. Each TAM has the number of frames of its
    pathway; loading with another number of frames resamples them.

    Args:
        num_frames: T of the fast pathway.
        hidden: widths of the hidden layers of TAM's global branches, in the slow and the fast pathway; by default
            twice the pathway's frames.
        op_options: other options of TAM, e.g. ``{"kernel_size": 5}``.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_frames: int = 32,
        hidden: Sequence[int] | None = None,
        op_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(depth, num_frames=num_frames, **options)
        if hidden is not None and len(hidden) != 2:
            raise ConfigError(
                f"hidden is {hidden}; it must have two widths, for the TAMs of the slow and of the fast pathway."
            )
        self.pointwise: list[str] = []
        for name, block in list(self.net.named_modules()):
            if not isinstance(conv := getattr(block, "conv_a", None), nn.Conv3d) or conv.kernel_size != (3, 1, 1):
                continue
            fast = ".multipathway_blocks.1." in name
            frames = num_frames if fast else num_frames // self.alpha
            tam = TAM(conv.out_channels, frames, hidden=hidden[fast] if hidden else None, **(op_options or {}))
            block.act_a = ActivationTAM(block.act_a, tam)
            block.conv_a = nn.Conv3d(conv.in_channels, conv.out_channels, 1, bias=False)
            block.conv_a.weight = nn.Parameter(conv.weight[:, :, 1:2].detach().clone())
            self.pointwise.append(f"net.{name}.conv_a.weight")

    def operator_keys(self) -> set[str]:
        """Return the state-dict keys of the TAM modules."""
        return {key for key in self.state_dict() if ".act_a.tam." in key}

    def options_for_frames(self, options: dict[str, Any], num_frames: int) -> dict[str, Any]:
        """Return the options for another number of frames, with the same hidden widths."""
        widths = {
            ".multipathway_blocks.1." in name: module.options_for_frames()["hidden"]
            for name, module in self.frame_sized_modules().items()
        }
        options = dict(options, num_frames=num_frames)
        return options | {"hidden": [widths[False], widths[True]]} if widths else options

    def adapt_image(self, tensors: dict[str, Tensor]) -> list[str]:
        """Reduce the convolutions of a published SlowFast that TAM replaces to their middle tap, in place."""
        keys = [key for key in self.pointwise if key in tensors and tensors[key].shape[2:3] == (3,)]
        for key in keys:
            tensors[key] = tensors[key][:, :, 1:2]
        return keys


_R3D = {"stage_conv_a_kernel_size": (1, 1, 1), "stage_conv_b_kernel_size": (3, 3, 3)}

slowonly_tada = functools.partial(TAdaNet, "resnet", "create_resnet", SLOW)
r3d = functools.partial(PTVNet, "resnet", "create_resnet", _R3D)
r3d_tada = functools.partial(TAdaNet, "resnet", "create_resnet", _R3D)
