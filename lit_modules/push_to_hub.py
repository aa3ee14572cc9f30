"""PushToHub: at the end of fit, the best checkpoint goes to the Hugging Face Hub."""

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
    """Pushes a run's network to the Hub when ``fit`` has ended, as ``zoo.push`` does.

    It is the checkpoint with the best value of what a ModelCheckpoint monitors; without such a one, the last. A missing
    token is told before training; a push that fails afterwards is logged, with the command to repeat it.

    Args:
        repo: "user/repo".
        private: make a private repository. None: as its owner's default is.
        revision: branch to push to.
        create_pr: open a pull request instead.
        license: of the weights, best as the Hub calls it ("apache-2.0").
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
        """Say what would keep a push from working while nothing is lost yet."""
        if trainer.fast_dev_run:
            return
        problem = None
        if trainer.is_global_zero:
            try:
                check_access(self.repo, create_pr=self.create_pr)
            except HubError as error:
                problem = str(error)
        if problem := trainer.strategy.broadcast(problem):  # or the other ranks would wait for the first
            raise HubError(problem)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Push; whatever goes wrong, the run has ended well."""
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        checkpoint = best_checkpoint(trainer)
        if checkpoint is None:
            log.error("nothing was pushed to %s: the run has saved no checkpoint", self.repo)
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
        except Exception as error:  # hours of training lie behind
            log.error("%s was not pushed: %s To push it by hand: %s", checkpoint, error, self._command(checkpoint))
        else:
            print(f"Pushed {checkpoint}: {address}")

    def _command(self, checkpoint: Path) -> str:
        words = ["tempozoo", "push", str(checkpoint), self.repo]
        words += ["--license", self.license] if self.license else []
        words += ["--revision", self.revision] if self.revision else []
        words += ["--pr"] if self.create_pr else []
        words += [] if self.private is None else ["--private" if self.private else "--no-private"]
        return shlex.join(words)


def best_checkpoint(trainer: L.Trainer) -> Path | None:
    """The file of this run with the best monitored value; if none is monitored, the last one; None without any."""
    savers = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
    savers.sort(key=lambda saver: saver.monitor is None)
    for saver in savers:
        for path in (saver.best_model_path, saver.last_model_path):
            # a resumed run also knows the best file of the one it goes on with, which may lie elsewhere
            if path and saver.dirpath and Path(path).is_file() and Path(saver.dirpath) in Path(path).parents:
                return Path(path)
    return None
