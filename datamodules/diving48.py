"""Diving48: competitive dives, with classes that differ mostly in motion."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from datamodules.annotations import find_annotations, read_json, shorten
from datamodules.base import VideoDataModule
from datamodules.records import VideoRecords
from datamodules.tree import find_present
from zoo.errors import DataError

CLASSES = 48


class Diving48(VideoDataModule):
    """Diving48 (Li et al. 2018, "RESOUND", ECCV) with the labels of its second version.

    ``Diving48_V2_train.json`` and ``Diving48_V2_test.json`` are lists of entries with "vid_name" and "label",
    ``Diving48_vocab.json`` lists the four parts of each class: take-off, somersaults, twists, position. They lie in
    ``root``, ``root/annotations`` or ``root/labels``. Videos are ``<vid_name>.mp4`` anywhere below ``root``; each is
    one dive from its first frame to its last, so the frame numbers of the entries are not needed. There is no
    validation split: validation uses the test videos.

    Args:
        root: folder, or shards, with the annotation files and videos.
        max_missing: fraction of the listed videos that may be missing.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    def __init__(self, root: str | Path, max_missing: float = 0.0, **options: Any) -> None:
        super().__init__(max_missing=max_missing, **options)
        self.root = root

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The parts of each class with a "+" between, such as "Back+15som+05Twis+FREE"."""
        file = find_annotations(self.tree, ["Diving48_vocab.json"])
        names = ["+".join(map(str, parts)) for parts in read_json(self.tree, file, list) if isinstance(parts, list)]
        if len(set(names)) != CLASSES:
            raise DataError(f"{self.tree.root}/{file} lists {len(set(names))} classes; Diving48 has {CLASSES}.")
        return names

    def split_records(self, split: str) -> VideoRecords:
        """The training videos, or the test videos for all other splits."""
        file = find_annotations(self.tree, [f"Diving48_V2_{'train' if split == 'train' else 'test'}.json"])
        where = f"{self.tree.root}/{file}"
        entries = read_json(self.tree, file, list)
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or not entry.get("vid_name") or not isinstance(entry["vid_name"], str):
                raise DataError(f"{where}: entry {number} has no vid_name.")
            label = entry.get("label")
            if type(label) is not int or not 0 <= label < CLASSES:
                raise DataError(
                    f"{where}: video {entry['vid_name'][:80]} has the label {shorten(label)}; labels are 0 to "
                    f"{CLASSES - 1}."
                )
        names = [self.tree.stems.get(entry["vid_name"]) for entry in entries]
        present = find_present(names, self.max_missing, where, self.tree.root)
        labels = [entries[i]["label"] for i in present]
        return self.tree.records([names[i] for i in present], labels, listed=len(entries), source=where)
