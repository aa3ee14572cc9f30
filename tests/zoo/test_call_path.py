"""A cached load passes through the files that docs/architecture.md lists, and re-enters none but loading.py."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from paths import ROOT
from small_models import SMALL
from tiny_zoo import NAMES, published, write_index

import zoo

LEAVES = {
    "arguments.py",
    "errors.py",
    "text.py",
    "settings.py",
    "protocol.py",
    "weights/locations.py",
    "weights/utf8.py",
}
PATH = [
    "loading.py",
    "index.py",
    "weights/store.py",
    "weights/model_folder.py",
    "weights/files.py",
    "weights/disk.py",
    "spec.py",
    "weights/digests.py",
    "adapt.py",
]


def trace_files(function: Any) -> list[str]:
    """Return the files of ``zoo`` in the order of their first calls, except ops/, models/ and leaf modules."""
    package = Path(zoo.__file__).parent
    files: list[str] = []

    def profile(frame: FrameType, event: str, _argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and package in path.parents:
            name = path.relative_to(package).as_posix()
            if not name.startswith(("ops/", "models/")) and name not in LEAVES and name not in files:
                files.append(name)

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return files


def test_cached_load_passes_through_nine_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOZOO_INDEX", str(write_index(tmp_path / "index.yaml")))
    (tmp_path / "published.pth").write_bytes(published())
    zoo.convert(tmp_path / "published.pth", NAMES["web"])  # into the cache
    load = zoo.load  # imports its module
    files = trace_files(lambda: load(NAMES["web"], num_classes=SMALL["num_classes"] + 1))
    assert set(files) == set(PATH)


def test_documented_call_path_is_the_tested_one() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = text.split("**A cached load**")[1].split("```")[1]
    documented = re.findall(r"^zoo/([\w/]+\.py)", block, re.MULTILINE)
    assert set(documented) == set(PATH)
    assert len([name for name in documented if name != "loading.py"]) == len(PATH) - 1
