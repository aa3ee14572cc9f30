"""``fit --profile``: the operations that take most of the time of a few training steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lit_modules.console import print_line
from zoo.weights.disk import atomic_path


class StepProfile(Callback):
    """Profiles a few training steps with ``torch.profiler``: ``--profile``.

    Writes ``profile.txt``, the operations that take most of the time, and ``profile.json``, a trace for
    https://ui.perfetto.dev, as soon as these steps are done. Lightning's profilers write at the end of the run, and
    count validation steps as well. Only the first process is profiled.
    """

    SKIPPED, STEPS = 5, 3
    ROWS = 40  # operations in the table

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._profiler: torch.profiler.profile | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the profiler, which records after ``SKIPPED`` batches and one batch of warm-up."""
        if trainer.is_global_zero:
            steps = torch.profiler.schedule(wait=self.SKIPPED - 1, warmup=1, active=self.STEPS, repeat=1)
            self._profiler = torch.profiler.profile(schedule=steps, on_trace_ready=self._write)
            self._profiler.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step."""
        if self._profiler is not None:
            self._profiler.step()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop the profiler; a run that is too short writes the steps recorded so far."""
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop the profiler."""
        self._stop()

    def _stop(self) -> None:
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _write(self, profiler: torch.profiler.profile) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        table = profiler.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=self.ROWS)
        with atomic_path(self.folder / "profile.txt") as temporary:
            temporary.write_text(table, encoding="utf-8")
        with atomic_path(self.folder / "profile.json") as temporary:
            profiler.export_chrome_trace(str(temporary))
        print_line(f"Profile of training steps: {self.folder / 'profile.txt'} (trace: profile.json)")
