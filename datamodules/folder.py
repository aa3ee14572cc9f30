"""VideoFolder: one folder of videos per class."""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from datamodules.drawn import DrawnSplits
from datamodules.records import VideoRecords
from datamodules.tree import SPLITS, split_of
from zoo.errors import DataError, check_rate
from zoo.text import printable

log = logging.getLogger("datamodules")


class VideoFolder(DrawnSplits):
    """Videos in ``root/train/<class>/``, ``root/val/<class>/``, ``root/test/<class>/``; or in ``root/<class>/``.

    Split folders may also be called ``training``; ``validation``, ``valid``, ``validate``; ``testing``, in any case.
    Without split folders, the videos are split at random, with the same fractions of each class and reproducibly for a
    seed (``splits.py``). Without validation videos, a part of the training videos is used for validation; without test
    videos, the validation videos are tested. The classes are those of the training videos, or of the first split.
    Videos outside of class folders, or next to split folders, are ignored with a warning.

    Args:
        root: the folder, or shards written from it.
        val_fraction: fraction of each class for validation in an automatic split.
        test_fraction: fraction of each class for testing in an automatic split.
        split_seed: random seed of the automatic split.
        options: of DrawnSplits (group, folds, fold) and VideoDataModule: batch_size, num_workers, clips, crops, ...
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
        super().__init__(split_seed=split_seed, **options)
        check_rate("val_fraction", val_fraction)
        check_rate("test_fraction", test_fraction)
        check_rate("val_fraction + test_fraction", val_fraction + test_fraction)
        self.root = str(root)
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def _class_folders(self, folder: str) -> list[str]:
        try:
            return self.tree.folders(folder)
        except DataError as error:
            raise DataError(f"{error} root must contain one subfolder of videos per class.") from None

    @functools.cached_property
    def _homes(self) -> dict[str, str]:
        """Split -> its folder; empty if the class folders are directly in ``root``."""
        folders = self._class_folders("")
        named = [name for name in folders if split_of(name)]
        # next to other folders, a folder called "test" without subfolders is a class
        are_splits = len(named) == len(folders) or any(map(self.tree.folders, named))
        homes = {}
        for split, names in SPLITS.items():
            candidates = [name for name in named if split_of(name) == split]
            if are_splits and candidates:
                homes[split] = min(candidates, key=lambda name: names.index(name.lower()))
        self._warn_unread([f"{home}/" for home in homes.values()] or [""])
        return homes

    def _warn_unread(self, homes: list[str]) -> None:
        """Log a warning about videos outside of class folders."""
        folders = Counter(
            os.path.join(self.root, video.split("/")[0]) if "/" in video else self.root
            for video in self.tree.names
            if not any(video.startswith(home) and "/" in video[len(home) :] for home in homes)
        )
        if folders:
            counts = ", ".join(f"{count} in {folder}" for folder, count in sorted(folders.items()))
            log.warning("videos outside of the class folders of a split are not read: %s", printable(counts))

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits with a folder, and a validation split taken from the training videos; else all three."""
        homes = self._homes
        if not homes:
            return ("train", "val", "test")
        return tuple(part for part in SPLITS if part in homes or (part == "val" and "train" in homes))

    @functools.cached_property
    def class_names(self) -> list[str]:
        """Names of the class folders, sorted."""
        home = next(iter(self._homes.values()), "")
        where, names = os.path.join(self.root, home), self._class_folders(home)
        if len(names) < 2:
            raise DataError(
                f"{where} has {len(names)} class folder{'s' * (len(names) != 1)}; at least 2 are needed: "
                f"{os.path.join(where, '<class>', '<video>')}."
            )
        filled = {self._class_of(video, home) for video in self.tree.videos(home)}
        empty = [name for name in names if name not in filled]
        if len(empty) == len(names):
            raise DataError(f"There are no videos below {where}: put videos into {os.path.join(where, '<class>')}.")
        if empty:
            raise DataError(f"There are no videos in {os.path.join(where, empty[0])}: add some, or remove the folder.")
        return names

    @staticmethod
    def _class_of(video: str, home: str) -> str:
        """Return the folder of a video below a split folder; for a video directly in it, its file name."""
        return video[len(home) + bool(home) :].split("/", 1)[0]

    def _scan(self, home: str) -> VideoRecords:
        names = self.class_names
        unknown = sorted(set(self._class_folders(home)) - set(names))
        if unknown:
            raise DataError(
                f"{os.path.join(self.root, home, unknown[0])} is not one of the training classes: {', '.join(names)}."
            )
        labels = {name: label for label, name in enumerate(names)}
        videos = [(labels.get(self._class_of(video, home), -1), video) for video in self.tree.videos(home)]
        videos = sorted(pair for pair in videos if pair[0] >= 0)
        if not videos:
            raise DataError(f"There are no videos below {os.path.join(self.root, home)}.")
        return self.tree.records([video for _, video in videos], [label for label, _ in videos])

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "predict" is the test split."""
        split = "test" if split == "predict" else split
        homes = self._homes
        if not homes:
            part = self._part(split, "", {"train": 1.0, **self.fractions})
            if split == "test":
                share = f"{len(part)} of its {len(self.tree.names)} videos"
                log.warning(
                    "%s has no test folder: using the test part of the automatic split, %s", printable(self.root), share
                )
            return part
        if split == "test" and "test" not in homes:
            log.warning("%s has no test folder: using the validation videos", printable(self.root))
            split = "val"
        drawn = split in ("train", "val") and "train" in homes and ("val" not in homes or self.folds is not None)
        if split in homes and not drawn:
            return self._scan(homes[split])
        if "train" not in homes:
            raise DataError(
                f"{self.root} has {' and '.join(homes.values())}, but no train folder; it can only be tested."
            )
        return self._part(split, homes["train"], {"train": 1.0, "val": self.fractions["val"]})

    def _part(self, split: str, home: str, fractions: dict[str, float]) -> VideoRecords:
        """Return one part of a folder that is split at random; its folds include the validation folder."""
        records, where = self._scan(home), os.path.join(self.root, home)
        if home and "val" in self._homes:
            records = records.join(self._scan(self._homes["val"]))
        return self._draw(records, fractions, self.class_names, where)[split]
