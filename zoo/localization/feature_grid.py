"""The feature grid of a localizer: windows at multiples of a stride, and their positions in seconds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.inference.windows import MAX_SECONDS

TOLERANCE = 0.02  # share of a stride by which the start of a window may deviate from the grid


class FeatureGrid(NamedTuple):
    """Cells of equal length; cell ``t`` has the features of the window ``[t * stride, t * stride + window)``.

    The position of a cell in seconds is the center of its window. Positions between cells are fractions. The last
    window of a video may be cut at its end; its cell has the position of a complete window.

    window, stride: seconds.
    """

    window: float
    stride: float

    def to_seconds(self, positions: Tensor) -> Tensor:
        """Positions in cells -> seconds."""
        return positions * self.stride + self.window / 2

    def to_cells(self, seconds: Tensor) -> Tensor:
        """Seconds -> positions in cells."""
        return (seconds - self.window / 2) / self.stride

    def arrange(self, features: Tensor, start: Tensor, source: str) -> Tensor:
        """Sort the features of windows into the cells of a video.

        Cells without a window, in a gap of the recording, are 0.

        Args:
            features: ``(N, D)``.
            start: seconds of the windows, ``(N,)``.
            source: name of the features in error messages.

        Returns:
            float32 ``(D, T)``, where T is the number of cells up to the last window.

        Raises:
            DataError: the video has no windows, or windows are not at multiples of the stride or not in order.
        """
        if not len(features):
            raise DataError(f"{source} has no windows; compute the features again with --window and --stride.")
        if start.shape != (len(features),) or not start.isfinite().all() or start.max() > MAX_SECONDS * 365:
            raise DataError(f"{source} has no valid start times; compute the features again with --window.")
        exact = start.double() / self.stride
        cells = exact.round().long()
        off = ((exact - cells).abs() > TOLERANCE).nonzero()
        if len(off):
            second = float(start[off[0, 0]])
            raise DataError(
                f"{source}: a window starts at {second:g} s, which is not a multiple of the stride {self.stride:g} s. "
                "Compute the features again."
            )
        if (cells.diff() <= 0).any() or cells[0] < 0:
            raise DataError(f"{source}: windows are not in order of time. Compute the features again.")
        count = int(cells[-1]) + 1
        if count > 100 * len(cells) + 1000:  # a damaged time would allocate any amount of memory
            raise DataError(f"{source}: {len(cells)} windows are spread over {count} strides; the file is damaged.")
        grid = torch.zeros(features.shape[1], count)
        grid[:, cells] = features.float().T
        return grid
