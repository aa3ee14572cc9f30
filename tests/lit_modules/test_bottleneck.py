"""What limits the speed of ``fit``, and ``--profile``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import fit_arguments
from torch.utils.data import Dataset

from cli import main
from datamodules.loading import BatchSampler, ClipLoader
from lit_modules import bottleneck
from lit_modules.bottleneck import Bottleneck, describe_bottleneck
from lit_modules.interfaces import TimedLoader
from lit_modules.step_profile import StepProfile


def test_line_names_the_limiting_part_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottleneck, "available_cores", lambda: 16)
    assert describe_bottleneck(62, 0, 38, 2, "cuda") == (
        "Bottleneck: data loading, 62 % of the time (38 % computation): raise --data.num_workers (now 2 of 16 cores), "
        "or convert the videos with `tempozoo data prepare`"
    )
    all_cores = describe_bottleneck(20, 1, 79, 16, "cuda")
    assert all_cores.startswith("Bottleneck: data loading, 20 % of the time (1 % transfer to the device, 79 % comp")
    assert "raise" not in all_cores and "`tempozoo data prepare`" in all_cores
    assert describe_bottleneck(5, 45, 50, 2, "cuda").startswith("Bottleneck: transfer to the device, 45 % of the time")
    assert describe_bottleneck(5, 45, 50, 2, "cpu").startswith(
        "Bottleneck: computation, 95 % of the time (5 % data loading): train on a GPU"
    )
    assert "(" not in describe_bottleneck(0, 0, 9, 2, "cuda").partition(":")[2].partition(":")[0]


class SlowVideos(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, draw: Any) -> torch.Tensor:
        time.sleep(0.02)
        return torch.zeros(1)


def test_loader_measures_the_time_of_waiting() -> None:
    """Time that the consumer takes between batches does not count."""
    loader = ClipLoader(SlowVideos(), BatchSampler(4, 1, shuffle=False))
    assert isinstance(loader, TimedLoader)
    start = time.perf_counter()
    consumed = 0.0
    for _ in loader:
        before = time.perf_counter()
        assert loader.yielded_at <= before
        time.sleep(0.05)
        consumed += time.perf_counter() - before
    total = time.perf_counter() - start
    assert 4 * 0.02 <= loader.wait_seconds <= total - consumed


def test_shares_omit_the_first_batches_and_validation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock is simulated: every batch has 3 s of waiting, 1 s of transfer and 6 s of computation."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    loader = SimpleNamespace(num_workers=2, wait_seconds=0.0, yielded_at=0.0)
    trainer: Any = SimpleNamespace(train_dataloader=loader, is_global_zero=True)
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    callback = Bottleneck()
    for batch in range(40):
        wait = 100.0 if batch < Bottleneck.SKIPPED else 3.0
        now += wait + 50.0 * (batch == 15)  # validation before this batch
        loader.wait_seconds += wait
        loader.yielded_at = now
        now += 1.0
        callback.on_train_batch_start(trainer, module, None, batch)
        now += 6.0
        callback.on_train_batch_end(trainer, module, None, None, batch)
        printed = capsys.readouterr().out
        assert bool(printed) == (batch == Bottleneck.SKIPPED + Bottleneck.BATCHES - 1)
        if printed:
            assert printed.startswith("Bottleneck: data loading, 30 % of the time (70 % computation): ")


def test_fit_prints_the_bottleneck_once(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"SKIPPED": 1, "BATCHES": 3, "SECONDS": 0.0}.items():
        monkeypatch.setattr(Bottleneck, name, value)
    for name in ("SKIPPED", "STEPS"):
        monkeypatch.setattr(StepProfile, name, 1)
    assert main(fit_arguments(motion_folder, tmp_path / "run", "--profile", watch=False)) == 0
    output = capsys.readouterr().out
    assert output.count("Bottleneck: ") == 1 and " % of the time" in output
    assert "aten::" in (tmp_path / "run" / "profile.txt").read_text()
    events = json.loads((tmp_path / "run" / "profile.json").read_text())["traceEvents"]
    assert any("conv" in str(event.get("name")) for event in events)
    assert "profile.txt" in output


def test_profile_is_for_training(motion_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--profile", str(motion_folder)]) == 1
    assert "--profile is for fit" in capsys.readouterr().err
