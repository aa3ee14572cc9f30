"""Arguments of ``fit``, ``validate``, ``test`` and ``predict``: tempozoo's shorthands as LightningCLI options."""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import zoo
from lit_modules.interfaces import FindDataset
from lit_modules.recipe_files import resolve_config
from lit_modules.recipe_options import nest_argument
from lit_modules.trainer_parsing import (
    HELP_ALL,
    PROFILE,
    SKIP_NONFINITE,
    TrainerArguments,
    parse,
    split_options,
)
from zoo.command_line import expand_home, note
from zoo.errors import ConfigError
from zoo.network_names import resolve_network

# callbacks of options; config.yaml of a run contains them
EARLY_STOP, SKIP_STEPS = "lit_modules.checkpoints.EarlyStop", "lit_modules.finite_steps.SkipNonfinite"
TABLES = {  # option for a CSV file
    "fit": "--data.train",
    "probe": "--data.train",
    "validate": "--data.val",
    "calibrate": "--data.val",
}
LOGGERS: Mapping[str, Sequence[str]] = {  # value of --log -> options of --trainer.logger; all runs write metrics.csv
    "csv": ["=null"],
    "tensorboard": ["=TensorBoardLogger", ".name=null", ".version=tensorboard"],  # the folder OUT/tensorboard
    "wandb": ["=WandbLogger", ".project=tempozoo"],  # the folder OUT/wandb
}
IMAGENET_STARTS, IMAGENET_START = "*.in1k", "tanet_r50.in1k"  # entries that adapt ImageNet weights; the default


def expand_entry(
    command: str, arguments: TrainerArguments, data_classes: Mapping[str, type], find_dataset: FindDataset
) -> TrainerArguments:
    """Expand ``--entry NAME --data FOLDER`` to ``--from NAME --data CLASS --data.root FOLDER``."""
    if arguments.entry is None:
        return arguments
    if arguments.network is not None:
        raise ConfigError("--entry and --from both name the network; give one of them.")
    entry = zoo.info(arguments.entry)
    data = arguments.value_of("--data")
    arguments = replace(arguments, network=entry.name, entry=None).without("--data")
    if data is None and command != "predict" and len(arguments.files) == 1:
        data, arguments = arguments.files[0], replace(arguments, files=[])
    if data is None:
        if arguments.files or arguments.has_config:
            return arguments
        raise ConfigError(f"--entry {entry.name} needs the folder of {entry.dataset}: --data FOLDER.")
    if _is_class(data, data_classes):  # the data module is given explicitly
        return replace(arguments, options=[f"--data={data}", *arguments.options])
    dataset = find_dataset(entry.dataset)
    if dataset is None and entry.init:
        raise ConfigError(
            f"{entry.name} is an untrained start for fine-tuning and has no published accuracy to reproduce. "
            f"Train it (tempozoo fit --from {entry.name}), then test its checkpoint with --from."
        )
    if dataset is None:
        raise ConfigError(f"No data module has the classes of {entry.dataset}; choose one with --data CLASS.")
    data_class, fixed = dataset
    shorthand = [f"--data={data_class.__name__}", f"--data.root={data}"]
    for name, value in {**fixed, **entry.data_options}.items():
        shorthand.append(f"--data.{name}={str(value).lower() if isinstance(value, bool) else value}")
    return replace(arguments, options=[*shorthand, *arguments.options])


def _is_class(data: str, data_classes: Mapping[str, type]) -> bool:
    return data.split(".")[-1] in data_classes and not Path(data).is_dir()


def expand_data(command: str, arguments: TrainerArguments, data_classes: Mapping[str, type]) -> TrainerArguments:
    """Expand a folder or CSV file, positional or the value of ``--data``, to the options of a data module.

    The positional arguments of ``predict`` are videos; patterns in them are expanded.

    Raises:
        ConfigError: a positional argument is not a folder or CSV file, or the data are given twice.
    """
    data = arguments.value_of("--data")
    if data is not None and not _is_class(data, data_classes) and os.path.exists(data):
        arguments = arguments.without("--data")
        arguments = replace(arguments, files=[data, *arguments.files])
    if command == "predict":
        return replace(arguments, files=[path for file in arguments.files for path in _expand_file(file)])
    if not arguments.files:
        return arguments
    if len(arguments.files) > 1:
        raise ConfigError(f"{command} takes one folder or CSV file, not {len(arguments.files)} plain arguments.")
    return _with_data(command, arguments, expand_home(arguments.files[0]))


def _expand_file(file: str) -> list[str]:
    """Return the files that match a positional argument of ``predict``. A file with that literal name is preferred."""
    path = expand_home(file)
    if os.path.lexists(path) or "://" in path or not any(sign in path for sign in "*?["):
        return [path]
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise ConfigError(f"No file matches {file!r}.")
    return matches


def _with_data(command: str, arguments: TrainerArguments, path: str) -> TrainerArguments:
    """Add the options of VideoFolder for a folder, or of VideoList for a CSV file."""
    if Path(path).is_dir():
        data_class, option = "VideoFolder", "--data.root"
    elif Path(path).suffix.lower() == ".csv":
        data_class, option = "VideoList", TABLES.get(command, "--data.test")
    else:
        raise ConfigError(
            f"{command} takes no plain argument {path!r} (it is neither a folder nor a CSV file); "
            "describe the data with --data VideoFolder --data.root FOLDER."
        )
    if option in arguments.names:
        raise ConfigError(f"{path!r} and {option} both name the data; give one of them.")
    shorthand = [f"{option}={path}"]
    if "--data" not in arguments.names:
        shorthand = [f"--data={data_class}", *shorthand]
        note(f"Reading the data as {shlex.join(split_options(shorthand))}")
    options = [*arguments.options, *shorthand]  # after --config and --data, which it extends
    if "--data" not in arguments.names and not arguments.has_config:
        options = [*shorthand, *arguments.options]
    return replace(arguments, files=[], options=options)


def lightning_arguments(command: str, arguments: TrainerArguments) -> list[str]:
    """Translate a command line to the arguments of LightningCLI, without the command.

    Raises:
        ConfigError: the network or the data are missing, or given twice.
    """
    given, configured = arguments.names, arguments.has_config
    before: list[str] = []
    after: list[str] = []
    if arguments.network is not None:
        if given & {"--model.name", "--model.init_args.name"}:
            raise ConfigError("--from and --model.name both name the network; give one of them.")
        if not configured and "--model" not in given:
            before += ["--model=VideoClassifier"]
        after += [f"--model.init_args.name={resolve_network(arguments.network)}"]
        for name, value in (("options", "null"), ("weights", "null"), ("pretrained", "true")):
            if configured and not given & {f"--model.{name}", f"--model.init_args.{name}"}:
                after += [f"--model.init_args.{name}={value}"]  # the configured class and recipe, but these weights
    if arguments.files:
        data = ["--data=VideoFiles", f"--data.paths={json.dumps(list(arguments.files))}"]
        (after if configured else before).extend(data)
    after += _views_arguments(command, arguments)
    if arguments.probe is not None:
        _check_probe(command, arguments.probe)
    if arguments.report is not None:
        _check_report(command, arguments.report)
    after += _log_arguments(command, arguments)
    if command == "fit" and arguments.allow_untrained:
        raise ConfigError("--allow_untrained is for validate, test and predict; fit trains any network.")
    if command in ("probe", "calibrate") and arguments.compile:
        raise ConfigError(f"--compile is for fit, validate, test and predict; {command} runs without it.")
    if command != "fit" and arguments.folds is not None:
        raise ConfigError(f"--folds is for fit, not for {command}.")
    after += _fit_arguments(command, arguments)
    if command == "predict":
        before += ["--return_predictions=false"]  # they would fill the memory
    if command in ("validate", "test"):
        after += ["--verbose=false"]  # the reports print a table
    options = [_translate_option(option) for option in arguments.options]
    if not arguments.asks_help and not configured:
        _check_complete(command, arguments, {*given, *(option.partition("=")[0] for option in before)})
    return [*before, *options, *after]


def _fit_arguments(command: str, arguments: TrainerArguments) -> list[str]:
    """Return the callbacks for ``--skip_nonfinite`` and ``--early_stop``.

    Raises:
        ConfigError: an option for ``fit`` is given to another command, or a value is invalid.
    """
    epochs = arguments.early_stop
    skip = [SKIP_NONFINITE] * arguments.skip_nonfinite
    given = [*["--early_stop"] * (epochs is not None), *skip, *[PROFILE] * arguments.profile, *arguments.tuning]
    if command != "fit" and given:
        raise ConfigError(f"{given[0]} is for fit; {command} does not train.")
    callbacks = [f"--trainer.callbacks+={SKIP_STEPS}" for _ in skip]
    if epochs is None:
        return callbacks
    if not epochs.isdecimal() or int(epochs) < 1:
        raise ConfigError(f"--early_stop is {epochs}; give the number of epochs without improvement, at least 1.")
    return [*callbacks, f"--trainer.callbacks+={EARLY_STOP}", f"--trainer.callbacks.patience={epochs}"]


def _translate_option(option: str) -> str:
    """Translate ``--help_all``, names of recipes, and model options with names of earlier versions."""
    name, equals, value = option.partition("=")
    if name == HELP_ALL:
        return "--help"
    if name == "--config" and equals:
        return f"--config={resolve_config(value)}"
    return nest_argument(option)


def _views_arguments(command: str, arguments: TrainerArguments) -> list[str]:
    """Return ``--data.clips`` and ``--data.crops`` for ``--views``, unless they are given as well; for probe itself."""
    if arguments.views is None:
        return []
    if command not in ("test", "predict", "probe", "calibrate"):
        raise ConfigError(
            "--views is for test, predict, probe and calibrate; training and validation use one clip and one crop."
        )
    match = re.fullmatch(r"(\d+)x(\d+)", arguments.views)
    if match is None and arguments.views != "published":
        raise ConfigError(f"--views is {arguments.views}; give CLIPSxCROPS, such as 4x3, or published.")
    if command in ("probe", "calibrate"):  # an argument of the command, for training or validation videos
        return [f"--views={arguments.views}"]
    counts = match.groups() if match else ("null", "null")  # null: values of the network's protocol
    after: list[str] = []
    for name, count in zip(("clips", "crops"), counts, strict=True):
        if not arguments.names & {f"--data.{name}", f"--data.init_args.{name}"}:
            after.append(f"--data.init_args.{name}={count}")
    return after


def _check_probe(command: str, value: str) -> None:
    if command != "fit":
        raise ConfigError("--probe is for fit; `tempozoo probe` measures the same baseline on its own.")
    if value not in ("true", "false"):
        raise ConfigError(f"--probe is {value}; it must be true or false.")


def _check_report(command: str, value: str) -> None:
    if command not in ("fit", "test"):
        raise ConfigError(f"--report is for fit and test; {command} writes no report.")
    if value not in ("true", "false"):
        raise ConfigError(f"--report is {value}; it must be true or false.")


def _log_arguments(command: str, arguments: TrainerArguments) -> list[str]:
    """Return the logger of ``--log``, which replaces that of a configuration file.

    Raises:
        ConfigError: the option is for another command, has another value, or ``--trainer.logger`` is given as well.
    """
    if arguments.log is None:
        return []
    if command != "fit":
        raise ConfigError(f"--log is for fit; {command} does not train.")
    if arguments.log not in LOGGERS:
        raise ConfigError(f"--log is {arguments.log}; choose from {', '.join(LOGGERS)}.")
    if any(name.rstrip("+").split(".")[:2] == ["--trainer", "logger"] for name in arguments.names):
        raise ConfigError("--log and --trainer.logger both choose a logger; give one of them.")
    return [f"--trainer.logger{option}" for option in LOGGERS[arguments.log]]


def _check_complete(command: str, arguments: TrainerArguments, given: set[str]) -> None:
    """Refuse a command without network or data; the message contains a complete command."""
    example = arguments
    if "--data" not in given and command == "predict":
        example = replace(example, files=["VIDEOS"])
    elif "--data" not in given:
        root = [] if "--data.root" in given else ["--data.root=FOLDER"]
        example = replace(example, options=["--data=VideoFolder", *root, *example.options])
    if "--model" not in given:
        example = replace(example, network="NETWORK")
        raise ConfigError(
            f"{command} needs a network: {example.command_line(command)} (NETWORK is a name of `tempozoo list`, "
            "a .ckpt file, or a folder)."
        )
    if "--data" not in given:
        data = "files or folders of videos" if command == "predict" else "data"
        message = f"{command} needs {data}: {example.command_line(command)}"
        config = Path(arguments.network or "") / "config.yaml"
        if command != "predict" and config.is_file():
            same = replace(arguments, options=[f"--config={config}", *arguments.options])
            message += f", or the data of the run: {same.command_line(command)}"
        raise ConfigError(message)


def offline_advice(command: str, arguments: Sequence[str]) -> dict[str, str]:
    """Return alternatives to a command whose weights cannot be downloaded: purpose -> command."""
    parsed = parse(arguments)
    network = parsed.network or parsed.entry or parsed.value_of("--model.name") or ""
    bundled = next(name for name in zoo.list_models() if zoo.info(name).sources[0].kind == "bundled")
    offline = replace(parsed, network=bundled, entry=None).without("--model.name").without("--model.weights")
    advice = {"To use the bundled network, offline": offline.command_line(command)}
    if command == "fit":
        starts = [zoo.info(name) for name in zoo.list_models(IMAGENET_STARTS)]
        start = next((entry for entry in starts if entry.arch == network.partition(".")[0]), zoo.info(IMAGENET_START))
        weights = f"--model.weights={start.sources[0].url.rpartition('/')[2]}"
        from_file = replace(offline, network=start.name, options=[*offline.options, weights])
        advice["To start from an ImageNet file on this machine"] = from_file.command_line(command)
    return advice


def classes_of(package: ModuleType, base: type) -> dict[str, type]:
    """Return the public subclasses of ``base`` in a package by name, without ``base``."""
    members = {name: getattr(package, name) for name in package.__all__}
    return {
        name: value
        for name, value in members.items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
