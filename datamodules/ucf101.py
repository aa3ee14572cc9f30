"""UCF101."""

from __future__ import annotations

import functools
import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.annotations import find_annotations, shorten
from datamodules.base import VideoDataModule, log
from datamodules.records import VideoRecords
from datamodules.tree import find_present, open_tree
from zoo.errors import ConfigError, DataError, check_rate, check_seed
from zoo.text import printable

CLASSES = 101
LISTED = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}  # training and test videos of the three official splits
FOLDERS = ("ucfTrainTestlist", "annotations", "")
GROUP = re.compile(r"_g(\d+)_c\d+$")  # v_YoYo_g08_c01: clips of a group are cut from one longer video


class UCF101(VideoDataModule):
    """UCF101 (Soomro et al. 2012, arXiv:1212.0402) in one of its three official splits for action recognition.

    The lists are ``classInd.txt``, ``trainlist0N.txt`` and ``testlist0N.txt`` in ``root/ucfTrainTestlist``. Videos are
    found by name (``v_YoYo_g08_c01``) anywhere below ``root``, such as ``UCF-101/YoYo/v_YoYo_g08_c01.avi``, with any
    ending. The published figure is the mean top-1 of the three splits.

    There is no validation list. Validation uses the test list, as published work does, so do not choose by it what you
    then report; or ``val_fraction`` of the groups of the training list, in all classes the same groups, as in the
    official splits. No group is in both parts.

    Args:
        root: folder, or shards, with the videos.
        split: 1, 2 or 3.
        annotations: folder of the lists, if not below ``root``.
        val_fraction: fraction of the training groups for validation; 0 validates on the test list.
        split_seed: random seed of the choice of groups.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, max_missing, ...
    """

    def __init__(
        self,
        root: str | Path,
        split: int = 1,
        annotations: str | Path | None = None,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if split not in LISTED:
            raise ConfigError(f"split is {split!r}; choose from {', '.join(map(str, LISTED))}.")
        check_rate("val_fraction", val_fraction)
        check_seed("split_seed", split_seed)
        self.root, self.annotations, self.split = root, annotations, split
        self.val_fraction, self.split_seed = val_fraction, split_seed

    @property
    def parts(self) -> tuple[str, ...]:
        """Without ``val_fraction``, the validation videos are the test videos."""
        return ("train", "val", "test") if self.val_fraction else ("train", "val")

    def _lines(self, name: str) -> tuple[str, list[list[str]]]:
        """Return the path of a list for messages, and its lines, split into words, without empty ones."""
        home = self.tree if self.annotations is None else open_tree(self.annotations)
        file = find_annotations(home, [name], FOLDERS)
        lines = [line.split() for line in home.read(file).splitlines()]
        return posixpath.join(str(home.root), file), [words for words in lines if words]

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The 101 names of classInd.txt, in its order."""
        where, lines = self._lines("classInd.txt")
        names = {words[0]: words[-1] for words in lines}
        if list(names) != [str(number) for number in range(1, CLASSES + 1)]:
            raise DataError(
                f"{where} must name {CLASSES} classes, numbered from 1, and names {len(names)}; for a part of them "
                "use VideoFolder or VideoList."
            )
        return list(names.values())

    def _listed(self, part: str) -> tuple[str, list[str], np.ndarray]:
        """The list of "train" or "test": its file, names of its videos without ending, and their labels."""
        where, lines = self._lines(f"{part}list{self.split:02d}.txt")
        paths = [PurePosixPath(words[0]) for words in lines]
        numbers = {name: number for number, name in enumerate(self.class_names)}
        for line, path in enumerate(paths, start=1):
            if path.parent.name not in numbers:
                raise DataError(f"{where}, line {line}: {shorten(path.parent.name)} is no class of classInd.txt.")
        official = LISTED[self.split][part == "test"]
        if len(paths) != official:
            log.warning("%s lists %d videos; the official file has %d", printable(where), len(paths), official)
        return where, [path.stem for path in paths], np.array([numbers[path.parent.name] for path in paths])

    def _is_validation(self, where: str, stems: list[str]) -> np.ndarray:
        """Return a mask of the training videos whose groups are used for validation."""
        matches = [GROUP.search(stem) for stem in stems]
        if None in matches:
            raise DataError(
                f"{where}: {stems[matches.index(None)][:80]} does not name its group, as in v_YoYo_g08_c01."
            )
        groups = np.array([int(match[1]) for match in matches if match])
        unique = np.unique(groups)
        if len(unique) < 2:
            raise DataError(f"{where} has {len(unique)} group of videos; a validation split needs at least 2.")
        count = min(max(round(self.val_fraction * len(unique)), 1), len(unique) - 1)
        validation = np.random.Generator(np.random.PCG64(self.split_seed)).permutation(unique)[:count]
        return np.isin(groups, validation)

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "predict" is the test split."""
        own_validation = self.val_fraction > 0 and split in ("train", "val")
        where, stems, labels = self._listed("train" if split == "train" or own_validation else "test")
        if own_validation:
            mine = np.flatnonzero(self._is_validation(where, stems) == (split == "val"))
            stems, labels = [stems[i] for i in mine], labels[mine]
        names = [self.tree.stems.get(stem) for stem in stems]
        present = find_present(names, self.max_missing, where, str(self.root))
        return self.tree.records([names[i] for i in present], labels[present], listed=len(names), source=where)
