"""What limits the speed of ``fit``: waiting for clips, their transfer, or computation."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lit_modules.console import print_line
from lit_modules.interfaces import TimedLoader
from zoo.cores import available_cores

# Workers load clips during computation, so waiting for more than this share of the time means that they are too slow.
LIMIT = 0.15


class Bottleneck(Callback):
    """Prints once what limits the speed of training, with the measured shares of the time and a remedy.

    The measurement begins after ``SKIPPED`` batches, because the first ones wait for the start of the workers. It ends
    after ``SECONDS`` and at least ``BATCHES``. On CUDA, each measured batch synchronizes with the device; later batches
    do not. Validation is not measured. With several processes, the shares are those of the first.
    """

    SKIPPED, BATCHES, SECONDS = 5, 20, 60.0

    def __init__(self) -> None:
        self._batches, self._done = 0, False
        self._waited = self._transferred = self._computed = 0.0
        self._last_wait = self._started = 0.0
        self._workers, self._device = 0, "cpu"

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add the time of waiting for the batch and of its transfer."""
        loader = trainer.train_dataloader
        if self._done or not isinstance(loader, TimedLoader):
            return
        _synchronize(pl_module.device)
        self._started = time.perf_counter()
        if self._batches >= self.SKIPPED:
            self._waited += loader.wait_seconds - self._last_wait
            self._transferred += self._started - loader.yielded_at
        self._last_wait = loader.wait_seconds

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the time of computation; print the line after the last measured batch."""
        loader = trainer.train_dataloader
        if self._done or not isinstance(loader, TimedLoader):
            return
        _synchronize(pl_module.device)
        self._batches += 1
        if self._batches <= self.SKIPPED:
            return
        self._computed += time.perf_counter() - self._started
        self._workers, self._device = loader.num_workers, pl_module.device.type
        seconds = self._waited + self._transferred + self._computed
        if self._batches - self.SKIPPED >= self.BATCHES and seconds >= self.SECONDS:
            self._done = True
            if trainer.is_global_zero:
                print_line(str(self.describe()))

    def describe(self) -> str | None:
        """Return the line for the batches measured so far; None if they are fewer than ``BATCHES``."""
        if self._batches - self.SKIPPED < self.BATCHES:
            return None
        return describe_bottleneck(self._waited, self._transferred, self._computed, self._workers, self._device)


def describe_bottleneck(waited: float, transferred: float, computed: float, workers: int, device: str) -> str:
    """Return the line that names what limits the speed.

    Args:
        waited, transferred, computed: seconds of the measured batches. On a CPU, the transfer only normalizes clips and
            counts as computation.
        workers: decoding processes.
        device: type of the device, such as "cuda".
    """
    if device == "cpu":
        transferred, computed = 0.0, transferred + computed
    total = waited + transferred + computed
    seconds = {"data loading": waited, "transfer to the device": transferred, "computation": computed}
    remedies = {
        "data loading": _loading_remedy(workers),
        "transfer to the device": "use fewer or smaller frames (--model.num_frames, --model.image_size)",
        "computation": (
            "train on a GPU, or fewer parameters (--model.train)"
            if device == "cpu"
            else "use --trainer.precision auto, or train fewer parameters (--model.train)"
        ),
    }
    limiting = "data loading" if waited >= transferred else "transfer to the device"
    if seconds[limiting] < LIMIT * total:
        limiting = "computation"
    percent = {part: f"{100 * value / total:.0f} %" for part, value in seconds.items()}
    others = [f"{percent[part]} {part}" for part in percent if part != limiting and percent[part] != "0 %"]
    shares = f"{percent[limiting]} of the time" + (f" ({', '.join(others)})" if others else "")
    return f"Bottleneck: {limiting}, {shares}: {remedies[limiting]}"


def _loading_remedy(workers: int) -> str:
    cores = available_cores()
    convert = "convert the videos with `tempozoo data prepare`"
    if workers >= cores:
        return f"{convert} (--data.num_workers is {workers}, with {cores} cores)"
    return f"raise --data.num_workers (now {workers} of {cores} cores), or {convert}"


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
