"""Arguments of ``fit``, ``validate``, ``test`` and ``predict``: our shorthands, translated for LightningCLI."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import zoo
from zoo.errors import ConfigError

OWN_OPTIONS = ("--from", "--entry", "--out")
FLAGS = ("--help", "-h", "--print_config")  # options of LightningCLI without a value
FindDataset = Callable[[str], "tuple[type, dict[str, str]] | None"]  # data set of the index -> class, options


@dataclass(frozen=True)
class TrainerArguments:
    """A command line: our own options, plain arguments, and the options of LightningCLI."""

    network: str | None = None  # --from
    entry: str | None = None  # --entry
    out: str | None = None  # --out
    files: Sequence[str] = ()
    options: Sequence[str] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """Names of the LightningCLI options, without values."""
        return {option.split("=")[0] for option in self.options}

    @property
    def has_config(self) -> bool:
        """Whether ``--config`` is given."""
        return bool(self.names & {"--config", "-c"})

    @property
    def asks_help(self) -> bool:
        """Whether LightningCLI will print something and exit."""
        return any(option in FLAGS or option.endswith(".help") for option in self.options)


def parse(arguments: Sequence[str]) -> TrainerArguments:
    """Split a command line."""
    own: dict[str, str] = {}
    files: list[str] = []
    options: list[str] = []
    tokens = list(arguments)
    while tokens:
        token = tokens.pop(0)
        name, equals, value = token.partition("=")
        if name in OWN_OPTIONS:
            if not equals and not tokens:
                raise ConfigError(f"{name} needs a value.")
            own[name] = value if equals else tokens.pop(0)
        elif token.startswith("-"):
            options.append(token)
            if not equals and token not in FLAGS and tokens and not tokens[0].startswith("--"):  # "-1" is a value
                options.append(tokens.pop(0))
        else:
            files.append(token)
    return TrainerArguments(own.get("--from"), own.get("--entry"), own.get("--out"), files, options)


def expand_entry(
    arguments: TrainerArguments, data_classes: Mapping[str, type], find_dataset: FindDataset
) -> TrainerArguments:
    """``--entry NAME --data FOLDER`` as ``--from NAME --data CLASS --data.root FOLDER``."""
    if arguments.entry is None:
        return arguments
    if arguments.network is not None:
        raise ConfigError("--entry and --from both name the network; give one of them.")
    entry, options = zoo.info(arguments.entry), list(arguments.options)
    arguments = replace(arguments, network=entry.name, entry=None)
    at = next((i for i, option in enumerate(options) if option == "--data" or option.startswith("--data=")), None)
    if at is None:
        if arguments.files or arguments.has_config:
            return arguments
        raise ConfigError(f"--entry {entry.name} needs the folder of {entry.dataset}: --data FOLDER.")
    joined = "=" in options[at]
    data = options[at].partition("=")[2] if joined else "".join(options[at + 1 : at + 2])
    if data.split(".")[-1] in data_classes and not Path(data).is_dir():  # the data are described in full
        return arguments
    del options[at : at + (1 if joined else 2)]
    dataset = find_dataset(entry.dataset)
    if dataset is None and entry.init:
        raise ConfigError(
            f"{entry.name} is an untrained start for fine-tuning and has no published accuracy to reproduce. "
            f"Train it (tempozoo fit --from {entry.name}), then test its checkpoint with --from."
        )
    if dataset is None:
        raise ConfigError(f"No data module has the classes of {entry.dataset}; choose one with --data CLASS.")
    data_class, fixed = dataset
    shorthand = ["--data", data_class.__name__, "--data.root", data]
    shorthand += [f"--data.{name}={value}" for name, value in fixed.items()]
    return replace(arguments, options=[*shorthand, *options])


def lightning_arguments(command: str, arguments: TrainerArguments) -> list[str]:
    """The arguments of LightningCLI that a command line stands for, without the command.

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
            before += ["--model", "VideoClassifier"]
        after += ["--model.init_args.name", arguments.network]
        for name, value in (("options", "null"), ("weights", "null"), ("pretrained", "true")):
            if configured and not given & {f"--model.{name}", f"--model.init_args.{name}"}:
                after += [f"--model.init_args.{name}", value]  # the configured class and recipe, but these weights
    if arguments.files:
        if command != "predict":
            raise ConfigError(
                f"{command} takes no plain argument {arguments.files[0]!r}; name the data with --data and --data.root."
            )
        data = ["--data", "VideoFiles", "--data.paths", json.dumps(list(arguments.files))]
        (after if configured else before).extend(data)
    if command in ("validate", "test"):
        after += ["--verbose", "false"]  # instead of Lightning's table, the reports print one
    if not arguments.asks_help and not configured:
        _check_complete(command, {*given, *before})
    return [*before, *arguments.options, *after]


def _check_complete(command: str, given: set[str]) -> None:
    if "--model" not in given:
        raise ConfigError(f"{command} needs a network: --from INDEX_NAME, FOLDER or CKPT; or --model, or --config.")
    if "--data" not in given:
        data = "files or folders of videos" if command == "predict" else "data: --data VideoFolder --data.root FOLDER"
        raise ConfigError(f"{command} needs {data}.")


def classes_of(package: Any, base: type) -> dict[str, type]:
    """Public subclasses of ``base`` in a package, by name; not ``base`` itself."""
    members = {name: getattr(package, name) for name in package.__all__}
    return {
        name: value
        for name, value in members.items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
