"""EPIC-Kitchens-100."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from datamodules.annotations import find_annotations, read_table
from datamodules.base import VideoDataModule
from datamodules.records import VideoRecords
from datamodules.tree import Tree, find_present, open_tree
from zoo.errors import DataError

HEADS = {"verb": 97, "noun": 300}
FILES = {"train": "EPIC_100_train.csv", "val": "EPIC_100_validation.csv"}
FOLDERS = ("", "annotations", "epic-kitchens-100-annotations")
# {0}: participant, P01; {1}: video, P01_01
FRAMES = ("rgb_frames/{0}/{1}", "{0}/rgb_frames/{1}", "frames/{0}/{1}", "{0}/{1}", "{1}")
TIMES, NUMBERS = ("start_timestamp", "stop_timestamp"), ("start_frame", "stop_frame")
CLASSES = ("verb_class", "noun_class")
MAX_BOUND = 10**9  # seconds or frames


class EpicKitchens100(VideoDataModule):
    """EPIC-KITCHENS-100 (Damen et al. 2022, arXiv:2006.13256), action recognition: segments of long videos.

    A segment has a verb and a noun: labels are ``(n, 2)``, and a network has 97 outputs for verbs, then 300 for nouns;
    ``lit_modules/heads.py`` defines how they are scored. The name of a segment is its narration_id.

    The files are those of github.com/epic-kitchens/epic-kitchens-100-annotations: EPIC_100_train.csv,
    EPIC_100_validation.csv, EPIC_100_verb_classes.csv and EPIC_100_noun_classes.csv (or its _v2, which names more
    nouns after the same 300). Video files (P01_01.MP4) are found by name anywhere below ``root``; a segment lasts from
    start_timestamp to before stop_timestamp. In folders of frames (``rgb_frames/P01/P01_01/frame_0000000001.jpg`` or
    ``P01/rgb_frames/P01_01/...``), it is start_frame to stop_frame, both included, counted from 1. A segment that
    exceeds its video ends with it. Frames are assumed to have 50 frames per second, like the videos of 2020 (P01_101);
    for most videos of 2018 (P01_01), which have 60, a clip at a fixed interval is a sixth shorter. Testing uses the
    validation segments, as the labels of the test set are not public.

    Args:
        root: folder or shards with the videos, or folder with the frames.
        annotations: folder of the CSV files; default ``root``.
        frames: read folders of frames instead of video files.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, max_missing, ...
    """

    frame_rate = 50.0

    def __init__(
        self, root: str | Path, annotations: str | Path | None = None, frames: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.root, self.annotations, self.frames = root, annotations, frames

    @property
    def heads(self) -> dict[str, int]:
        """97 verbs and 300 nouns."""
        return dict(HEADS)

    @functools.cached_property
    def _home(self) -> Tree:
        return self.tree if self.annotations is None else open_tree(self.annotations)

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The 397 names: "verb: take", ..., then "noun: tap", ..."""
        return [f"{head}: {name}" for head in HEADS for name in read_class_names(self._home, head)]

    def _find_video(self, video: str) -> str | None:
        if not self.frames:
            return self.tree.stems.get(video)
        folders = (pattern.format(video.split("_")[0], video) for pattern in FRAMES)
        return next((folder for folder in folders if self.tree.has_folder(folder)), None)

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "test" and "predict" are the validation split."""
        file = find_annotations(self._home, [FILES["train" if split == "train" else "val"]], FOLDERS)
        bounds = NUMBERS if self.frames else TIMES
        videos, ids, labels, spans = [], [], [], []
        for line, row in read_table(self._home, file, ["narration_id", "video_id", *bounds, *CLASSES]):
            try:
                label = [int(row[column]) for column in CLASSES]
                start, stop = (int(row[b]) if self.frames else seconds(row[b]) for b in bounds)
                if not all(0 <= bound < MAX_BOUND for bound in (start, stop)):
                    raise ValueError(f"{start} to {stop} is not a segment of a video")
            except ValueError as error:
                raise DataError(f"{self._home.root}/{file}, line {line}: {str(error)[:200]}.") from error
            if not all(0 <= number < count for number, count in zip(label, HEADS.values(), strict=True)):
                raise DataError(
                    f"{self._home.root}/{file}, line {line}: {label} is not a pair of a verb class and a noun class."
                )
            videos.append(row["video_id"])
            ids.append(row["narration_id"])
            labels.append(label)
            spans.append((max(start - 1, 0), stop) if self.frames else (start, stop))
        paths = {video: self._find_video(video) for video in dict.fromkeys(videos)}
        names = [paths[video] for video in videos]
        present = find_present(names, self.max_missing, f"{self._home.root}/{file}", str(self.root))
        return self.tree.records(
            [names[i] for i in present],
            [labels[i] for i in present],
            ids=[ids[i] for i in present],
            spans=[spans[i] for i in present],
            open_end=True,
            listed=len(names),
            source=f"{self._home.root}/{file}",
        )


def read_class_names(tree: Tree, head: str) -> list[str]:
    """Return the names of the 97 verbs or 300 nouns in label order, from the official CSV file.

    Raises:
        DataError: the file is missing or lacks a class.
    """
    count = HEADS[head]
    file = find_annotations(tree, [f"EPIC_100_{head}_classes{end}.csv" for end in ("", "_v2")], FOLDERS)
    names = {row["id"]: row["key"] for _, row in read_table(tree, file, ["id", "key"])}
    missing = [number for number in range(count) if str(number) not in names]
    if missing:
        raise DataError(f"{tree.root}/{file} has no class {missing[0]} of the {count} {head} classes.")
    return [names[str(number)] for number in range(count)]


def seconds(timestamp: str) -> float:
    """Convert "HH:MM:SS.ss" to seconds.

    Raises:
        ValueError: the text has another format.
    """
    parts = timestamp.split(":")
    if len(parts) != 3:
        raise ValueError(f"{timestamp!r} is not a time like 00:01:02.34")
    return 3600 * int(parts[0]) + 60 * int(parts[1]) + float(parts[2])
