"""Loggers and callbacks of a run: created with the run's folder, checked before training."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from lit_modules.base import VideoClassifier
from lit_modules.checkpoints import Best, EarlyStop
from lit_modules.interfaces import NamesMetrics
from lit_modules.scores import accuracies, compute_metrics
from zoo.errors import ConfigError

RUN_FOLDER = ""  # default save_dir of loggers: the folder of the run
# Logger -> packages, one of which it needs. `pip install 'tempozoo[...]'` installs the first.
PACKAGES = {"TensorBoardLogger": ("tensorboard", "tensorboardX"), "WandbLogger": ("wandb",)}
EXTRAS = [names[0] for names in PACKAGES.values()]
KNOWN_PACKAGES = ("lightning", "lit_modules")  # callbacks of other packages may log more metrics


class PartFactory:
    """Creates loggers and callbacks. The default folder of loggers is ``folder``.

    ``error`` is the ConfigError of the last failure. The parser can lose it, because it tries several types on a value.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.error: ConfigError | None = None

    def create_logger(self, logger_class: type[Logger], **options: Any) -> Logger:
        """Create a logger."""
        if options.get("save_dir") == RUN_FOLDER:
            options["save_dir"] = str(self.folder)
        return self.create(logger_class, **options)

    def create(self, part_class: type, *args: Any, **options: Any) -> Any:
        """Create a logger or callback.

        Raises:
            ConfigError: the class needs a package that is not installed.
        """
        try:
            return part_class(*args, **options)
        except ModuleNotFoundError as error:
            self.error = missing_package(error, part_class.__name__)
            raise self.error from error


def check_packages(loggers: Any) -> None:
    """Check the packages of loggers before data are read and weights are downloaded.

    Args:
        loggers: parsed value of ``--trainer.logger``.

    Raises:
        ConfigError: a package is not installed.
    """
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        name = getattr(logger, "class_path", "").rpartition(".")[2]
        packages = PACKAGES.get(name, ())
        if packages and not any(find_spec(package) for package in packages):
            raise ConfigError(f"{name} needs {packages[0]}: pip install 'tempozoo[{packages[0]}]'")


def missing_package(error: ModuleNotFoundError, user: str = "") -> ConfigError:
    """Return the error for a package that a logger or callback needs."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    package = next((name for name in EXTRAS if re.search(rf"\b{name}\b", reason, re.IGNORECASE)), None)
    if package is not None:
        return ConfigError(f"{user or package} needs {package}: pip install 'tempozoo[{package}]'")
    return ConfigError(f"{user} needs a package that is not installed: {reason}" if user else reason)


def start_loggers(loggers: Iterable[Logger]) -> None:
    """Let loggers connect to their services and create their files before training.

    Raises:
        ConfigError: a logger cannot start.
    """
    for logger in loggers:
        try:
            _ = getattr(logger, "experiment", None)
        except OSError:  # a full disk, a folder without permission
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigError(
                f"{type(logger).__name__} cannot start: {lines[0]} Set it up, or leave out --trainer.logger."
            ) from error


def logged_metrics(module: VideoClassifier, validates: bool) -> list[str]:
    """Return the names of the metrics that ``fit`` logs and a callback may monitor."""
    if isinstance(module, NamesMetrics):
        return module.logged_metrics(validates)
    classes = sum(module.head_sizes)
    names = ["train_loss_step", "train_loss_epoch"]
    if not module.heads and not module.multi_label and module.mixing.mix is None:
        names += map(str, accuracies(classes, "train_"))
    if validates:
        labels = torch.zeros(len(module.heads), dtype=torch.long) if module.heads else torch.tensor(0)
        if module.multi_label:
            labels = torch.ones(classes, dtype=torch.long)
        scores = torch.full((classes,), 1 / classes)
        names += [f"val_{name}" for name in compute_metrics({"": (labels, scores)}, module.heads, module.multi_label)]
    return names


def check_monitors(trainer: L.Trainer, module: VideoClassifier) -> None:
    """Check the metrics that callbacks monitor, unless a module or callback of another package may log more.

    Raises:
        ConfigError: ``fit`` does not log a metric, or the mode prefers worse values.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if any(type(part).__module__.split(".")[0] not in KNOWN_PACKAGES for part in (module, *callbacks)):
        return
    names = logged_metrics(module, validates=trainer.limit_val_batches != 0)
    for callback in callbacks:
        if isinstance(callback, (Best, EarlyStop)):
            callback.choose_metric(module)
        if isinstance(callback, (EarlyStopping, ModelCheckpoint)) and callback.monitor is not None:
            _check_monitor(callback, callback.monitor, names)


def _check_monitor(callback: Callback, name: str, names: list[str]) -> None:
    part = type(callback).__name__
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, 0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{part} monitors {name!r}, which fit does not log.{hint} It logs {', '.join(names)}.")
    mode = "min" if "loss" in name else "max"
    if callback.mode != mode:  # type: ignore[attr-defined]
        raise ConfigError(
            f"{part} monitors {name!r} with mode {callback.mode!r}, "  # type: ignore[attr-defined]
            f"which prefers worse values; add mode={mode} (--trainer.callbacks.mode={mode})."
        )
