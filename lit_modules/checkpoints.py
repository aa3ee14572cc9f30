"""What a run keeps of its weights: checkpoints of the best and the last state, and their moving average."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from zoo.weights.files import atomic_path


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file beside its path, and renames the file when it is complete.

    Lightning writes to the folder for temporary files first. If that is on another disk, it then copies over the old
    file, and a process that is killed during the copy leaves neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a file; paths of other machines ("s3://...") as Lightning does.

        Raises:
            OSError: the file cannot be written, for example because the disk is full; an old file stays as it was.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        for leftover in path.parent.glob(f".{path.name}.*"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:  # whose errors have a number
                torch.save(checkpoint, file)
        except Exception as error:
            if cause := next((one for one in chain(error) if isinstance(one, OSError) and one.errno), None):
                raise OSError(cause.errno, cause.strerror, str(path)) from error
            raise


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class BetweenSteps(ModelCheckpoint):
    """Lightning's, but never among the batches whose gradients are accumulated: checkpoints do not hold gradients."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write if it is due and a step has ended."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class Best(ModelCheckpoint):
    """``best.ckpt``: the epoch with the highest mean class accuracy on the validation videos.

    Where classes are even, this is top-1. Where they are not, top-1 would prefer an epoch that always answers the
    largest class. With several heads, it is the top-1 of actions, whose classes are too many to be averaged over. A
    resumed run keeps the metric that it began with, because only values of one metric can be compared. A run whose
    folder was moved still knows its best checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "best", monitor="val_mean_class", mode="max", enable_version_counter=False)

    @property
    def state_key(self) -> str:
        """The same whatever is monitored, so that a resumed run finds its state; checkpoints hold this one."""
        return self._generate_state_key(
            monitor="val_top1",
            mode=self.mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            train_time_interval=self._train_time_interval,
        )

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Choose the metric by the network's heads."""
        self.monitor = "val_top1" if pl_module.heads else "val_mean_class"
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the metric, and the path and score of the best checkpoint if it is in this run's folder."""
        self.monitor = state_dict["monitor"]
        best = Path(str(self.dirpath), Path(state_dict["best_model_path"]).name)
        if best.is_file():
            (score,) = state_dict["best_k_models"].values()
            here = {"dirpath": self.dirpath, "best_model_path": str(best), "kth_best_model_path": str(best)}
            state_dict = state_dict | here | {"best_k_models": {str(best): score}}
        super().load_state_dict(state_dict)


def run_checkpoints(folder: Path) -> list[ModelCheckpoint]:
    """Callbacks that write ``best.ckpt``, and ``last.ckpt`` every epoch and every quarter of an hour."""
    last: dict[str, Any] = {"dirpath": folder, "filename": "last", "enable_version_counter": False}
    return [
        Best(folder),
        ModelCheckpoint(**last, save_on_train_epoch_end=True),  # save_last would only be written with the best one
        BetweenSteps(**last, train_time_interval=timedelta(minutes=15)),
    ]


def averaged(average: Tensor, current: Tensor, updates: Tensor | int, decay: float) -> Tensor:
    """The next moving average. It begins with a lower decay, so that short runs do not keep their first weights."""
    count = torch.as_tensor(updates)  # on its device: reading it would wait for the device at every parameter
    share = ((1 + count) / (10 + count)).clamp(max=decay)
    return average + (1 - share) * (current - average)  # in this form it leaves alone what does not change
