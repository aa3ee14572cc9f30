"""Stand-ins: modules that replace a convolution of an image network, with the same keys and tensors plus an operator.

The image network calls its convolutions with one argument. Therefore the number of frames is an attribute, which the
video network sets. Each operator registers its own stand-in (see ``zoo.ops.operator``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.ops.operator import OPERATORS


class StandIn:
    """Base of all stand-ins, which are called with folded frames.

    Attributes:
        num_frames: T of the clips that are folded into the batch.
    """

    num_frames: int = 1

    def adopt(self, conv: nn.Conv2d) -> None:
        """Use the parameters of the replaced convolution."""
        self.weight, self.bias = conv.weight, conv.bias


class CalibratedConv2d(StandIn):
    """Base of stand-ins that are convolutions with an argument ``num_frames``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        return super().forward(x, self.num_frames)  # type: ignore[misc]


class OperatorConv2d(StandIn, nn.Conv2d):
    """An operator that preserves the shape, followed by the host's convolution.

    Args:
        temporal: the operator, called with ``(x, num_frames)``.
        conv: options of ``nn.Conv2d``.
    """

    def __init__(self, *shape: Any, temporal: nn.Module, **conv: Any) -> None:
        super().__init__(*shape, **conv)
        self.temporal = temporal

    def forward(self, x: Tensor) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        return super().forward(self.temporal(x, self.num_frames))


def pad_frames(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Pad frames as the convolution does; returns them with the zero padding left to a functional convolution."""
    if not isinstance(conv.padding, str) and conv.padding_mode == "zeros":
        return x, conv.padding
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, conv._reversed_padding_repeated_twice, mode), (0, 0)


def replace_conv(
    kind: Callable[..., nn.Conv2d], conv: nn.Conv2d, num_frames: int, shape: Mapping[str, Any], **options: Any
) -> nn.Conv2d:
    """``Operator.stand_in`` that replaces ``conv`` by a convolution of class ``kind`` and the same shape."""
    return kind(conv.in_channels, conv.out_channels, conv.kernel_size, **shape, **options)


def insert_before(
    build: Callable[..., nn.Module], conv: nn.Conv2d, num_frames: int, shape: Mapping[str, Any], **options: Any
) -> nn.Conv2d:
    """``Operator.stand_in`` that inserts ``build(channels, num_frames, **options)`` before the convolution."""
    temporal = build(conv.in_channels, num_frames, **options)
    return replace_conv(OperatorConv2d, conv, num_frames, shape, temporal=temporal)


def stand_in(op: str, conv: nn.Conv2d, num_frames: int, **options: Any) -> nn.Conv2d:
    """Build the stand-in of a convolution, with its shape, parameters, dtype, device and mode.

    Args:
        op: name of a registered operator with a ``stand_in``.
        conv: the convolution of the image network.
        num_frames: T of the clips.
        options: of the operator.

    Raises:
        ConfigError: an option that the operator does not have, or a convolution that it does not support.
    """
    padding = conv.padding
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    if isinstance(padding, str) and (left, top) == (right, bottom):
        padding = (top, left)  # "same" of an even kernel differs between the two sides and stays a string
    shape = {
        "stride": conv.stride,
        "padding": padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
    }
    build = OPERATORS[op].stand_in
    assert build is not None
    try:
        module: Any = build(conv, num_frames, shape, **options)
    except ConfigError:  # its message names the option
        raise
    except TypeError as error:
        raise ConfigError(f"the operator {op!r} cannot be built with {options}: {error}") from error
    module.padding_mode = conv.padding_mode
    module._reversed_padding_repeated_twice = conv._reversed_padding_repeated_twice
    module.to(conv.weight.device, conv.weight.dtype)
    module.adopt(conv)
    module.num_frames = num_frames
    return module.train(conv.training)
