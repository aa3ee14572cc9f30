"""``probe.json``: accuracy of a probe on the videos of a split, in the folder of a run or of ``tempozoo probe``."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from lit_modules.run_folder import CHECKPOINTS
from lit_modules.scores import Scores, compute_metrics
from zoo.text import pluralize, read_json
from zoo.weights.disk import atomic_path

PROBE_FILE = "probe.json"


def digest_videos(scores: Scores) -> str:
    """Return a digest of the absolute paths and the labels of videos."""
    lines = sorted(f"{os.path.abspath(name)}\t{label.tolist()}" for name, (label, _) in scores.items())
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def describe_result(split: str, scores: Scores, num_classes: int, views: str) -> dict[str, Any]:
    """Return the part of ``probe.json`` that describes the videos and the baselines.

    Args:
        split: "val" or "test".
        scores: of the videos.
        num_classes: number of classes.
        views: views of each video, such as "1x1".
    """
    return {
        "split": split,
        "videos": len(scores),
        "video_list": digest_videos(scores),
        "views": views,
        "chance": 1 / num_classes,
        "majority_class": compute_metrics(scores)["majority_class"],
    }


def write_probe(folder: Path, content: dict[str, Any]) -> None:
    """Write ``probe.json``."""
    with atomic_path(folder / PROBE_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_probe(folder: Path) -> dict[str, Any] | None:
    """Return the content of ``probe.json``; None if the file does not exist or has another content."""
    try:
        content = read_json(folder / PROBE_FILE)
        numbers = [content["chance"], content["majority_class"], content["logistic_regression"]["top1"]]
        valid = all(isinstance(number, float) for number in numbers)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return content if valid else None


def probe_of_run(weights: str | Path | None, scores: Scores) -> dict[str, Any] | None:
    """Return the probe result of the run that wrote a weight file, if it is for the same videos; else None.

    Args:
        weights: path of a checkpoint in the folder of a run, or of a weight file in a folder of ``tempozoo probe``.
        scores: of the tested videos.
    """
    if weights is None or not scores:
        return None
    folder = Path(weights).parent
    result = read_probe(folder.parent if folder.name == CHECKPOINTS else folder)
    return result if result is not None and result.get("video_list") == digest_videos(scores) else None


def probe_line(result: dict[str, Any]) -> str:
    """Return a line with the accuracy of the probe and the baselines."""
    top1 = result["logistic_regression"]["top1"]
    split = {"val": "validation"}.get(result["split"], result["split"])
    videos = pluralize(result["videos"], f"{split} video")
    return (
        f"Baselines on the {videos}, {result['views']} views: logistic regression of frozen "
        f"features {100 * top1:.2f} % top-1, majority class {100 * result['majority_class']:.2f} %, chance "
        f"{100 * result['chance']:.2f} %"
    )
