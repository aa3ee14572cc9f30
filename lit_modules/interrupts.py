"""Handle Ctrl-C and SIGTERM: ``fit`` saves its state after the current optimizer step; other commands exit at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, WeightAveraging

STOP_SECONDS = 120.0  # time limit for all processes to reach a common stopping point


def exit_status(signum: int) -> int:
    """Return the exit status that shells use for a process stopped by a signal."""
    return 128 + signum


def exit_now(signum: int, frame: Any) -> NoReturn:
    """Handle a signal by raising an exception, so that temporary files are removed."""
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(exit_status(signum))


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Within the context, SIGTERM raises SystemExit."""
    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers there only
        yield
        return
    previous = signal.signal(signal.SIGTERM, exit_now)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class StopOnSignal(Checkpoint):
    """Ends ``fit`` at the first SIGINT or SIGTERM, with ``last.ckpt``; a second signal ends it at once.

    All processes stop together if one of them receives a signal. This must be the last callback (Lightning runs
    checkpoint callbacks after all others), because the checkpoint contains the state of the others.
    """

    def __init__(self) -> None:
        self.path: Path | None = None  # where to save the state; None saves nothing
        self.signum: int | None = None  # the first signal
        self.saved = False
        self._pid = os.getpid()
        self._at_once = False  # after a second signal
        self._in_step = False
        self._watchdog: threading.Timer | None = None
        self._processes = 1

    # handlers ----------------------------------------------------------------------------------------------------

    def _install(self, handler: Any) -> None:
        """Replace the signal handlers of the Trainer, which restores the original ones when it ends.

        Lightning's handler communicates with other processes, which can hang, and it does not stop a test.
        """
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, handler)

    def _record(self, signum: int, frame: Any) -> None:
        if os.getpid() != self._pid:  # in a forked worker
            return
        if self.signum is not None:
            self._at_once = True
            exit_now(signum, frame)
        self.signum = signum
        # workers may have received the signal too; an error in the middle of a step would lose the step
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self._processes > 1:
            self._watchdog = threading.Timer(STOP_SECONDS, os._exit, [exit_status(signum)])
            self._watchdog.daemon = True
            self._watchdog.start()
        if self.path is not None:
            os.write(2, b"\ntempozoo: stopping after this step. A second signal stops at once.\n")

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals end the command at once: nothing has been trained yet."""
        self._install(exit_now)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals end the command at once."""
        self._install(exit_now)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals end the command at once."""
        self._install(exit_now)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals stop training only at points from which it can resume."""
        self._processes = trainer.world_size
        self._install(self._record)

    # points where training can stop ----------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop if there was a signal; save unless a callback has saved the end of the last epoch."""
        if self._must_stop(trainer):
            self._stop(trainer, save=not self._is_current(trainer))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record that a step has begun."""
        self._in_step = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if there was a signal, but not between accumulated batches or before the validation of the epoch."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            return
        self._in_step = False
        if not loop._num_ready_batches_reached() and self._must_stop(trainer):
            self._stop(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop if there was a signal; the resumed run begins with this validation."""
        if trainer.state.fn != "fit":
            self._install(exit_now)
        elif not trainer.sanity_checking and self._must_stop(trainer):
            self._stop(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop if there was a signal and one process; several processes may have different numbers of batches."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.world_size == 1 and self.signum:
            self._restore_weights(trainer)
            self._stop(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save the state if the signal also ended the data loading workers and so caused the exception."""
        can_save = trainer.world_size == 1 and isinstance(exception, Exception)
        if can_save and self.signum and not self._at_once and not self._in_step and trainer.training and not self.saved:
            self._save(trainer)

    # stopping ----------------------------------------------------------------------------------------------------

    def _must_stop(self, trainer: L.Trainer) -> bool:
        """Whether any process received a signal; all processes must call this at the same time."""
        if trainer.world_size == 1:
            return self.signum is not None
        return trainer.strategy.reduce_boolean_decision(self.signum is not None, all=False)

    def _stop(self, trainer: L.Trainer, save: bool = True) -> NoReturn:
        if self._watchdog is not None:
            self._watchdog.cancel()
        if save:
            self._save(trainer)
        self.signum = self.signum or int(signal.SIGTERM)  # another process received the signal
        # a launcher kills all processes when one fails, even while the first is still saving
        raise SystemExit(exit_status(self.signum) if trainer.is_global_zero else 0)

    def _save(self, trainer: L.Trainer) -> None:
        if self.path is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.validating:
            _restart_validation(trainer)
        trainer.save_checkpoint(self.path)
        self.saved = True

    def _is_current(self, trainer: L.Trainer) -> bool:
        """Whether a callback has saved the end of the epoch to ``path``."""
        self.saved = any(
            isinstance(callback, ModelCheckpoint)
            and Path(callback._last_checkpoint_saved) == self.path
            and callback._last_global_step_saved == trainer.global_step
            for callback in trainer.checkpoint_callbacks
        )
        return self.saved

    def _restore_weights(self, trainer: L.Trainer) -> None:
        """Restore the weights that a validation replaced by their average."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_validation_epoch_end(trainer, trainer.lightning_module)


def _restart_validation(trainer: L.Trainer) -> None:
    """Set the progress of a validation so that a resumed run repeats all of it.

    Lightning repeats a validation only if it stopped within a batch, so the progress is set to within the first batch.
    """
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    tracker: Any  # a _ProcessedTracker, which the annotations of Lightning do not declare
    for tracker in (progress.total, progress.current):
        tracker.ready = tracker.started = 1
        tracker.processed = tracker.completed = 0
