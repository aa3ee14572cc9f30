"""Localizer: base class of the networks that find segments in the features of a video."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.localizer_spec import LocalizerSpec
from zoo.localization.segments import Segment


class Localizer(nn.Module):
    """Base class of localizers.

    Attributes:
        spec: features, labels and options.
    """

    spec: LocalizerSpec

    @property
    def grid(self) -> FeatureGrid:
        """Positions of the cells in seconds."""
        return FeatureGrid(self.spec.features.window, self.spec.features.stride)

    def localize(self, features: Tensor, mask: Tensor, durations: Sequence[float]) -> list[list[Segment]]:
        """Find the segments of a batch of videos.

        Args:
            features: ``(B, D, T)``.
            mask: cells of the videos; others are padding, ``(B, T)``.
            durations: of the videos, in seconds.

        Returns:
            For each video its segments, the best ones first.
        """
        raise NotImplementedError
