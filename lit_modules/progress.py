"""What ``fit`` shows while it trains: the number of parameters, and a progress bar that counts epochs from 1."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.console import Console


class EpochProgressBar(RichProgressBar):
    """Lightning's progress bar, which would show "Epoch 0/7" for the first of eight epochs."""

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        total = f"/{last}" if last is not None and last > 0 else ""
        return f"{f'Epoch {current_epoch + 1}{total}':{len(self.validation_description)}}"


class ParameterSummary(Callback):
    """Prints how many parameters the network has, and how many of them are trained.

    Lightning's summary is made before the backbone is frozen, and would count all of them as trained.
    """

    def __init__(self) -> None:
        self.total = self.classifier = 0

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Count; afterwards FSDP gives each process a share of the parameters."""
        if stage == "fit":
            network = pl_module.network
            sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
            self.total = sum(sizes.values())
            self.classifier = sum(size for name, size in sizes.items() if name.startswith(network.head_prefix))

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Print one line."""
        if not trainer.is_global_zero:
            return
        trained = f"{_short(self.total)} trained"
        if pl_module.trains_classifier_only():
            trained = f"{_short(self.classifier)} trained (the classifier)"
            if not pl_module.hparams["freeze_backbone"]:
                trained += f", all of them from epoch {pl_module.hparams['head_warmup_epochs'] + 1} on"
        Console().print(f"Parameters: {_short(self.total)}, {trained}", highlight=False, markup=False, soft_wrap=True)


def _short(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
