"""Stand-ins for the convolutions of an image network: same keys and tensors, plus an operator over frames.

The image network calls its convolutions with one argument, so the frame count is an attribute that the video network
sets. Each operator registers its own stand-in (see ``zoo.ops.operator``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.ops.operator import OPERATORS


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


def pad_frames(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Frames padded as the convolution does, and the zero padding that is left for a functional convolution."""
    if not isinstance(conv.padding, str) and conv.padding_mode == "zeros":
        return x, conv.padding
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, conv._reversed_padding_repeated_twice, mode), (0, 0)


def replace_conv(
    kind: Callable[..., nn.Conv2d], conv: nn.Conv2d, num_frames: int, shape: Mapping[str, Any], **options: Any
) -> nn.Conv2d:
    """A ``stand_in`` of an ``Operator``: a convolution of class ``kind`` with the shape of ``conv``."""
    return kind(conv.in_channels, conv.out_channels, conv.kernel_size, **shape, **options)


def insert_before(
    build: Callable[..., nn.Module], conv: nn.Conv2d, num_frames: int, shape: Mapping[str, Any], **options: Any
) -> nn.Conv2d:
    """A ``stand_in`` of an ``Operator``: ``build(channels, num_frames, **options)``, then the convolution."""
    temporal = build(conv.in_channels, num_frames, **options)
    return replace_conv(OperatorConv2d, conv, num_frames, shape, temporal=temporal)


def stand_in(op: str, conv: nn.Conv2d, num_frames: int, **options: Any) -> nn.Conv2d:
    """A convolution's stand-in with its shape, parameters, dtype, device and mode.

    Args:
        op: name of a registered operator that has a ``stand_in``.
        conv: the convolution of the image network.
        num_frames: T of the clips.
        options: of the operator.

    Raises:
        ConfigError: the operator lacks these options, or has no form for the convolution.
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
    except ConfigError:  # it names the option already
        raise
    except TypeError as error:
        raise ConfigError(f"the operator {op!r} cannot be built with {options}: {error}") from error
    module.padding_mode = conv.padding_mode
    module._reversed_padding_repeated_twice = conv._reversed_padding_repeated_twice
    module.to(conv.weight.device, conv.weight.dtype)
    module.adopt(conv)
    module.num_frames = num_frames
    return module.train(conv.training)
