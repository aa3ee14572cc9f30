"""The published Boundary-Matching Network in plain PyTorch: the publisher's key names and the dense sampling matrix."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


def dense_mask(length: int, durations: int, samples: int) -> Tensor:
    """Return the interpolation weights, float64 ``(length, samples, durations, length)``, one position at a time."""
    mask = np.zeros((length, samples, durations, length))
    for start in range(length):
        for index in range(min(durations, length - start)):
            for sample, cell, weight in reads(start, index, length, samples):
                mask[cell, sample, index, start] += weight
    return torch.from_numpy(mask)


def reads(start: int, index: int, length: int, samples: int) -> list[tuple[int, int, float]]:
    """Return sample, cell and weight of every read of a segment from ``start`` with ``index + 1`` cells."""
    margin = 0.5 * (index + 1)
    low, high = start - margin, start + index + margin
    step = (high - low) / (3 * samples - 1)
    result = []
    for number in range(3 * samples):
        position = low + step * number
        fraction, below = math.modf(position)  # rounds towards 0
        for cell, weight in ((int(below), 1 - fraction), (math.ceil(position), fraction)):
            if 0 <= cell < length:
                result.append((number // 3, cell, weight / 3))
    return result


class PlainBackbone(nn.Module):
    """Two grouped convolutions."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        first, second = nn.Conv1d(dim, width, 3, padding=1, groups=4), nn.Conv1d(width, width, 3, padding=1, groups=4)
        self.conv_layer = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_layer(x)


class PlainHead(nn.Module):
    """Boundaries, and the confidence of every segment by a product with the dense matrix and a 3D convolution."""

    def __init__(self, length: int, durations: int, samples: int, width: int, proposals: int, maps: int) -> None:
        super().__init__()
        self.shape = (samples, durations, length)
        self.sample_mask = nn.Parameter(dense_mask(length, durations, samples).flatten(1).float(), requires_grad=False)
        self.x_1d_s, self.x_1d_e = (
            nn.Sequential(
                nn.Conv1d(width, width, 3, padding=1, groups=4), nn.ReLU(), nn.Conv1d(width, 1, 1), nn.Sigmoid()
            )
            for _ in range(2)
        )
        self.x_1d_p = nn.Sequential(nn.Conv1d(width, width, 3, padding=1), nn.ReLU())
        self.x_3d_p = nn.Sequential(nn.Conv3d(width, proposals, (samples, 1, 1), (samples, 1, 1)), nn.ReLU())
        self.x_2d_p = nn.Sequential(
            *(nn.Conv2d(proposals, maps, 1), nn.ReLU()),
            *(nn.Conv2d(maps, maps, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(maps, maps, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(maps, 2, 1), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        matched = (self.x_1d_p(x) @ self.sample_mask).unflatten(2, self.shape)
        return self.x_1d_s(x)[:, 0], self.x_1d_e(x)[:, 0], self.x_2d_p(self.x_3d_p(matched)[:, :, 0])


class PlainBMN(nn.Module):
    """Probabilities of starts, ends and segments of windows ``(B, dim, length)``."""

    def __init__(self, dim: int, length: int, durations: int, samples: int, width: int, proposals: int, maps: int):
        super().__init__()
        self.backbone = PlainBackbone(dim, width)
        self.head = PlainHead(length, durations, samples, width, proposals, maps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.head(self.backbone(x))
