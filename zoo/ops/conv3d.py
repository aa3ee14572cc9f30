"""3D convolutions with correct gradients in bfloat16 on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Sequence[int] = (0, 0, 0),
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Compute ``F.conv3d``; the arguments are the same, but ``padding`` has three numbers.

    If a clip has fewer frames than the kernel has taps, the gradient of the kernel in bfloat16 on a CPU consists of
    arbitrary values, and can crash the process (PyTorch 2.14 with oneDNN). Frames of zeros prevent this.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled() and 1 < x.shape[2] < weight.shape[2]:
        x, padding = F.pad(x, (0, 0, 0, 0, padding[0], padding[0])), (0, *padding[1:])
    return F.conv3d(x, weight, bias, stride, padding, dilation, groups)


class Conv3d(nn.Conv3d):
    """``nn.Conv3d`` that computes with ``conv3d``."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(input, weight, bias)
        return conv3d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def use_conv3d(network: nn.Module) -> None:
    """Turn every ``nn.Conv3d`` of a network into a ``Conv3d``."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = Conv3d
