"""LocalizationData: annotated segments and stored features of untrimmed videos, as padded batches."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.annotations import shorten, sorted_labels
from datamodules.loading import derived_number
from datamodules.localization.annotations import Faulty, Target, UntrimmedVideo, read_segments, set_durations
from datamodules.localization.stored_features import FeatureFile, StoredFeatures
from zoo.command_line import expand_home
from zoo.errors import DataError, check_int, check_number, check_seed
from zoo.localization.localizer_spec import FeatureSource
from zoo.text import printable

log = logging.getLogger("datamodules")
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}  # of videos without a split
MISSING, MISMATCHED = "without features", "with features of another duration"  # reasons of videos left out


class LabeledVideo(NamedTuple):
    """A video with its segments.

    file: of its features.
    duration: seconds.
    segments: starts and ends in cells, ``(M, 2)``.
    labels: class numbers, ``(M,)``.
    truth: the annotated segments in seconds: start, end, label.
    """

    name: str
    file: Path
    duration: float
    segments: Tensor
    labels: Tensor
    truth: tuple[tuple[float, float, str], ...]


class CellDataset(Dataset[tuple[LabeledVideo, Tensor]]):
    """The videos of a split, with features ``(D, T)`` that are read when a video is requested."""

    def __init__(self, videos: Sequence[LabeledVideo], features: StoredFeatures) -> None:
        self.videos, self.features = list(videos), features

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[LabeledVideo, Tensor]:
        return self.videos[index], self.features.read(self.videos[index].file)


def collate_cells(items: Sequence[tuple[LabeledVideo, Tensor]]) -> dict[str, Any]:
    """Batch videos; shorter ones are padded with 0.

    Returns:
        "features" ``(B, D, T)``, "mask" ``(B, T)`` (False for padding), and lists with a value for each video:
        "segments" ``(M, 2)`` in cells, "labels" ``(M,)``, "name", "duration" in seconds, "truth".
    """
    length = max(cells.shape[1] for _, cells in items)
    features = torch.zeros(len(items), len(items[0][1]), length)
    mask = torch.zeros(len(items), length, dtype=torch.bool)
    for row, (_, cells) in enumerate(items):
        count = cells.shape[1]
        features[row, :, :count], mask[row, :count] = cells, True
    videos = [video for video, _ in items]
    return {
        "features": features,
        "mask": mask,
        "segments": [video.segments for video in videos],
        "labels": [video.labels for video in videos],
        "name": [video.name for video in videos],
        "duration": [video.duration for video in videos],
        "truth": [list(video.truth) for video in videos],
    }


class LocalizationData(L.LightningDataModule):
    """Untrimmed videos with labeled segments and the features that ``tempozoo features`` wrote.

    Args:
        annotations: a CSV file with the columns ``path,start,end,label``, and optionally ``split`` (train, val or test)
            and ``duration``; a JSON file in ActivityNet's format (ActivityNet, HACS Segments, THUMOS14); or the folder
            of EPIC-KITCHENS-100's CSV files. Times are seconds. Without splits, 70 / 15 / 15 % of the videos are
            assigned to train, val and test.
        features: folder written by ``tempozoo features VIDEOS --window W --stride S --out FOLDER``.
        batch_size: videos per batch and device.
        target: labels of EPIC-KITCHENS-100: "verb", "noun" or "action".
        train_split: split of the annotations for training: "train", "val" or "test".
        val_split: split of the annotations for validation.
        test_split: split of the annotations for testing.
        faulty: "raise" an error for faulty segments and for videos without matching features, or "drop" them. Their
            number is logged.
        multi_label: whether several labels of one interval are allowed.
        min_duration: shorter segments, in seconds, are not used in training; their number is logged. Validation and
            test use all segments.
        num_workers: processes that read features.
        split_seed: random seed of the automatic splits.

    Attributes:
        datasets: split -> videos; filled by ``setup``. The keys are "train", "val" and "test".
        dropped: number of segments and videos that were left out, by reason.
    """

    def __init__(
        self,
        annotations: str | Path,
        features: str | Path,
        batch_size: int = 4,
        target: Target = "action",
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        faulty: Faulty = "raise",
        multi_label: bool = False,
        min_duration: float = 0.0,
        num_workers: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        check_int("batch_size", batch_size, 1)
        check_int("num_workers", num_workers, 0)
        check_number("min_duration", min_duration, 0.0, 1e6)
        check_seed("split_seed", split_seed)
        self.annotations, self.features = Path(expand_home(str(annotations))), Path(expand_home(str(features)))
        self.batch_size, self.num_workers, self.split_seed = batch_size, num_workers, split_seed
        self.target: Target = target
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.faulty: Faulty = faulty
        self.multi_label, self.min_duration = multi_label, min_duration
        self.datasets: dict[str, CellDataset] = {}
        self.dropped: Counter[str] = Counter()
        self._videos: list[UntrimmedVideo] | None = None
        self._stored: StoredFeatures | None = None
        self._names: dict[Path, str] = {}  # feature file -> video

    # annotations ---------------------------------------------------------------------------------------------------

    @property
    def videos(self) -> list[UntrimmedVideo]:
        """All annotated videos, each with its split.

        Raises:
            DataError: the annotations cannot be read, or a segment is invalid.
        """
        if self._videos is None:
            videos = read_segments(self.annotations, target=self.target, faulty=self.faulty, dropped=self.dropped)
            if not any(video.segments for video in videos):
                raise DataError(f"{self.annotations} has no segments.")
            if not self.multi_label:
                for video in videos:
                    self._check_labels(video)
            self._videos = self._assign_splits(videos)
        return self._videos

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Benchmarks whose metrics are reported; the first one also selects the best epoch.

        "epic" for the folder of EPIC-KITCHENS-100. The other formats do not name their data set: "thumos14" and
        "activitynet", whose thresholds are those of HACS as well.
        """
        return ("epic",) if self.annotations.is_dir() else ("thumos14", "activitynet")

    @property
    def class_names(self) -> list[str]:
        """The labels of all segments, sorted."""
        return sorted_labels({label for video in self.videos for _, _, label in video.segments})

    def _check_labels(self, video: UntrimmedVideo) -> None:
        labels: dict[tuple[float, float], str] = {}
        for start, end, label in video.segments:
            other = labels.setdefault((start, end), label)
            if other != label:
                raise DataError(
                    f"{printable(str(self.annotations))}: {shorten(video.name)}, segment {start:g} - {end:g} s has the "
                    f"labels {shorten(other)} and {shorten(label)}. Correct it, or allow several labels of an interval "
                    "with --data.multi_label true."
                )

    def _assign_splits(self, videos: list[UntrimmedVideo]) -> list[UntrimmedVideo]:
        """Draw the splits, unless the annotations have them."""
        if videos[0].split is not None:
            return videos
        if len(videos) < len(FRACTIONS):
            raise DataError(
                f"{self.annotations} has {len(videos)} videos, too few to split into {', '.join(FRACTIONS)}: add "
                "videos, or a column split."
            )
        ranked = sorted(videos, key=lambda video: derived_number(self.split_seed, os.path.splitext(video.name)[0]))
        counts = {part: max(1, round(len(videos) * FRACTIONS[part])) for part in ("val", "test")}
        parts = ["val"] * counts["val"] + ["test"] * counts["test"]
        parts += ["train"] * (len(videos) - len(parts))
        splits = {video.name: part for video, part in zip(ranked, parts, strict=True)}
        return [video._replace(split=splits[video.name]) for video in videos]

    # features ------------------------------------------------------------------------------------------------------

    @property
    def stored(self) -> StoredFeatures:
        """The files of the features.

        Raises:
            DataError: the folder has no manifest, no features, or features without windows.
        """
        if self._stored is None:
            self._stored = StoredFeatures(self.features)
        return self._stored

    @property
    def source(self) -> FeatureSource:
        """Origin of the features, from the manifest of their folder."""
        return self.stored.source

    def check(self, stage: str) -> None:
        """Read annotations and windows of a stage, so that data errors are reported before a network is built.

        Args:
            stage: "fit", "validate" or "test".

        Raises:
            DataError: annotations or features are missing or invalid, or do not fit each other.
        """
        numbers = {name: number for number, name in enumerate(self.class_names)}
        for part in STAGES[stage]:
            if part not in self.datasets:
                self.datasets[part] = CellDataset(self._read_part(part, numbers), self.stored)

    def _read_part(self, part: str, numbers: dict[str, int]) -> list[LabeledVideo]:
        split = self.splits[part]
        videos = [video for video in self.videos if video.split == split]
        if not any(video.segments for video in videos):
            others = ", ".join(sorted({str(video.split) for video in self.videos if video.segments}))
            problem = f"no segments in its {len(videos)} videos" if videos else "no videos"
            raise DataError(
                f"{self.annotations} has {problem} of the split {split!r}; segments are in the splits {others}. Choose "
                f"another split with --data.{part}_split."
            )
        files = self._match(videos, split)
        durations = {name: file.end for name, file in files.items()}
        videos = [video for video in videos if video.name in files]
        durations |= {video.name: video.duration for video in videos if video.duration is not None}
        source = str(self.annotations)
        videos = set_durations(videos, durations, source, faulty=self.faulty, dropped=self.dropped)
        if not any(video.segments for video in videos):
            raise DataError(f"{self.annotations}: all segments of the split {split!r} were left out as faulty.")
        return self._ignore_short(part, [self._label(video, files[video.name].path, numbers) for video in videos])

    def _match(self, videos: Iterable[UntrimmedVideo], split: str) -> dict[str, FeatureFile]:
        """Return the features of the videos by name; videos without matching features are errors, or are counted."""
        files: dict[str, FeatureFile] = {}
        missing: list[str] = []
        mismatched = 0
        for video in videos:
            path = self.stored.find(video, self.annotations.parent)
            if path is None:
                missing.append(video.name)
                continue
            other = self._names.setdefault(path, video.name)
            if other != video.name:
                raise DataError(
                    f"{path} fits {shorten(other)} and {shorten(video.name)} in {self.annotations}; compute the "
                    "features of both in the folder of the annotations, or give them different names."
                )
            try:
                files[video.name] = self.stored.check(path, video)
            except DataError:
                if self.faulty == "raise":
                    raise
                mismatched += 1
        if missing and (self.faulty == "raise" or not files):
            raise DataError(
                f"{self.features} has no features of {len(missing)} of {len(files) + len(missing)} videos of the split "
                f"{split!r}, such as {shorten(missing[0])}; compute them with `tempozoo features VIDEOS --window W "
                "--stride S --out FOLDER`, or leave these videos out with --data.faulty drop."
            )
        counts = Counter({MISSING: len(missing), MISMATCHED: mismatched})
        for reason, count in (+counts).items():
            log.warning("%d videos of the split %s left out: %s", count, split, reason)
        self.dropped.update(+counts)
        return files

    def _label(self, video: UntrimmedVideo, path: Path, numbers: dict[str, int]) -> LabeledVideo:
        times = torch.tensor([[start, end] for start, end, _ in video.segments]).reshape(-1, 2)
        labels = torch.tensor([numbers[label] for _, _, label in video.segments], dtype=torch.long)
        duration = video.duration or 0.0  # set_durations has set it
        return LabeledVideo(video.name, path, duration, self.stored.grid.to_cells(times), labels, video.segments)

    def _ignore_short(self, part: str, videos: list[LabeledVideo]) -> list[LabeledVideo]:
        """Remove segments shorter than ``min_duration`` from the training targets."""
        if part != "train" or not self.min_duration:
            return videos
        results = []
        short = 0
        for video in videos:
            rows = torch.tensor([end - start >= self.min_duration for start, end, _ in video.truth], dtype=torch.bool)
            short += len(rows) - int(rows.sum())
            results.append(video._replace(segments=video.segments[rows], labels=video.labels[rows]))
        if short:
            log.warning(
                "%d training segments are shorter than min_duration (%g s) and are not used", short, self.min_duration
            )
        return results

    # Lightning -----------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Create the datasets of a stage: "fit", "validate", "test", or None for all."""
        for name in STAGES if stage is None else (stage,):
            self.check(name)

    def train_dataloader(self) -> DataLoader[tuple[LabeledVideo, Tensor]]:
        """Batches of the training videos in random order."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[LabeledVideo, Tensor]]:
        """Batches of the validation videos."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[tuple[LabeledVideo, Tensor]]:
        """Batches of the test videos."""
        return self._loader("test")

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader[tuple[LabeledVideo, Tensor]]:
        return DataLoader(
            self.datasets[part],
            self.batch_size,
            shuffle=shuffle,
            collate_fn=collate_cells,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )
