"""Runs that several test modules compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import fit_arguments

from cli import main


@pytest.fixture(scope="session")
def uninterrupted_run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one process that was not interrupted: 2 epochs of 4 steps."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert main(fit_arguments(motion_folder, out)) == 0
    return out
