"""``run.json`` and ``validation/``: facts and predictions of a training run for its report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from lit_modules.base import VideoClassifier
from lit_modules.bottleneck import Bottleneck
from lit_modules.checkpoints import Best
from lit_modules.environment import describe_environment
from lit_modules.head_init import is_resumed
from lit_modules.interfaces import VideoData, batch_size, video_data
from lit_modules.mistakes import PATH_ERRORS, mistake_sources
from lit_modules.report import (
    classifier,
    labels_of_head,
    list_heads,
    reference_values,
    write_score_files,
)
from lit_modules.run_file_names import RUN_FILE, VALIDATION
from lit_modules.scores import compute_metrics
from zoo.text import read_json
from zoo.weights.disk import atomic_path

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"  # status


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of ``run.json``; empty if the file does not exist or is damaged."""
    try:
        content = read_json(folder / RUN_FILE)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class RunRecord(Callback):
    """Writes ``run.json`` and ``validation/`` of a training run; on by default in ``tempozoo fit``.

    ``run.json`` contains the status, the network, the videos per class and split, unreadable videos, the speed, the
    environment, and the metrics of the best epoch. ``validation/`` contains the files of ``test`` for the validation
    videos at that epoch.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._content: dict[str, Any] = {}
        self._start = self._last = 0.0  # of the process, of the last batch
        self._earlier_seconds = 0.0  # of the parts before the run was resumed
        self._clips, self._seconds = 0, 0.0  # of training batches

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the facts that do not change during the run."""
        self._start = time.perf_counter()
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        module = classifier(pl_module)
        earlier = read_record(self.folder) if is_resumed(trainer) else {}
        self._earlier_seconds = float(earlier.get("seconds") or 0)
        self._content = {
            "status": RUNNING,
            "network": module.hparams["name"],
            "architecture": module.network.spec.arch,
            "loaded": earlier.get("loaded") or str(module.network.report),
            "parameters": sum(parameter.numel() for parameter in module.network.parameters()),
            "multi_label": module.multi_label,
            "data": _describe_data(video_data(trainer), module),
            "environment": describe_environment(trainer),
            "validation": earlier.get("validation"),
        }
        self._write(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the measurement of the speed."""
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the clips of the batch and its time."""
        now = time.perf_counter()
        self._seconds += now - self._last
        self._clips += batch_size(trainer) * trainer.world_size
        self._last = now

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the predictions if the metric that selects ``best.ckpt`` is better than before."""
        self._last = time.perf_counter()  # validation does not count as training
        module = classifier(pl_module)
        if trainer.sanity_checking or not self._content or not module.scores:
            return
        best = next((part for part in trainer.checkpoint_callbacks if isinstance(part, Best)), None)
        if best is not None and best.best_model_score is not None:  # checkpoints are saved after this hook
            value = trainer.callback_metrics.get(str(best.monitor))
            if self._content["validation"] and (value is None or not value > best.best_model_score):
                return
        self._write_validation(trainer, module, None if best is None else best.monitor)

    def _write_validation(self, trainer: L.Trainer, module: VideoClassifier, monitor: str | None) -> None:
        scores, folder = module.scores, self.folder / VALIDATION
        folder.mkdir(exist_ok=True)
        write_score_files(folder, module, draw=False)
        data = video_data(trainer)
        metrics = compute_metrics(scores, module.heads, module.multi_label)
        self._content["validation"] = {
            "epoch": trainer.current_epoch + 1,
            "monitor": monitor,
            "videos": len(scores),
            "listed": len(scores) if data is None else data.datasets["val"].records.listed,
            "skipped": {} if data is None else dict(data.skipped.get("val", {})),
            "metrics": metrics,
            **reference_values(metrics, scores, module.heads),
            "sources": mistake_sources(folder, data, "val", module.multi_label),
        }
        self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record that the run is complete."""
        self._finish(trainer, FINISHED)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Record why the run ended."""
        status = FAILED if isinstance(exception, Exception) else STOPPED  # by a signal
        reason = f"{type(exception).__name__}: {exception}" if status == FAILED else None
        self._finish(trainer, status, reason)

    def _finish(self, trainer: L.Trainer, status: str, reason: str | None = None) -> None:
        if self._content and self._content["status"] == RUNNING:
            self._content |= {"status": status, "reason": reason}
            self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        data = video_data(trainer)
        bottleneck = next((part for part in trainer.callbacks if isinstance(part, Bottleneck)), None)  # type: ignore[attr-defined]
        self._content |= {
            "epochs": trainer.current_epoch,
            "max_epochs": trainer.max_epochs,
            "seconds": round(self._earlier_seconds + time.perf_counter() - self._start, 1),
            "clips_per_second": round(self._clips / self._seconds, 2) if self._seconds else None,
            "bottleneck": None if bottleneck is None else bottleneck.describe(),
            "skipped": {} if data is None else {part: dict(videos) for part, videos in data.skipped.items() if videos},
        }
        with atomic_path(self.folder / RUN_FILE) as temporary:
            text = json.dumps(self._content, indent=1, ensure_ascii=False) + "\n"
            temporary.write_text(text, encoding="utf-8", errors=PATH_ERRORS)


def _describe_data(data: VideoData | None, module: VideoClassifier) -> dict[str, Any] | None:
    """Return the class of the data module, and the number of videos by class of each head and split."""
    if data is None:
        return None
    heads = []
    for number, (name, names, _) in enumerate(list_heads(module.network)):
        columns = {
            part: labels_of_head(labels, number, module.multi_label) for part, labels in data.part_labels.items()
        }
        counts = {part: np.bincount(column, minlength=len(names)).tolist() for part, column in columns.items()}
        heads.append({"head": name, "classes": names, "videos": counts})
    return {
        "class": type(data).__name__,
        "videos": {part: len(labels) for part, labels in data.part_labels.items()},
        "heads": heads,
    }
