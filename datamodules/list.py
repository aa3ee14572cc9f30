"""VideoList: videos and labels in CSV files."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.annotations import read_classes, read_header, read_table, shorten, sorted_labels
from datamodules.drawn import DrawnSplits
from datamodules.records import VideoRecords
from datamodules.tree import Tree, find_present, open_tree
from zoo.errors import ConfigError, DataError, check_rate

log = logging.getLogger("datamodules")
COLUMNS = ("path", "label")


class VideoList(DrawnSplits):
    """CSV files with the columns ``path`` and ``label`` (a header line; quote a path that holds a comma).

    Labels are class names. Paths are relative to ``root``, or to the CSV file's folder; the extension of a
    video may differ (a.avi, now a.mp4). With ``label_separator``, a video may have several labels, or none.
    Without ``val``, a part of each class of the training videos is used for validation; without ``test``, the
    validation videos are tested.

    Args:
        train: CSV file, which also determines the classes. Not needed to test a network with class names.
        val: CSV file; default: a part of the training videos.
        test: CSV file; default: the validation videos.
        root: folder or shards that paths are relative to; default: the folder of each CSV file.
        classes: all classes in label order, as a text file with one name a line or a label set of the zoo
            ("kinetics400"), if the lists do not contain all of them; labels may then be numbers as well.
        val_fraction: fraction of each class of the training videos for validation, without ``val``.
        label_separator: text between the labels of a video, such as "|"; None if each video has one label.
        split_seed: random seed of this split.
        options: of DrawnSplits (group, folds, fold) and VideoDataModule: batch_size, num_workers, clips, crops, flip,
            max_missing, ...
    """

    root: str | None

    def __init__(
        self,
        train: str | Path | None = None,
        val: str | Path | None = None,
        test: str | Path | None = None,
        root: str | Path | None = None,
        classes: str | Path | None = None,
        val_fraction: float = 0.15,
        split_seed: int = 0,
        label_separator: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(split_seed=split_seed, **options)
        if not (train or test or val):
            raise DataError(f"{type(self).__name__} needs a list of videos: give at least train= or test=.")
        check_rate("val_fraction", val_fraction)
        self.files = {name: Path(file) for name, file in (("train", train), ("val", val), ("test", test)) if file}
        self.root = None if root is None else str(root)
        self.classes = classes
        if label_separator == "":
            raise ConfigError('label_separator is empty; give the text between the labels, such as "|".')
        self.val_fraction, self.label_separator = val_fraction, label_separator
        self._groups: dict[str, str] = {}  # video -> value of the column ``group``, for the lists that have it

    @property
    def base_folders(self) -> list[str]:
        """``root``, or the folders of the lists."""
        return [self.root] if self.root is not None else [str(file.parent) for file in self.files.values()]

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return self.label_separator is not None

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits with a list, and a validation split taken from the training videos."""
        files = self.files
        return tuple(part for part in ("train", "val", "test") if part in files or (part == "val" and "train" in files))

    @functools.cached_property
    def class_names(self) -> list[str]:
        """``classes``, or the labels of the training list (or of the only list), sorted; numbers sort as numbers."""
        if self.classes is not None:
            return read_classes(self.classes)
        return self._classes_in(self.files.get("train") or next(iter(self.files.values())))

    def _classes_in(self, file: Path) -> list[str]:
        names = {label for _, labels in self._rows(file) for label in labels}
        if len(names) < 2:
            raise DataError(f"{file} has {len(names)} class{'es' * (len(names) != 1)}; at least 2 are needed.")
        return sorted_labels(names)

    def _rows(self, file: Path) -> list[tuple[str, list[str]]]:
        """Return the path and the labels of each video."""
        if not file.is_file():
            raise DataError(f"List {file} does not exist.")
        separator = self.label_separator
        if separator is None:
            return [(row["path"], [row["label"]]) for row in self._table(file, COLUMNS)]
        rows = [(row["path"], row["label"].split(separator)) for row in self._table(file, COLUMNS, optional=["label"])]
        return [(path, [label.strip() for label in labels if label.strip()]) for path, labels in rows]

    def _table(self, file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
        rows = [row for _, row in read_table(open_tree(file.parent), file.name, columns, optional)]
        if not rows:
            raise DataError(f"{file} lists no videos.")
        return rows

    def _group_column(self, file: Path) -> list[str] | None:
        """Return the values of the column ``group`` of a CSV file; None if it is not a column."""
        if self.group is None or self.group not in read_header(open_tree(file.parent), file.name):
            return None
        return [row[self.group] for row in self._table(file, [self.group])]

    def _read(self, file: Path) -> VideoRecords:
        rows = self._rows(file)
        labels = {name: number for number, name in enumerate(self.class_names)}
        listed = {label for _, names in rows for label in names}
        if self.classes is not None and not any(label in labels for label in listed):
            labels = {str(number): number for number in labels.values()}
        unknown = sorted(label for label in listed if label not in labels)
        if unknown:
            origin = "" if self.classes is None else f" of {self.classes}"
            label = shorten(unknown[0])
            advice = "" if self.multi_label else " If videos have several labels, set --data.label_separator."
            advice = advice if any(sign in unknown[0] for sign in "|;,") else ""
            raise DataError(f"{file} has the label {label}, which is not one of the classes{origin}.{advice}")
        groups = self._group_column(file)
        numbers = [[labels[name] for name in names] for _, names in rows]
        if self.multi_label:
            values = np.zeros((len(rows), len(self.class_names)), dtype=np.int64)
            for row, classes in zip(values, numbers, strict=True):
                row[classes] = 1
        else:
            values = np.array([number for (number,) in numbers])
        return self._records(file, [path for path, _ in rows], values, groups=groups)

    def _find(self, tree: Tree, path: str, file: Path) -> str | None:
        return tree.find(path)

    def _records(
        self,
        file: Path,
        paths: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        spans: Sequence[tuple[int, int]] | None = None,
        groups: Sequence[str] | None = None,
    ) -> VideoRecords:
        """Return records of the listed videos that exist; ``groups`` are the values of the column ``group``."""
        home = file.parent if self.root is None else self.root
        tree = open_tree(home) if self.root is None else self.tree
        names = [self._find(tree, path, file) for path in paths]
        absent = [path for path, name in zip(paths, names, strict=True) if name is None]
        present = find_present(
            names, self.max_missing, str(file), f"{home}, such as {absent[0][:200]}" if absent else str(home)
        )
        records = tree.records(
            [str(names[i]) for i in present],
            np.asarray(labels)[present],
            spans=None if spans is None else [spans[i] for i in present],
            listed=len(paths),
            source=str(file),
        )
        if groups is not None:
            self._groups.update(zip(records.ids, (groups[i] for i in present), strict=True))
        return records

    def _group_keys(self, records: VideoRecords, source: str) -> list[str] | None:
        if not self._groups:
            return super()._group_keys(records, source)
        keys = [self._groups.get(name) for name in records.ids]
        return None if None in keys else [str(key) for key in keys]  # a list without the column

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "predict" is the test split."""
        split = "test" if split == "predict" else split
        if split == "test" and "test" not in self.files:
            log.warning("%s has no test list: using the validation videos", type(self).__name__)
            split = "val"
        files = self.files
        drawn = split in ("train", "val") and "train" in files and ("val" not in files or self.folds is not None)
        if split in files and not drawn:
            return self._read(files[split])
        if "train" not in files:
            raise DataError(f"{type(self).__name__} has no {split} list; pass {split}=FILE.")
        records = self._read(files["train"])
        if "val" in files:  # the folds include the validation videos
            records = records.join(self._read(files["val"]))
        fractions = {"train": 1.0, "val": self.val_fraction}
        return self._draw(records, fractions, self.class_names, str(files["train"]))[split]
