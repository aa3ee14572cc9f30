"""LocalizationData: annotated segments and stored features of untrimmed videos, as padded batches."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.annotations import shorten, sorted_labels
from datamodules.loading import derived_number
from datamodules.localization.segment_table import LabeledSegment, UntrimmedVideo, read_segment_table
from zoo.command_line import expand_home
from zoo.errors import ConfigError, DataError, check_int, check_number, check_seed
from zoo.inference.feature_files import MANIFEST, SUFFIX, FeatureFolder, VideoFeatures
from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.localizer_spec import FeatureSource
from zoo.text import listing, printable

log = logging.getLogger("datamodules")
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}  # of videos without a split
EPSILON = 1e-3  # seconds: rounding of times in annotations and features


class VideoCells(NamedTuple):
    """A video with its features.

    features: float32 ``(D, T)``.
    duration: seconds.
    segments: starts and ends in cells, ``(M, 2)``.
    labels: class numbers, ``(M,)``.
    truth: the annotated segments, in seconds.
    """

    name: str
    features: Tensor
    duration: float
    segments: Tensor
    labels: Tensor
    truth: list[LabeledSegment]


class CellDataset(Dataset[VideoCells]):
    """The videos of a split."""

    def __init__(self, videos: Sequence[VideoCells]) -> None:
        self.videos = list(videos)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> VideoCells:
        return self.videos[index]


def collate_cells(videos: Sequence[VideoCells]) -> dict[str, Any]:
    """Batch videos; shorter ones are padded with 0.

    Returns:
        "features" ``(B, D, T)``, "mask" ``(B, T)`` (False for padding), and lists with a value for each video:
        "segments" ``(M, 2)`` in cells, "labels" ``(M,)``, "name", "duration" in seconds, "truth".
    """
    length = max(video.features.shape[1] for video in videos)
    features = torch.zeros(len(videos), len(videos[0].features), length)
    mask = torch.zeros(len(videos), length, dtype=torch.bool)
    for row, video in enumerate(videos):
        count = video.features.shape[1]
        features[row, :, :count], mask[row, :count] = video.features, True
    return {
        "features": features,
        "mask": mask,
        "segments": [video.segments for video in videos],
        "labels": [video.labels for video in videos],
        "name": [video.name for video in videos],
        "duration": [video.duration for video in videos],
        "truth": [[tuple(segment) for segment in video.truth] for video in videos],
    }


class LocalizationData(L.LightningDataModule):
    """Untrimmed videos with labeled segments and the features that ``tempozoo features`` wrote.

    Args:
        annotations: CSV file with the columns ``path,start,end,label``, and optionally ``split`` (train, val or test)
            and ``duration``. Times are seconds. Without splits, 70 / 15 / 15 % of the videos are assigned to the splits.
        features: folder written by ``tempozoo features VIDEOS --window W --stride S --out FOLDER``.
        batch_size: videos per batch and device.
        min_duration: shorter segments, in seconds, are not used in training; their number is reported. Validation and
            test use all segments.
        multi_label: whether a segment may have several labels, as rows with the same start and end.
        split_seed: random seed of the automatic splits.

    Attributes:
        datasets: split -> videos; filled by ``setup``.
        ignored: split -> number of segments that are shorter than ``min_duration``.
    """

    def __init__(
        self,
        annotations: str | Path,
        features: str | Path,
        batch_size: int = 4,
        min_duration: float = 0.0,
        multi_label: bool = False,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        check_int("batch_size", batch_size, 1)
        check_number("min_duration", min_duration, 0.0, 1e6)
        check_seed("split_seed", split_seed)
        self.annotations, self.features = Path(expand_home(str(annotations))), Path(expand_home(str(features)))
        self.batch_size, self.min_duration, self.multi_label = batch_size, min_duration, multi_label
        self.split_seed = split_seed
        self.datasets: dict[str, CellDataset] = {}
        self.ignored: dict[str, int] = {}
        self._videos: list[UntrimmedVideo] | None = None
        self._source: FeatureSource | None = None
        self._loaded: dict[str, list[VideoCells]] = {}

    # annotations ---------------------------------------------------------------------------------------------------

    @property
    def videos(self) -> list[UntrimmedVideo]:
        """All annotated videos, each with its split.

        Raises:
            DataError: the annotations cannot be read, or a segment is invalid.
        """
        if self._videos is None:
            videos = read_segment_table(self.annotations)
            for video in videos:
                self._check_segments(video)
            self._videos = self._assign_splits(videos)
        return self._videos

    @property
    def class_names(self) -> list[str]:
        """The labels of all segments, sorted."""
        return sorted_labels({segment.label for video in self.videos for segment in video.segments})

    def _check_segments(self, video: UntrimmedVideo) -> None:
        labels: dict[tuple[float, float], str] = {}
        listed: set[LabeledSegment] = set()
        for segment in video.segments:
            where = self._name_segment(video, segment)
            if segment.start < 0:
                raise DataError(f"{where} starts before the video; times are seconds from its first frame.")
            if segment.end <= segment.start:
                reason = "is reversed" if segment.end < segment.start else "has no length"
                raise DataError(f"{where} {reason}; its end must be after its start.")
            if segment in listed:
                raise DataError(f"{where} is listed twice; remove one of the rows.")
            listed.add(segment)
            other = labels.setdefault((segment.start, segment.end), segment.label)
            if other != segment.label and not self.multi_label:
                raise DataError(
                    f"{where} also has the label {shorten(other)}. Correct it, or allow several labels of a segment "
                    "with --data.multi_label true."
                )

    def _name_segment(self, video: UntrimmedVideo, segment: LabeledSegment) -> str:
        return (
            f"{printable(str(self.annotations))}: {shorten(video.name)}, segment {segment.start:g} - {segment.end:g} s "
            f"({shorten(segment.label)})"
        )

    def _assign_splits(self, videos: list[UntrimmedVideo]) -> list[UntrimmedVideo]:
        """Draw the splits, unless the annotations have them."""
        given = [video for video in videos if video.split is not None]
        if given and len(given) < len(videos):
            other = next(video for video in videos if video.split is None)
            raise DataError(f"{self.annotations}: {shorten(other.name)} has no split, other videos have one.")
        if given:
            return videos
        if len(videos) < len(FRACTIONS):
            raise DataError(
                f"{self.annotations} has {len(videos)} videos, too few to split into {', '.join(FRACTIONS)}: add videos, "
                "or a column split."
            )
        ranked = sorted(videos, key=lambda video: derived_number(self.split_seed, os.path.splitext(video.name)[0]))
        counts = {part: max(1, round(len(videos) * FRACTIONS[part])) for part in ("val", "test")}
        parts = ["val"] * counts["val"] + ["test"] * counts["test"]
        parts += ["train"] * (len(videos) - len(parts))
        splits = {video.name: part for video, part in zip(ranked, parts, strict=True)}
        return [video._replace(split=splits[video.name]) for video in videos]

    # features ------------------------------------------------------------------------------------------------------

    @property
    def source(self) -> FeatureSource:
        """Origin of the features, from the manifest of their folder.

        Raises:
            DataError: the folder has no manifest, no features, or features without windows.
        """
        if self._source is None:
            self._source = read_source(self.features)
        return self._source

    def check(self, stage: str) -> None:
        """Read the videos of a stage, so that data errors are reported before a network is built.

        Args:
            stage: "fit", "validate" or "test".

        Raises:
            DataError: annotations or features are missing or invalid, or do not fit each other.
        """
        source = self.source
        grid = FeatureGrid(source.window, source.stride)
        names = self.class_names
        if not names:
            raise DataError(f"{self.annotations} has no segments.")
        numbers = {name: number for number, name in enumerate(names)}
        files = FeatureFiles(self.features)
        for split in STAGES[stage]:
            videos = [video for video in self.videos if video.split == split]
            if not videos:
                raise DataError(f"{self.annotations} has no videos of the split {split!r}.")
            self.ignored[split] = 0
            self._loaded[split] = [self._load(video, files, grid, numbers, split) for video in videos]
            if self.ignored[split]:
                log.warning(
                    "%d segments of the split %s are shorter than min_duration (%g s) and are not used in training",
                    self.ignored[split], split, self.min_duration,
                )  # fmt: skip

    def _load(
        self, video: UntrimmedVideo, files: FeatureFiles, grid: FeatureGrid, numbers: dict[str, int], split: str
    ) -> VideoCells:
        item, file = files.read(video)
        if item.features.ndim != 2 or item.features.shape[1] != self.source.dim:
            raise DataError(
                f"{file} has features {tuple(item.features.shape)}; other files have {self.source.dim} each."
            )
        if not item.features.isfinite().all():
            raise DataError(f"{file} has features that are NaN or infinite; delete it and compute the features again.")
        last = float(item.end[-1]) if len(item.end) else 0.0
        duration = last if video.duration is None else video.duration
        name = printable(video.name)
        if last > duration + EPSILON + grid.stride:
            raise DataError(
                f"{file} has a window that ends at {last:g} s, after the end of {name} at {duration:g} s in "
                f"{self.annotations}; the features belong to another video, or the duration is wrong."
            )
        for segment in video.segments:
            if segment.end > duration + EPSILON + grid.stride:
                raise DataError(
                    f"{self._name_segment(video, segment)} ends after the video, at {duration:g} s ({file})."
                )
        used = video.segments
        if split == "train":
            used = [segment for segment in used if segment.end - segment.start >= self.min_duration]
            self.ignored[split] += len(video.segments) - len(used)
        times = torch.tensor([[segment.start, segment.end] for segment in used]).reshape(-1, 2)
        labels = torch.tensor([numbers[segment.label] for segment in used], dtype=torch.long)
        cells = grid.arrange(item.features, item.start, str(file))
        return VideoCells(video.name, cells, duration, grid.to_cells(times), labels, video.segments)

    # Lightning -----------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Create the datasets of a stage: "fit", "validate", "test", or None for all."""
        for name in STAGES if stage is None else (stage,):
            if not all(split in self._loaded for split in STAGES[name]):
                self.check(name)
            for split in STAGES[name]:
                self.datasets[split] = CellDataset(self._loaded[split])

    def train_dataloader(self) -> DataLoader[VideoCells]:
        """Batches of the training videos in random order."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[VideoCells]:
        """Batches of the validation videos."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[VideoCells]:
        """Batches of the test videos."""
        return self._loader("test")

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader[VideoCells]:
        return DataLoader(self.datasets[split], self.batch_size, shuffle=shuffle, collate_fn=collate_cells)


class FeatureFiles:
    """The feature files of a folder, by video.

    Videos are found by their path, or by their name without folder and extension if only one file has it. Features
    can therefore be computed on another machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = FeatureFolder(folder)
        self._by_path: dict[str, Path] = {}
        self._by_name: dict[str, list[Path]] = {}
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            video = _video_of(path)
            self._by_path[os.path.realpath(video)] = path
            self._by_name.setdefault(_stem(video), []).append(path)

    def read(self, video: UntrimmedVideo) -> tuple[VideoFeatures, Path]:
        """Return the features of a video and their file.

        Raises:
            DataError: there is no file, several files have the name of the video, or the file is damaged.
        """
        path = None if video.path is None else self._by_path.get(os.path.realpath(video.path))
        if path is None:
            paths = self._by_name.get(_stem(video.name), [])
            if not paths:
                raise DataError(
                    f"{self.folder.folder} has no features of {printable(video.path or video.name)}; compute them with "
                    "`tempozoo features VIDEOS --window W --stride S --out FOLDER`."
                )
            if len(paths) > 1:
                raise DataError(
                    f"{self.folder.folder} has features of several videos named {shorten(_stem(video.name))}: "
                    f"{listing([file.name for file in paths])}; none of them has the path {printable(str(video.path))}."
                )
            path = paths[0]
        return self.folder.read_file(path), path


def _video_of(path: Path) -> str:
    try:
        with safe_open(path, "pt") as file:
            return str(json.loads(file.metadata()["video"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and compute the features again.") from error


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]


def read_source(folder: Path) -> FeatureSource:
    """Read the origin of the features in a folder.

    Raises:
        DataError: the folder has no manifest, no features, or features without windows.
    """
    manifest = FeatureFolder(folder).manifest()
    path = folder / MANIFEST
    if manifest.get("window") is None:
        raise DataError(f"{path}: the features have no windows; compute them with --window and --stride.")
    first = next(iter(sorted(folder.glob(f"*{SUFFIX}"))), None)
    if first is None:
        raise DataError(f"{folder} has no feature files; repeat `tempozoo features`.")
    try:
        with safe_open(first, "pt") as file:
            dim = file.get_slice("features").get_shape()[-1]
    except (SafetensorError, OSError, IndexError) as error:
        raise DataError(f"{first} is damaged ({error}); delete it and compute the features again.") from error
    values = {key: manifest.get(key) for key in ("network", "weights", "window", "stride", "views", "stage")}
    try:
        return FeatureSource.from_dict({**values, "dim": dim}, str(path))
    except ConfigError as error:
        raise DataError(str(error)) from error
