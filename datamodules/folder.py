"""VideoFolder: one folder of videos per class."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import VideoDataModule, VideoRecords, split_stratified
from datamodules.decoding import find_videos
from zoo.errors import DataError


class VideoFolder(VideoDataModule):
    """Videos in ``root/train/<class>/``, ``root/val/<class>/``, ``root/test/<class>/``; or in ``root/<class>/``.

    Without split folders the videos are split at random, per class, the same way for the same seed. With a
    ``train`` folder but no ``val``, validation videos are split off the training ones; with no ``test``, testing
    uses the validation videos.

    Args:
        root: the folder.
        val_fraction, test_fraction: shares of an automatic split.
        split_seed: of an automatic split.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    def __init__(
        self,
        root: str | Path,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.split_seed = split_seed

    def _classes_of(self, folder: Path) -> list[str]:
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}. Give root a folder with one sub-folder of videos per class.")
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    @functools.cached_property
    def _has_splits(self) -> bool:
        return "train" in self._classes_of(self.root)

    @functools.cached_property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Names of the class folders, sorted."""
        home = self.root / "train" if self._has_splits else self.root
        names = self._classes_of(home)
        if len(names) < 2:
            raise DataError(
                f"{home} has {len(names)} class folder{'s' * (len(names) != 1)}; at least 2 are needed: "
                f"{home}/<class>/<video>."
            )
        empty = [name for name in names if not find_videos(home / name)]
        if len(empty) == len(names):
            raise DataError(f"There are no videos below {home}: put them into {home}/<class>/.")
        if empty:
            raise DataError(f"There are no videos in {home / empty[0]}: add some, or remove the folder.")
        return names

    def _scan(self, home: Path) -> VideoRecords:
        names = self.class_names
        strangers = sorted(set(self._classes_of(home)) - set(names))
        if strangers:
            raise DataError(f"{home / strangers[0]} is not one of the training classes: {', '.join(names)}.")
        found = [(path, label) for label, name in enumerate(names) for path in find_videos(home / name)]
        if not found:
            raise DataError(f"There are no videos below {home}.")
        return VideoRecords.of([path for path, _ in found], [label for _, label in found])

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "predict" is the test split."""
        split = "test" if split == "predict" else split
        if not self._has_splits:
            records = self._scan(self.root)
            fractions = {"train": 1.0, **self.fractions}
            return records.take(self._split(records, fractions, self.root)[split])
        if split == "test" and not (self.root / "test").is_dir():
            split = "val"
        if split == "test" or (self.root / "val").is_dir():
            return self._scan(self.root / split)
        records = self._scan(self.root / "train")
        fractions = {"train": 1.0, "val": self.fractions["val"]}
        return records.take(self._split(records, fractions, self.root / "train")[split])

    def _split(self, records: VideoRecords, fractions: dict[str, float], home: Path) -> dict[str, np.ndarray]:
        return split_stratified(records.labels, fractions, self.split_seed, self.class_names, str(home))
