"""MMActionList: text lists of videos or folders of frames in the format of MMAction and MMAction2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from datamodules.annotations import shorten
from datamodules.list import VideoList
from datamodules.records import VideoRecords
from datamodules.tree import Tree, open_tree
from zoo.errors import ConfigError, DataError
from zoo.video.source import VIDEO_EXTENSIONS

KINDS = {"video": "path label", "frames": "folder total_frames label"}
MAX_CLASSES = 1_000_000  # without class names, the largest label determines the number of classes
NUMBERS = re.compile(r"(\s+\d+)+$")


class MMActionList(VideoList):
    """Lists without a header, as MMAction2's VideoDataset and RawframeDataset read them: one video a line.

    Of videos: ``path label``. Of folders of frames: ``folder total_frames label``; the first ``total_frames`` frames in
    natural order are the video, and a folder that has fewer cannot be read. Labels are numbers from 0. The last one or
    two columns are numbers and all that stands before them is the path, so paths may contain spaces. Lists with several
    labels of a video, or with an offset, are refused.

    Args:
        train: list; it also fixes how many classes there are, unless ``classes`` names them.
        val: list; if not given, validation videos are split off the training ones, per class.
        test: list; if not given, testing uses the validation videos.
        root: folder, or shards made of one, that paths are relative to (``data_prefix`` in MMAction2); if not given,
            the folder of each list.
        classes: names of the classes in label order, as a text file with one a line (MMAction2's label maps) or a label
            set of the zoo ("kinetics400"). If not given, classes are called by their numbers.
        kind: "video" or "frames"; shards hold no frames.
        frame_rate: frames per second of folders of frames.
        options: of VideoList (val_fraction, split_seed) and VideoDataModule: batch_size, num_workers, max_missing, ...
    """

    def __init__(
        self,
        train: str | Path | None = None,
        val: str | Path | None = None,
        test: str | Path | None = None,
        root: str | Path | None = None,
        classes: str | Path | None = None,
        kind: str = "video",
        frame_rate: float = 30.0,
        **options: Any,
    ) -> None:
        super().__init__(train, val, test, root, classes, **options)
        if kind not in KINDS:
            raise ConfigError(f"kind is {kind!r}; choose from {', '.join(KINDS)}.")
        if frame_rate <= 0:
            raise ConfigError(f"frame_rate is {frame_rate}; it must be above 0.")
        if self.label_separator is not None:
            raise ConfigError("MMActionList has one label per video; list videos with several labels with VideoList.")
        self.kind, self.frame_rate = kind, frame_rate

    def _classes_in(self, file: Path) -> list[str]:
        path, highest = max(((path, label) for path, label, _ in self._lines(file)), key=lambda line: line[1])
        if highest >= MAX_CLASSES:
            raise DataError(f"{file} gives {path[:80]} the label {highest}; labels must be below {MAX_CLASSES}.")
        if not highest:
            raise DataError(f"{file} has 1 class; at least 2 are needed.")
        return [str(number) for number in range(highest + 1)]

    def _lines(self, file: Path) -> list[tuple[str, int, int]]:
        """(path, label, total frames or 0) of each line."""
        columns = len(KINDS[self.kind].split()) - 1
        lines = []
        for number, line in enumerate(open_tree(file.parent).read(file.name).splitlines(), start=1):
            path, *numbers = line.strip().rsplit(maxsplit=columns) or [""]
            if path and (len(numbers) < columns or not all(n.isdecimal() and len(n) < 10 for n in numbers)):
                raise DataError(
                    f"{file}, line {number}: {shorten(line)} is not {KINDS[self.kind]!r}, the latter in numbers."
                )
            if path:
                lines.append((path, int(numbers[-1]), int(numbers[0]) if columns == 2 else 0))
        if not lines:
            raise DataError(f"{file} lists no videos.")
        return lines

    def _find(self, tree: Tree, path: str, file: Path) -> str | None:
        match = self._find_path(tree, path)
        plain = NUMBERS.sub("", path)
        if (
            match is None
            and plain != path
            and (plain.lower().endswith(VIDEO_EXTENSIONS) or self._find_path(tree, plain))
        ):
            raise DataError(
                f"{file} gives {plain} more numbers than {KINDS[self.kind]!r} has; several labels of a video, or an "
                "offset, are not supported."
            )
        return match

    def _find_path(self, tree: Tree, path: str) -> str | None:
        if self.kind == "frames":
            return path if tree.has_folder(path) else None
        return tree.find(path)

    def _read(self, file: Path) -> VideoRecords:
        lines = self._lines(file)
        classes = len(self.class_names)
        for path, label, _ in lines:
            if label >= classes:
                raise DataError(f"{file} gives {path[:80]} the label {label}; there are {classes} classes, from 0.")
        spans = [(0, total) for _, _, total in lines] if self.kind == "frames" else None
        return self._records(file, [path for path, _, _ in lines], [label for _, label, _ in lines], spans)
