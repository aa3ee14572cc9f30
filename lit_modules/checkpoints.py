"""Checkpoints of the best and the last state of a run, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from lit_modules.interfaces import NamesMetrics
from zoo.weights.disk import atomic_path

if TYPE_CHECKING:
    from lit_modules.base import VideoClassifier


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in the same folder, and renames the file when it is complete.

    Lightning uses the system's folder for temporary files. If that is on another disk, Lightning copies the file over
    the old checkpoint, and a process that is killed during the copy loses both.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint. Remote paths ("s3://...") are left to Lightning.

        Raises:
            OSError: the file cannot be written, for example because the disk is full; an old file is unchanged.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        for leftover in path.parent.glob(f".{path.name}.*"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:  # errors of open files have an errno
                torch.save(checkpoint, file)
        except Exception as error:
            causes = [cause for cause in chain(error) if isinstance(cause, OSError) and cause.errno]
            if causes:
                cause = causes[0]
                raise OSError(cause.errno, cause.strerror, str(path)) from error
            raise


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Iterate over an exception and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class BetweenSteps(ModelCheckpoint):  # checkpoints contain the class names of callbacks, so names must not change
    """ModelCheckpoint that never saves between accumulated batches, because checkpoints do not contain gradients."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a complete optimizer step, if a checkpoint is due."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def selection_metric(module: VideoClassifier) -> str:
    """Return the metric that selects the best epoch: mean class accuracy, top-1 for several heads, mAP for labels."""
    if isinstance(module, NamesMetrics):
        return module.selection_metric
    if module.multi_label:
        return "val_map"
    return "val_top1" if module.heads else "val_mean_class"


class Best(ModelCheckpoint):
    """``best.ckpt``: the epoch with the highest mean class accuracy on the validation videos.

    With balanced classes, this equals top-1. With unbalanced classes, top-1 would prefer an epoch that always predicts
    the largest class. With several heads, the metric is the top-1 of actions, whose classes are too many to average
    over. For videos with several labels, it is the mean average precision. A resumed run keeps the metric that it began
    with, because only values of one metric can be compared. A run whose folder was moved keeps its best checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "best", monitor="val_mean_class", mode="max", enable_version_counter=False)

    @property
    def state_key(self) -> str:
        """Key of the state in checkpoints; independent of the metric, so that a resumed run finds its state."""
        return self._generate_state_key(
            monitor="val_top1",
            mode=self.mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            train_time_interval=self._train_time_interval,
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the metric."""
        self.choose_metric(cast("VideoClassifier", pl_module))
        super().setup(trainer, pl_module, stage)

    def choose_metric(self, module: VideoClassifier) -> None:
        """Choose the metric."""
        self.monitor = selection_metric(module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the metric, and the path and score of the best checkpoint if it is in the folder of this run."""
        self.monitor = state_dict["monitor"]
        best = Path(str(self.dirpath), Path(state_dict["best_model_path"]).name)
        if best.is_file():
            (score,) = state_dict["best_k_models"].values()
            paths = {"dirpath": self.dirpath, "best_model_path": str(best), "kth_best_model_path": str(best)}
            state_dict = state_dict | paths | {"best_k_models": {str(best): score}}
        super().load_state_dict(state_dict)


class EarlyStop(EarlyStopping):
    """Stops ``fit`` after some epochs without a better value of the metric that selects ``best.ckpt``.

    Args:
        patience: number of epochs. A resumed run uses its own number and keeps the count.
    """

    def __init__(self, patience: int) -> None:
        # not strict: epochs without validation (check_val_every_n_epoch) do not log the metric
        super().__init__("val_mean_class", mode="max", patience=patience, strict=False, check_on_train_epoch_end=True)

    @property
    def state_key(self) -> str:
        """Key of the state in checkpoints; independent of the metric, so that a resumed run finds its state."""
        return type(self).__qualname__

    def choose_metric(self, module: VideoClassifier) -> None:
        """Choose the metric."""
        self.monitor = selection_metric(module)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the metric."""
        self.choose_metric(cast("VideoClassifier", pl_module))
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value and the number of epochs since then."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do not train a resumed run that was stopped already."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print why the run has ended."""
        if self.wait_count >= self.patience and trainer.is_global_zero:
            epochs = f"{self.patience} epochs" if self.patience > 1 else "1 epoch"
            print(f"Stopped early: {self.monitor} has not improved for {epochs} (--early_stop).", flush=True)


def run_checkpoints(folder: Path) -> list[ModelCheckpoint]:
    """Return callbacks that write ``best.ckpt``, and ``last.ckpt`` after every epoch and every 15 minutes."""
    last: dict[str, Any] = {"dirpath": folder, "filename": "last", "enable_version_counter": False}
    return [
        Best(folder),
        ModelCheckpoint(**last, save_on_train_epoch_end=True),  # save_last would save only together with the best one
        BetweenSteps(**last, train_time_interval=timedelta(minutes=15)),
    ]


def update_average(average: Tensor, current: Tensor, updates: Tensor | int, decay: float) -> Tensor:
    """Return the updated moving average. The decay starts lower, so that short runs forget their initial weights."""
    count = torch.as_tensor(updates)  # stays on its device, to avoid a synchronization per parameter
    share = ((1 + count) / (10 + count)).clamp(max=decay)
    return average + (1 - share) * (current - average)  # this form leaves unchanged values exactly equal
