"""Folders of the repository that tests read."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
PYTHONPATH = f"{ROOT}:{SUPPORT}"  # of a child process that imports the package and the support modules
