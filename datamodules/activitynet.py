"""ActivityNet 1.3 for classification: entire videos, or the annotated segments."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from datamodules.annotations import find_annotations, read_json
from datamodules.base import VideoDataModule
from datamodules.localization.annotations import UntrimmedVideo, parse_activitynet
from datamodules.records import VideoRecords
from datamodules.tree import Tree, find_present, open_tree
from zoo.errors import DataError
from zoo.index import read_labels

OFFICIAL = "activity_net.v1-3.min.json"
SUBSETS = {"train": "training", "val": "validation"}


class ActivityNet(VideoDataModule):
    """ActivityNet 1.3 (Caba Heilbron et al. 2015, CVPR): entire videos or annotated segments of 200 classes.

    The file is ``activity_net.v1-3.min.json`` of the authors, or ``anet_anno_train.json`` and ``anet_anno_val.json`` of
    MMAction2; in ``root`` or ``root/annotations``. Videos are found by name anywhere below ``root``: ``v_{id}`` as in
    MMAction2, or ``{id}``, with any extension. An entire video has the label of its first segment, as in MMAction2.
    Segments that do not end after their start, or repeat another one, are left out, and so are, with ``segments``,
    segments that end more than a second after their video; their number is logged. The classes have the order of
    MMAction2's label map. Testing uses the validation videos, as the labels of the test videos are not public. For the
    localization of actions, use LocalizationData.

    Args:
        root: folder, or shards, with the videos.
        segments: classify the annotated segments instead of entire videos.
        annotations: folder of the JSON files; default ``root``.
        max_missing: fraction of the listed videos or segments that may be missing; some are no longer on YouTube.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    def __init__(
        self,
        root: str | Path,
        segments: bool = False,
        annotations: str | Path | None = None,
        max_missing: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(max_missing=max_missing, **options)
        self.root, self.segments, self.annotations = root, segments, annotations

    @functools.cached_property
    def _home(self) -> Tree:
        return self.tree if self.annotations is None else open_tree(self.annotations)

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The 200 classes in the order of MMAction2's label map."""
        return list(read_labels("activitynet"))

    def _listed(self, file: str, split: str) -> list[UntrimmedVideo]:
        """Return the videos of a split that have segments."""
        source = f"{self._home.root}/{file}"
        content = read_json(self._home, file, dict, unique_keys=True)
        database = content.get("database")
        if not file.endswith(OFFICIAL):
            database = {name: _official_entry(entry, split) for name, entry in content.items()}
        if isinstance(database, dict) and not self.segments:  # an entire video has its label whatever its duration is
            database = {name: _without_duration(entry) for name, entry in database.items()}
        videos = parse_activitynet(database, source, classes=self.class_names, excluded_labels=(), faulty="drop")
        videos = [video for video in videos if video.split == split and video.segments]
        if not videos:
            raise DataError(f"{source} has no labeled {SUBSETS[split]} videos. Use the official file.")
        return videos

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "test" and "predict" are the validation split."""
        split = "train" if split == "train" else "val"
        file = find_annotations(self._home, [OFFICIAL, f"anet_anno_{split}.json"])
        numbers = {name: number for number, name in enumerate(self.class_names)}
        names, ids, labels, spans = [], [], [], []
        for video in self._listed(file, split):
            stem = video.name if video.name in self.tree.stems else f"v_{video.name}"
            for number, (start, end, label) in enumerate(video.segments if self.segments else video.segments[:1]):
                names.append(self.tree.stems.get(stem))
                ids.append(f"{stem}_{number}")
                labels.append(numbers[label])
                spans.append((start, end))
        source = f"{self._home.root}/{file}"
        present = find_present(names, self.max_missing, source, str(self.root))
        options: dict[str, Any] = {"listed": len(names), "source": source}
        if self.segments:
            options |= {"ids": [ids[i] for i in present], "spans": [spans[i] for i in present], "open_end": True}
        return self.tree.records([names[i] for i in present], [labels[i] for i in present], **options)


def _official_entry(entry: Any, split: str) -> Any:
    """Return a video of MMAction2's files in the format of the official file."""
    if not isinstance(entry, dict):
        return entry
    return {"subset": SUBSETS[split], "duration": entry.get("duration_second"), "annotations": entry.get("annotations")}


def _without_duration(entry: Any) -> Any:
    """Return a video whose segments are not compared with its duration."""
    return {**entry, "duration": None} if isinstance(entry, dict) else entry
