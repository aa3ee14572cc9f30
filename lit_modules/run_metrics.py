"""``metrics.csv``: one file for a run, also if the run is resumed."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from zoo.weights.disk import atomic_path


class MetricsWriter(ExperimentWriter):
    """Appends to ``metrics.csv``. The file never contains a partial line, even on a full disk."""

    def _check_log_dir_exists(self) -> None:
        """Keep the file of a resumed run, which Lightning would delete."""
        path = Path(self.metrics_file_path)
        for leftover in path.parent.glob(f".{path.name}.*"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        self.metrics_keys = list(self._read()[0])

    def save(self) -> None:
        """Write the metrics logged since the last call."""
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        new = set().union(*self.metrics).difference(self.metrics_keys)
        if new or not path.is_file():
            self._rewrite(sorted({*self.metrics_keys, *new}), self._read()[1] + self.metrics)
        else:
            size = path.stat().st_size
            try:
                with path.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self.metrics_keys).writerows(self.metrics)
            except BaseException:
                os.truncate(path, size)
                raise
        self.metrics = []

    def drop_from(self, step: int) -> None:
        """Remove the lines from ``step`` on, which a resumed run writes again."""
        keys, rows = self._read()
        earlier = [row for row in rows if not _at_least(row.get("step"), step)]
        if earlier:
            self._rewrite(keys, earlier)
        else:
            Path(self.metrics_file_path).unlink(missing_ok=True)
            self.metrics_keys = []

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Return the columns and lines of the file, without an incomplete last line of a killed process."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return [], []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        reader = csv.DictReader(line for line in lines if line.endswith("\n"))
        rows: list[dict[str, Any]] = list(reader)
        return list(reader.fieldnames or []), rows

    def _rewrite(self, keys: list[str], rows: list[dict[str, Any]]) -> None:
        path = Path(self.metrics_file_path)
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, keys, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        self.metrics_keys = keys


def _at_least(text: str | None, step: int) -> bool:
    return text is not None and text.isdecimal() and int(text) >= step


class MetricsLogger(CSVLogger):
    """Writes ``metrics.csv`` and ``hparams.yaml`` into the folder of a run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsWriter:
        """Writer of the file."""
        if self._experiment is None:
            self._experiment = MetricsWriter(log_dir=self.log_dir)
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        """Prepare the file for a run resumed after ``step`` optimizer steps."""
        self.experiment.drop_from(step)


class LogShortEpochs(Callback):
    """Logs loss and learning rate at least once per epoch: epochs of few videos are shorter than the usual interval."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reduce ``log_every_n_steps`` to the steps of an epoch."""
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches  # infinite if the data has no length
        trainer.log_every_n_steps = int(min(trainer.log_every_n_steps, max(1, steps)))  # type: ignore[attr-defined]


class ResumeMetrics(Callback):
    """Removes the lines of ``metrics.csv`` that a resumed run logs again."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the lines after the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsLogger):
                logger.resume_at(trainer.global_step)
