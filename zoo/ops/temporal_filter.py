"""A fixed filter over three frames for every channel, with bias: two batch norms and an average as one operation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.ops.frames import check_frames, compiles_for_cpu, temporal_product


class TemporalFilter(nn.Module):
    """``z_t = taps_0 y_{t-1} + taps_1 y_t + taps_2 y_{t+1} + bias`` with zero padding.

    Args:
        taps: ``(C, 3)``.
        bias: ``(C,)``.
    """

    def __init__(self, taps: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.taps, self.bias = nn.Parameter(taps), nn.Parameter(bias)

    def forward(self, y: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        check_frames(y, num_frames)
        frames = y.unflatten(0, (-1, num_frames))  # (B, T, C, H, W)
        taps, bias = self.taps.to(y.dtype), self.bias.to(y.dtype)[:, None, None]  # autocast would widen the maps
        if compiles_for_cpu(y):
            return temporal_product(y, taps[None], num_frames) + bias
        previous, current, following = taps.T[..., None, None]  # (C, 1, 1) each
        z = torch.addcmul(bias, frames, current)
        z[:, 1:].addcmul_(frames[:, :-1], previous)
        z[:, :-1].addcmul_(frames[:, 1:], following)
        return z.flatten(0, 1)
