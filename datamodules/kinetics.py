"""Kinetics-400, 600, 700 and 710."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules.annotations import find_annotations, read_table, shorten
from datamodules.base import VideoDataModule
from datamodules.records import VideoRecords
from datamodules.tree import Tree, find_present, open_tree
from zoo.errors import ConfigError, DataError
from zoo.index import read_labels

CLASSES = {"400": 400, "600": 600, "700": 700, "700-2020": 700, "710": 710}
PARTS = {"710": ("400", "600", "700")}  # versions that a version combines
SPLITS = {"train": ("train",), "val": ("val", "validate", "validation")}
COLUMNS = ("label", "youtube_id", "time_start", "time_end")
# classes of 400 (and two of 600 and 700) that have another name in 710
RENAMED = {
    "balloon blowing": "inflating balloons",
    "changing wheel": "changing wheel (not on bike)",
    "cooking sausages": "cooking sausages (not on barbeque)",
    "drinking": "sipping cup",
    "dying hair": "dyeing hair",
    "garbage collecting": "person collecting garbage",
    "hugging": "hugging (not baby)",
    "making bed": "making the bed",
    "opening bottle": "opening bottle (not wine)",
    "picking fruit": "picking apples",
    "skiing (not slalom or crosscountry)": "skiing mono",
    "sniffing": "smelling feet",
    "throwing ball (not baseball or American football)": "throwing ball",
    "tying tie": "tying necktie",
}


class Kinetics(VideoDataModule):
    """Kinetics (Kay et al. 2017, arXiv:1705.06950) with its official CSV files.

    The files are ``train.csv`` and ``val.csv`` (or ``validate.csv``) in ``root``, in ``root/annotations``, or in
    ``root/kinetics400`` or the like, with the columns label, youtube_id, time_start, time_end. Videos are found by
    name anywhere below ``root``, in class folders, split folders or none: ``{youtube_id}_{start:06d}_{end:06d}``, the
    same without padding, or ``{youtube_id}``. Testing uses the validation videos, as published figures do.
    A root may contain only one of the splits.

    Kinetics-710 (UniFormerV2, arXiv:2211.09552) has no files of its own: it is 400, 600 and 700 together, each with its
    files in a folder of its name, every YouTube video once, those of a validation list never in training. Classes
    are in the order of its published label map.

    Args:
        root: folder, or shards, with the videos.
        version: "400", "600", "700", "700-2020" or "710".
        annotations: folder of the CSV files; default ``root``.
        max_missing: fraction of the listed videos that may be missing; some are no longer on YouTube.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    def __init__(
        self,
        root: str | Path,
        version: str | int = "400",
        annotations: str | Path | None = None,
        max_missing: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(max_missing=max_missing, **options)
        self.version = str(version)
        if self.version not in CLASSES:
            raise ConfigError(f"version is {version!r}; choose from {', '.join(CLASSES)}.")
        self.root, self.annotations = root, annotations

    @functools.cached_property
    def _home(self) -> Tree:
        return self.tree if self.annotations is None else open_tree(self.annotations)

    @functools.cached_property
    def _class_file(self) -> str:
        """The CSV file whose classes are those of 600 and 700."""
        try:
            return self._file(self.version, "val")
        except DataError:
            return self._file(self.version, "train")

    @functools.cached_property
    def class_names(self) -> list[str]:
        """Of 400 in torchvision's order and of 710 in its label map's; of 600 and 700 those of a CSV file, sorted."""
        if self.version in ("400", "710"):
            return list(read_labels(f"kinetics{self.version}"))
        file = self._class_file
        names = sorted({row["label"] for _, row in read_table(self._home, file, COLUMNS)})
        if len(names) != CLASSES[self.version]:
            raise DataError(
                f"{self._home.root}/{file} has {len(names)} classes, and Kinetics-{self.version} has "
                f"{CLASSES[self.version]}. Use the complete official file, or the right version; for a "
                "subset of Kinetics, use VideoList."
            )
        return names

    def _file(self, version: str, split: str) -> str:
        tag = version.replace("-", "_")
        tags = (tag, "700_2020") if self.version in PARTS and version == "700" else (tag,)
        homes = [f"{start}{t}" for t in tags for start in ("kinetics", "kinetics_", "k")]
        folders = [home + end for home in homes for end in ("", "/annotations")]
        if self.version not in PARTS:  # else a file in root might be of any of them
            folders = ["", "annotations", *folders]
        starts = ("", "kinetics_", f"kinetics-{tag}_", f"kinetics_{tag}_")
        return find_annotations(self._home, [f"{s}{word}.csv" for s in starts for word in SPLITS[split]], folders)

    def _rows(self, version: str, split: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the rows of a CSV file, each with its file and line."""
        file = self._file(version, split)
        for line, row in read_table(self._home, file, COLUMNS):
            yield f"{self._home.root}/{file}, line {line}", row

    def _find_video(self, row: Mapping[str, str], at: str) -> str | None:
        """Return the relative path of the video of a row, or None if it is missing."""
        key, stems = row["youtube_id"], self.tree.stems
        try:
            start, end = int(float(row["time_start"])), int(float(row["time_end"]))
        except (ValueError, OverflowError):  # of "inf"
            raise DataError(f"{at}: time_start or time_end is not a number of seconds.") from None
        names = (f"{key}_{start:06d}_{end:06d}", f"{key}_{start}_{end}", key)
        return next((stems[name] for name in names if name in stems), None)

    def _videos(self, split: str) -> list[tuple[str, int, str | None]]:
        """Return YouTube id, label and relative path (None: missing) of each listed video."""
        numbers = {plain(name): number for number, name in enumerate(self.class_names)}
        if self.version in PARTS:
            numbers |= {plain(old): numbers[plain(new)] for old, new in RENAMED.items()}
        videos = []
        for version in PARTS.get(self.version, (self.version,)):
            for at, row in self._rows(version, split):
                label = numbers.get(plain(row["label"]))
                if label is None:
                    own = self.version in ("400", "710")
                    origin = "" if own else f", whose classes are those of {self._home.root}/{self._class_file}"
                    label_name = shorten(row["label"])
                    raise DataError(
                        f"{at}: {label_name} is not a class of Kinetics-{self.version}{origin}. Check version."
                    )
                videos.append((row["youtube_id"], label, self._find_video(row, at)))
        return videos

    def _source(self, split: str) -> str:
        """Return a description of the list of a split, for messages."""
        source = f"Kinetics-{self.version} {split}"
        return source if self.version in PARTS else f"{source} ({self._home.root}/{self._file(self.version, split)})"

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "test" and "predict" are the validation split."""
        split = "train" if split == "train" else "val"
        videos = self._videos(split)
        if self.version in PARTS:
            validation = {key for key, _, _ in self._videos("val")} if split == "train" else set()
            once: dict[str, tuple[str, int, str | None]] = {}
            for video in videos:  # the first existing file; versions cut a video differently
                key, _, name = video
                if key not in validation and (key not in once or (once[key][2] is None and name is not None)):
                    once[key] = video
            videos = list(once.values())
        names = [name for _, _, name in videos]
        source = self._source(split)
        present = find_present(names, self.max_missing, source, self.tree.root)
        labels = [videos[i][1] for i in present]
        return self.tree.records([names[i] for i in present], labels, listed=len(videos), source=source)


@functools.cache
def plain(name: str) -> str:
    """Normalize a class name: remove differences between releases in case, spaces, underscores, quotes and brackets."""
    return re.sub(r"[\W_]+", "", name.casefold())
