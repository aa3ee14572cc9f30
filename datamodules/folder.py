"""VideoFolder: one folder of videos per class."""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from datamodules.base import VideoDataModule
from datamodules.records import VideoRecords
from datamodules.splits import split_stratified
from datamodules.tree import SPLITS, split_of
from zoo.errors import DataError, check_rate, check_seed

log = logging.getLogger("datamodules")


class VideoFolder(VideoDataModule):
    """Videos in ``root/train/<class>/``, ``root/val/<class>/``, ``root/test/<class>/``; or in ``root/<class>/``.

    Split folders may have the usual other names, in whatever case: ``training``; ``validation``, ``valid``,
    ``validate``; ``testing``. Without them the videos are split at random with the same shares of each class
    (``splits.py``), the same way for the same seed.
    With training videos but none to validate, those are split off the training ones; with none to test, testing uses
    the validation videos. Classes are those of the training videos, or of the first split there is. Videos that are in
    no class folder, or beside the split folders, are not read, and a warning counts them.

    Args:
        root: the folder, or shards made of one.
        val_fraction: share of each class that an automatic split keeps for validation.
        test_fraction: share of each class that an automatic split keeps for testing.
        split_seed: which videos these are.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    root: str

    def __init__(
        self,
        root: str | Path,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_rate("val_fraction", val_fraction)
        check_rate("test_fraction", test_fraction)
        check_rate("val_fraction + test_fraction", val_fraction + test_fraction)
        check_seed("split_seed", split_seed)
        self.root = str(root)
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.split_seed = split_seed

    def _classes_of(self, home: str) -> list[str]:
        try:
            return self.tree.folders(home)
        except DataError as error:
            raise DataError(f"{error} Give root a folder with one sub-folder of videos per class.") from None

    @functools.cached_property
    def _homes(self) -> dict[str, str]:
        """The folder of each split that has one; none if the class folders are directly in ``root``."""
        folders = self._classes_of("")
        named = [name for name in folders if split_of(name)]
        # beside others, and with videos directly in it, such a folder is that of a class
        splits = len(named) == len(folders) or any(map(self.tree.folders, named))
        homes = {}
        for split, names in SPLITS.items():
            found = [name for name in named if split_of(name) == split]
            if splits and found:
                homes[split] = min(found, key=lambda name: names.index(name.lower()))
        self._warn_unread([f"{home}/" for home in homes.values()] or [""])
        return homes

    def _warn_unread(self, homes: list[str]) -> None:
        """Count the videos that are in no class folder, by the folder that they are in."""
        folders = Counter(
            os.path.join(self.root, video.split("/")[0]) if "/" in video else self.root
            for video in self.tree.names
            if not any(video.startswith(home) and "/" in video[len(home) :] for home in homes)
        )
        if folders:
            counts = ", ".join(f"{count} in {folder}" for folder, count in sorted(folders.items()))
            log.warning("videos in no class folder of a split are not read: %s", counts)

    @property
    def parts(self) -> tuple[str, ...]:
        """All of an automatic split; else those with a folder, and what is split off the training videos."""
        homes = self._homes
        if not homes:
            return ("train", "val", "test")
        return tuple(part for part in SPLITS if part in homes or (part == "val" and "train" in homes))

    @functools.cached_property
    def class_names(self) -> list[str]:
        """Names of the class folders, sorted."""
        home = next(iter(self._homes.values()), "")
        where, names = os.path.join(self.root, home), self._classes_of(home)
        if len(names) < 2:
            raise DataError(
                f"{where} has {len(names)} class folder{'s' * (len(names) != 1)}; at least 2 are needed: "
                f"{os.path.join(where, '<class>', '<video>')}."
            )
        filled = {self._class_of(video, home) for video in self.tree.videos(home)}
        empty = [name for name in names if name not in filled]
        if len(empty) == len(names):
            raise DataError(f"There are no videos below {where}: put them into {os.path.join(where, '<class>')}.")
        if empty:
            raise DataError(f"There are no videos in {os.path.join(where, empty[0])}: add some, or remove the folder.")
        return names

    @staticmethod
    def _class_of(video: str, home: str) -> str:
        """The first folder below ``home``; of a video directly in there, its own name, which is no class."""
        return video[len(home) + bool(home) :].split("/", 1)[0]

    def _scan(self, home: str) -> VideoRecords:
        names = self.class_names
        strangers = sorted(set(self._classes_of(home)) - set(names))
        if strangers:
            stranger = os.path.join(self.root, home, strangers[0])
            raise DataError(f"{stranger} is not one of the training classes: {', '.join(names)}.")
        labels = {name: label for label, name in enumerate(names)}
        found = [(labels.get(self._class_of(video, home), -1), video) for video in self.tree.videos(home)]
        found = sorted(pair for pair in found if pair[0] >= 0)
        if not found:
            raise DataError(f"There are no videos below {os.path.join(self.root, home)}.")
        return self.tree.records([video for _, video in found], [label for label, _ in found])

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "predict" is the test split."""
        split = "test" if split == "predict" else split
        homes = self._homes
        if not homes:
            part = self._part(split, "", {"train": 1.0, **self.fractions})
            if split == "test":
                share = f"{len(part)} of its {len(self.tree.names)} videos"
                log.warning("%s has no folder test: the test part of its automatic split is read, %s", self.root, share)
            return part
        if split == "test" and "test" not in homes:
            log.warning("%s has no folder test: the videos for validation are read", self.root)
            split = "val"
        if split in homes and (split != "train" or "val" in homes):
            return self._scan(homes[split])
        if "train" not in homes:
            raise DataError(
                f"{self.root} has {' and '.join(homes.values())}, but no folder train: it is for testing only."
            )
        return self._part(split, homes["train"], {"train": 1.0, "val": self.fractions["val"]})

    def _part(self, split: str, home: str, fractions: dict[str, float]) -> VideoRecords:
        """One part of a folder that is split at random."""
        records, where = self._scan(home), os.path.join(self.root, home)
        paths = self._relative(records.ids.tolist())
        parts = split_stratified(paths, records.labels, fractions, self.split_seed, self.class_names, where)
        return records.take(parts[split])
