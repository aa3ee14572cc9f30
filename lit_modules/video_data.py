"""The interface of data modules that VideoClassifier uses; ``datamodules.VideoDataModule`` implements it.

Other data modules and plain data loaders work as well, without the account of unreadable videos.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from zoo.protocol import Protocol


class VideoSplit(typing.Protocol):
    """Dataset of one split.

    Attributes:
        protocol: how clips are made.
        flip: whether training clips are mirrored at random.
        mirror: class number -> class number of the mirrored clip.
    """

    protocol: Protocol
    flip: bool
    mirror: Mapping[int, int]


@typing.runtime_checkable
class Batched(typing.Protocol):
    """Data module or loader with a batch size.

    Attributes:
        batch_size: clips per training batch and device; None for a loader with a batch sampler.
    """

    batch_size: int | None


@typing.runtime_checkable
class VideoData(typing.Protocol):
    """Data module of videos.

    Attributes:
        datasets: split ("train", "val", "test") -> dataset, after ``setup``.
        skipped: split -> path of an unreadable video -> reason.
    """

    datasets: Mapping[str, VideoSplit]
    skipped: Mapping[str, dict[str, str]]

    def check_bad(self, split: str, skipped: dict[str, str], /) -> None:
        """Record the unreadable videos of all processes; raise an error if there are too many."""


def data_module(trainer: Any) -> Any:
    """Return the data module of a Trainer, or None. Lightning sets the attribute when ``fit`` and the like start."""
    return getattr(trainer, "datamodule", None)


def video_data(trainer: Any) -> VideoData | None:
    """Return the data module of a Trainer if it has the interface, or None."""
    data = data_module(trainer)
    return data if isinstance(data, VideoData) else None


def batch_size(trainer: Any) -> int:
    """Return the number of clips per training batch and device; 1 if neither data module nor loader has it."""
    for part in (data_module(trainer), trainer.train_dataloader):
        if isinstance(part, Batched) and part.batch_size:
            return part.batch_size
    return 1
