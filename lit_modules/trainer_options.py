"""Checks of the Trainer's options, before any weights are downloaded."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from zoo.errors import ConfigError

Rule = tuple[Callable[[Any], bool], str]
AT_LEAST_0: Rule = (lambda value: value >= 0, "it must be at least 0")
AT_LEAST_1: Rule = (lambda value: value >= 1, "it must be at least 1")
COUNT: Rule = (lambda value: value == -1 or value >= 1, "it must be at least 1, or -1 for no limit")
SHARE: Rule = (
    lambda value: value >= 0 and (isinstance(value, int) or value <= 1),
    "it must be a number of batches (a whole number), or a share from 0.0 to 1.0",
)
INTERVAL: Rule = (
    lambda value: not isinstance(value, (int, float)) or (value > 0 and (isinstance(value, int) or value <= 1)),
    "it must be a number of batches of at least 1, a share of an epoch above 0.0 and up to 1.0, or a time",
)
RULES: Mapping[str, Rule] = {
    "max_epochs": COUNT,
    "min_epochs": AT_LEAST_0,
    "max_steps": COUNT,
    "min_steps": AT_LEAST_0,
    "num_nodes": AT_LEAST_1,
    "accumulate_grad_batches": AT_LEAST_1,
    "check_val_every_n_epoch": AT_LEAST_1,
    "log_every_n_steps": AT_LEAST_0,
    "reload_dataloaders_every_n_epochs": AT_LEAST_0,
    "num_sanity_val_steps": (lambda value: value >= -1, "it must be at least 0, or -1 for all batches"),
    "gradient_clip_val": AT_LEAST_0,
    "limit_train_batches": SHARE,
    "limit_val_batches": SHARE,
    "limit_test_batches": SHARE,
    "limit_predict_batches": SHARE,
    "val_check_interval": INTERVAL,
}
NEEDED = {"fit": "limit_train_batches", "validate": "limit_val_batches", "test": "limit_test_batches",
          "predict": "limit_predict_batches", "probe": "limit_test_batches",
          "calibrate": "limit_val_batches"}  # fmt: skip
MAX_SEED = 2**32 - 1
# Options that hold objects, or that the command itself sets.
NOT_TRIED = ("logger", "callbacks", "plugins", "default_root_dir", "model_registry")


def check_trainer_options(command: str, options: Mapping[str, Any], seed: Any) -> None:
    """Check the options of the Trainer.

    Args:
        command: "fit", "validate", "test" or "predict".
        options: parsed arguments of the Trainer.
        seed: value of ``--seed_everything``.

    Raises:
        ConfigError: the Trainer would fail with an option; the message names it.
    """
    if not isinstance(seed, bool) and not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"--seed_everything is {seed}; it must be a whole number from 0 to {MAX_SEED}.")
    for name, (accepts, requirement) in RULES.items():
        value = options.get(name)
        if value is not None and (_is_not_finite(value) or not accepts(value)):
            raise ConfigError(f"--trainer.{name} is {value}; {requirement}.")
    if options.get("overfit_batches"):
        raise ConfigError("--trainer.overfit_batches is not supported; use --trainer.limit_train_batches.")
    if options.get("default_root_dir"):
        raise ConfigError("--trainer.default_root_dir is not supported; use --out.")
    if options.get(NEEDED[command]) == 0:
        raise ConfigError(f"--trainer.{NEEDED[command]} is 0, so {command} would read no videos; give at least 1.")
    if command == "fit" and options.get("max_epochs") == -1 and options.get("max_steps") == -1:
        raise ConfigError(
            "--trainer.max_epochs is -1, but the learning rate schedule needs the length of the training; "
            "set --trainer.max_epochs or --trainer.max_steps."
        )
    _build_trial(options)


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _build_trial(options: Mapping[str, Any]) -> None:
    """Build a Trainer with the options that are numbers or text, so that Lightning checks devices, strategy and so on.

    Raises:
        ConfigError: Lightning rejects an option.
    """
    simple = (str, int, float, list, dict, type(None))
    # a nested option ("logger.class_path") belongs to an object
    plain = {name: value for name, value in options.items() if "." not in name and name not in NOT_TRIED}
    trial: dict[str, Any] = {name: value for name, value in plain.items() if isinstance(value, simple)}
    trial |= dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the Trainer of the command repeats them
            L.Trainer(**trial)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"These --trainer options do not work here: {reason}") from error
