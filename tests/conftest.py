"""Shared by the tests: no network, an empty cache, small data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from loopback import Loopback
from loopback_hub import LoopbackHub
from small_models import FOUR
from tiny_zoo import write_index

from datamodules.motionclips import write_motion_clips
from zoo.weights import download, transfer

QUICK = Path(__file__).parent / "quick.txt"
# cheap folders first, so that most failures show early
ORDER = ("tests", "zoo/ops", "zoo", "zoo/weights", "zoo/hub", "zoo/inference", "zoo/video", "datamodules", "zoo/models")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="run the tests of tests/quick.txt only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort tests by the cost of their folder; with ``--quick``, keep those of quick.txt."""
    tests = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.relative_to(tests).as_posix()
        folder = "tests" if folder == "." else folder
        return ORDER.index(folder) if folder in ORDER else len(ORDER)

    items.sort(key=rank)
    if config.getoption("--quick"):
        names = set(QUICK.read_text().split())
        chosen = [item for item in items if item.nodeid.partition("[")[0] in names]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEMPOZOO_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TEMPOZOO_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    torch.manual_seed(0)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """An internet with nothing in it, the index of tiny_zoo, and no patience."""
    with Loopback() as loopback:
        for name, value in loopback.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("TEMPOZOO_OFFLINE")
        monkeypatch.setenv("HOME", str(tmp_path))  # gdown keeps cookies there
        monkeypatch.setenv("TEMPOZOO_INDEX", str(write_index(tmp_path / "index.yaml")))
        monkeypatch.setattr(download, "BACKOFF", 0.01)
        monkeypatch.setattr(transfer, "TIMEOUTS", (2.0, 1.0))
        yield loopback


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub without repositories, to which the client is pointed as its user alice."""
    with LoopbackHub() as hub:
        hub.point(monkeypatch, tmp_path / "home")
        yield hub


@pytest.fixture(scope="session")
def motion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of MotionClips, 8 + 3 + 3 clips each, 12 frames of 32 x 32."""
    counts = {"train": 8, "val": 3, "test": 3}
    root = tmp_path_factory.mktemp("data") / "motion"
    return write_motion_clips(root, classes=FOUR, clips_per_class=counts, frames=12, size=32, progress=False)
