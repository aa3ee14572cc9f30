"""Moments in Time and Multi-Moments in Time."""

from __future__ import annotations

import functools
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.annotations import find_annotations, read_rows, shorten
from datamodules.base import VideoDataModule
from datamodules.records import VideoRecords
from datamodules.tree import Tree, find_present, open_tree
from zoo.errors import DataError

CLASS_FILE = "moments_categories.txt"
SPLITS = {"train": "training", "val": "validation"}  # folders, and the first words of the names of the lists


class MomentsInTime(VideoDataModule):
    """Moments in Time (Monfort et al. 2019, arXiv:1801.03150): three-second videos with one of 339 classes.

    ``moments_categories.txt`` has lines "class,number", which are also the order of MMAction2's labels.
    ``trainingSet.csv`` and ``validationSet.csv`` have no header; their lines begin with the path of a video, such as
    ``clapping/yt-abc_12.mp4``, and its class; the numbers of votes that may follow are not used. The files are in
    ``root`` or ``root/annotations``. Paths are relative to ``training`` or ``validation``, as published, to
    ``videos/training`` or ``videos/validation``, as in MMAction2, to ``videos``, or to ``root``. Testing uses the
    validation videos, as published figures do. Version 2, with 305 classes, has the same files.

    Args:
        root: folder, or shards, with the videos.
        annotations: folder of the text and CSV files; default ``root``.
        max_missing: fraction of the listed videos that may be missing.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    def __init__(
        self, root: str | Path, annotations: str | Path | None = None, max_missing: float = 0.0, **options: Any
    ) -> None:
        super().__init__(max_missing=max_missing, **options)
        self.root, self.annotations = root, annotations

    @functools.cached_property
    def _home(self) -> Tree:
        return self.tree if self.annotations is None else open_tree(self.annotations)

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The classes of ``moments_categories.txt`` in the order of their numbers."""
        file = find_annotations(self._home, [CLASS_FILE])
        where = f"{self._home.root}/{file}"
        names: dict[int, str] = {}
        for line, text in enumerate(self._home.read(file).splitlines(), start=1):
            name, _, number = (part.strip() for part in text.rpartition(","))
            if not text.strip():
                continue
            if not (name and number.isdecimal() and len(number) < 5):
                raise DataError(f"{where}, line {line}: {shorten(text)} is not a class and its number, 'clapping,0'.")
            if int(number) in names or name in names.values():
                raise DataError(f"{where}, line {line}: {shorten(text)} repeats a class or a number. Remove one line.")
            names[int(number)] = name
        if len(names) < 2 or sorted(names) != list(range(len(names))):
            raise DataError(
                f"{where} has {len(names)} classes, whose numbers are not 0 to {max(len(names) - 1, 1)}. Use the "
                "official file."
            )
        return [names[number] for number in range(len(names))]

    @functools.cached_property
    def _paths(self) -> dict[str, str]:
        """Relative path of each video by the same without extension."""
        return {os.path.splitext(name)[0]: name for name in reversed(self.tree.names)}

    def _find_video(self, path: str, split: str) -> str | None:
        """Return the relative path of a listed video, or None if it is missing."""
        stem, folder = os.path.splitext(path)[0], SPLITS[split]
        candidates = (posixpath.join(home, stem) for home in (folder, f"videos/{folder}", "videos", ""))
        return next((self._paths[name] for name in candidates if name in self._paths), None)

    def _labels(self, rows: Sequence[tuple[str, list[str]]]) -> np.ndarray:
        """Return the class number of each video.

        Args:
            rows: file and line, and the cells after the path of the video.
        """
        numbers = {name: number for number, name in enumerate(self.class_names)}
        for at, cells in rows:
            if not cells or cells[0] not in numbers:
                raise DataError(
                    f"{at}: {shorten(cells[0] if cells else '')} is not one of the {len(numbers)} classes of "
                    f"{CLASS_FILE}. Use files of the same version of the data set."
                )
        return np.array([numbers[cells[0]] for _, cells in rows])

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "test" and "predict" are the validation split."""
        split = "train" if split == "train" else "val"
        file = find_annotations(self._home, [f"{SPLITS[split]}Set.csv"])
        source = f"{self._home.root}/{file}"
        rows = [(f"{source}, line {line}", [cell.strip() for cell in row]) for line, row in read_rows(self._home, file)]
        if not rows:
            raise DataError(f"{source} lists no videos. Use the official file.")
        labels = self._labels([(at, cells[1:]) for at, cells in rows])
        names = [self._find_video(cells[0], split) for _, cells in rows]
        present = find_present(names, self.max_missing, source, str(self.root))
        return self.tree.records([names[i] for i in present], labels[present], listed=len(rows), source=source)


class MultiMomentsInTime(MomentsInTime):
    """Multi-Moments in Time (Monfort et al. 2019, arXiv:1911.00232): videos with several of 313 classes.

    The files are those of ``MomentsInTime``, except for the lines of ``trainingSet.csv`` and ``validationSet.csv``,
    which have the path of a video and the numbers of its classes: ``applauding/yt-abc_12.mp4,49,161``. Labels are 0 or
    1 for each class. Videos are below ``videos``, as in MMAction2, or in the folders of Moments in Time.

    Args:
        root: folder, or shards, with the videos.
        annotations: folder of the text and CSV files; default ``root``.
        max_missing: fraction of the listed videos that may be missing.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    @property
    def multi_label(self) -> bool:
        """A video may have several classes."""
        return True

    def _labels(self, rows: Sequence[tuple[str, list[str]]]) -> np.ndarray:
        count = len(self.class_names)
        values = np.zeros((len(rows), count), dtype=np.uint8)
        for value, (at, cells) in zip(values, rows, strict=True):
            for cell in cells:
                if not (cell.isdecimal() and len(cell) < 5 and int(cell) < count):
                    raise DataError(
                        f"{at}: {shorten(cell)} is not a class number from 0 to {count - 1}, as in {CLASS_FILE}. Use "
                        "files of the same version of the data set."
                    )
                value[int(cell)] = 1
        return values
