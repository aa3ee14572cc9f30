"""Read the files of a run. Files that are missing or damaged become notes of the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from lit_modules.class_results import ClassResult
from lit_modules.mistakes import PATH_ERRORS, PREDICTIONS, heads_of, read_predictions
from lit_modules.probe_file import PROBE_FILE
from lit_modules.run_file_names import RUN_FILE, TEST_FILE, VALIDATION, table_file
from lit_modules.run_folder import CHECKPOINTS
from zoo.errors import ConfigError
from zoo.text import read_json

T = TypeVar("T")
METRICS_FILE, CONFIG_FILE = "metrics.csv", "config.yaml"
TEST_FOLDER = "test"  # sub-folder of a run whose test belongs to the run
VALUE_ERRORS = (ValueError, LookupError, TypeError, AttributeError, csv.Error, yaml.YAMLError)  # of a damaged file


@dataclass(frozen=True)
class HeadResult:
    """Results of one head.

    Attributes:
        head: name of the head; "" for a single one.
        classes: results of the classes.
        confusion: numbers of videos, ``(classes, classes)``, rows are true classes; None without a file.
    """

    head: str
    classes: list[ClassResult]
    confusion: np.ndarray | None


@dataclass(frozen=True)
class Result:
    """Results of the videos of a split.

    Attributes:
        split: "test" or "validation".
        folder: folder of the predictions.
        summary: content of ``test.json``, or of ``validation`` in ``run.json``.
        metrics: values by name ("top1", "loss", ...).
        heads: results of the heads.
        predictions: rows of ``predictions.csv``.
    """

    split: str
    folder: Path
    summary: Mapping[str, Any]
    metrics: Mapping[str, float]
    heads: list[HeadResult]
    predictions: list[dict[str, str]]

    @property
    def multi_label(self) -> bool:
        """Whether videos have several labels."""
        return "map" in self.metrics

    @property
    def main_metric(self) -> str:
        """Name of the metric in the title."""
        return "map" if self.multi_label else "top1"

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of an accuracy, or None."""
        values = self.summary.get(f"{name}_interval")
        return None if not values else (float(values[0]), float(values[1]))


@dataclass
class RunFiles:
    """Content of the folder of a run.

    Attributes:
        folder: the folder.
        name: name in the report.
        training: folder of the training run whose checkpoint was tested, or ``folder``; None if it is unknown.
        record: content of ``run.json``.
        config: options in ``config.yaml`` by their names on the command line.
        metrics: rows of ``metrics.csv``.
        results: of the splits, test first.
        probe: content of ``probe.json``.
        notes: missing or damaged parts.
    """

    folder: Path
    name: str
    training: Path | None = None
    record: dict[str, Any] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    probe: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def read(self, path: Path, parse: Callable[[Path], T], default: T) -> T:
        """Return the parsed content of a file; add a note and return the default if it is damaged.

        A missing file has no note.
        """
        try:
            return parse(path) if path.is_file() else default
        except (OSError, *VALUE_ERRORS) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self.notes.append(f"{path} cannot be read ({reason}). The parts of the report that need it are left out.")
            return default

    @property
    def is_probe(self) -> bool:
        """Whether ``tempozoo probe`` wrote the folder, whose test is that of the logistic regression."""
        return self.probe.get("split") == "test"

    @property
    def environment(self) -> dict[str, str]:
        """Versions and hardware of the training, or of the test."""
        summaries = [self.record, *(result.summary for result in self.results)]
        return next((dict(content["environment"]) for content in summaries if content.get("environment")), {})


def read_run(folder: Path, name: str) -> RunFiles:
    """Read the folder of a run.

    Args:
        folder: folder of ``fit``, ``test`` or ``probe``.
        name: name in the report.

    Raises:
        ConfigError: the folder does not exist, or contains no run.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give the folder of fit, test or probe.")
    files = (RUN_FILE, METRICS_FILE, TEST_FILE, PROBE_FILE, CHECKPOINTS)
    if not any((folder / file).exists() for file in files):
        names = ", ".join(files)
        raise ConfigError(f"{folder} contains no run (none of {names}); give the folder of fit, test or probe.")
    run = RunFiles(folder, name)
    for test in (folder, folder / TEST_FOLDER):
        if (test / TEST_FILE).exists() and not run.results:
            summary: dict[str, Any] = run.read(test / TEST_FILE, parse_mapping, {})
            if summary:
                run.results.append(_read_result(run, "test", test, summary))
    run.probe = run.read(folder / PROBE_FILE, parse_mapping, {})
    run.training = None if run.is_probe else _find_training(folder, run.results)
    if run.training is not None:
        _read_training(run, run.training)
    return run


def _find_training(folder: Path, results: list[Result]) -> Path | None:
    """Return the folder of the training run: the folder itself, or that of the tested checkpoint."""
    tested = Path(str(results[0].summary.get("network"))) if results else Path()
    checkpoints = [tested.parent.parent] if tested.parent.name == CHECKPOINTS else []
    for path in (folder, *checkpoints):
        if any((path / name).exists() for name in (RUN_FILE, METRICS_FILE, CHECKPOINTS)):
            return path
    return None


def _read_training(run: RunFiles, folder: Path) -> None:
    run.record = run.read(folder / RUN_FILE, parse_mapping, {})
    run.config = run.read(folder / CONFIG_FILE, parse_config, {})
    run.metrics = run.read(folder / METRICS_FILE, parse_metrics, [])
    for file, content in ((CONFIG_FILE, "configuration"), (METRICS_FILE, "learning curves")):
        if not (folder / file).exists():
            run.notes.append(f"{folder / file} does not exist, so the report has no {content}.")
    validation = run.record.get("validation")
    if isinstance(validation, dict):
        run.results.append(_read_result(run, "validation", folder / VALIDATION, validation))
    elif not run.results:
        run.notes.append(
            "The run has no predictions: no epoch was validated, or the run is of an earlier version. "
            f"`tempozoo test --from {folder} --out {folder / TEST_FOLDER}` adds test results."
        )


def _read_result(run: RunFiles, split: str, folder: Path, summary: dict[str, Any]) -> Result:
    metrics = {}
    for name, value in dict(summary.get("metrics") or {}).items():
        if isinstance(value, (int, float)):
            metrics[str(name).removeprefix("test_").removeprefix("val_")] = float(value)
    rows: list[dict[str, str]] = run.read(folder / PREDICTIONS, lambda path: read_predictions(path.parent), [])
    if not (folder / PREDICTIONS).exists():
        run.notes.append(f"{folder / PREDICTIONS} does not exist, so the report has no mistakes of the {split}.")
    heads = []
    for head in heads_of(rows[0]) if rows else [""]:
        classes: list[ClassResult] = run.read(folder / table_file("classes", head), parse_classes, [])
        confusion = run.read(folder / table_file("confusion", head), parse_confusion, None)
        if confusion is not None and len(confusion) != len(classes):
            confusion = None
        heads.append(HeadResult(head, classes, confusion))
    return Result(split, folder, summary, metrics, heads, rows)


# parsers of files -------------------------------------------------------------------------------------------------


def parse_mapping(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file.

    Raises:
        ValueError: the file contains something other than an object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"it contains a {type(content).__name__} instead of an object")
    return content


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of a CSV file."""
    with path.open(newline="", encoding="utf-8", errors=PATH_ERRORS) as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]


def parse_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of ``metrics.csv`` without empty cells.

    Raises:
        ValueError: a row has no step.
    """
    rows = read_table(path)
    if any("step" not in row for row in rows):
        raise ValueError("it lacks the column step")
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def parse_classes(path: Path) -> list[ClassResult]:
    """Return the rows of ``classes.csv``."""
    results = []
    for row in read_table(path):
        videos, predicted, correct = (int(row[column]) for column in ("videos", "predicted", "correct"))
        average = row.get("average_precision")
        results.append(ClassResult(row["class"], videos, predicted, correct, float(average) if average else None))
    return results


def parse_confusion(path: Path) -> np.ndarray:
    """Return the matrix in ``confusion.csv``.

    Raises:
        ValueError: it is not square.
    """
    with path.open(newline="", encoding="utf-8", errors=PATH_ERRORS) as file:
        rows = list(csv.reader(file))[1:]
    matrix = np.array([[int(cell) for cell in row[1:]] for row in rows], dtype=np.int64).reshape(len(rows), -1)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"it has {matrix.shape[0]} rows and {matrix.shape[1]} columns")
    return matrix


def parse_config(path: Path) -> dict[str, str]:
    """Return the options in ``config.yaml`` that are not null: name on the command line -> text."""
    content = yaml.safe_load(path.read_text(encoding="utf-8", errors=PATH_ERRORS))
    if not isinstance(content, dict):
        raise ValueError("it contains no options")
    return dict(_flatten(content))


def _flatten(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    options: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key == "init_args" and isinstance(value, dict):
            options += _flatten(value, prefix)
        elif key == "class_path":
            options.append((prefix.removesuffix("."), str(value).rpartition(".")[2]))
        elif isinstance(value, dict):
            options += _flatten(value, f"{name}.")
        elif value is not None:
            options.append((name, value if isinstance(value, str) else json.dumps(value)))
    return options
