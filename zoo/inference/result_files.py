"""Predictions as CSV or JSON lines: complete up to the last row at any time, and continued by a repeated command."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from zoo.errors import ConfigError
from zoo.inference.predict_options import STDOUT
from zoo.inference.predictor import Prediction
from zoo.inference.windows import TimedPrediction
from zoo.models.network import VideoNetwork
from zoo.text import printable
from zoo.weights.disk import disk_errors

Kind = Literal["csv", "json"]
EXTENSIONS: Mapping[Kind, tuple[str, ...]] = {"csv": (".csv",), "json": (".json", ".jsonl")}
PATH_ERRORS = "surrogateescape"  # error handler of encodings: file names may contain any bytes

Labels = dict[str, list[tuple[str | None, float]]]  # classifier -> (label, score), best first


def top_labels(prediction: Prediction, top: int, threshold: float = 0.0) -> Labels:
    """Return the best labels of each classifier, whose name is "" if it is the only one.

    Labels with scores below the threshold are left out. If all are, the best score is listed with the label None.
    """
    labels: Labels = {}
    for head, part in (prediction.heads or {"": prediction}).items():
        pairs: list[tuple[str | None, float]] = [(label, score) for label, score in part.top(top) if score >= threshold]
        labels[head] = pairs or [(None, part.scores[0])]
    return labels


class ResultFile:
    """A file that rows are appended to; rows of an interrupted command stay.

    The first line has the settings, in a CSV file after "# ". Standard output has rows only, and a CSV header.

    Args:
        target: path of the file, or "-" for standard output. An existing file is continued.
        kind: format of the file.
        settings: weights, views and the like; a file written with others is refused.
        network: its classes define the columns.
        top: classes in a row.
        threshold: see ``top_labels``.
        windows: whether rows are windows, with start and end, instead of videos.
        stdout: the stream for "-".

    Raises:
        ConfigError: another file name extension, an existing file with other settings, or another kind of file.
        StorageError: the file cannot be written.
    """

    def __init__(
        self,
        target: str,
        kind: Kind,
        settings: Mapping[str, Any],
        network: VideoNetwork,
        *,
        top: int,
        threshold: float = 0.0,
        windows: bool = False,
        stdout: IO[str] | None = None,
    ) -> None:
        self.path = Path(target)
        self.top, self.threshold = top, threshold
        self._kind, self._settings, self._windows = kind, json.loads(json.dumps(settings)), windows
        classes = network.spec.num_classes
        self._heads = {head: min(top, count) for head, count in network.protocol.heads or (("", classes),)}
        self._last: dict[str, float] = {}  # video -> start of its last row
        self._file = stdout or sys.stdout
        self.is_stdout = target == STDOUT
        if self.is_stdout:
            self._write(self._columns())
            return
        if self.path.suffix.lower() not in EXTENSIONS[kind]:
            raise ConfigError(
                f"{printable(target)}: give a file name that ends in {' or '.join(EXTENSIONS[kind])}, or -."
            )
        with disk_errors(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._resume()
            self._file = self.path.open("a", newline="", encoding="utf-8", errors=PATH_ERRORS)
            if not self.path.stat().st_size:
                self._write(self._header())

    def has(self, video: str) -> bool:
        """Whether the file has a row of a video."""
        return video in self._last

    def next_start(self, video: str, stride: float) -> float:
        """Seconds from which the windows of a video are missing in the file."""
        return self._last[video] + stride if video in self._last else 0.0

    def append(self, prediction: Prediction) -> None:
        """Write a row."""
        span: dict[str, float] = {}
        if isinstance(prediction, TimedPrediction):
            span = {"start": prediction.start, "end": prediction.end}
        labels = top_labels(prediction, self.top, self.threshold)
        format_row = self._csv_row if self._kind == "csv" else self._json_row
        self._write(format_row(prediction.source, span, labels))

    def close(self) -> None:
        """Close the file."""
        if not self.is_stdout:
            self._file.close()

    def _write(self, text: str) -> None:
        """Write complete lines in one step."""
        with disk_errors(self.path.parent):
            self._file.write(text)
            self._file.flush()

    def _csv_row(self, video: str, span: Mapping[str, float], labels: Labels) -> str:
        cells = [video, *(f"{seconds:.6f}" for seconds in span.values())]
        for head, count in self._heads.items():
            pairs = [(printable(label or ""), f"{score:.6f}") for label, score in labels[head]]
            cells += [cell for pair in pairs + [("", "")] * (count - len(pairs)) for cell in pair]
        return _csv_line(cells)

    def _json_row(self, video: str, span: Mapping[str, float], labels: Labels) -> str:
        heads = {
            head: [{"label": label, "score": round(score, 6)} for label, score in pairs]
            for head, pairs in labels.items()
        }
        row: dict[str, Any] = {"video": video, **{key: round(seconds, 6) for key, seconds in span.items()}}
        row |= _predictions(heads)
        return json.dumps(row, ensure_ascii=self.is_stdout) + "\n"  # standard output may not be UTF-8

    def _columns(self) -> str:
        """The names of the columns of a CSV file."""
        if self._kind == "json":
            return ""
        columns = ["video", "start", "end"] if self._windows else ["video"]
        for head, count in self._heads.items():
            prefix = f"{head}_" if head else ""
            columns += [f"{prefix}{name}{k}" for k in range(1, count + 1) for name in ("prediction", "score")]
        return _csv_line(columns)

    def _header(self) -> str:
        if self._kind == "csv":
            return f"# {json.dumps(self._settings, sort_keys=True)}\n{self._columns()}"
        return json.dumps({"settings": self._settings}, sort_keys=True) + "\n"

    def _resume(self) -> None:
        """Read the rows of an earlier command; then cut off a row that a killed process left incomplete."""
        content = self.path.read_bytes()
        if self._header().encode("utf-8", PATH_ERRORS).startswith(content):  # killed before the first row
            self._truncate(0)
            return
        complete = content.rfind(b"\n") + 1
        lines = content[:complete].decode("utf-8", PATH_ERRORS).split("\n")[:-1]
        try:
            head = json.loads(lines[0].removeprefix("# "))
            settings = head if self._kind == "csv" else head["settings"]
            self._check_settings(settings)
            self._last.update(self._read_rows(lines[1:]))
        except ConfigError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error) as error:
            raise ConfigError(f"{self.path} was not written by this command; give another file name.") from error
        self._truncate(complete)

    def _truncate(self, size: int) -> None:
        if size < self.path.stat().st_size:
            with self.path.open("r+b") as file:
                file.truncate(size)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise a ConfigError that lists the settings of the file that differ from those of the command."""
        differences = []
        for key in sorted(settings.keys() | self._settings.keys()):
            old, new = settings.get(key), self._settings.get(key)
            if old != new:
                differences.append("another network" if key == "weights" else f"{key}: {old} instead of {new}")
        if differences:
            raise ConfigError(
                f"{self.path} has predictions with other settings ({printable('; '.join(differences))}). Repeat the "
                "command with the same network and options to continue it, give another file name, or delete it."
            )

    def _read_rows(self, lines: Sequence[str]) -> Iterator[tuple[str, float]]:
        rows = _csv_rows(lines) if self._kind == "csv" else map(json.loads, lines)
        for row in rows:
            yield str(row["video"]), float(row["start"]) if self._windows else 0.0


def _predictions(heads: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The predictions of a row; those of the first classifier, and of all by name if there are several."""
    row: dict[str, Any] = {"predictions": next(iter(heads.values()))}
    return row if len(heads) == 1 else {**row, "heads": heads}


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


def _csv_rows(lines: Sequence[str]) -> Iterator[dict[str, str]]:
    header, *rows = csv.reader(lines, strict=True)
    for row in rows:
        yield dict(zip(header, row, strict=True))


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a ``ResultFile``: video, start and end of a window, and predictions (label, score).

    Rows of a network with several classifiers also have "heads", the predictions of each of them.
    """
    settings, *lines = path.read_bytes().decode("utf-8", PATH_ERRORS).split("\n")[:-1]
    if not settings.startswith("#"):
        return [json.loads(line) for line in lines]
    results = []
    for row in _csv_rows(lines):
        heads: dict[str, list[dict[str, Any]]] = {}
        for column, label in row.items():
            head, is_label, number = column.rpartition("prediction")
            if is_label and (score := row[f"{head}score{number}"]):
                pairs = heads.setdefault(head.removesuffix("_"), [])
                pairs.append({"label": label or None, "score": float(score)})
        result: dict[str, Any] = {"video": row["video"]}
        result |= {key: float(row[key]) for key in ("start", "end") if key in row}
        results.append(result | _predictions(heads))
    return results
