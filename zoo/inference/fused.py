"""Copies of networks that share parameters with the original, plain or fused."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.network import VideoNetwork
from zoo.wrappers import unwrap_children


def shared_copy(network: VideoNetwork, device: torch.device | str | None = None) -> VideoNetwork:
    """Return a copy of a network in evaluation mode, without compiled submodules; the network does not change.

    Args:
        device: device of the copy; default: that of the network, whose memory the copy then uses for its parameters.
    """
    memo: dict[int, Any] = {}  # deepcopy uses these tensors instead of copying the network's
    for tensor in (*network.parameters(), *network.buffers()):
        value = tensor.detach() if device is None else tensor.detach().to(device)
        memo[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
    copied: Any = unwrap_children(copy.deepcopy(network, memo))
    return copied.eval()


def fused_copy(network: VideoNetwork, device: torch.device | str | None = None) -> VideoNetwork:
    """Return a fused copy of a network in evaluation mode, without compiled submodules; the network does not change.

    Args:
        device: device of the copy; default: that of the network, whose memory the copy then uses for all parameters
            that fusion does not change.
    """
    return shared_copy(network, device).fuse()


class WeightVersions:
    """Detects that weights or statistics of a network were changed in place, for example by training.

    Args:
        network: its tensors at this moment are watched.
    """

    def __init__(self, network: VideoNetwork) -> None:
        self.network = network
        tensors = (*network.parameters(), *network.buffers())
        self._tensors: list[Tensor] = [tensor for tensor in tensors if not tensor.is_inference()]  # have no version
        self._versions = self._read()

    def _read(self) -> list[int]:
        return [tensor._version for tensor in self._tensors]

    def changed(self) -> bool:
        """Whether a tensor was changed since the last call."""
        versions, self._versions = self._versions, self._read()
        return versions != self._versions
