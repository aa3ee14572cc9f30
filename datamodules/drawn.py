"""Base class of the data modules that draw splits, or the folds of a cross-validation, from a list of videos."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.base import VideoDataModule
from datamodules.groups import find_likely_groups, group_keys, shared_groups
from datamodules.records import VideoRecords
from datamodules.splits import split_grouped, split_stratified
from zoo.errors import ConfigError, DataError, check_counts, check_seed
from zoo.text import printable

log = logging.getLogger("datamodules")


class DrawnSplits(VideoDataModule):
    """Base class of ``VideoFolder`` and ``VideoList``.

    Args:
        split_seed: random seed of the automatic split.
        group: keeps videos of one recording, person or camera in one split: a regular expression that is searched in
            the path, whose first group (or entire match) is the key, such as ``_(g\\d+)_``; or a column of a CSV file.
        folds: number of folds of a cross-validation. The training and validation videos are divided into that many
            parts with the same share of each class.
        fold: the fold that is used for validation, from 1; the others are the training videos.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    def __init__(
        self,
        *,
        split_seed: int = 0,
        group: str | None = None,
        folds: int | None = None,
        fold: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_seed("split_seed", split_seed)
        check_folds(folds, fold)
        self.split_seed, self.group, self.folds, self.fold = split_seed, group, folds, fold
        self._drawn: set[str] = set()  # splits that were drawn

    def groups_of(self, split: str) -> list[str] | None:
        """See the base class."""
        return self._group_keys(self.datasets[split].records, f"the {split} videos")

    def _group_keys(self, records: VideoRecords, source: str) -> list[str] | None:
        """Return the group of each video; None if ``group`` is not set or the videos have no group."""
        if self.group is None:
            return None
        return group_keys(self._relative(records.ids.tolist()), self.group, source)

    def _draw(
        self, records: VideoRecords, fractions: Mapping[str, float], names: list[str], source: str
    ) -> dict[str, VideoRecords]:
        """Draw splits of the given fractions; with ``folds``, validation videos are those of the fold.

        Args:
            records: the videos.
            fractions: see ``split_stratified``.
            names: class names.
            source: name of the folder or list in error messages.
        """
        self._drawn |= fractions.keys()
        everything = np.arange(len(records))
        keys = self._group_keys(records, source)
        if self.group is not None and keys is None:
            raise DataError(f"A list of {source} has no column {self.group!r} (--data.group); add it to all lists.")
        parts: dict[str, np.ndarray] = {}
        if self.folds is None or "test" in fractions:
            parts = self._split(records, everything, keys, fractions, names, source)
        if self.folds:
            pool = np.setdiff1d(everything, parts.get("test", []))  # the test videos are the same in all folds
            shares = {f"fold {number}": 1 / self.folds for number in range(1, self.folds + 1)}
            folds = self._split(records, pool, keys, shares, names, source)
            parts["val"] = folds[f"fold {self.fold}"]
            parts["train"] = np.setdiff1d(pool, parts["val"])
        return {part: records.take(numbers) for part, numbers in parts.items()}

    def _split(
        self,
        records: VideoRecords,
        numbers: np.ndarray,
        keys: list[str] | None,
        fractions: Mapping[str, float],
        names: list[str],
        source: str,
    ) -> dict[str, np.ndarray]:
        """Split the videos with the given numbers; return the numbers of each part."""
        ids = records.ids.tolist()
        paths, labels = self._relative([ids[number] for number in numbers]), records.labels[numbers]
        if keys is None and labels.ndim == 1:
            parts = split_stratified(paths, labels, fractions, self.split_seed, names, source)
        else:
            groups = paths if keys is None else [keys[number] for number in numbers]
            cover = None if "train" not in fractions else "train"
            parts = split_grouped(groups, labels, fractions, self.split_seed, names, source, cover)
        return {part: numbers[members] for part, members in parts.items()}

    def _check_groups(self, parts: Mapping[str, VideoRecords]) -> None:
        """Count the groups of each split; warn about groups in several splits.

        Without ``group``, the groups that the names suggest are compared, but only in splits that were drawn.
        """
        if self.group is not None:
            keys = {part: self._group_keys(records, part) for part, records in parts.items()}
            present = {part: values for part, values in keys.items() if values is not None}
            self.group_counts = {part: len(set(values)) for part, values in present.items()}
            shared = shared_groups(present)
            if shared:
                log.warning(
                    "%d groups of --data.group are in several splits, such as %s in %s: the validation accuracy may be "
                    "too high",
                    len(shared), *_example(shared),
                )  # fmt: skip
            self._check_classes(parts)
            return
        drawn = {part: self._relative(parts[part].ids.tolist()) for part in parts if part in self._drawn}
        likely = find_likely_groups([path for paths in drawn.values() for path in paths])
        if likely is None:
            return
        remaining = iter(likely.keys)
        shared = shared_groups({part: [next(remaining) for _ in paths] for part, paths in drawn.items()})
        if shared:
            log.warning(
                "The automatic split separates videos that probably belong together: %d of %d groups of similar names "
                "are in several splits, such as %s in %s. The validation accuracy may be too high. To keep each group "
                "in one split: --data.group '%s'",
                len(shared), len(set(likely.keys) - {None}), *_example(shared), likely.pattern,
            )  # fmt: skip

    def _check_classes(self, parts: Mapping[str, VideoRecords]) -> None:
        """Warn about classes that a drawn split lacks because their videos are in too few groups."""
        names = self.class_names or []
        for part in self._drawn & parts.keys() - {"train"}:
            labels, train = parts[part].labels, parts["train"].labels
            if labels.ndim > 1:
                missing = np.flatnonzero(~labels.any(0) & train.any(0))
            else:
                missing = np.setdiff1d(train, labels)
            if len(missing):
                log.warning(
                    "%d of %d classes have no %s videos, such as %s: their videos are in too few groups",
                    len(missing), len(names), part, printable(names[missing[0]]),
                )  # fmt: skip


def _example(shared: Mapping[str, list[str]]) -> tuple[str, str]:
    """Return the first group that is in several splits, and these splits."""
    key, splits = next(iter(shared.items()))
    return printable(key[:80]), " and ".join(splits)


def check_folds(folds: int | None, fold: int | None) -> None:
    """Check the options of a cross-validation.

    Raises:
        ConfigError: one of them is missing or out of range.
    """
    if folds is None and fold is None:
        return
    if folds is None or fold is None:
        raise ConfigError("folds and fold belong together; give both, such as --data.folds 5 --data.fold 1.")
    check_counts(folds=folds, fold=fold)
    if folds < 2:
        raise ConfigError(f"folds is {folds}; a cross-validation has at least 2.")
    if fold > folds:
        raise ConfigError(f"fold is {fold}; it must be from 1 to folds, {folds}.")
