"""Ctrl-C and SIGTERM: a training saves its state between two optimizer steps and ends; other commands end at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

STOP_SECONDS = 120.0  # with several processes: time to reach a point where all of them can stop


def exit_status(signum: int) -> int:
    """Exit status of a process that a signal stopped, as shells give it."""
    return 128 + signum


def exit_now(signum: int, frame: Any) -> NoReturn:
    """Signal handler: leave by an exception, so that temporary files are removed."""
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(exit_status(signum))


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """End at SIGTERM by an exception."""
    if threading.current_thread() is not threading.main_thread():  # Python has signal handlers in that one only
        yield
        return
    previous = signal.signal(signal.SIGTERM, exit_now)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class StopOnSignal(Checkpoint):
    """Ends ``fit`` at the first SIGINT or SIGTERM, with ``last.ckpt``; a second signal ends it at once.

    All processes stop together if one of them receives a signal. Checkpoint callbacks run after all others, and this
    one must be the last of them: the checkpoint holds the state of the others.
    """

    def __init__(self) -> None:
        self.path: Path | None = None  # where to save the state; None saves nothing
        self.signum: int | None = None  # the first signal
        self.saved = False
        self._pid = os.getpid()
        self._at_once = False  # a second signal came
        self._in_step = False
        self._watchdog: threading.Timer | None = None
        self._processes = 1

    # handlers ----------------------------------------------------------------------------------------------------

    def _install(self, handler: Any) -> None:
        """Replace Lightning's handlers, which the Trainer set before and removes at its end.

        Lightning's handler communicates with other processes, which may hang wherever the signal comes; it also keeps
        a test from ending.
        """
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, handler)

    def _note(self, signum: int, frame: Any) -> None:
        if os.getpid() != self._pid:  # a worker that has just been forked
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
        """End at once: nothing has been trained."""
        self._install(exit_now)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End at once."""
        self._install(exit_now)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End at once."""
        self._install(exit_now)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From now on, stop where the run can be resumed."""
        self._processes = trainer.world_size
        self._install(self._note)

    # points where a training can stop ----------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop; the end of the last epoch was saved."""
        if self._must_stop(trainer):
            self._stop(trainer, save=not self._is_current(trainer))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that a step begins."""
        self._in_step = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop, unless gradients are being accumulated or the epoch ends: that goes on to the validation."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            return
        self._in_step = False
        if not loop._num_ready_batches_reached() and self._must_stop(trainer):
            self._stop(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop; the resumed run begins with this validation."""
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
        """Stop, if there is one process: of several, each has its own number of batches."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.world_size == 1 and self.signum:
            self._restore_weights(trainer)
            self._stop(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save after a signal that also ended the processes that read videos."""
        alone = trainer.world_size == 1 and isinstance(exception, Exception)
        if alone and self.signum and not self._at_once and not self._in_step and trainer.training and not self.saved:
            self._save(trainer)

    # stopping ----------------------------------------------------------------------------------------------------

    def _must_stop(self, trainer: L.Trainer) -> bool:
        """Whether any process received a signal; all processes must ask at the same time."""
        if trainer.world_size == 1:
            return self.signum is not None
        return trainer.strategy.reduce_boolean_decision(self.signum is not None, all=False)

    def _stop(self, trainer: L.Trainer, save: bool = True) -> NoReturn:
        if self._watchdog is not None:
            self._watchdog.cancel()
        if save:
            self._save(trainer)
        self.signum = self.signum or int(signal.SIGTERM)  # which another process received
        # a launcher kills all processes when one of them fails, even if the first is still at work
        raise SystemExit(exit_status(self.signum) if trainer.is_global_zero else 0)

    def _save(self, trainer: Any) -> None:
        if self.path is None or trainer.fast_dev_run:
            return
        if trainer.validating:
            _restart_validation(trainer)
        trainer.save_checkpoint(self.path)
        self.saved = True

    def _is_current(self, trainer: L.Trainer) -> bool:
        """Whether a callback saved the end of the epoch to ``path``."""
        self.saved = any(
            Path(str(getattr(callback, "_last_checkpoint_saved", ""))) == self.path
            and getattr(callback, "_last_global_step_saved", None) == trainer.global_step
            for callback in trainer.checkpoint_callbacks
        )
        return self.saved

    def _restore_weights(self, trainer: L.Trainer) -> None:
        """Undo the exchange of weights for a validation."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_validation_epoch_end(trainer, trainer.lightning_module)


def _restart_validation(trainer: Any) -> None:
    """Let a checkpoint be resumed with the whole validation.

    Lightning goes back to a validation that was left within a batch, here the first; otherwise it would skip it.
    """
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    for tracker in (progress.total, progress.current):
        tracker.ready = tracker.started = 1
        tracker.processed = tracker.completed = 0
