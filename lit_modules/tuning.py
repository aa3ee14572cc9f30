"""``fit --find_lr`` and ``fit --find_batch_size``: short trainings of copies, before the run.

Lightning's Tuner gives all parameter groups the same learning rate, which differs from the recipe's multiples for the
classifier and the operator. It also trains the network of the run itself, with loaders that record which videos of the
epoch were visited. Copies leave network, data and random numbers of the run unchanged.
"""

from __future__ import annotations

import copy
import gc
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.memory import is_oom_error
from lightning.pytorch.utilities.seed import isolate_rng

from lit_modules.base import VideoClassifier
from lit_modules.interfaces import CommandData
from lit_modules.trainer_parsing import FIND_BATCH_SIZE, FIND_LR
from zoo.errors import ConfigError

log = logging.getLogger("lit_modules")

OPTIONS = {FIND_LR: "--model.init_args.optimizer.lr", FIND_BATCH_SIZE: "--data.init_args.batch_size"}
CONFIG_PATHS = {  # in config.yaml of a run
    FIND_LR: ("model", "init_args", "optimizer", "lr"),
    FIND_BATCH_SIZE: ("data", "init_args", "batch_size"),
}
TRAINER_OPTIONS = (
    "accelerator", "devices", "precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches",
)  # fmt: skip
RANGE = (1e-3, 1e2)  # learning rates of the range test, as multiples of the recipe's
STEPS, SKIPPED = 100, 10  # steps of the range test, and first ones that are not used
SMOOTHING = 0.9
DIVERGED = 4.0  # multiple of the lowest loss at which the range test ends
MAX_BATCH_SIZE = 4096
MIN_STEPS = 8  # of an epoch with the largest batch size


class RangeTest(Callback):
    """Raises the learning rate exponentially from step to step and records the smoothed loss.

    The multiples of the parameter groups stay those of the recipe. The test ends when the loss diverges.

    Attributes:
        rates: learning rates of the steps, in units of ``--model.optimizer.lr``.
        losses: smoothed losses.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._average = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of the step."""
        low, high = RANGE
        factor = low * (high / low) ** (trainer.global_step / (STEPS - 1))
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * factor
        self._rate = self.lr * factor

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss; stop if it has diverged."""
        loss = float(outputs["loss"])
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * loss
        smoothed = self._average / (1 - SMOOTHING ** (len(self.losses) + 1))
        if not math.isfinite(smoothed) or (self.losses and smoothed > DIVERGED * min(self.losses)):
            trainer.should_stop = True
            return
        self.rates.append(self._rate)
        self.losses.append(smoothed)

    def suggest(self) -> float:
        """Return the learning rate at which the loss falls fastest, with three digits.

        Raises:
            ConfigError: the loss diverged within the first steps.
        """
        losses = torch.tensor(self.losses[SKIPPED:], dtype=torch.float64)
        if len(losses) < 2:
            raise ConfigError(
                f"{FIND_LR} stopped after {len(self.losses)} steps, because the loss is not finite or rises from the "
                "start. Set a lower --model.optimizer.lr, around which it searches."
            )
        (slopes,) = torch.gradient(losses)  # the steps have equal distances of log(rate)
        return float(f"{self.rates[SKIPPED + int(slopes.argmin())]:.3g}")


def find_lr(module: VideoClassifier, data: CommandData, options: Mapping[str, Any]) -> float:
    """Return a learning rate from a range test around that of the recipe.

    Args:
        module: module of the run; a copy is trained.
        data: data module of the run; a copy is used.
        options: options of the Trainer.

    Raises:
        ConfigError: the loss diverges from the start.
    """
    test = RangeTest(module.recipe.optimizer.lr)
    _train_copy(module, data, options, STEPS, [test])
    return test.suggest()


def find_batch_size(module: VideoClassifier, data: CommandData, options: Mapping[str, Any]) -> int:
    """Return the largest batch size, a power of two times that of the data, that fits into the memory of the GPU.

    An epoch has at least ``MIN_STEPS`` steps.

    Args:
        module: module of the run; copies are trained.
        data: data module of the run; copies are used.
        options: options of the Trainer.

    Raises:
        ConfigError: a single clip does not fit.
    """
    size, largest = data.batch_size, 0
    limit = MAX_BATCH_SIZE
    while size <= limit:
        videos = _fits(module, data, options, size)
        if videos is not None:
            largest, size, limit = size, 2 * size, min(limit, videos // MIN_STEPS)
            continue
        if largest:
            break
        if size == 1:
            raise ConfigError(
                f"{FIND_BATCH_SIZE}: a batch of one clip does not fit into the memory of the GPU. Add "
                "--model.grad_checkpointing true or --trainer.precision auto, or choose a smaller network."
            )
        size, limit = size // 2, size // 2
    return largest


def _fits(module: VideoClassifier, data: CommandData, options: Mapping[str, Any], size: int) -> int | None:
    """Train two steps with a batch size. Return the number of training videos, or None if the memory runs out."""
    options = {**options, "accumulate_grad_batches": 1}
    videos = None
    try:
        videos = _train_copy(module, data, options, 2, [], size)
    except RuntimeError as error:
        if not is_oom_error(error):
            raise
    gc.collect()  # after the except block, whose exception refers to the tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return videos


def _train_copy(
    module: VideoClassifier,
    data: CommandData,
    options: Mapping[str, Any],
    steps: int,
    callbacks: list[Callback],
    size: int | None = None,
) -> int:
    """Train copies of module and data for some steps, without files; return the number of training videos."""
    trial, trial_data = copy.deepcopy(module), copy.deepcopy(data)
    trial.hparams.update(ema_decay=None, head_warmup_epochs=0)
    trial.skip_nonfinite = True
    if size is not None:
        trial_data.batch_size = size
    off: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    used = {name: options[name] for name in TRAINER_OPTIONS if options.get(name) is not None}
    trainer = L.Trainer(
        **used, **off, callbacks=callbacks, max_epochs=-1, max_steps=steps, limit_val_batches=0, num_sanity_val_steps=0
    )
    with isolate_rng(), _quiet():
        trainer.fit(trial, datamodule=trial_data)  # type: ignore[arg-type]
    return len(trial_data.datasets["train"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the context, warnings of the package are not logged: the run repeats those that concern it."""
    loggers = [logging.getLogger(name) for name in ("lit_modules", "datamodules")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_tuning(trainer: L.Trainer, flags: Sequence[str]) -> None:
    """Check that the Trainer supports ``--find_lr`` and ``--find_batch_size``.

    Raises:
        ConfigError: several devices, or no GPU for ``--find_batch_size``.
    """
    if trainer.world_size > 1 and flags:
        raise ConfigError(
            f"{flags[0]} works on one device. Find the value with --trainer.devices 1, then pass it to the run on "
            "several devices."
        )
    if FIND_BATCH_SIZE in flags and trainer.strategy.root_device.type != "cuda":
        raise ConfigError(
            f"{FIND_BATCH_SIZE} needs a CUDA GPU. On other devices, the system ends or slows down a process whose "
            "memory runs out, without an error to detect. Set --data.batch_size; fit prints the memory that it uses."
        )


def values_of_run(folder: Path, flags: Sequence[str]) -> list[str]:
    """Return the options that a run found earlier, from its ``config.yaml``, to resume it.

    Raises:
        ConfigError: the folder has no such file.
    """
    path = folder / "config.yaml"
    if flags and not path.is_file():
        raise ConfigError(
            f"{flags[0]} is for new runs, and {folder} has no config.yaml with the values of the run to resume. "
            f"Leave out {flags[0]} and pass these values: --model.optimizer.lr, --data.batch_size."
        )
    options = []
    for flag in flags:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key in CONFIG_PATHS[flag]:
            value = value[key]
        options.append(f"{OPTIONS[flag]}={value}")
    return options
