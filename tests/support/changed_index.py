"""Write a copy of the published index with one change."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import yaml

from zoo.index import load_index


@functools.cache
def short_index() -> dict[str, Any]:
    """Content of the published index with one entry, without the families of the others."""
    content = yaml.load(load_index().path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    del content["families"]
    content["models"] = {"tanet_r50.k400_8f": content["models"]["tanet_r50.k400_8f"]}
    return content


def changed_index(tmp_path: Path, change: Any) -> Path:
    content = copy.deepcopy(short_index())
    change(content)
    path = tmp_path / "index.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
