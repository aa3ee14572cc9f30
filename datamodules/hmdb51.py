"""HMDB51."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.annotations import find_annotations, shorten
from datamodules.base import VideoDataModule, log
from datamodules.records import VideoRecords
from datamodules.tree import find_present, open_tree
from zoo.errors import ConfigError, DataError

CLASSES = (
    "brush_hair", "cartwheel", "catch", "chew", "clap", "climb", "climb_stairs", "dive", "draw_sword", "dribble",
    "drink", "eat", "fall_floor", "fencing", "flic_flac", "golf", "handstand", "hit", "hug", "jump", "kick",
    "kick_ball", "kiss", "laugh", "pick", "pour", "pullup", "punch", "push", "pushup", "ride_bike", "ride_horse",
    "run", "shake_hands", "shoot_ball", "shoot_bow", "shoot_gun", "sit", "situp", "smile", "smoke", "somersault",
    "stand", "swing_baseball", "sword", "sword_exercise", "talk", "throw", "turn", "walk", "wave",
)  # fmt: skip
USES = {"0": "unused", "1": "train", "2": "test"}  # meaning of the number after the name of a video
LISTED = {"train": 70, "test": 30}  # videos per class in each of the three splits
FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", "splits", "annotations", "")


class HMDB51(VideoDataModule):
    """HMDB51 (Kuehne et al., ICCV 2011) in one of its three official splits: 70 training and 30 test videos of a class.

    The lists are ``<class>_test_splitN.txt`` in ``root/testTrainMulti_7030_splits``, with a video and 0 (not used), 1
    (training) or 2 (test) in a line. Videos are found by name anywhere below ``root``, first in a folder of their
    class, with any ending. The published figure is the mean top-1 of the three splits.

    There is no validation list. Validation uses the test videos, as in published work, so do not report the test
    accuracy of a model selected by it.

    Args:
        root: folder, or shards, with the videos.
        split: 1, 2 or 3.
        annotations: folder of the lists; default ``root``.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, max_missing, ...
    """

    def __init__(self, root: str | Path, split: int = 1, annotations: str | Path | None = None, **options: Any) -> None:
        super().__init__(**options)
        if split not in (1, 2, 3):
            raise ConfigError(f"split is {split!r}; choose from 1, 2, 3.")
        self.root, self.annotations, self.split = root, annotations, split

    @property
    def class_names(self) -> list[str]:
        """The 51 names, sorted."""
        return list(CLASSES)

    def _listed(self, part: str) -> list[tuple[str, int]]:
        """Videos of "train" or "test", without ending, and their labels."""
        home = self.tree if self.annotations is None else open_tree(self.annotations)
        rows: list[tuple[str, int]] = []
        for label, name in enumerate(CLASSES):
            file = find_annotations(home, [f"{name}_test_split{self.split}.txt"], FOLDERS)
            videos: dict[str, int] = {}
            for number, line in enumerate(home.read(file).splitlines(), start=1):
                video, _, use = line.strip().rpartition(" ")
                if line.strip() and (not video or use not in USES):
                    raise DataError(
                        f"{home.root}/{file}, line {number}: {shorten(line)} is not a video with 0, 1 or 2."
                    )
                if USES.get(use) == part:
                    stem = PurePosixPath(video.strip()).stem
                    if stem in videos:
                        raise DataError(f"{home.root}/{file}, line {number}: {stem[:80]} is listed more than once.")
                    videos[stem] = label
            if len(videos) != LISTED[part]:
                log.warning("%s lists %d %s videos; the official file has %d", file, len(videos), part, LISTED[part])
            rows += videos.items()
        return rows

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "val" and "predict" are the test split."""
        rows = self._listed("train" if split == "train" else "test")
        placed = {PurePosixPath(name).with_suffix("").parts[-2:]: name for name in self.tree.names}
        names = [placed.get((CLASSES[label], stem), self.tree.stems.get(stem)) for stem, label in rows]
        home = self.tree if self.annotations is None else open_tree(self.annotations)
        source = f"HMDB51 split {self.split} (<class>_test_split{self.split}.txt in {home.root})"
        present = find_present(names, self.max_missing, source, str(self.root))
        labels = [rows[i][1] for i in present]
        return self.tree.records([names[i] for i in present], labels, listed=len(rows), source=source)
