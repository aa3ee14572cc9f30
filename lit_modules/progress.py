"""Output of ``fit`` during training: the number of parameters, and a progress bar that counts epochs from 1."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar

from lit_modules.report import classifier, print_line
from lit_modules.trained_parts import describe_parts, trained_parameters
from zoo.models import VideoNetwork


class EpochProgressBar(RichProgressBar):
    """Lightning's progress bar with "Epoch 1/8" instead of "Epoch 0/7" for the first of eight epochs."""

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        total = f"/{last}" if last is not None and last > 0 else ""
        return f"{f'Epoch {current_epoch + 1}{total}':{len(self.validation_description)}}"


class ParameterSummary(Callback):
    """Prints the number of parameters of the network, and how many of them are trained.

    Lightning's summary is computed before the backbone is frozen and counts all parameters as trained.
    """

    def __init__(self) -> None:
        self.total = self.trained = self.classifier = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Count the parameters before FSDP distributes them over the processes."""
        if stage == "fit":
            network: VideoNetwork = classifier(pl_module).network
            sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
            self.total = sum(sizes.values())
            part = classifier(pl_module).trained_part
            self.trained, self.classifier = (
                sum(sizes[name] for name in trained_parameters(network, names)) for names in (part, "head")
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print one line."""
        if not trainer.is_global_zero:
            return
        module = classifier(pl_module)
        part, mode = module.trained_part, module.hparams["batch_norm"]
        trained = f"{_short(self.trained)} trained"
        if part != "all":
            trained += f" ({describe_parts(module.network, part)})"
        if part != "head" and module.trains_classifier_only():
            later = "all of them" if part == "all" else trained.replace(" trained", "")
            trained = f"{_short(self.classifier)} trained (the classifier), {later}"
            trained += f" from epoch {module.hparams['head_warmup_epochs'] + 1} on"
        if mode != "train" and part != "head":
            but = " except the first" if mode == "frozen_except_first" else ""
            trained += f"; trained batch norms{but} keep their statistics"
        print_line(f"Parameters: {_short(self.total)}, {trained}")


def _short(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
