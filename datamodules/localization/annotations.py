"""Read labeled segments of untrimmed videos: ActivityNet's JSON format, EPIC-KITCHENS-100, and CSV files of users.

The readers return one ``UntrimmedVideo`` per video, in the order of the file, with its segments in the order of the
file. Every segment is checked. A faulty one is an error, or is left out and counted (``faulty="drop"``):

- its start or end is not a number, or is negative;
- its end is not above its start;
- it ends more than ``END_TOLERANCE`` seconds after the video, if the duration of the video is known;
- the same video has another segment with the same start and end (to a millisecond) and the same label.

Segments with the same bounds and different labels are allowed. THUMOS14 labels cliff diving also as diving.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datamodules.annotations import find_annotations, read_header, read_json, read_table, shorten, sorted_labels
from datamodules.epic import FILES, FOLDERS, HEADS, MAX_BOUND, read_class_names, seconds
from datamodules.tree import SPLITS, Tree, open_tree, split_of
from zoo.errors import ConfigError, DataError, UnknownNameError
from zoo.localization.actions import action_name
from zoo.text import one_line

log = logging.getLogger("datamodules")

Faulty = Literal["raise", "drop"]
Target = Literal["verb", "noun", "action"]
TARGETS = ("verb", "noun", "action")
# Annotators round to seconds, and containers count the last frame differently: published segments exceed their video by
# fractions of a second. Evaluations use these segments unchanged.
END_TOLERANCE = 1.0
AMBIGUOUS = "Ambiguous"  # THUMOS14: segments that its evaluation excludes
VIDEO_INFO = "EPIC_100_video_info.csv"


class UntrimmedVideo(NamedTuple):
    """A video with labeled segments.

    name: identifies the video in its data set. path: as listed, or None if the file only lists names. duration: in
    seconds, or None if unknown. segments: (start, end, label), in seconds. split: "train", "val" or "test", or None if
    the file has no splits.
    """

    name: str
    path: str | None
    duration: float | None
    segments: tuple[tuple[float, float, str], ...]
    split: str | None


def class_names(videos: Iterable[UntrimmedVideo]) -> list[str]:
    """Return the labels of all segments, sorted; numbers sort as numbers."""
    return sorted_labels({label for video in videos for _, _, label in video.segments})


def read_activitynet(
    file: str | Path,
    *,
    classes: Collection[str] | None = None,
    excluded_labels: Collection[str] = (AMBIGUOUS,),
    faulty: Faulty = "raise",
    dropped: Counter[str] | None = None,
) -> list[UntrimmedVideo]:
    """Read a JSON file in ActivityNet's format: ActivityNet 1.3, HACS Segments, or THUMOS14 in this format.

    The format is ``{"database": {NAME: {"subset": "training", "duration": 82.73, "annotations": [{"segment": [9.0,
    30.5], "label": "Shaving"}, ...]}, ...}}``. Other keys are ignored, and "duration" may be missing. Subsets are
    "training", "validation" and "testing", or "train", "val" and "test". Videos of the test subset may lack
    "annotations".

    Args:
        file: the JSON file.
        classes: all class names; another label is an error. None: any label.
        excluded_labels: labels that are not classes. Segments with these labels are left out and counted.
        faulty: "raise" an error for a faulty segment (see the module), or "drop" it.
        dropped: receives the number of segments left out, by reason. These numbers are also logged.

    Raises:
        DataError: the file, a video or a segment is invalid; the message names it.
    """
    file = Path(file)
    content = read_json(open_tree(file.parent), file.name, dict, unique_keys=True)
    return parse_activitynet(
        content.get("database"),
        str(file),
        classes=classes,
        excluded_labels=excluded_labels,
        faulty=faulty,
        dropped=dropped,
    )


def parse_activitynet(
    database: object,
    source: str,
    *,
    classes: Collection[str] | None = None,
    excluded_labels: Collection[str] = (AMBIGUOUS,),
    faulty: Faulty = "raise",
    dropped: Counter[str] | None = None,
) -> list[UntrimmedVideo]:
    """Return the videos in "database" of ActivityNet's JSON format; see ``read_activitynet``.

    Args:
        database: value of the key "database".
        source: the file, for messages.

    Raises:
        DataError: a video or a segment is invalid; the message names it.
    """
    if not isinstance(database, dict):
        raise DataError(f"{source} has no object 'database'; it must have the format of ActivityNet's JSON files.")
    checks = _Checks(source, faulty, classes, excluded_labels)
    videos = [_activitynet_video(checks, name, entry) for name, entry in database.items()]
    checks.report(dropped)
    return videos


def read_epic(
    annotations: str | Path,
    split: str,
    target: Target,
    *,
    faulty: Faulty = "raise",
    dropped: Counter[str] | None = None,
) -> list[UntrimmedVideo]:
    """Read the segments of EPIC-KITCHENS-100 from its official CSV files.

    Labels are the official names of verbs ("turn-on") or nouns ("tap"), or actions ("turn-on tap"; see
    ``zoo.localization.actions``). Durations are those of EPIC_100_video_info.csv, if it exists.

    Args:
        annotations: folder of the CSV files.
        split: "train" or "val"; the labels of the test split are not public.
        target: "verb", "noun" or "action".
        faulty: "raise" an error for a faulty segment (see the module), or "drop" it.
        dropped: receives the number of segments left out, by reason. These numbers are also logged.

    Raises:
        DataError: a file is missing, or a row is invalid; the message names file and line.
        ConfigError: split or target is not one of the choices.
    """
    for option, value, choices in (("split", split, tuple(FILES)), ("target", target, TARGETS)):
        if value not in choices:
            raise ConfigError(f"{option} is {value!r}; choose from {', '.join(choices)}.")
    tree = open_tree(annotations)
    file = find_annotations(tree, [FILES[split]], FOLDERS)
    names = {head: read_class_names(tree, head) for head in HEADS}
    durations = _epic_durations(tree)
    checks = _Checks(f"{tree.root}/{file}", faulty)
    segments: dict[str, list[tuple[float, float, str]]] = {}
    columns = ["video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class"]
    for line, row in read_table(tree, file, columns):
        where, video = f"{checks.source}, line {line}", row["video_id"]
        try:
            bounds = seconds(row["start_timestamp"]), seconds(row["stop_timestamp"])
        except (ValueError, OverflowError) as error:
            raise DataError(f"{where}: {str(error)[:200]}.") from error
        verb, noun = (_epic_class(where, row, head, names[head]) for head in HEADS)
        label = {"verb": verb, "noun": noun, "action": action_name(verb, noun)}[target]
        checks.add(segments.setdefault(video, []), bounds, label, durations.get(video), where, video)
    checks.report(dropped)
    return [UntrimmedVideo(name, None, durations.get(name), tuple(rows), split) for name, rows in segments.items()]


def read_segment_list(
    file: str | Path,
    *,
    split: str | None = None,
    classes: Collection[str] | None = None,
    faulty: Faulty = "raise",
    dropped: Counter[str] | None = None,
) -> list[UntrimmedVideo]:
    """Read a CSV file with the columns ``path,start,end,label``, one row per segment.

    The columns ``split`` and ``duration`` are optional. Times are in seconds. A video without segments has one row with
    empty ``start``, ``end`` and ``label``. The name of a video is its path.

    Args:
        file: the CSV file, with a header line.
        split: split of all videos if the file has no column ``split``.
        classes: all class names; another label is an error. None: any label.
        faulty: "raise" an error for a faulty segment (see the module), or "drop" it.
        dropped: receives the number of segments left out, by reason. These numbers are also logged.

    Raises:
        DataError: the file or a row is invalid; the message names file and line.
    """
    file = Path(file)
    tree = open_tree(file.parent)
    extra = [column for column in ("split", "duration") if column in read_header(tree, file.name)]
    columns = ["path", "start", "end", "label", *extra]
    checks = _Checks(str(file), faulty, classes)
    segments: dict[str, list[tuple[float, float, str]]] = {}
    splits: dict[str, str | None] = {}
    durations: dict[str, float | None] = {}
    empty: dict[str, int] = {}  # video without segments -> line
    for line, row in read_table(tree, file.name, columns, optional=("start", "end", "label", "duration")):
        where, path = f"{file}, line {line}", row["path"]
        part = _split(row["split"], where) if "split" in row else split
        if splits.setdefault(path, part) != part:
            raise DataError(f"{where}: {shorten(path)} is in {splits[path]} in an earlier line; a video has one split.")
        duration = _duration(row["duration"], where) if row.get("duration") else None
        if durations.setdefault(path, duration) != duration:
            raise DataError(f"{where}: {shorten(path)} has another duration in an earlier line.")
        repeated = path in segments
        rows = segments.setdefault(path, [])
        values = [row["start"], row["end"], row["label"]]
        if any(values):
            checks.add(rows, _bounds(values, where), row["label"], duration, where, path)
        if path in empty or (repeated and not any(values)):
            raise DataError(
                f"{where}: {shorten(path)} has a row without a segment and another row. Only a video without segments "
                "has such a row, once."
            )
        if not any(values):
            empty[path] = line
    if not segments:
        raise DataError(f"{file} lists no videos.")
    checks.report(dropped)
    return [UntrimmedVideo(path, path, durations[path], tuple(rows), splits[path]) for path, rows in segments.items()]


def read_segments(
    path: str | Path, *, target: Target = "action", faulty: Faulty = "raise", dropped: Counter[str] | None = None
) -> list[UntrimmedVideo]:
    """Read labeled segments in any of the formats.

    Args:
        path: a .csv file (``read_segment_list``), a .json file (``read_activitynet``), or the folder of the CSV files
            of EPIC-KITCHENS-100, whose splits "train" and "val" are read (``read_epic``).
        target: labels of EPIC-KITCHENS-100: "verb", "noun" or "action".
        faulty: "raise" an error for a faulty segment (see the module), or "drop" it.
        dropped: receives the number of segments left out, by reason. These numbers are also logged.

    Raises:
        DataError: the path does not exist or has another format, or a video or segment is invalid.
    """
    path = Path(path)
    if path.is_dir():
        return [one for split in FILES for one in read_epic(path, split, target, faulty=faulty, dropped=dropped)]
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; give a CSV file with the columns path,start,end,label, a JSON file in "
            "ActivityNet's format, or the folder of EPIC-KITCHENS-100's CSV files."
        )
    if path.suffix.lower() == ".json":
        return read_activitynet(path, faulty=faulty, dropped=dropped)
    return read_segment_list(path, faulty=faulty, dropped=dropped)


def set_durations(
    videos: Iterable[UntrimmedVideo],
    durations: Mapping[str, float],
    source: str,
    *,
    faulty: Faulty = "raise",
    dropped: Counter[str] | None = None,
) -> list[UntrimmedVideo]:
    """Return the videos with measured durations, and check that their segments do not exceed these.

    Args:
        videos: from one of the readers.
        durations: seconds by name; videos that are missing here are unchanged.
        source: the annotation file, for messages.
        faulty: "raise" an error for a segment that exceeds its video, or "drop" it.
        dropped: receives the number of segments left out, by reason. These numbers are also logged.

    Raises:
        DataError: a segment ends more than ``END_TOLERANCE`` seconds after its video.
    """
    checks = _Checks(source, faulty)
    results = []
    for video in videos:
        duration = durations.get(video.name, video.duration)
        rows: list[tuple[float, float, str]] = []
        for number, (start, end, label) in enumerate(video.segments):
            where = f"{source}, video {shorten(video.name)}, segment {number}"
            checks.add(rows, (start, end), label, duration, where, video.name)
        results.append(video._replace(duration=duration, segments=tuple(rows)))
    checks.report(dropped)
    return results


@dataclass
class _Checks:
    """Checks of the segments of one file, and the number of segments left out by reason."""

    source: str
    faulty: Faulty
    classes: Collection[str] | None = None
    excluded: Collection[str] = ()
    dropped: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[str, int, int, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.faulty not in ("raise", "drop"):
            raise ConfigError(f"faulty is {self.faulty!r}; choose from raise, drop.")
        self.classes = None if self.classes is None else frozenset(self.classes)

    def add(
        self,
        rows: list[tuple[float, float, str]],
        bounds: tuple[float, float],
        label: str,
        duration: float | None,
        where: str,
        video: str,
    ) -> None:
        """Append a segment to ``rows`` if it is valid, or count it."""
        if label in self.excluded:
            self.dropped[f"labeled {label}"] += 1
            return
        if self.classes is not None and label not in self.classes:
            error = UnknownNameError.of("label", label, sorted(self.classes))
            raise DataError(f"{where}: {error} Correct it, or add it to the classes.")
        start, end = bounds
        problem = _problem(start, end, duration)
        if problem is None:
            key = (video, round(1000 * start), round(1000 * end), label)
            problem = ("duplicate", "is a duplicate of an earlier segment") if key in self.seen else None
            self.seen.add(key)
        if problem is None:
            rows.append((start, end, label))
            return
        reason, text = problem
        if self.faulty == "raise":
            raise DataError(
                f"{where}: the segment from {start:g} to {end:g} s ({shorten(label)}) {text}. Correct the file, or "
                "leave out faulty segments with faulty='drop'."
            )
        self.dropped[reason] += 1

    def report(self, dropped: Counter[str] | None) -> None:
        """Log how many segments were left out, and add the counts to ``dropped``."""
        if dropped is not None:
            dropped.update(self.dropped)
        if self.dropped:
            reasons = ", ".join(f"{count} {one_line(reason)}" for reason, count in sorted(self.dropped.items()))
            log.warning("%s: %d segments left out: %s", one_line(self.source, 200), self.dropped.total(), reasons)


def _problem(start: float, end: float, duration: float | None) -> tuple[str, str] | None:
    """Return the reason and a description of what is wrong with the bounds of a segment, or None."""
    if not (math.isfinite(start) and math.isfinite(end)):
        return "not a number", "has a bound that is not a finite number"
    if start < 0 or end < 0:
        return "negative", "has a negative bound"
    if end <= start:
        return "not above the start", "does not end after its start"
    if duration is not None and end > duration + END_TOLERANCE:
        return "beyond the end", f"exceeds its video, which lasts {duration:g} s, by more than {END_TOLERANCE:g} s"
    if end >= MAX_BOUND:
        return "beyond the end", "has a bound that is too large"
    return None


def _activitynet_video(checks: _Checks, name: str, entry: Any) -> UntrimmedVideo:
    """Return one video of ``database``."""
    where = f"{checks.source}, video {shorten(name)}"
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object with 'subset' and 'annotations', got {shorten(entry)}.")
    split = _split(entry.get("subset"), where)
    duration = entry.get("duration")
    if duration is not None and not (_is_number(duration) and 0 < duration < MAX_BOUND):
        raise DataError(f"{where}: duration is {shorten(duration)}; it must be a number of seconds above 0.")
    annotations = entry.get("annotations", [] if split == "test" else None)
    if not isinstance(annotations, list):
        raise DataError(f"{where}: 'annotations' is {shorten(annotations)}; it must be a list of segments.")
    rows: list[tuple[float, float, str]] = []
    for number, annotation in enumerate(annotations):
        at = f"{where}, segment {number}"
        bounds, label = _activitynet_segment(annotation, at)
        checks.add(rows, bounds, label, duration, at, name)
    return UntrimmedVideo(name, None, None if duration is None else float(duration), tuple(rows), split)


def _activitynet_segment(annotation: Any, where: str) -> tuple[tuple[float, float], str]:
    segment, label = (annotation.get(key) if isinstance(annotation, dict) else None for key in ("segment", "label"))
    if not (isinstance(segment, list) and len(segment) == 2 and all(map(_is_number, segment))):
        raise DataError(f"{where}: expected 'segment': [start, end] in seconds, got {shorten(annotation)}.")
    if not isinstance(label, str) or not label:
        raise DataError(f"{where}: expected 'label' with a class name, got {shorten(label)}.")
    return (float(segment[0]), float(segment[1])), label


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can represent; NaN and infinity are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) < 10**300


def _split(subset: Any, where: str) -> str:
    split = split_of(subset) if isinstance(subset, str) else None
    if split is None:
        names = ", ".join(name for names in SPLITS.values() for name in names[:2])
        raise DataError(f"{where}: the split is {shorten(subset)}; it must be one of {names}.")
    return split


def _bounds(values: Sequence[str], where: str) -> tuple[float, float]:
    """Return the start and end of a CSV row of start, end and label."""
    start, end, label = values
    if not (start and end and label):
        raise DataError(
            f"{where}: start, end and label must all have a value, or all be empty for a video without segments."
        )
    try:
        return float(start), float(end)
    except ValueError:
        raise DataError(
            f"{where}: start {shorten(start)} and end {shorten(end)} must be numbers of seconds, such as 12.5."
        ) from None


def _duration(text: str, where: str) -> float:
    """Return the duration in a CSV file."""
    try:
        duration = float(text)
    except ValueError:
        duration = math.nan
    if not 0 < duration < MAX_BOUND:
        raise DataError(f"{where}: duration is {shorten(text)}; it must be a number of seconds above 0.")
    return duration


def _epic_durations(tree: Tree) -> dict[str, float]:
    """Return the durations of EPIC_100_video_info.csv by video; empty if the file does not exist."""
    paths = [f"{folder}/{VIDEO_INFO}" if folder else VIDEO_INFO for folder in FOLDERS]
    path = next((path for path in paths if tree.exists(path)), None)
    durations: dict[str, float] = {}
    for line, row in read_table(tree, path, ["video_id", "duration"]) if path else ():
        durations[row["video_id"]] = _duration(row["duration"], f"{tree.root}/{path}, line {line}")
    return durations


def _epic_class(where: str, row: Mapping[str, str], head: str, names: Sequence[str]) -> str:
    """Return the name of the verb or noun of a row."""
    text = row[f"{head}_class"]
    if not (text.isdecimal() and len(text) < 5 and int(text) < len(names)):
        raise DataError(
            f"{where}: {head}_class is {shorten(text)}; it must be a whole number from 0 to {len(names) - 1}."
        )
    return names[int(text)]
