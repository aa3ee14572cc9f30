"""Mini-Kinetics: 200 classes of Kinetics-400."""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.annotations import find_annotations, shorten
from datamodules.kinetics import Kinetics, plain
from zoo.errors import DataError
from zoo.index import read_labels

CLASSES = 200
FOLDERS = ("", "annotations", "annotations/kinetics_200", "kinetics_200", "Mini-Kinetics-200")
CLASS_FILE = "k200_actions.txt"  # OmniSource: class names in label order


class MiniKinetics(Kinetics):
    """Mini-Kinetics (Xie et al. 2018, arXiv:1712.04851): 200 classes of Kinetics-400, with one of two pairs of lists.

    - ``train_ytid_list.txt`` and ``val_ytid_list.txt`` of the authors have a YouTube id per line. Labels and times are
      those of the CSV files of Kinetics-400, which must be present as well, see ``Kinetics``. The classes are sorted.
    - ``k200_train.txt`` and ``k200_val.txt`` of OmniSource (arXiv:2003.13042), for which MMAction2 published networks,
      have lines "file label". The class names are the lines of ``k200_actions.txt``, in label order. The classes of
      these networks have the order of these lists.

    The lists are in ``root``, ``root/annotations``, ``root/annotations/kinetics_200``, ``root/kinetics_200`` or
    ``root/Mini-Kinetics-200``; ``k200_actions.txt`` is in one of these folders as well. Videos are found by name
    anywhere below ``root``: as in Kinetics for the authors' lists, by the listed file name for OmniSource. If lists of
    both kinds exist, those of the authors are used. Testing uses the validation videos.

    Args:
        root: folder, or shards, with the videos.
        annotations: folder of the lists and CSV files; default ``root``.
        max_missing: fraction of the listed videos that may be missing; some are no longer on YouTube.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    def __init__(
        self, root: str | Path, annotations: str | Path | None = None, max_missing: float = 0.1, **options: Any
    ) -> None:
        super().__init__(root=root, version="400", annotations=annotations, max_missing=max_missing, **options)

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The lines of ``k200_actions.txt``, or the classes of the authors' list, sorted."""
        split = self._class_split()
        file, is_official = self._list(split)
        if is_official:
            classes = {plain(row["label"]) for row, _ in self._listed_rows(split)}
            names = [name for name in read_labels("kinetics400") if plain(name) in classes]
        else:
            file = find_annotations(self._home, [CLASS_FILE], FOLDERS)
            names = [line.strip() for line in self._home.read(file).splitlines() if line.strip()]
        if len(set(names)) != CLASSES:
            raise DataError(
                f"{self._home.root}/{file} has {len(set(names))} classes; Mini-Kinetics has {CLASSES}. Use the "
                "complete official file. For other subsets of Kinetics, use VideoList."
            )
        return names

    def _class_split(self) -> str:
        """Return the split whose list determines the classes: validation, unless only the training list exists."""
        try:
            self._list("val")
        except DataError:
            return "train"
        return "val"

    def _list(self, split: str) -> tuple[str, bool]:
        """Return the list of a split, and whether it is one of the authors of Mini-Kinetics."""
        file = find_annotations(self._home, [f"{split}_ytid_list.txt", f"k200_{split}.txt"], FOLDERS)
        return file, file.endswith("_ytid_list.txt")

    def _listed_rows(self, split: str) -> list[tuple[dict[str, str], str]]:
        """Return the rows of Kinetics-400 whose videos the authors list, with their file and line."""
        ids = set(self._lines(self._list(split)[0]).values())
        return [(row, at) for at, row in self._rows(self.version, split) if row["youtube_id"] in ids]

    def _lines(self, file: str) -> dict[int, str]:
        """Return the lines of a list by number, without empty ones."""
        lines = enumerate(map(str.strip, self._home.read(file).splitlines()), start=1)
        content = {number: line for number, line in lines if line}
        if not content:
            raise DataError(f"{self._home.root}/{file} lists no videos. Use the official file.")
        return content

    def _videos(self, split: str) -> list[tuple[str, int, str | None]]:
        file, is_official = self._list(split)
        return self._official_videos(file, split) if is_official else self._omnisource_videos(file)

    def _official_videos(self, file: str, split: str) -> list[tuple[str, int, str | None]]:
        """Return the videos of the authors' list; those that the CSV file lacks are missing."""
        numbers = {plain(name): number for number, name in enumerate(self.class_names)}
        videos = {}
        for row, at in self._listed_rows(split):
            label = numbers.get(plain(row["label"]))
            if label is None:
                raise DataError(
                    f"{at}: {shorten(row['label'])} is not among the {CLASSES} classes of Mini-Kinetics, although "
                    f"{self._home.root}/{file} lists the video. Use the official files."
                )
            videos[row["youtube_id"]] = (row["youtube_id"], label, self._find_video(row, at))
        missing = ((key, -1, None) for key in dict.fromkeys(self._lines(file).values()) if key not in videos)
        return [*videos.values(), *missing]

    def _omnisource_videos(self, file: str) -> list[tuple[str, int, str | None]]:
        """Return the videos of a list with lines "file label"."""
        videos = []
        for number, line in self._lines(file).items():
            name, _, label = line.rpartition(" ")
            if not (name and label.isdecimal() and len(label) < 4 and int(label) < len(self.class_names)):
                raise DataError(
                    f"{self._home.root}/{file}, line {number}: {shorten(line)} is not the name of a video and a label "
                    f"from 0 to {len(self.class_names) - 1}, separated by a space. Use the official file."
                )
            stem = PurePosixPath(name.strip()).stem
            videos.append((stem, int(label), self.tree.stems.get(stem)))
        return videos

    def _source(self, split: str) -> str:
        return f"{self._home.root}/{self._list(split)[0]}"
