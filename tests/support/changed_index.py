"""Write a copy of the published index with one change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from zoo.index import load_index


def changed_index(tmp_path: Path, change: Any) -> Path:
    content = yaml.safe_load(load_index().path.read_text())
    content["models"] = {"tanet_r50.k400_8f": content["models"]["tanet_r50.k400_8f"]}
    change(content)
    path = tmp_path / "index.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
