"""The interface of temporal operators, and their registry.

To add an operator, write its module in one file and register an ``Operator`` at the end of that file. Everything
specific to the operator is declared there: its position in a residual block, its stand-in for a convolution of an image
network, and the layers whose size is the number of frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from zoo.errors import ConfigError

POSITIONS = ("before_conv1", "after_conv1", "after_conv2", "after_conv3")


@dataclass(frozen=True)
class BlockPosition:
    """A residual block: its stage (2 to 5, as in "res2"), its index in the stage, and the number of blocks there."""

    stage: int
    index: int
    count: int
    num_frames: int


ConvBuilder = Callable[[int, int, int, int], nn.Module]  # (in_channels, out_channels, kernel_size, stride)


@dataclass(frozen=True)
class BlockModules:
    """Modules that replace or extend the plain convolutions of a residual block; called with ``(x, num_frames)``.

    Attributes:
        first_conv, spatial_conv: builders of the block's first convolution and of its 3x3 convolutions, each with batch
            norm; None: the plain convolution.
        temporal: ``(channels) -> module``, added at ``position``.
        position: before conv1 (on the residual branch), after conv1 and its ReLU, after conv2 and its ReLU, or after
            conv3 (before the sum).
    """

    first_conv: ConvBuilder | None = None
    spatial_conv: ConvBuilder | None = None
    temporal: Callable[[int], nn.Module] | None = None
    position: str = "after_conv1"

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            raise ConfigError(f"position is {self.position!r}; choose from {', '.join(POSITIONS)}.")


@dataclass(frozen=True)
class Operator:
    """A temporal operator.

    Attributes:
        name: value of ``op`` in ``VideoResNet`` and ``temporalize``.
        block: ``(position, **options) -> BlockModules`` for one residual block of a ResNet.
        stand_in: ``(conv, num_frames, shape, **options) -> nn.Conv2d``, a ``StandIn`` for a convolution of an image
            network; None if ``temporalize`` does not support the operator.
        pools_time_first: the ResNet averages features over time before dropout and classifier, as the TAdaConv authors
            do; otherwise it classifies every frame and averages the logits.
        stem_pool: the published ResNets with this operator have a max-pooling layer after the stem; otherwise the first
            block has stride 2.
        classifier_std: initial values of the ResNet's classifier, see ``VideoNetwork``.
    """

    name: str
    block: Callable[..., BlockModules]
    stand_in: Callable[..., nn.Conv2d] | None = None
    pools_time_first: bool = False
    stem_pool: bool = True
    classifier_std: float | None = 0.01


@runtime_checkable
class FrameSized(Protocol):
    """A module with layers whose size may be the number of frames; they are resampled for another number."""

    num_frames: int

    def frame_sized_keys(self) -> tuple[str, ...]:
        """Keys of these layers in the module's state dict; empty if the module accepts any number of frames."""
        ...

    def resample(self, weight: Tensor) -> Tensor:
        """Adapt the weight of such a layer, trained with another number of frames, to this module."""
        ...

    def options_for_frames(self) -> dict[str, Any]:
        """Options with which a module for another number of frames can reuse this module's weights."""
        ...


OPERATORS: dict[str, Operator] = {}


def register_operator(operator: Operator) -> None:
    """Add an operator to the registry; its name becomes a value of ``op``.

    Raises:
        ConfigError: the name is already registered.
    """
    if operator.name in OPERATORS:
        raise ConfigError(f"An operator named {operator.name!r} is already registered; choose another name.")
    OPERATORS[operator.name] = operator


register_operator(Operator("none", block=lambda position: BlockModules()))
