"""Output of ``fit`` during training: parameters, time and memory, and the progress in epochs counted from 1."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.console import Console

from lit_modules.base import VideoClassifier
from lit_modules.console import describe_duration, print_line
from lit_modules.report import classifier
from lit_modules.trained_parts import describe_parts, trained_parameters
from zoo.models import VideoNetwork
from zoo.text import pluralize


class EpochProgressBar(RichProgressBar):
    """Lightning's progress bar with "Epoch 1/8" instead of "Epoch 0/7" for the first of eight epochs.

    It is off without a terminal, where only its last state would be printed.
    """

    @property
    def is_enabled(self) -> bool:
        """Whether the bar is drawn."""
        return super().is_enabled and _can_draw()

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{_epoch_of(self.trainer, current_epoch):{len(self.validation_description)}}"


class EpochLines(Callback):
    """Prints a line after each training epoch if no progress bar is visible: in a file, or if it is turned off."""

    METRICS: ClassVar = {"val_map": "mAP", "val_top1": "top-1"}  # the first that was logged is printed

    def __init__(self) -> None:
        self._start = 0.0
        self._validation: list[str] = []  # results of the last validation in this epoch

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of an epoch that is resumed at a later batch, for which the next hook is not called."""
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start, self._validation = time.perf_counter(), []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the loss and the main metric."""
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        values = [f"loss {metrics['val_loss']:.4f}"] if "val_loss" in metrics else []
        names = [name for name in self.METRICS if name in metrics]
        values += [f"{self.METRICS[name]} {100 * metrics[name]:.2f} %" for name in names[:1]]
        self._validation = [f"validation {', '.join(values)}"] if values else []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line in the first process. All processes compute the loss."""
        metrics = trainer.callback_metrics
        loss = metrics.get("train_loss")
        if isinstance(pl_module, VideoClassifier) and pl_module.train_loss.update_called:
            loss = pl_module.train_loss.compute()  # the module logs it after this hook
        bar = trainer.progress_bar_callback
        bar_is_visible = bar is not None and (_can_draw() or not isinstance(bar, RichProgressBar))
        if bar_is_visible or not trainer.is_global_zero:
            return
        results = [] if loss is None else [f"train loss {loss:.4f}"]
        duration = describe_duration(time.perf_counter() - self._start)
        epoch = _epoch_of(trainer, trainer.current_epoch)
        print_line(f"{epoch}: {'; '.join([*results, *self._validation, duration])}")


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


class RunEstimate(Callback):
    """Prints the estimated time of the run and the peak memory of the process, once, after the first steps."""

    FIRST, LAST = 5, 20  # training batches between which the time is measured; earlier ones in short runs
    VALIDATION = 0.5  # time of a validation batch; 1/3 if the network takes most of it, 1 if decoding does

    def __init__(self) -> None:
        self._batches, self._start, self._first_epoch = 0, 0.0, 0
        self._first, self._last = self.FIRST, self.LAST
        self._validation_batches = 0  # while the time is measured

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the time; print the line after the last measured batch."""
        if not self._batches:
            self._first_epoch = trainer.current_epoch
            self._last = self._last_measured(trainer)
            self._first = max(1, self._last * self.FIRST // self.LAST)
        self._batches += 1
        if self._batches == self._first:
            self._start = time.perf_counter()
        elif self._batches == self._last and trainer.is_global_zero:
            measured = self._last - self._first + self.VALIDATION * self._validation_batches
            seconds = (time.perf_counter() - self._start) / measured
            memory = peak_memory(pl_module.device)
            line = (
                f"Estimate: about {describe_duration(seconds * self._remaining(trainer))} for {self._length(trainer)}"
            )
            print_line(line + (f", {memory / 1e9:.1f} GB" if memory else ""))

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Count the batches that are validated while the time is measured."""
        self._validation_batches += self._first <= self._batches < self._last

    def _last_measured(self, trainer: L.Trainer) -> int:
        """Return the number of the last measured batch, in the first third of a short run."""
        steps = trainer.estimated_stepping_batches - trainer.global_step
        return int(min(self.LAST, max(2, steps * trainer.accumulate_grad_batches / 3)))

    def _remaining(self, trainer: L.Trainer) -> float:
        """Return the number of batches from the start of this process on; validation batches count as a share."""
        steps = trainer.estimated_stepping_batches - trainer.global_step
        batches = steps * trainer.accumulate_grad_batches + self._batches
        validations = batches / trainer.num_training_batches / (trainer.check_val_every_n_epoch or 1)
        return batches + self.VALIDATION * validations * sum(trainer.num_val_batches)

    def _length(self, trainer: L.Trainer) -> str:
        steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        last = math.ceil(steps / trainer.num_training_batches)
        return pluralize(last - self._first_epoch, "epoch")


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes: of PyTorch on a CUDA device, otherwise of the process; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _can_draw() -> bool:
    """Whether progress bars are drawn, rather than written to a file."""
    console = Console()
    return console.is_terminal or console.is_jupyter


def _epoch_of(trainer: L.Trainer, epoch: int) -> str:
    """Return "Epoch 1/8" for epoch 0 of 8."""
    last = trainer.max_epochs
    return f"Epoch {epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")


def _short(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
