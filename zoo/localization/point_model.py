"""PointLocalizer: a single-stage network for temporal action localization, after ActionFormer (arXiv 2202.07925).

Every cell of every level of a feature pyramid is a candidate: the network predicts the probabilities of the classes at
this point in time, and the distances to the start and the end of the action.

Differences from ActionFormer, as described in its paper:

- The input features are layer-normalized, because their scale depends on the network that computed them. Optionally,
  dropout removes some of them from a video.
- Distances pass a softplus instead of a ReLU, so that they always have a gradient.
- The default network is smaller (192 channels, 5 levels; 3 M parameters) and trains on a CPU.
- Videos are not cropped in training, because attention is local and memory grows linearly with their length.
- The loss is divided by the positive points of the batch, not by their moving average.
- Segments are not refined by voting after Soft-NMS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.localization.localizer_base import Localizer
from zoo.localization.localizer_spec import LocalizerSpec, PointOptions
from zoo.localization.segments import Segment

BLOCK = 32  # queries that share a block of keys
HEAD_LAYERS = 2  # convolutions in front of the outputs
PRIOR = 0.01  # initial probability of every class
FIRST_RANGE = 4.0  # cells: level 0 predicts distances up to it, every further level up to twice that of the level below


class Points(NamedTuple):
    """The points of all levels, the lowest level first.

    position: in cells, ``(N,)``.
    stride: cells between two points of the level, ``(N,)``.
    low, high: the level is trained with segments whose larger distance to start or end, in cells, is in [low, high),
        ``(N,)``.
    """

    position: Tensor
    stride: Tensor
    low: Tensor
    high: Tensor


class PointOutput(NamedTuple):
    """Predictions at every point.

    logits: ``(B, N, classes)``.
    distances: to start and end, in cells, at least 0, ``(B, N, 2)``.
    mask: whether a point is within its video, ``(B, N)``.
    points: their positions.
    """

    logits: Tensor
    distances: Tensor
    mask: Tensor
    points: Points


def local_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, window: int) -> Tensor:
    """Softmax attention of every cell to the valid cells around it; memory grows linearly with T.

    Args:
        q, k, v: ``(B, heads, T, D)``.
        mask: valid cells, ``(B, T)``.
        window: cells that a cell attends to, odd; itself included.

    Returns:
        ``(B, heads, T, D)``; the values of cells that are not valid have no meaning.
    """
    batch, heads, length, dim = q.shape
    half = window // 2
    blocks = -(-length // BLOCK)
    extra = blocks * BLOCK - length
    keys = BLOCK + 2 * half

    def cut(x: Tensor) -> Tensor:
        """Blocks of keys with their surroundings: (B, heads, T, D) -> (B * blocks, heads, keys, D)."""
        x = F.pad(x, (0, 0, half, half + extra)).unfold(2, keys, BLOCK)  # (B, heads, blocks, D, keys)
        return x.permute(0, 2, 1, 4, 3).reshape(batch * blocks, heads, keys, dim)

    queries = F.pad(q, (0, 0, 0, extra)).unflatten(2, (blocks, BLOCK)).transpose(1, 2).flatten(0, 1)
    offset = torch.arange(keys, device=q.device) - torch.arange(BLOCK, device=q.device)[:, None]
    band = (offset >= 0) & (offset <= 2 * half)
    valid = F.pad(mask, (half, half + extra)).unfold(1, keys, BLOCK).reshape(batch * blocks, 1, 1, keys)
    allowed = (valid & band) | (offset == half)  # every cell attends to itself, so that no softmax is empty
    out = F.scaled_dot_product_attention(queries, cut(k), cut(v), attn_mask=allowed)
    return out.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)[:, :, :length]


class MaskedConv(nn.Module):
    """Convolution over time of ``(B, T, C)`` that reads 0 from cells outside of the video."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1, groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, out_channels, 3, stride, padding=1, groups=groups, bias=bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, C)``, mask ``(B, T)`` -> ``(B, ceil(T / stride), out_channels)``."""
        return self.conv((x * mask[..., None]).transpose(1, 2)).transpose(1, 2)


class LocalBlock(nn.Module):
    """Pre-norm transformer block with local attention.

    Queries, keys and values pass a depthwise convolution. With stride 2 it halves the length, and the skip connection
    takes the maximum over three cells, so that cell ``i`` of the output is centered at cell ``2 * i`` of the input.
    """

    def __init__(self, width: int, heads: int, window: int, dropout: float, stride: int = 1) -> None:
        super().__init__()
        self.heads, self.window, self.stride = heads, window, stride
        self.norm = nn.LayerNorm(width)
        self.depthwise = nn.ModuleList(MaskedConv(width, width, stride, groups=width, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.linear = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, T, C)`` and mask ``(B, T)`` -> the same with T / stride cells."""
        y = self.norm(x)
        branches = zip(self.depthwise, self.norms, self.linear, strict=True)
        q, k, v = (
            linear(norm(conv(y, mask))).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for conv, norm, linear in branches
        )
        if self.stride > 1:
            x = x.masked_fill(~mask[..., None], -math.inf).transpose(1, 2)
            x = F.max_pool1d(x, 3, self.stride, padding=1).transpose(1, 2)
            mask = mask[:, :: self.stride]
            x = x.masked_fill(~mask[..., None], 0)
        attended = local_attention(q, k, v, mask, self.window).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(attended))
        x = x + self.dropout(self.mlp(x))
        return x * mask[..., None], mask


class PointHead(nn.Module):
    """Convolutions that all levels share: ``(B, T, C)`` -> ``(B, T, outputs)``."""

    def __init__(self, width: int, outputs: int, bias: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(MaskedConv(width, width, bias=False) for _ in range(HEAD_LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(HEAD_LAYERS))
        self.out = MaskedConv(width, outputs)
        nn.init.constant_(self.out.conv.bias, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Outputs of the points of a level."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x, mask)))
        out: Tensor = self.out(x, mask)
        return out


class PointLocalizer(Localizer):
    """Network of a localizer, with random weights.

    Args:
        spec: features, labels and options.
    """

    def __init__(self, spec: LocalizerSpec) -> None:
        super().__init__()
        spec.check()
        self.spec = spec
        options = spec.options
        if not isinstance(options, PointOptions):
            raise ConfigError(f"options is a {type(options).__name__}; PointLocalizer needs PointOptions.")
        width = options.width
        self.input_norm = nn.LayerNorm(spec.features.dim)
        self.input_dropout = nn.Dropout1d(options.input_dropout)
        self.embedding = nn.ModuleList(
            [MaskedConv(spec.features.dim, width, bias=False), MaskedConv(width, width, bias=False)]
        )
        self.embedding_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        block = (width, options.heads, options.attention_window, options.dropout)
        self.stem = nn.ModuleList(LocalBlock(*block) for _ in range(options.layers))
        self.pyramid = nn.ModuleList(LocalBlock(*block, stride=2) for _ in range(options.levels - 1))
        self.level_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(options.levels))
        self.class_head = PointHead(width, len(spec.labels), -math.log((1 - PRIOR) / PRIOR))
        self.distance_head = PointHead(width, 2, 0.0)
        self.distance_scale = nn.Parameter(torch.ones(options.levels))

    def forward(self, features: Tensor, mask: Tensor) -> PointOutput:
        """Predict at every point.

        Args:
            features: ``(B, D, T)``, T at least 1.
            mask: cells of the videos; others are padding, ``(B, T)``.
        """
        step = 2 ** (len(self.level_norms) - 1)
        extra = -features.shape[2] % step
        x, mask = F.pad(features, (0, extra)).transpose(1, 2), F.pad(mask, (0, extra))
        x = self.input_dropout(self.input_norm(x).transpose(1, 2)).transpose(1, 2)
        for conv, norm in zip(self.embedding, self.embedding_norms, strict=True):
            x = F.relu(norm(conv(x, mask)))
        for block in self.stem:
            x, mask = block(x, mask)
        levels = [(x, mask)]
        for block in self.pyramid:
            levels.append(block(*levels[-1]))
        logits, distances = [], []
        for number, ((x, level_mask), norm) in enumerate(zip(levels, self.level_norms, strict=True)):
            x = norm(x)
            logits.append(self.class_head(x, level_mask))
            raw = self.distance_head(x, level_mask) * self.distance_scale[number]
            distances.append(F.softplus(raw) * 2**number)
        masks = [level_mask for _, level_mask in levels]
        points = make_points([part.shape[1] for part in masks], features.device)
        return PointOutput(torch.cat(logits, 1), torch.cat(distances, 1), torch.cat(masks, 1), points)

    def localize(self, features: Tensor, mask: Tensor, durations: Sequence[float]) -> list[list[Segment]]:
        """Find the segments of a batch of videos; arguments as of ``Localizer.localize``."""
        from zoo.localization.segment_decoding import decode_segments  # it imports this module

        return decode_segments(self(features, mask), self.grid, durations, self.spec.labels)


def make_points(lengths: list[int], device: torch.device) -> Points:
    """Return the points of a pyramid whose levels have these lengths."""
    parts = []
    for number, length in enumerate(lengths):
        stride = 2.0**number
        low = 0.0 if number == 0 else FIRST_RANGE * 2 ** (number - 1)
        high = math.inf if number == len(lengths) - 1 else FIRST_RANGE * 2**number
        position = torch.arange(length, device=device) * stride
        parts.append((position, *(torch.full_like(position, value) for value in (stride, low, high))))
    return Points(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
