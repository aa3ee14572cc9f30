"""Stand-ins for an image network's convolutions: its keys and tensors, and an operator over frames.

A host calls its convolutions with one argument, so the frame count is an attribute here, which the network sets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_odd
from zoo.ops import TAM, TAdaConv2d, TAdaConv2dV2, TEIModule, TemporalConv, TemporalPool, TemporalShift
from zoo.ops.stam import STHAConv2d
from zoo.ops.stam_conv import stha_conv2d
from zoo.ops.temporal import fold_frames, inflate, unfold_frames


class StandIn:
    """What all stand-ins have: the frame count of the folded frames that they are called with.

    Attributes:
        num_frames: T of the clips that are folded into the batch.
    """

    num_frames: int = 1

    def adopt(self, conv: nn.Conv2d) -> None:
        """Take over the parameters of the convolution this stands for."""
        self.weight, self.bias = conv.weight, conv.bias


class CalibratedConv2d(StandIn):
    """A convolution of the zoo, called like the host's own: ``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        return super().forward(x, self.num_frames)  # type: ignore[misc]


class TAdaStandIn(CalibratedConv2d, TAdaConv2d):  # type: ignore[misc]
    """TAdaConv, version 1."""


class TAdaV2StandIn(CalibratedConv2d, TAdaConv2dV2):  # type: ignore[misc]
    """TAdaConv, version 2."""


class STHAStandIn(StandIn, STHAConv2d):
    """STAM's convolution."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        calibration = self.routing(x, self.num_frames)
        x, padding = _pad_frames(self, x)
        y = stha_conv2d(x, calibration, self.weight, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)

    def extra_macs(self, x: Tensor) -> int:  # type: ignore[override]
        """Multiply-accumulates of the calibration, which runs value by value."""
        return super().extra_macs(x, self.num_frames)


class OperatorConv2d(StandIn, nn.Conv2d):
    """An operator of the same shape in and out, then the host's convolution.

    Args:
        temporal: called ``(x, num_frames)``.
        conv: options of ``nn.Conv2d``.
    """

    def __init__(self, *shape: Any, temporal: nn.Module, **conv: Any) -> None:
        super().__init__(*shape, **conv)
        self.temporal = temporal

    def forward(self, x: Tensor) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        return super().forward(self.temporal(x, self.num_frames))


class InflatedStandIn(StandIn, nn.Conv2d):
    """The host's convolution over ``frames`` frames, zeros at the ends; ``weight`` is ``(O, I, frames, kh, kw)``."""

    def __init__(self, *shape: Any, frames: int = 3, **conv: Any) -> None:
        check_odd("frames", frames)
        super().__init__(*shape, **conv)
        self.frames = frames

    def adopt(self, conv: nn.Conv2d) -> None:
        """Take over the parameters, the kernel spread evenly over the frames."""
        self.weight = nn.Parameter(inflate(conv.weight.detach(), self.frames), conv.weight.requires_grad)
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        x, padding = _pad_frames(self, x)  # time is always padded with zeros
        y = F.conv3d(
            unfold_frames(x, self.num_frames),
            self.weight,
            self.bias,
            (1, *self.stride),
            (self.frames // 2, *padding),
            (1, *self.dilation),
            self.groups,
        )
        return fold_frames(y)


def _pad_frames(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Frames, and what a function that only knows numbers of zeros has still to pad them with."""
    if not isinstance(conv.padding, str) and conv.padding_mode == "zeros":
        return x, conv.padding
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, conv._reversed_padding_repeated_twice, mode), (0, 0)


def _instead(kind: type[nn.Conv2d], conv: nn.Conv2d, num_frames: int, shape: Any, **options: Any) -> nn.Conv2d:
    return kind(conv.in_channels, conv.out_channels, conv.kernel_size, **shape, **options)  # type: ignore[arg-type]


def _before(operator: Callable[..., nn.Module], conv: nn.Conv2d, num_frames: int, shape: Any, **options: Any) -> Any:
    temporal = operator(conv.in_channels, num_frames, **options)
    return _instead(OperatorConv2d, conv, num_frames, shape, temporal=temporal)


STAND_INS: dict[str, Callable[..., nn.Conv2d]] = {
    "tadaconv": functools.partial(_instead, TAdaStandIn),
    "tadaconv_v2": functools.partial(_instead, TAdaV2StandIn),
    "stam": functools.partial(_instead, STHAStandIn),
    "tam": functools.partial(_before, TAM),
    "tsm": functools.partial(_before, lambda channels, num_frames, **options: TemporalShift(**options)),
    "tei": functools.partial(_before, lambda channels, num_frames, **options: TEIModule(channels, **options)),
    "pool": functools.partial(_before, lambda channels, num_frames, **options: TemporalPool(**options)),
    "tconv": functools.partial(_before, lambda channels, num_frames, **options: TemporalConv(channels, **options)),
    "i3d": functools.partial(_instead, InflatedStandIn),
}


def stand_in(op: str, conv: nn.Conv2d, num_frames: int, **options: Any) -> nn.Conv2d:
    """A convolution's stand-in with its shape, parameters, type, device and mode.

    Args:
        op: a key of ``STAND_INS``.
        num_frames: T of the clips.
        options: of the operator.

    Raises:
        ConfigError: options that the operator does not have, or a convolution that it has no form for.
    """
    padding = conv.padding
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    if isinstance(padding, str) and (left, top) == (right, bottom):
        padding = (top, left)  # "same" of an even kernel is not the same on both sides, and stays a word
    shape = {
        "stride": conv.stride,
        "padding": padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
    }
    try:
        made: Any = STAND_INS[op](conv, num_frames, shape, **options)
    except ConfigError:  # it names the option already
        raise
    except TypeError as error:
        raise ConfigError(f"the operator {op!r} cannot be built with {options}: {error}") from error
    made.padding_mode = conv.padding_mode
    made._reversed_padding_repeated_twice = conv._reversed_padding_repeated_twice
    made.to(conv.weight.device, conv.weight.dtype)
    made.adopt(conv)
    made.num_frames = num_frames
    return made.train(conv.training)
