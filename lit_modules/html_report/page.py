"""Write the HTML page of one or several runs."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import zoo
from lit_modules.html_report.curves import learning_curves
from lit_modules.html_report.explainer import load_explainer
from lit_modules.html_report.film_strips import ExplainVideo, FilmStrip, film_strip, jpeg_url
from lit_modules.html_report.results import (
    MISSING,
    accuracy_rows,
    calibration_view,
    class_rows,
    compare_classes,
    confusion_view,
    describe_status,
    metric_title,
    percent,
    percent_range,
    title_sentence,
)
from lit_modules.html_report.run_files import VALUE_ERRORS, Result, RunFiles, read_run
from lit_modules.mistakes import Mistake, find_mistakes, parse_source
from zoo.protocol import Protocol
from zoo.text import pluralize, printable
from zoo.weights.disk import atomic_path

MAIN_OPTIONS = (
    "model", "model.name", "model.weights", "model.num_frames", "model.image_size", "model.train", "model.head_init",
    "model.optimizer.name", "model.optimizer.lr", "model.optimizer.weight_decay", "model.schedule.name",
    "model.loss.name", "data", "data.root", "data.train", "data.val", "data.test", "data.batch_size", "data.balance",
    "trainer.max_epochs", "trainer.precision", "seed_everything",
)  # fmt: skip
MAX_SKIPPED = 100  # listed videos


@dataclass(frozen=True)
class MistakeView:
    """A mistake with its film strip."""

    mistake: Mistake
    strip: FilmStrip


def write_report(folders: Sequence[Path], out: Path, explain_seconds: float = 60.0) -> Path:
    """Write a self-contained HTML page of one or several runs.

    Args:
        folders: folders of ``fit``, ``test`` or ``probe``.
        out: path of the page.
        explain_seconds: time for explanations of the mistakes, for which the network is loaded; 0 for no explanations.
            Pages of several runs have none.

    Returns:
        ``out``.

    Raises:
        ConfigError: a folder contains no run.
    """
    runs = [read_run(folder, name) for folder, name in zip(folders, run_names(folders), strict=True)]
    explained = explain_seconds > 0 and len(runs) == 1 and bool(runs[0].results)
    explain = load_explainer(runs[0], explain_seconds) if explained else None
    page = render(runs, explain)
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return out


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return short names of folders: their last components, as many as needed to distinguish them."""
    parts = [folder.absolute().parts for folder in folders]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return names


def render(runs: Sequence[RunFiles], explain: ExplainVideo | None = None) -> str:
    """Return the HTML text of a report."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lit_modules.html_report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # labels and paths may contain control characters and lone surrogates
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"percent": percent, "interval": percent_range, "jpeg": jpeg_url}
    templates = resources.files("lit_modules.html_report") / "templates"
    style, script = (Markup((templates / name).read_text("utf-8")) for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text: str = environment.get_template("report.html").render(
        title=f"Report of {', '.join(run.name for run in runs)}",
        version=zoo.__version__,
        several=len(runs) > 1,
        style=style,
        script=script,
        script_digest=digest,
        metric=metric_title(runs),
        rows=_guard(runs[0], "the table of results", lambda: accuracy_rows(runs), []),
        curves=_guard(runs[0], "the learning curves", lambda: learning_curves(runs), []),
        configuration=configuration(runs),
        comparison=_guard(runs[0], "the comparison of classes", lambda: compare_classes(runs), None),
        sections=[run_section(run, explain if len(runs) == 1 else None) for run in runs],
    )
    return text


def _guard(run: RunFiles, part: str, build: Callable[[], Any], default: Any) -> Any:
    """Return a part of the report; if files have unexpected values, add a note and return the default."""
    try:
        return build()
    except VALUE_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        run.notes.append(f"{run.folder}: {part} is left out, because a file has unexpected values ({reason}).")
        return default


def configuration(runs: Sequence[RunFiles]) -> dict[str, Any]:
    """Return the options of the runs: rows of name and values, and whether the values of runs with options differ."""
    options = [dict(run.config) for run in runs]
    for run, values in zip(runs, options, strict=True):
        for result in run.results:
            if isinstance(result.summary.get("protocol"), dict):
                build = functools.partial(Protocol.from_dict, result.summary["protocol"])
                values[f"protocol of the {result.split}"] = str(_guard(run, "the protocol", build, ""))
    names = list(dict.fromkeys(name for values in options for name in values))
    rows: list[dict[str, Any]] = []
    for name in names:
        cells = [values.get(name, MISSING) for values in options]
        compared = [
            cell for cell, values, run in zip(cells, options, runs, strict=True) if run.config or name in values
        ]
        rows.append({"name": name, "cells": cells, "differs": len(set(compared)) > 1})
    rows.sort(key=lambda row: not row["differs"])
    main = [row for row in rows if row["differs"] or row["name"] in MAIN_OPTIONS or row["name"].startswith("protocol")]
    return {"main": main, "others": [row for row in rows if row not in main]}


def run_section(run: RunFiles, explain: ExplainVideo | None) -> dict[str, Any]:
    """Return the parts of the report that each run has on its own."""
    # with a test, the validation is in the table of results only
    views = [
        _guard(run, f"the {result.split}", functools.partial(result_section, run, result, explain), None)
        for result in run.results[:1]
    ]
    return {
        "name": run.name,
        "folder": str(run.folder),
        "sentence": _guard(run, "the result", lambda: title_sentence(run), ""),
        "status": describe_status(run),
        "results": [view for view in views if view is not None],
        "splits": _guard(run, "the table of splits", lambda: split_tables(run), []),
        "skipped": _guard(run, "the list of skipped videos", lambda: skipped_videos(run), []),
        "speed": _guard(run, "the speed", lambda: speed(run), {}),
        "environment": _guard(run, "the environment", lambda: run.environment, {}),
        "loaded": run.record.get("loaded") or (run.results[0].summary.get("loaded") if run.results else None),
        "notes": run.notes,
    }


def result_section(run: RunFiles, result: Result, explain: ExplainVideo | None) -> dict[str, Any]:
    """Return the parts of the report for the videos of a split."""
    sources = result.summary.get("sources", {})
    shows_mistakes = sources is not None  # clips of MoSI are generated, and their images would mislead
    mistakes, count = find_mistakes(result.predictions if shows_mistakes else [], result.multi_label)
    folder = str(run.environment.get("working folder", ""))
    views = []
    for mistake in mistakes:
        label = next(answer.predicted for answer in mistake.answers if not answer.correct)
        source = parse_source(mistake.name, sources.get(mistake.name))
        views.append(MistakeView(mistake, film_strip(source, label, explain, folder)))
    heads = [
        {
            "name": head.head,
            "classes": class_rows(head.classes),
            "confusion": confusion_view(head),
            "multi_label": result.multi_label,
        }
        for head in result.heads
    ]
    return {
        "split": result.split,
        "epoch": result.summary.get("epoch"),
        "videos": len(result.predictions),
        "heads": heads,
        "calibration": calibration_view(result),
        "mistakes": views if shows_mistakes else None,
        "explained": sum(view.strip.explanation is not None for view in views),
        "mistake_count": count,
    }


def split_tables(run: RunFiles) -> list[dict[str, Any]]:
    """Return the numbers of videos by class and split, a table for each head."""
    data = run.record.get("data") or {}
    tables = []
    for head in data.get("heads") or []:
        parts = list(head["videos"])
        rows = [
            {"name": name, "counts": [head["videos"][part][number] for part in parts]}
            for number, name in enumerate(head["classes"])
        ]
        totals = [sum(head["videos"][part]) for part in parts]
        tables.append({"head": head["head"], "parts": parts, "rows": rows, "totals": totals})
    return tables


def skipped_videos(run: RunFiles) -> list[dict[str, Any]]:
    """Return the unreadable videos of each split with their reasons."""
    parts = dict(run.record.get("skipped") or {})
    parts |= {result.split: result.summary["skipped"] for result in run.results if result.summary.get("skipped")}
    parts.pop("val", None) if "validation" in parts else None
    views = []
    for split, videos in parts.items():
        rows = [{"path": path, "reason": reason} for path, reason in dict(videos).items()]
        views.append({"split": split, "count": len(rows), "rows": rows[:MAX_SKIPPED]})
    return views


def speed(run: RunFiles) -> dict[str, str]:
    """Return the duration and the speed of the training: title -> text."""
    record, values = run.record, {}
    if record.get("seconds"):
        minutes, seconds = divmod(round(float(record["seconds"])), 60)
        hours, minutes = divmod(minutes, 60)
        values["duration"] = f"{hours}:{minutes:02d}:{seconds:02d} h for {pluralize(record.get('epochs', 0), 'epoch')}"
    if record.get("clips_per_second"):
        values["training speed"] = f"{float(record['clips_per_second']):.1f} clips per second, without validation"
    if record.get("parameters"):
        values["parameters"] = f"{int(record['parameters']) / 1e6:.2f} M"
    if record.get("bottleneck"):
        values["bottleneck"] = str(record["bottleneck"]).removeprefix("Bottleneck: ")
    return values
