"""examples/predict.ipynb runs from top to bottom."""

from __future__ import annotations

import json

import matplotlib
import pytest
from paths import ROOT

NOTEBOOK = ROOT / "examples" / "predict.ipynb"


def test_notebook_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    matplotlib.use("Agg")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    namespace: dict[str, object] = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), namespace)
    out = capsys.readouterr().out
    assert "error: Video missing.mp4 does not exist" in out
    assert "feature maps of the last stage: (1, " in out
    correct = namespace["correct"]
    assert isinstance(correct, list) and sum(correct) >= 0.75 * len(correct)
