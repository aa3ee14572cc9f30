"""Feature maps of a network's stages, as of timm's ``features_only=True``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.models.network import Feature, VideoNetwork
from zoo.protocol import Protocol
from zoo.spec import ModelSpec
from zoo.text import brief

if TYPE_CHECKING:
    from zoo.adapt import LoadReport


class FeatureInfo(list[Feature]):
    """Stages in the order of the feature maps."""

    def channels(self) -> list[int]:
        """Channels of each feature map."""
        return [stage.num_chs for stage in self]

    def reduction(self) -> list[int]:
        """Factor between the height and width of a clip and those of each feature map."""
        return [stage.reduction for stage in self]


class FeatureExtractor(nn.Module):
    """A network without a classifier that returns the feature maps of its stages.

    Every map is ``(B, C, T', H', W')``: C and H' follow from ``feature_info``; T' is smaller than T in networks that
    reduce the number of frames. In vision transformers every block is a stage, and its patch tokens are the map, before
    the last norm. In SlowFast, the maps are those of the slow pathway. In an image network of ``temporalize``, there is
    one stage for every resolution.

    Args:
        network: its classifier is removed.
        out_indices: positions of the stages in ``network.feature_info``, negative ones from the end; None: all.

    Attributes:
        network: the network; ``zoo.save`` and ``zoo.push`` save it.
        feature_info: module name, channels and reduction of each stage.
    """

    def __init__(self, network: VideoNetwork, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        stages = network.feature_info
        if out_indices is None:
            out_indices = range(len(stages))
        valid = range(-len(stages), len(stages))
        if isinstance(out_indices, str) or not out_indices or not all(index in valid for index in out_indices):
            raise ConfigError(
                f"out_indices is {brief(out_indices)}; it must be a list of integers from {valid[0]} to {valid[-1]}."
            )
        network.reset_classifier(0)
        self.network = network
        self.feature_info = FeatureInfo(stages[index] for index in out_indices)
        self.train(network.training)

    @property
    def spec(self) -> ModelSpec:
        """Spec of the network."""
        return self.network.spec

    @property
    def protocol(self) -> Protocol:
        """Protocol of the network."""
        return self.network.protocol

    @property
    def report(self) -> LoadReport | None:
        """Load report of the network."""
        return self.network.report

    def forward(self, x: Tensor) -> list[Tensor]:
        """Clips ``(B, C, T, H, W)``, normalized floats -> a feature map ``(B, C', T', H', W')`` of each stage."""
        return stage_maps(self.network, x, self.feature_info)


def stage_maps(network: VideoNetwork, clips: Tensor, stages: Sequence[Feature]) -> list[Tensor]:
    """Feature maps ``(B, C', T', H', W')`` of some stages of a network, for clips ``(B, C, T, H, W)``.

    Args:
        stages: of ``network.feature_info``.
    """
    maps: dict[str, Tensor] = {}

    def store(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            maps[name] = as_feature_map(output, len(clips))

        return hook

    # registered for this call only, so that copies of the network do not share hooks
    handles = []
    for stage in stages:
        module = network.get_submodule(stage.module)
        if isinstance(module, nn.ModuleList):  # is not called itself
            module = module[-1]
        handles.append(module.register_forward_hook(store(stage.module)))
    try:
        network.forward_features(clips)
    finally:
        for handle in handles:
            handle.remove()
    return [maps[stage.module] for stage in stages]


def as_feature_map(output: Any, batch: int) -> Tensor:
    """Convert the output of a stage to ``(B, C, T, H, W)``.

    Args:
        output: ``(B, C, T, H, W)``; folded frames ``(B*T, C, H, W)``; tokens ``(B*T, 1 + H*W, C)`` with H = W; or
            tokens ``(B, 1 + T*H*W, C)`` with their (T, H, W).
        batch: B.
    """
    if isinstance(output, tuple):
        tokens, shape = output
        return tokens[:, 1:].transpose(1, 2).unflatten(2, tuple(shape))
    if output.ndim == 5:
        return output
    if output.ndim == 3:
        side = math.isqrt(output.shape[1] - 1)
        output = output[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    return output.unflatten(0, (batch, -1)).transpose(1, 2)
