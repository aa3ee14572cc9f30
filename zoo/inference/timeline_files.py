"""Predictions over time as CSV or JSON lines: complete up to the last row at any time, and resumed from there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from zoo.errors import ConfigError
from zoo.inference.windows import TimedPrediction
from zoo.weights.files import disk_errors

CSV, JSON_LINES = (".csv",), (".json", ".jsonl")


class TimelineFile:
    """A file that rows are appended to; rows of an interrupted command stay.

    Args:
        path: ends in ``.csv``, ``.json`` or ``.jsonl``; an existing file is continued.
        settings: weights, window, stride and the like; a file written with others is refused.
        top: classes in a row.

    Raises:
        ConfigError: another extension, or an existing file with other settings.
        StorageError: the file cannot be written.
    """

    def __init__(self, path: Path, settings: dict[str, Any], top: int) -> None:
        if path.suffix.lower() not in CSV + JSON_LINES:
            raise ConfigError(f"{path}: give a file name that ends in {', '.join(CSV + JSON_LINES)}.")
        self.path, self.top, self._settings = path, top, settings
        self._is_csv = path.suffix.lower() in CSV
        self._seen: dict[str, float] = {}  # video -> start of its last row
        if path.exists():
            self._resume()
        with disk_errors(path.parent):
            self._file: IO[str] = path.open("a", newline="", encoding="utf-8", errors="surrogateescape")
            if not path.stat().st_size:
                self._write_header()

    def next_start(self, video: str, stride: float) -> float:
        """Seconds from which the windows of a video are missing in the file."""
        return self._seen[video] + stride if video in self._seen else 0.0

    def append(self, windows: Sequence[TimedPrediction]) -> None:
        """Write rows."""
        text = io.StringIO()
        for window in windows:
            if self._is_csv:
                pairs = [cell for label, score in window.top(self.top) for cell in (label, f"{score:.6f}")]
                csv.writer(text).writerow([window.source, f"{window.start:.6f}", f"{window.end:.6f}", *pairs])
            else:
                row = {"video": window.source, "start": round(window.start, 6), "end": round(window.end, 6)}
                scores = [{"label": label, "score": round(score, 6)} for label, score in window.top(self.top)]
                text.write(json.dumps({**row, "predictions": scores}, ensure_ascii=False) + "\n")
        with disk_errors(self.path.parent):
            self._file.write(text.getvalue())  # whole rows, so that a killed process leaves no half of one
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_header(self) -> None:
        settings = json.dumps(self._settings, sort_keys=True)
        if self._is_csv:
            columns = [name for k in range(1, self.top + 1) for name in (f"prediction{k}", f"score{k}")]
            self._file.write(f"# {settings}\n")
            csv.writer(self._file).writerow(["video", "start", "end", *columns])
        else:
            self._file.write(f'{{"settings": {settings}}}\n')
        self._file.flush()

    def _resume(self) -> None:
        """Read the rows of an earlier command; cut off a row that a killed process left incomplete."""
        content = self.path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            with disk_errors(self.path.parent), self.path.open("r+b") as file:
                file.truncate(complete)
        lines = content[:complete].decode("utf-8", "surrogateescape").splitlines(keepends=True)
        if not lines:
            return
        try:
            head = lines[0].removeprefix("# ") if self._is_csv else json.dumps(json.loads(lines[0])["settings"])
            same = json.loads(head) == json.loads(json.dumps(self._settings))
            rows = list(self._rows(lines[1:]))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path} was not written by this command; give another name.") from error
        if not same:
            raise ConfigError(
                f"{self.path} has predictions with other settings ({head.strip()}); give another name, or delete it."
            )
        for video, start in rows:
            self._seen[video] = start

    def _rows(self, lines: Sequence[str]) -> Iterator[tuple[str, float]]:
        if self._is_csv:
            for row in csv.reader(lines[1:]):
                yield row[0], float(row[1])
        else:
            for line in lines:
                row = json.loads(line)
                yield row["video"], float(row["start"])


def read_timeline(path: Path) -> list[dict[str, Any]]:
    """Rows of a file written by ``TimelineFile``: video, start, end, and predictions (label, score)."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    if path.suffix.lower() in JSON_LINES:
        return [json.loads(line) for line in lines[1:]]
    rows = []
    for row in csv.reader(lines[2:]):
        pairs = zip(row[3::2], row[4::2], strict=True)
        predictions = [{"label": label, "score": float(score)} for label, score in pairs]
        rows.append({"video": row[0], "start": float(row[1]), "end": float(row[2]), "predictions": predictions})
    return rows
