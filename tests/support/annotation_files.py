"""Write the files of small data sets: empty videos, lists, and official annotations."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.epic import HEADS

UCF_CLASSES = [f"Class{n:03d}" for n in range(101, 0, -1)]  # not sorted: classInd.txt defines the order

EPIC_COLUMNS = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
# The first row is from the official file. The others are invented, because the test videos are short.
EPIC_OPEN_DOOR = "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,3,door,3,['door'],[3]"
EPIC_TAKE_KNIFE = (
    "P01_01_1,P01,P01_01,00:00:00.40,00:00:00.40,00:00:00.80,11,20,take knife,take,0,knife,4,\"['a', 'b']\",\"[4, 2]\""
)
EPIC_CUT_IT = "P02_102_0,P02,P02_102,00:00:00.10,00:00:00.20,00:00:00.60,6,15,cut it,cut,96,it,299,['it'],[299]"


def touch_files(root: Path, *names: str) -> None:
    """Create empty files below a folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def make_class_folders(root: Path, counts: dict[str, int]) -> Path:
    """Create a folder with empty videos for each class."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        touch_files(root / name, *(f"{number}.mp4" for number in range(count)))
    return root


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    return write_text(path, "".join(f"{line}\n" for line in lines))


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_epic_files(
    root: Path, train: Sequence[str] = (EPIC_OPEN_DOOR, EPIC_TAKE_KNIFE), val: Sequence[str] = (EPIC_CUT_IT,)
) -> None:
    """Write the annotations of EPIC-Kitchens-100, with the classes in a random order."""
    write_lines(root / "EPIC_100_train.csv", [EPIC_COLUMNS, *train])
    write_lines(root / "EPIC_100_validation.csv", [EPIC_COLUMNS, *val])
    for head, count in HEADS.items():
        rows = [f"{n},{head}:{n},\"['{head}:{n}', 'x']\",any" for n in np.random.default_rng(0).permutation(count)]
        write_lines(root / f"EPIC_100_{head}_classes.csv", ["id,key,instances,category", *rows])
