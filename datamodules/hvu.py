"""Holistic Video Understanding (HVU): videos with several tags in six categories."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.annotations import find_annotations, read_json, read_table, shorten
from datamodules.base import VideoDataModule
from datamodules.records import VideoRecords
from datamodules.tree import Tree, find_present, open_tree
from zoo.errors import ConfigError, DataError

CATEGORIES = ("action", "attribute", "concept", "event", "object", "scene")
TAG_TABLES = ("HVU_Tags_Categories_V1.0.csv", "hvu_categories.csv")
TAG_OBJECTS = ("hvu_tags.json", "label_map.json")  # MMAction2: category -> tags
TABLES = {"train": ("HVU_Train_V1.0.csv", "hvu_train.csv"), "val": ("HVU_Val_V1.0.csv", "hvu_val.csv")}
COLUMNS = ("Tags", "youtube_id", "time_start", "time_end")
MAX_SECONDS = 10**6


class HVU(VideoDataModule):
    """Holistic Video Understanding (Diba et al. 2020, arXiv:1904.11451): the tags of one of its six categories.

    A video may have several tags; labels are 0 or 1 for each tag of the category. The tags are sorted, as in MMAction2,
    which published a network for each category. Videos without a tag of the category are left out, as there.

    The files are ``HVU_Train_V1.0.csv``, ``HVU_Val_V1.0.csv`` and ``HVU_Tags_Categories_V1.0.csv`` of the authors, or
    ``hvu_train.csv``, ``hvu_val.csv`` and ``hvu_categories.csv``, their names in MMAction2; in ``root`` or
    ``root/annotations``. A line of the lists has tags separated by "|", a YouTube id, and start and end in seconds.
    Without these lists, the JSON files of MMAction2 are read: ``hvu_<category>_train_video.json`` or
    ``hvu_train_video.json``, and the same for ``val``. Their tags are numbers; the names are those of
    ``hvu_categories.csv``, ``hvu_tags.json`` or ``label_map.json``.

    Videos are found by name anywhere below ``root``: ``{id}_{start:06d}_{end:06d}`` with times in tenths of a second,
    as in MMAction2, or in seconds. Testing uses the validation videos, as published figures do.

    Args:
        root: folder, or shards, with the videos.
        category: "action", "attribute", "concept", "event", "object" or "scene".
        annotations: folder of the CSV or JSON files; default ``root``.
        max_missing: fraction of the listed videos that may be missing; some are no longer on YouTube.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    def __init__(
        self,
        root: str | Path,
        category: str = "action",
        annotations: str | Path | None = None,
        max_missing: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(max_missing=max_missing, **options)
        if category not in CATEGORIES:
            raise ConfigError(f"category is {category!r}; choose from {', '.join(CATEGORIES)}.")
        self.root, self.category, self.annotations = root, category, annotations

    @functools.cached_property
    def _home(self) -> Tree:
        return self.tree if self.annotations is None else open_tree(self.annotations)

    @property
    def multi_label(self) -> bool:
        """A video may have several tags."""
        return True

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The tags of the category, sorted."""
        names = sorted({tag for tag, category in self._tags if category == self.category})
        if len(names) < 2:
            raise DataError(
                f"{self._home.root}/{self._tag_file} has {len(names)} tags of the category {self.category!r}. Use the "
                "official file."
            )
        return names

    @functools.cached_property
    def _tag_file(self) -> str:
        return find_annotations(self._home, [*TAG_TABLES, *TAG_OBJECTS])

    @functools.cached_property
    def _tags(self) -> list[tuple[str, str]]:
        """All tags, each with its category."""
        file = self._tag_file
        if file.endswith(".csv"):
            return [(row["Tag"], row["Category"]) for _, row in read_table(self._home, file, ("Tag", "Category"))]
        pairs = []
        for category, tags in read_json(self._home, file, dict).items():
            if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
                raise DataError(
                    f"{self._home.root}/{file}: {shorten(category)} is {shorten(tags)}; it must be a list of tags. Use "
                    "the file of MMAction2."
                )
            pairs += [(tag, category) for tag in tags]
        return pairs

    def _file(self, split: str) -> str:
        """Return the list of a split; MMAction2 keeps its JSON files in addition to the CSV files."""
        lists = [f"hvu_{self.category}_{split}_video.json", f"hvu_{split}_video.json"]
        try:
            return find_annotations(self._home, TABLES[split])
        except DataError:
            return find_annotations(self._home, [*TABLES[split], *lists])

    def _table_rows(self, file: str) -> Iterator[tuple[list[str], list[int]]]:
        """Yield the possible names of each video and its numbers of tags in the category."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        all_tags = {tag for tag, _ in self._tags}
        for line, row in read_table(self._home, file, COLUMNS):
            at = f"{self._home.root}/{file}, line {line}"
            tags = [tag.strip() for tag in row["Tags"].split("|") if tag.strip()]
            unknown = [tag for tag in tags if tag not in all_tags]
            if unknown:
                raise DataError(
                    f"{at}: {self._tag_file} does not have the tag {shorten(unknown[0])}. Use files of the same "
                    "version of HVU."
                )
            try:
                start, end = float(row["time_start"]), float(row["time_end"])
            except ValueError:
                start = end = -1.0
            if not 0 <= start < end < MAX_SECONDS:
                raise DataError(f"{at}: time_start and time_end are not seconds of a video, with the start first.")
            names = [f"{row['youtube_id']}_{int(unit * start):06d}_{int(unit * end):06d}" for unit in (10, 1)]
            yield names, [numbers[tag] for tag in tags if tag in numbers]

    def _json_rows(self, file: str) -> Iterator[tuple[list[str], list[int]]]:
        """Yield the name of each video in a list of MMAction2 and its numbers of tags in the category."""
        count = len(self.class_names)
        for number, entry in enumerate(read_json(self._home, file, list)):
            at = f"{self._home.root}/{file}, entry {number}"
            name, tags = (entry.get(key) if isinstance(entry, dict) else None for key in ("filename", "label"))
            if not isinstance(name, str) or not name:
                raise DataError(
                    f"{at} has no 'filename'. Use a list of videos, such as hvu_val_video.json; lists of folders of "
                    "frames are not supported."
                )
            if isinstance(tags, Mapping):
                tags = tags.get(self.category, [])
            if not isinstance(tags, list) or not all(type(tag) is int and 0 <= tag < count for tag in tags):
                raise DataError(
                    f"{at}: {shorten(tags)} is not a list of tag numbers from 0 to {count - 1}, of the category "
                    f"{self.category!r}. Create the file again from the official ones."
                )
            yield [PurePosixPath(name).stem], tags

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "test" and "predict" are the validation split."""
        file = self._file("train" if split == "train" else "val")
        source = f"{self._home.root}/{file}"
        rows = list(self._json_rows(file) if file.endswith(".json") else self._table_rows(file))
        tagged = [(names, tags) for names, tags in rows if tags]
        if not tagged:
            raise DataError(f"{source} has no videos with tags of the category {self.category!r}.")
        paths = [self._find_video(names) for names, _ in tagged]
        present = find_present(paths, self.max_missing, source, str(self.root))
        labels = np.zeros((len(present), len(self.class_names)), dtype=np.uint8)  # 481000 x 1678 for objects
        for row, number in zip(labels, present, strict=True):
            row[tagged[number][1]] = 1
        return self.tree.records([paths[i] for i in present], labels, listed=len(tagged), source=source)

    def _find_video(self, names: Sequence[str]) -> str | None:
        return next((self.tree.stems[name] for name in names if name in self.tree.stems), None)
