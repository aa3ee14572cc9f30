"""Something-Something V1 and V2, and their common base class with Jester."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.annotations import find_annotations, read_json, read_rows, read_table, shorten
from datamodules.base import VideoDataModule
from datamodules.records import VideoRecords
from datamodules.tree import find_present
from zoo.errors import DataError
from zoo.index import read_labels

MIRROR = {"left": "right", "clockwise": "counterclockwise"}
MIRROR |= {b: a for a, b in MIRROR.items()}


class TwentyBN(VideoDataModule):
    """Base class of the data sets of Twenty Billion Neurons: numbered videos, lists of "number;class", a label set.

    Subclasses set ``release`` (what names of files begin with) and ``labels`` (the label set of the zoo).

    Args:
        root: folder, or shards, with the annotation files (there, or in ``annotations`` or ``labels``) and videos.
        max_missing: fraction of the listed videos that may be missing.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    release = ""
    labels = ""
    frame_rate = 12.0  # at which all frames were extracted by the publisher

    def __init__(self, root: str | Path, max_missing: float = 0.0, **options: Any) -> None:
        super().__init__(max_missing=max_missing, **options)
        self.root = root

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The label set, compared with the publisher's list of classes where it is there."""
        names = list(read_labels(self.labels))
        try:
            file = self._find("labels")
        except DataError:
            return names
        self._compare(file, names)
        return names

    def _find(self, part: str, end: str = "csv") -> str:
        return find_annotations(self.tree, [f"{self.release}-{part}.{end}", f"{part}.{end}", f"{part.title()}.{end}"])

    def _compare(self, file: str, names: list[str]) -> None:
        listed = {row[0].strip() for _, row in read_rows(self.tree, file, delimiter=";")}
        if listed != set(names):
            odd = min(listed.symmetric_difference(names))
            raise DataError(
                f"{self.tree.root}/{file} is not the list of the {len(names)} classes of {self.labels}: "
                f"{shorten(odd)} is only in {'it' if odd in listed else 'the latter'}."
            )

    def _rows(self, split: str) -> list[tuple[str, str]]:
        """Number and class of each video."""
        file = self._find(split)
        if self.tree.read(file).startswith("video_id,"):  # a widely used mirror of Jester names its columns
            return [(row["video_id"], row["label"]) for _, row in read_table(self.tree, file, ("video_id", "label"))]
        lines = list(read_rows(self.tree, file, delimiter=";"))
        for line, row in lines:
            if len(row) != 2:
                raise DataError(
                    f"{self.tree.root}/{file}, line {line}: {';'.join(row)[:80]!r} is not a video's number and class "
                    'with a ";" between.'
                )
        return [(number.strip(), label.strip()) for _, (number, label) in lines]

    def _find_videos(self, numbers: Sequence[str]) -> list[str | None]:
        """Relative paths: of folders of frames or, where there are none, of video files."""
        homes = ("20bn-" + self.release, "frames", "rawframes", "Train", "Validation", "")
        frames: dict[str, str] = {}
        for home in homes:
            if not home or self.tree.has_folder(home):
                frames = {name: f"{home}/{name}".lstrip("/") for name in self.tree.folders(home)} | frames
        if any(number in frames for number in numbers):
            return [frames.get(number) for number in numbers]
        return [self.tree.stems.get(number) for number in numbers]

    def flip_names(self) -> list[tuple[str, str]]:
        """Classes whose names are the same but for left and right, or for the sense of rotation."""
        pairs = [(name, mirrored(name)) for name in self.class_names]
        return [(name, other) for name, other in pairs if name < other and other in self.class_names]

    def split_records(self, split: str) -> VideoRecords:
        """The training or validation videos; "test" and "predict" are the latter."""
        split = "train" if split == "train" else "validation"
        numbers = {name: number for number, name in enumerate(self.class_names)}
        rows, source = self._rows(split), f"{self.tree.root}/{self._find(split)}"
        for video, label in rows:
            if label not in numbers:
                raise DataError(
                    f"{source}: video {video[:80]} has the label {shorten(label)}, which is none of the {len(numbers)} "
                    f"classes of {self.labels}."
                )
        paths = self._find_videos([video for video, _ in rows])
        present = find_present(paths, self.max_missing, source, self.tree.root)
        labels = [numbers[rows[i][1]] for i in present]
        return self.tree.records([paths[i] for i in present], labels, listed=len(rows), source=source)


class SomethingV1(TwentyBN):
    """Something-Something V1 (Goyal et al. 2017, arXiv:1706.04261): 174 classes, folders of frames, 12 a second.

    ``something-something-v1-train.csv`` and ``-validation.csv`` with lines "number;class"; frames in
    ``20bn-something-something-v1/<number>/00001.jpg``, or video files ``<number>.webm`` (or another ending) anywhere
    below ``root``. Testing uses the validation videos, as published figures do. When a training clip is mirrored,
    classes that differ only in left and right are exchanged.
    """

    release, labels = "something-something-v1", "ssv1"


class SomethingV2(TwentyBN):
    """Something-Something V2: the 174 classes in another order, videos ``<number>.webm`` anywhere below ``root``.

    ``something-something-v2-train.json`` and ``-validation.json`` (or ``train.json``, ``validation.json``): lists of
    entries with "id" and "template", a class name with brackets around the things in it. ``-labels.json`` gives each
    name its number. Testing and mirroring as with V1.
    """

    release, labels = "something-something-v2", "ssv2"

    def _find(self, part: str, end: str = "json") -> str:
        return super()._find(part, end)

    def _compare(self, file: str, names: list[str]) -> None:
        listed = read_json(self.tree, file, dict)
        expected = {name: str(number) for number, name in enumerate(names)}
        odd = sorted(name for name in listed.keys() | expected if str(listed.get(name)) != expected.get(name))
        if odd:
            number = shorten(listed[odd[0]]) if odd[0] in listed else "none"
            raise DataError(
                f"{self.tree.root}/{file} gives {shorten(odd[0])} the number {number}, the label set {self.labels} "
                f"{expected.get(odd[0], 'none')}. It must be the official file; for a part of the classes, or others, "
                "use VideoList."
            )

    def _rows(self, split: str) -> list[tuple[str, str]]:
        file = self._find(split)
        rows = []
        for number, entry in enumerate(read_json(self.tree, file, list)):
            video, template = (entry.get("id"), entry.get("template")) if isinstance(entry, dict) else (None, None)
            if not video or not isinstance(video, (str, int)) or not template or not isinstance(template, str):
                raise DataError(f"{self.tree.root}/{file}: entry {number} has no id or no template.")
            rows.append((str(video), re.sub(r"[\[\]]", "", template)))
        return rows

    def _find_videos(self, numbers: Sequence[str]) -> list[str | None]:
        return [self.tree.stems.get(number) for number in numbers]


def mirrored(name: str) -> str:
    """A class name with left and right exchanged, and clockwise and counterclockwise."""

    def swap(match: re.Match[str]) -> str:
        word = match[0]
        other = MIRROR.get(word.lower(), word)
        return other.capitalize() if word[0].isupper() else other

    return re.sub(r"\w+", swap, name)
