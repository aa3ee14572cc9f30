"""Checks of VideoClassifier's numeric arguments, before any weights are downloaded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from zoo.errors import ConfigError, check_counts

Rule = tuple[Callable[[Any], bool], str]
ABOVE_0: Rule = (lambda value: value > 0, "above 0")
AT_LEAST_0: Rule = (lambda value: value >= 0, "at least 0")
AT_LEAST_1: Rule = (lambda value: value >= 1, "at least 1")
BELOW_1: Rule = (lambda value: 0 <= value < 1, "at least 0 and below 1")
SHARE: Rule = (lambda value: 0 <= value <= 1, "from 0 to 1")
FACTOR: Rule = (lambda value: 0 < value <= 1, "above 0 and at most 1")
RULES: Mapping[str, Rule] = {
    "image_size": (lambda value: value >= 16, "at least 16 pixels"),
    "lr": ABOVE_0,
    "lr_batch_size": AT_LEAST_1,
    "momentum": BELOW_1,
    "head_lr_scale": AT_LEAST_0,
    "operator_lr_scale": AT_LEAST_0,
    "bias_lr_scale": AT_LEAST_0,
    "new_bias_lr_scale": AT_LEAST_0,
    "layer_decay": FACTOR,
    "weight_decay": AT_LEAST_0,
    "gamma": FACTOR,
    "warmup_epochs": AT_LEAST_0,
    "warmup_start": SHARE,
    "min_lr_scale": SHARE,
    "label_smoothing": BELOW_1,
    "mixup": AT_LEAST_0,
    "cutmix": AT_LEAST_0,
    "dropout": BELOW_1,
    "drop_path": BELOW_1,
    "head_warmup_epochs": AT_LEAST_0,
    "ema_decay": BELOW_1,
    "view_chunk": AT_LEAST_1,
}


def check_recipe_options(options: Mapping[str, Any]) -> None:
    """Refuse values of VideoClassifier's arguments that no training can use; None stands for "not given".

    Raises:
        ConfigError: names the argument.
    """
    for name, rule in RULES.items():
        _check(name, options[name], rule)
    check_counts(**{name: options[name] for name in ("num_classes", "num_frames") if options[name] is not None})
    if options["nesterov"] and options["optimizer"] == "sgd" and options["momentum"] == 0:
        raise ConfigError("nesterov is true, but momentum is 0; set momentum above 0, or nesterov to false.")
    milestones = list(options["milestones"])
    for milestone in milestones:
        _check("milestones", milestone, FACTOR)
    if any(first >= second for first, second in itertools.pairwise(milestones)):
        raise ConfigError(f"milestones is {milestones}; its values must increase.")


def _check(name: str, value: Any, rule: Rule) -> None:
    accepts, requirement = rule
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} is {value}; it must be a number.")
    if not math.isfinite(value) or not accepts(value):
        raise ConfigError(f"{name} is {value}; it must be {requirement}.")
