"""Typed options of a training recipe: optimizer, schedule, regularization, loss; their checks and earlier names."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

from lit_modules.trained_parts import BatchNormMode, TrainedPart
from zoo.command_line import suggest
from zoo.errors import ConfigError, check_counts

OptimizerName = Literal["sgd", "adamw"]
ScheduleName = Literal["cosine", "cosine_after_warmup", "steps", "constant"]
GroupRules = Mapping[str, tuple[float, bool]]  # regular expression -> multiple of lr, whether weight decay applies
LossName = Literal["cross_entropy", "focal", "asymmetric"]
Options = TypeVar("Options", "OptimizerOptions", "ScheduleOptions", "RegularizationOptions", "LossOptions")


@dataclass(frozen=True)
class OptimizerOptions:
    """Optimizer, learning rate and parameter groups.

    Args:
        name: "sgd" or "adamw".
        lr: peak learning rate for a batch of ``lr_batch_size`` clips. It is scaled linearly to the total batch size
            over all devices and accumulated batches.
        lr_batch_size: batch size that ``lr`` refers to; None uses ``lr`` as it is.
        momentum: momentum of SGD.
        nesterov: use Nesterov momentum.
        weight_decay: weight decay of weights. Norms do not decay, unless ``group_rules`` of the recipe apply to them.
        decay_bias: apply weight decay to biases.
        head_lr_scale: multiple of ``lr`` for the classifier.
        operator_lr_scale: multiple of ``lr`` for the temporal operator.
        bias_lr_scale: additional multiple of ``lr`` for biases, except those of norms.
        new_bias_lr_scale: replaces ``bias_lr_scale`` in the classifier and the temporal operator.
        layer_decay: multiple of ``lr`` from each block to the block before it.
    """

    name: OptimizerName = "sgd"
    lr: float = 0.01
    lr_batch_size: int | None = 64
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_bias: bool = True
    head_lr_scale: float = 1.0
    operator_lr_scale: float = 1.0
    bias_lr_scale: float = 1.0
    new_bias_lr_scale: float | None = None
    layer_decay: float | None = None


@dataclass(frozen=True)
class ScheduleOptions:
    """Learning rate schedule.

    Args:
        name: "cosine" (counted from the start of the run), "cosine_after_warmup", "steps" or "constant".
        milestones: fractions of the run at which "steps" lowers the rate.
        gamma: factor of each step.
        warmup_epochs: epochs of linear warm-up. A warm-up longer than a quarter of the run is cut to a tenth of it.
        warmup_start: multiple of ``lr`` at which the warm-up starts.
        min_lr_scale: multiple of ``lr`` at which the cosine ends.
    """

    name: ScheduleName = "cosine"
    milestones: Sequence[float] = (0.5, 0.75, 0.9)
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    warmup_start: float = 0.01
    min_lr_scale: float = 0.0


@dataclass(frozen=True)
class RegularizationOptions:
    """Label smoothing, mixing of clips, dropout and stochastic depth.

    Args:
        label_smoothing: label smoothing of the cross-entropy.
        mixup: alpha of MixUp; 0 turns it off.
        cutmix: alpha of CutMix; 0 turns it off. With both, each batch uses one of them at random.
        drop_rate: dropout rate in front of the classifier; None keeps that of the network.
        drop_path_rate: DropPath rate of the last block, increasing linearly from 0 at the first block; None keeps that
            of the network.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_rate: float | None = None
    drop_path_rate: float | None = None


@dataclass(frozen=True)
class LossOptions:
    """Training loss. For videos with several labels, the losses of the classes are binary and averaged.

    Args:
        name: "cross_entropy"; "focal", which reduces the loss of clips that are already classified correctly; or
            "asymmetric", for videos with several labels, which reduces the loss of absent classes most.
        gamma: exponent of "focal"; 0 equals cross-entropy.
        negative_gamma: exponent of "asymmetric" for absent classes; that of present classes is 1.
        margin: score up to which "asymmetric" ignores an absent class.
    """

    name: LossName = "cross_entropy"
    gamma: float = 2.0
    negative_gamma: float = 4.0
    margin: float = 0.05


CROSS_ENTROPY = LossOptions()


@dataclass(frozen=True)
class Recipe:
    """Training options of a published run.

    Attributes:
        group_rules: learning rate scale and weight decay of parameters whose name matches a regular expression. They
            replace the values of the parameter's role, see ``lit_modules.optim.parameter_groups``.
    """

    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    regularization: RegularizationOptions = RegularizationOptions()
    loss: LossOptions = LossOptions()
    group_rules: GroupRules = field(default_factory=dict)

    def override(self, groups: Mapping[str, Any], old_options: Mapping[str, Any]) -> Recipe:
        """Return the recipe with other options.

        Args:
            groups: option groups by name. An options object replaces the group, a mapping replaces single values.
            old_options: options by their names of earlier versions; they replace single values.

        Raises:
            ConfigError: unknown options of a group.
            TypeError: unknown names in ``old_options``.
        """
        if unknown := [name for name in old_options if name not in OLD_NAMES]:
            raise TypeError(f"unexpected keyword argument {unknown[0]!r}{suggest(unknown[0], OLD_NAMES.values())}")
        names = {name: value for name, value in groups.items() if isinstance(value, str)}  # optimizer="adamw"
        nested = nest_old_names({**names, **old_options})
        recipe = self
        for values in ({name: value for name, value in groups.items() if name not in names}, nested):
            recipe = replace(
                recipe, **{name: override_options(getattr(recipe, name), name, values[name]) for name in values}
            )
        return recipe

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the option groups as nested dictionaries of plain values."""
        groups = asdict(self)
        return {name: groups[name] for name in GROUPS}

    def flat_options(self) -> dict[str, Any]:
        """Return the options that have a name of an earlier version, by that name; provenance records use it."""
        groups = self.to_dict()
        return {old: groups[name.partition(".")[0]][name.partition(".")[2]] for old, name in OLD_NAMES.items()}


GROUPS = ("optimizer", "schedule", "regularization", "loss")


def override_options(options: Options, group: str, values: Options | Mapping[str, Any]) -> Options:
    """Return ``values`` if they are an options object, otherwise ``options`` with single values replaced.

    Raises:
        ConfigError: ``values`` is of another type or has unknown keys.
    """
    if isinstance(values, type(options)):
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{group} is {values!r}; it must be {type(options).__name__} or a dictionary of its options.")
    fields = asdict(options)
    if unknown := [name for name in values if name not in fields]:
        raise ConfigError(f"{group} has no option {unknown[0]!r}; choose from {', '.join(fields)}.")
    return replace(options, **values)


# earlier names ---------------------------------------------------------------------------------------------------

# arguments of VideoClassifier up to version 0.1 -> current options
OLD_NAMES: Mapping[str, str] = {
    "optimizer": "optimizer.name",  # as text
    "lr": "optimizer.lr",
    "lr_batch_size": "optimizer.lr_batch_size",
    "momentum": "optimizer.momentum",
    "nesterov": "optimizer.nesterov",
    "weight_decay": "optimizer.weight_decay",
    "decay_bias": "optimizer.decay_bias",
    "head_lr_scale": "optimizer.head_lr_scale",
    "operator_lr_scale": "optimizer.operator_lr_scale",
    "bias_lr_scale": "optimizer.bias_lr_scale",
    "new_bias_lr_scale": "optimizer.new_bias_lr_scale",
    "layer_decay": "optimizer.layer_decay",
    "schedule": "schedule.name",  # as text
    "milestones": "schedule.milestones",
    "gamma": "schedule.gamma",
    "warmup_epochs": "schedule.warmup_epochs",
    "warmup_start": "schedule.warmup_start",
    "min_lr_scale": "schedule.min_lr_scale",
    "label_smoothing": "regularization.label_smoothing",
    "mixup": "regularization.mixup",
    "cutmix": "regularization.cutmix",
    "dropout": "regularization.drop_rate",
    "drop_path": "regularization.drop_path_rate",
}


def nest_old_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Move arguments with earlier names into their option groups; other arguments stay as they are.

    Raises:
        ConfigError: an option is given by its earlier and by its current name.
    """
    old = {key: v for key, v in arguments.items() if key in OLD_NAMES and (key not in GROUPS or isinstance(v, str))}
    nested = {key: value for key, value in arguments.items() if key not in old}
    for key, value in old.items():
        group, _, name = OLD_NAMES[key].partition(".")
        options = nested.get(group) or {}
        if name in options:
            raise ConfigError(f"{key} and {OLD_NAMES[key]} are the same option; remove {key}.")
        nested[group] = {**options, name: value}
    return nested


def nest_config(config: dict[str, Any]) -> dict[str, Any]:
    """Apply ``nest_old_names`` to the ``model`` section of a configuration file; other dictionaries are unchanged.

    Options of a localizer are not in groups.
    """
    model = config.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("init_args"), dict):
        return config
    if str(model.get("class_path")).endswith("ActionLocalizer"):
        return config
    return {**config, "model": {**model, "init_args": nest_old_names(model["init_args"])}}


def nest_argument(argument: str) -> str:
    """Rewrite a command line argument ``--model.NAME=VALUE`` with an earlier name; others are unchanged.

    An option of a group whose value is null becomes ``--model.GROUP={"OPTION": null}``, because jsonargparse reads null
    as the text "None" two levels below a class.
    """
    match = re.fullmatch(r"(--model(?:\.init_args)?)\.([\w.]+)(\+?)=(.*)", argument, re.DOTALL)
    if match is None:
        return argument
    prefix, name, append, value = match.groups()
    if name in OLD_NAMES and not (name in GROUPS and value.lstrip().startswith("{")):
        name = OLD_NAMES[name]
    group, _, option = name.partition(".")
    if group in GROUPS and option and value.strip() in ("null", "~"):
        return f"{prefix}.{group}={json.dumps({option: None})}"
    return f"{prefix}.{name}{append}={value}"


# checks ----------------------------------------------------------------------------------------------------------

Rule = tuple[Callable[[Any], bool], str]
ABOVE_0: Rule = (lambda value: value > 0, "above 0")
AT_LEAST_0: Rule = (lambda value: value >= 0, "at least 0")
AT_LEAST_1: Rule = (lambda value: value >= 1, "at least 1")
BELOW_1: Rule = (lambda value: 0 <= value < 1, "at least 0 and below 1")
FRACTION: Rule = (lambda value: 0 <= value <= 1, "from 0 to 1")
FACTOR: Rule = (lambda value: 0 < value <= 1, "above 0 and at most 1")
RULES: Mapping[str, Rule] = {
    "image_size": (lambda value: value >= 16, "at least 16 pixels"),
    "optimizer.lr": ABOVE_0,
    "optimizer.lr_batch_size": AT_LEAST_1,
    "optimizer.momentum": BELOW_1,
    "optimizer.weight_decay": AT_LEAST_0,
    "optimizer.head_lr_scale": AT_LEAST_0,
    "optimizer.operator_lr_scale": AT_LEAST_0,
    "optimizer.bias_lr_scale": AT_LEAST_0,
    "optimizer.new_bias_lr_scale": AT_LEAST_0,
    "optimizer.layer_decay": FACTOR,
    "schedule.gamma": FACTOR,
    "schedule.warmup_epochs": AT_LEAST_0,
    "schedule.warmup_start": FRACTION,
    "schedule.min_lr_scale": FRACTION,
    "regularization.label_smoothing": BELOW_1,
    "regularization.mixup": AT_LEAST_0,
    "regularization.cutmix": AT_LEAST_0,
    "regularization.drop_rate": BELOW_1,
    "regularization.drop_path_rate": BELOW_1,
    "loss.gamma": AT_LEAST_0,
    "loss.negative_gamma": AT_LEAST_0,
    "loss.margin": BELOW_1,
    "head_warmup_epochs": AT_LEAST_0,
    "ema_decay": BELOW_1,
    "view_chunk": AT_LEAST_1,
}


def check_recipe_options(recipe: Recipe, arguments: Mapping[str, Any]) -> None:
    """Check option values before any weights are downloaded; None stands for "not given".

    Args:
        recipe: recipe of a VideoClassifier.
        arguments: its other arguments by name.

    Raises:
        ConfigError: a value is of a wrong type or out of range. The message names the option.
    """
    optimizer, schedule = recipe.optimizer, recipe.schedule
    _check_choice("optimizer.name", optimizer.name, get_args(OptimizerName))
    _check_choice("schedule.name", schedule.name, get_args(ScheduleName))
    _check_choice("loss.name", recipe.loss.name, get_args(LossName))
    _check_choice("train", arguments["train"], get_args(TrainedPart))
    _check_choice("batch_norm", arguments["batch_norm"], get_args(BatchNormMode))
    if arguments["freeze_backbone"] and arguments["train"] not in ("all", "head"):
        raise ConfigError(f"freeze_backbone is true, but train is {arguments['train']}; set freeze_backbone to false.")
    groups = recipe.to_dict()
    for name, rule in RULES.items():
        group, _, option = name.rpartition(".")
        _check(name, groups[group][option] if group else arguments[name], rule)
    check_counts(**{name: arguments[name] for name in ("num_classes", "num_frames") if arguments[name] is not None})
    if optimizer.nesterov and optimizer.name == "sgd" and optimizer.momentum == 0:
        raise ConfigError(
            "optimizer.nesterov is true, but optimizer.momentum is 0; set momentum above 0, or nesterov to false."
        )
    milestones = list(schedule.milestones)
    for milestone in milestones:
        _check("schedule.milestones", milestone, FACTOR)
    if any(first >= second for first, second in itertools.pairwise(milestones)):
        raise ConfigError(f"schedule.milestones is {milestones}; its values must increase.")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; choose from {', '.join(choices)}.")


def _check(name: str, value: Any, rule: Rule) -> None:
    accepts, requirement = rule
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} is {value}; it must be a number.")
    if not math.isfinite(value) or not accepts(value):
        raise ConfigError(f"{name} is {value}; it must be {requirement}.")
