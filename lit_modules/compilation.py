"""``--compile``: run the network of a command with torch.compile."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lit_modules.console import print_line
from lit_modules.report import classifier
from lit_modules.sharded import is_sharded
from zoo.compiling import CompileTimer, compile_network
from zoo.errors import ConfigError


class CompileNetwork(Callback):
    """Compiles the network in every process, and prints the time of the compilation after the first batch."""

    def __init__(self) -> None:
        self._timer: CompileTimer | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compile the network when it is called for the first time.

        Raises:
            ConfigError: weights are sharded, or there is no C++ compiler for a CPU.
        """
        if is_sharded(trainer):
            raise ConfigError("--compile does not work with FSDP, which shards weights; use DDP or one device.")
        compile_network(classifier(pl_module).network, trainer.strategy.root_device)
        self._timer = CompileTimer()

    def _report(self, trainer: L.Trainer) -> None:
        if self._timer is None:
            return
        line, self._timer = self._timer.close(), None
        if trainer.is_global_zero:
            print_line(line)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Print the time of the compilation after the first batch."""
        self._report(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """The same, for ``validate``."""
        if trainer.state.fn != "fit":  # the first validation of `fit` precedes the training
            self._report(trainer)

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """The same, for ``test``."""
        self._report(trainer)

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """The same, for ``predict``."""
        self._report(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop the timer of a run that ended before its first batch."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
