"""BoundaryLocalizer: the Boundary-Matching Network (BMN, arXiv 1907.09702) as the TAdaConv authors use it.

In a window of ``length`` cells, the network predicts the probability of a start and of an end at every cell, and two
scores of every segment of up to ``durations`` cells: its overlap with an action (by regression), and the probability
that it is an action. The published networks are class-agnostic; they have the single label "action". With more labels,
a further branch predicts the class of every segment.

Positions: a segment from ``s`` to ``e`` covers the cells ``s`` to ``e - 1`` completely. ``FeatureGrid`` counts from the
centers of the cells instead, so that its positions are smaller by 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.localization.boundary_options import GROUPS, BoundaryOptions
from zoo.localization.localizer_base import Localizer
from zoo.localization.localizer_spec import LocalizerSpec
from zoo.localization.proposal_decoding import VideoMaps, decode_proposals
from zoo.localization.proposal_sampling import ProposalLayer
from zoo.localization.segments import Segment

WINDOWS = 4  # of a forward pass in ``localize``


class BoundaryOutput(NamedTuple):
    """Predictions for B windows, as logits.

    start, end: of a start and an end at every cell, ``(B, T)``.
    confidence: overlap and probability of every segment by duration and start, ``(B, 2, durations, T)``.
    classes: ``(B, labels, durations, T)``; None if there is one label.
    """

    start: Tensor
    end: Tensor
    confidence: Tensor
    classes: Tensor | None


class BoundaryLocalizer(Localizer):
    """Boundary-Matching Network.

    Args:
        spec: features, labels and options; the features have a multiple of 4 values.
    """

    def __init__(self, spec: LocalizerSpec) -> None:
        super().__init__()
        spec.check()
        options = spec.options
        if not isinstance(options, BoundaryOptions):
            raise ConfigError(f"options is a {type(options).__name__}; BoundaryLocalizer needs BoundaryOptions.")
        self.spec, self.options = spec, options
        width, maps = options.width, options.proposal_width
        self.backbone = nn.Sequential(
            grouped_conv(spec.features.dim, width), nn.ReLU(), grouped_conv(width, width), nn.ReLU()
        )
        self.start_head = nn.Sequential(grouped_conv(width, width), nn.ReLU(), nn.Conv1d(width, 1, 1))
        self.end_head = nn.Sequential(grouped_conv(width, width), nn.ReLU(), nn.Conv1d(width, 1, 1))
        self.proposal_conv = nn.Conv1d(width, width, 3, padding=1)
        self.proposal_layer = ProposalLayer(width, maps, options.durations, options.samples)
        self.confidence_head = map_head(maps, options.map_width, 2)
        self.class_head = map_head(maps, options.map_width, len(spec.labels)) if len(spec.labels) > 1 else None

    def forward(self, windows: Tensor) -> BoundaryOutput:
        """Predict the maps of windows with features ``(B, D, length)``."""
        x = self.backbone(windows)
        maps = F.relu(self.proposal_layer(F.relu(self.proposal_conv(x))))
        classes = None if self.class_head is None else self.class_head(maps)
        return BoundaryOutput(
            self.start_head(x).squeeze(1), self.end_head(x).squeeze(1), self.confidence_head(maps), classes
        )

    def localize(self, features: Tensor, mask: Tensor, durations: Sequence[float]) -> list[list[Segment]]:
        """Find the segments of a batch of videos; arguments as of ``Localizer.localize``."""
        counts = mask.sum(1).tolist()
        return [
            decode_proposals(self.video_maps(video[:, :count]), self.grid, duration, self.spec.labels)
            for video, count, duration in zip(features, counts, durations, strict=True)
        ]

    def video_maps(self, features: Tensor) -> VideoMaps:
        """Predict a video with features ``(D, T)`` in windows, and average the windows that overlap."""
        length, count = self.options.length, features.shape[1]
        starts = range(0, count, self.options.stride)
        rows = 3 if self.class_head is None else 3 + len(self.spec.labels)  # valid, overlap, probability, classes
        maps = features.new_zeros(rows, self.options.durations, starts[-1] + length)
        boundaries = features.new_zeros(3, starts[-1] + length)  # windows, starts, ends
        valid = segment_mask(self.options.durations, length, features.device)
        windows = cut_windows(features, length, self.options.stride)
        for number in range(0, len(starts), WINDOWS):
            output = self(windows[number : number + WINDOWS])
            scores = output.confidence.sigmoid()
            if output.classes is not None:
                scores = torch.cat([scores, output.classes.softmax(1)], 1)
            scores = torch.cat([torch.ones_like(scores[:, :1]), scores], 1) * valid
            edges = torch.stack([torch.ones_like(output.start), output.start.sigmoid(), output.end.sigmoid()], 1)
            for start, window, edge in zip(starts[number : number + WINDOWS], scores, edges, strict=True):
                maps[:, :, start : start + length] += window
                boundaries[:, start : start + length] += edge
        maps = maps[1:, :, :count] / maps[:1, :, :count].clamp(min=1)
        boundaries = boundaries[1:, :count] / boundaries[0, :count]
        return VideoMaps(boundaries[0], boundaries[1], maps[0], maps[1], maps[2:] if rows > 3 else None)


def grouped_conv(channels: int, out_channels: int) -> nn.Conv1d:
    """Create a convolution over three cells with ``GROUPS`` groups."""
    return nn.Conv1d(channels, out_channels, 3, padding=1, groups=GROUPS)


def map_head(channels: int, width: int, outputs: int) -> nn.Sequential:
    """Create the layers that predict ``outputs`` values of every segment from its sampled features."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, outputs, 1),
    )


def segment_mask(durations: int, length: int, device: torch.device) -> Tensor:
    """Return whether the segments of a window end within it, ``(durations, length)``."""
    duration = torch.arange(durations, device=device)[:, None]
    return torch.arange(length, device=device) + duration < length


def cut_windows(features: Tensor, length: int, stride: int) -> Tensor:
    """Cut the features of a video into windows at multiples of ``stride``; after its end they are 0.

    Args:
        features: ``(D, T)``.

    Returns:
        ``(ceil(T / stride), D, length)``.
    """
    last = (features.shape[1] - 1) // stride * stride
    padded = F.pad(features, (0, last + length - features.shape[1]))
    return padded.unfold(1, length, stride).transpose(0, 1)
