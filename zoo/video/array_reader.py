"""Frames in memory, read like a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError


class ArrayReader:
    """Frames ``(T, H, W, 3)``, uint8 RGB, with the interface of ``zoo.video.decoding.Reader``.

    Args:
        fps: frames per second; matters to protocols that sample by time.

    Raises:
        DataError: another shape or type.
    """

    def __init__(self, frames: np.ndarray | Tensor, fps: float) -> None:
        tensor = torch.from_numpy(np.ascontiguousarray(frames)) if isinstance(frames, np.ndarray) else frames
        if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[-1] != 3 or not tensor.numel():
            raise DataError(
                f"The frames are {tensor.dtype} of shape {tuple(tensor.shape)}; give uint8 RGB of shape (T, H, W, 3)."
            )
        self._frames = tensor.permute(0, 3, 1, 2)
        self.fps = fps

    def __len__(self) -> int:
        return len(self._frames)

    def times(self) -> np.ndarray:
        """Seconds of the frames, from 0."""
        return np.arange(len(self)) / self.fps

    def frames(
        self, indices: Sequence[int] | np.ndarray, transform: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Return frames by number, uint8 ``(len(indices), 3, H, W)``, or the result of ``transform`` for them."""
        frames = self._frames[torch.as_tensor(np.asarray(indices))]
        return frames if transform is None else transform(frames)

    def iterate(self, indices: np.ndarray) -> Iterator[Tensor]:
        """The frames of increasing numbers, one after another, uint8 ``(3, H, W)``."""
        for index in indices.tolist():
            yield self._frames[index]

    def close(self) -> None:
        """Nothing to release."""

    def __enter__(self) -> ArrayReader:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
