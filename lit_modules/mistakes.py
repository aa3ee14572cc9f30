"""The most confident mistakes in ``predictions.csv`` of a test or validation."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_modules.interfaces import VideoData
from zoo.video.source import Source

PREDICTIONS = "predictions.csv"
PATH_ERRORS = "surrogateescape"  # error handler of encodings: file names may contain any bytes
SEPARATOR = "|"  # of several labels in predictions.csv
THRESHOLD = 0.5  # score above which a class of a video with several labels counts as predicted
MAX_MISTAKES = 6  # in a report
FIRST = "prediction1"


@dataclass(frozen=True)
class Answer:
    """Prediction of one head for a video.

    Attributes:
        head: name of the head; "" for a single one.
        true: true label; several labels are joined by ``SEPARATOR``.
        predicted: predicted label.
        score: score of the predicted label.
        correct: whether the prediction is a true label.
    """

    head: str
    true: str
    predicted: str
    score: float
    correct: bool


@dataclass(frozen=True)
class Mistake:
    """A video with at least one wrong prediction.

    Attributes:
        name: name of the video, usually its path.
        answers: prediction of each head.
    """

    name: str
    answers: tuple[Answer, ...]

    @property
    def confidence(self) -> float:
        """Highest score of a wrong prediction."""
        return max(answer.score for answer in self.answers if not answer.correct)


def read_predictions(folder: Path) -> list[dict[str, str]]:
    """Return the rows of ``predictions.csv``.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has other columns.
    """
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8", errors=PATH_ERRORS) as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    columns = reader.fieldnames or []
    if "path" not in columns or not heads_of(columns):
        raise ValueError(f"it lacks the columns path and {FIRST}")
    return rows


def heads_of(columns: Iterable[str]) -> list[str]:
    """Return the names of the heads with columns in ``predictions.csv``; "" for a single one."""
    return [name.removesuffix(FIRST).removesuffix("_") for name in columns if name.endswith(FIRST)]


def answer_of(row: Mapping[str, str], head: str, multi_label: bool = False) -> Answer:
    """Return the prediction of a head in a row.

    With several labels per video, it is the wrong label with the highest score above 0.5, or the first label.
    """
    prefix = f"{head}_" if head else ""
    true = row[f"{prefix}label"]
    if not multi_label:
        predicted = row[f"{prefix}{FIRST}"]
        return Answer(head, true, predicted, float(row[f"{prefix}score1"]), predicted == true)
    labels = true.split(SEPARATOR) if true else []
    scored = [(row[key], float(row[f"score{key.removeprefix('prediction')}"])) for key in row if "prediction" in key]
    wrong = [(label, score) for label, score in scored if label not in labels and score > THRESHOLD]
    predicted, score = (wrong or scored)[0]
    return Answer(head, true, predicted, score, not wrong)


def find_mistakes(
    rows: Iterable[Mapping[str, str]], multi_label: bool = False, most: int = MAX_MISTAKES
) -> tuple[list[Mistake], int]:
    """Return the most confident mistakes, and the number of all mistakes.

    Args:
        rows: of ``predictions.csv``.
        multi_label: whether videos have several labels.
        most: largest number of mistakes that are returned.
    """
    mistakes = []
    for row in rows:
        answers = tuple(answer_of(row, head, multi_label) for head in heads_of(row))
        if not all(answer.correct for answer in answers):
            mistakes.append(Mistake(row["path"], answers))
    return heapq.nlargest(most, mistakes, key=lambda mistake: mistake.confidence), len(mistakes)


def mistake_sources(folder: Path, data: VideoData | None, split: str, multi_label: bool) -> dict[str, Any] | None:
    """Return where the most confident mistakes are stored if their names are not paths: name -> values of a ``Source``.

    Segments of long videos and videos in shards have names that are not paths. The result is None if the clips are
    generated, so that no stored video shows what the network saw.

    Args:
        folder: folder of ``predictions.csv``.
        data: data module with the videos.
        split: their split.
        multi_label: whether videos have several labels.
    """
    if data is not None and data.generates_clips:
        return None
    mistakes, _ = find_mistakes(read_predictions(folder), multi_label)
    names = {mistake.name for mistake in mistakes}
    if data is None or not names:
        return {}
    records = data.datasets[split].records
    sources = {name: records.source(number) for number, name in enumerate(records.ids) if name in names}
    return {name: _describe(source) for name, source in sources.items() if source.path != name}


def _describe(source: Source) -> dict[str, Any]:
    return {"path": source.path, "span": source.span, "byte_span": source.byte_span, "open_end": source.open_end}


def parse_source(name: str, values: Mapping[str, Any] | None) -> Source:
    """Return the source of a video from its values in a file; without values, the name is its path."""
    if values is None:
        return Source(name)
    span, byte_span = values.get("span"), values.get("byte_span")
    return Source(
        str(values["path"]),
        None if span is None else (float(span[0]), float(span[1])),
        None if byte_span is None else (int(byte_span[0]), int(byte_span[1])),
        name,
        bool(values.get("open_end")),
    )
