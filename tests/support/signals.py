"""Callbacks for runs in other processes: a signal at a given hook, a full disk."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

from lightning.pytorch.callbacks import Callback


class Signal(Callback):
    """Sends ``name`` ``times`` times at ``hook`` of an epoch and batch; hooks without a batch count as batch 0."""

    def __init__(self, hook: str, epoch: int, batch: int, name: str = "SIGINT", times: int = 1) -> None:
        self.hook, self.position, self.signum, self.times = hook, (epoch, batch), signal.Signals[name], times
        setattr(self, hook, self._send)

    def _send(self, trainer: Any, pl_module: Any, *args: Any, **options: Any) -> None:
        batch = next((value for value in reversed(args[:3]) if isinstance(value, int)), 0)
        if trainer.sanity_checking or (trainer.current_epoch, batch) != self.position:
            return
        for _ in range(self.times):
            os.kill(os.getpid(), self.signum)


class FullDisk(Callback):
    """Fails to write checkpoints in the first process, from the second epoch on."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Replace the writing of checkpoints by an error."""
        if trainer.is_global_zero and trainer.current_epoch == 1:
            trainer.strategy.checkpoint_io.save_checkpoint = self._fail

    def _fail(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
