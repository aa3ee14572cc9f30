"""Types of the data modules that reports and commands use.

``lit_modules`` does not import ``datamodules``; ``datamodules.VideoDataModule`` implements ``VideoData``.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import lightning as L
import numpy as np

from zoo.errors import ConfigError
from zoo.localization.localizer_spec import FeatureSource
from zoo.protocol import Protocol
from zoo.video.source import Source

FindDataset = Callable[[str], "tuple[type, dict[str, str]] | None"]  # data set of the index -> class, options


class VideoList(typing.Protocol):
    """Videos of a split.

    Attributes:
        ids: names of the videos.
        listed: number of videos in the annotations, including missing and excluded ones.
        labels: int64 ``(N,)``, or ``(N, heads)``; for several labels per video ``(N, classes)``, int64 or uint8.
    """

    ids: Iterable[str]
    listed: int
    labels: np.ndarray

    def __len__(self) -> int: ...

    def source(self, number: int, /) -> Source:
        """Return where a video is stored."""


class VideoSplit(typing.Protocol):
    """Dataset of a split.

    Attributes:
        records: the videos.
        protocol: how clips are made.
        flip: whether training clips are mirrored at random.
        mirror: class number -> class number of the mirrored clip.
    """

    records: VideoList
    protocol: Protocol
    flip: bool
    mirror: Mapping[int, int]

    def __len__(self) -> int: ...


@typing.runtime_checkable
class Batched(typing.Protocol):
    """Data module or loader with a batch size.

    Attributes:
        batch_size: clips per training batch and device; None for a loader with a batch sampler.
    """

    batch_size: int | None


@typing.runtime_checkable
class TimedLoader(typing.Protocol):
    """Loader that measures how long training waits for it.

    Attributes:
        num_workers: loading processes; 0 if batches are loaded by the process that trains.
        wait_seconds: total time spent waiting for batches.
        yielded_at: value of ``time.perf_counter()`` when the last batch was yielded.
    """

    num_workers: int
    wait_seconds: float
    yielded_at: float


@typing.runtime_checkable
class VideoData(typing.Protocol):
    """Data module of videos.

    Attributes:
        datasets: split ("train", "val", "test", "predict") -> dataset, after ``setup``.
        skipped: split -> path of an unreadable video -> reason.
        part_labels: part -> labels of its videos, ``(N,)``, ``(N, heads)`` or ``(N, classes)``; filled for ``fit``.
        group_counts: part -> number of its groups of videos that belong in one split; filled for ``fit``.
        balance: compensation of unequal class sizes in training.
        class_weights: weights of the classes in the training loss, ``(classes,)``; None for equal weights.
        clips: temporal views per test video; None for those of the protocol.
        crops: spatial views per clip; None for those of the protocol.
        reading: options of decoding and augmentation.
        generates_clips: whether clips are generated from the videos, so that frames of a video do not show its clip.
    """

    datasets: Mapping[str, VideoSplit]
    skipped: Mapping[str, Mapping[str, str]]
    part_labels: Mapping[str, np.ndarray]
    group_counts: Mapping[str, int]
    balance: str
    class_weights: np.ndarray | None
    clips: int | None
    crops: int | None
    reading: Mapping[str, Any]
    generates_clips: bool

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several classes; its label is then a row of 0 and 1."""

    def check_bad(self, split: str, skipped: dict[str, str], /) -> None:
        """Record the unreadable videos of all processes; raise an error if there are too many."""


@typing.runtime_checkable
class EvaluationData(VideoData, typing.Protocol):
    """Data module that reads any split without augmentation."""

    def evaluation_batches(
        self, split: str, protocol: Protocol, exclude: Collection[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Yield each readable video once: "video" (B, V, T, 3, S, S), 0 to 255, and "path"."""

    def groups_of(self, split: str) -> list[str] | None:
        """Return the recording of each video of a split, or None if they are unknown."""


@typing.runtime_checkable
class SplitData(EvaluationData, typing.Protocol):
    """Data module that knows which splits share videos.

    Attributes:
        allow_overlap: whether videos may occur in two splits.
    """

    allow_overlap: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """Splits with their own videos. Without "test", the validation videos are tested."""


@typing.runtime_checkable
class NamesMetrics(typing.Protocol):
    """Module that names its metrics; those of a VideoClassifier depend on its classes.

    Attributes:
        selection_metric: validation metric that selects ``best.ckpt``, higher is better.
    """

    selection_metric: str

    def logged_metrics(self, validates: bool) -> list[str]:
        """Names of the metrics that ``fit`` logs."""


class CommandData(VideoData, typing.Protocol):
    """Data module that a command builds from its options.

    Attributes:
        batch_size: clips per training batch and device.
    """

    batch_size: int

    @property
    def class_names(self) -> list[str] | None:
        """Classes in label order, or None for videos without labels."""

    def check(self, stage: str) -> None:
        """Find the videos of a stage; raise errors in the data before weights are downloaded."""


class AnnotatedVideo(typing.Protocol):
    """A video of a localizer's data."""

    @property
    def duration(self) -> float:
        """Seconds."""

    @property
    def truth(self) -> Sequence[tuple[float, float, str]]:
        """Segments: start and end in seconds, label."""


class AnnotatedSplit(typing.Protocol):
    """Dataset of a split."""

    @property
    def videos(self) -> Sequence[AnnotatedVideo]:
        """Videos of the split."""


@typing.runtime_checkable
class SegmentData(typing.Protocol):
    """Data module of a localizer; ``datamodules.LocalizationData`` implements it.

    Attributes:
        target: labels of EPIC-KITCHENS-100: "verb", "noun" or "action". Not used by other data sets.
    """

    target: Literal["verb", "noun", "action"]

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Benchmarks whose metrics are reported, keys of ``THRESHOLDS``; the first one selects the best epoch."""

    @property
    def class_names(self) -> list[str]:
        """Labels of the segments, in the order of their numbers."""

    @property
    def source(self) -> FeatureSource:
        """Origin of the features."""

    @property
    def datasets(self) -> Mapping[str, AnnotatedSplit]:
        """Videos by split."""


def data_module(trainer: L.Trainer) -> Any:
    """Return the data module of a Trainer, or None. Lightning sets the attribute when ``fit`` and the like start."""
    return getattr(trainer, "datamodule", None)


def segment_data(trainer: L.Trainer) -> SegmentData:
    """Return the data module of a localizer's Trainer.

    Raises:
        ConfigError: it has no data module, or one of another kind.
    """
    data = data_module(trainer)
    if not isinstance(data, SegmentData):
        raise ConfigError(f"The data are {type(data).__name__}; a localizer needs LocalizationData.")
    return data


def video_data(trainer: L.Trainer) -> VideoData | None:
    """Return the data module of a Trainer, or None if it has none or one of another kind."""
    data = data_module(trainer)
    return data if isinstance(data, VideoData) else None


def evaluation_data(trainer: L.Trainer) -> EvaluationData | None:
    """Return the data module of a Trainer if it can read its splits without augmentation, or None."""
    data = data_module(trainer)
    return data if isinstance(data, EvaluationData) else None


def batch_size(trainer: L.Trainer) -> int:
    """Return the number of clips per training batch and device; 1 if neither data module nor loader has it."""
    for part in (data_module(trainer), trainer.train_dataloader):
        if isinstance(part, Batched) and part.batch_size:
            return part.batch_size
    return 1


def require_video_data(trainer: L.Trainer) -> VideoData:
    """Return the data module of a Trainer.

    Raises:
        ConfigError: the Trainer reads its videos from a plain data loader.
    """
    data = video_data(trainer)
    if data is None:
        raise ConfigError("Predictions need a data module such as VideoFiles, not a plain data loader.")
    return data
