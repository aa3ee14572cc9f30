"""Callback that pushes the best checkpoint of a run to the Hugging Face Hub."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from zoo.errors import HubError
from zoo.hub.pull import check_access
from zoo.hub.push import push

log = logging.getLogger("lit_modules")


class PushToHub(Callback):
    """Pushes a network to the Hub with ``zoo.push`` at the end of ``fit``.

    The checkpoint is the best one of a ModelCheckpoint that monitors a metric, or else the last one. A missing token is
    reported before training. A failed push is logged with the command that repeats it; the run still succeeds.

    Args:
        repo: "user/repo".
        private: create a private repository; None for the default of the owner.
        revision: branch to push to.
        create_pr: open a pull request instead of pushing to the branch.
        license: of the weights, preferably a license identifier of the Hub ("apache-2.0").
    """

    def __init__(
        self,
        repo: str,
        private: bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        license: str | None = None,
    ) -> None:
        self.repo, self.private, self.revision = repo, private, revision
        self.create_pr, self.license = create_pr, license

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check access to the repository before training.

        Raises:
            HubError: in all processes, if a push would fail.
        """
        if _is_fast_dev_run(trainer):
            return
        problem = None
        if trainer.is_global_zero:
            try:
                check_access(self.repo, create_pr=self.create_pr)
            except HubError as error:
                problem = str(error)
        if problem := trainer.strategy.broadcast(problem):  # otherwise the other processes would wait for the first
            raise HubError(problem)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Push the checkpoint; log an error if that fails."""
        if not trainer.is_global_zero or _is_fast_dev_run(trainer):
            return
        checkpoint = best_checkpoint(trainer)
        if checkpoint is None:
            log.error("Nothing was pushed to %s: the run has saved no checkpoint.", self.repo)
            return
        try:
            address = push(
                checkpoint,
                self.repo,
                license=self.license,
                private=self.private,
                revision=self.revision,
                create_pr=self.create_pr,
            )
        except Exception as error:  # a failed push must not fail a finished run
            log.error("%s was not pushed: %s To push it yourself: %s", checkpoint, error, self._command(checkpoint))
        else:
            print(f"Pushed {checkpoint}: {address}")

    def _command(self, checkpoint: Path) -> str:
        words = ["tempozoo", "push", str(checkpoint), self.repo]
        words += ["--license", self.license] if self.license else []
        words += ["--revision", self.revision] if self.revision else []
        words += ["--pr"] if self.create_pr else []
        words += [] if self.private is None else ["--private" if self.private else "--no-private"]
        return shlex.join(words)


def _is_fast_dev_run(trainer: L.Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by a connector of Lightning


def best_checkpoint(trainer: L.Trainer) -> Path | None:
    """Return the best checkpoint of this run by a monitored metric, or else the last one; None if there is none."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    callbacks.sort(key=lambda callback: callback.monitor is None)
    for callback in callbacks:
        folder = callback.dirpath
        for path in (callback.best_model_path, callback.last_model_path):
            # the state of a resumed run may contain the path of a best checkpoint in another folder
            if path and folder and Path(path).is_file() and Path(folder) in Path(path).parents:
                return Path(path)
    return None
