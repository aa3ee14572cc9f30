"""``fit``, ``validate`` and ``test`` of localizers: LightningCLI with ActionLocalizer and LocalizationData."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser

import lit_modules
from lit_modules.checkpoints import run_checkpoints
from lit_modules.command_help import LOCALIZER_OPTIONS
from lit_modules.interrupts import StopOnSignal, exit_on_sigterm
from lit_modules.localization.localizer_report import LocalizerFitReport, LocalizerReport
from lit_modules.progress import EpochLines, EpochProgressBar, RunEstimate
from lit_modules.recipe_files import resolve_config
from lit_modules.run_errors import run_errors
from lit_modules.run_folder import CHECKPOINTS, auto_resume_args, output_folder
from lit_modules.run_metrics import LogShortEpochs, ResumeMetrics
from lit_modules.trainer_arguments import EARLY_STOP
from lit_modules.trainer_cli import IGNORED_WARNINGS, TrainerCLI
from lit_modules.trainer_parsing import HELP_ALL, TrainerArguments, parse
from zoo.errors import ConfigError
from zoo.network_names import resolve_network

COMMANDS = ("fit", "validate", "test")
WARNINGS = (  # features are in files, and are read quickly
    ".*does not have many workers.*",
    ".*Trying to infer the `batch_size`.*",
    ".*You have overridden `on_after_batch_transfer`.*",
)


class LocalizerCLI(TrainerCLI):
    """Parses the arguments of one command for a localizer, and runs it."""

    own_options = LOCALIZER_OPTIONS

    def default_options(self, probe: bool | None) -> dict[str, Any]:
        """Return default options of the Trainer: callbacks, and the length of a training run."""
        if self.command != "fit":
            return {"callbacks": [LocalizerReport(self.folder)]}
        others = [
            ResumeMetrics(),
            LogShortEpochs(),
            LearningRateMonitor(),
            LocalizerFitReport(),
            RunEstimate(),
            EpochLines(),
            EpochProgressBar(),
        ]
        return {
            "callbacks": [*run_checkpoints(self.folder / CHECKPOINTS), *others],
            "max_epochs": 40,
            "log_every_n_steps": 10,
            "gradient_clip_val": 1.0,
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link labels and the origin of the features from the data to the network."""
        parser.link_arguments("data", "model.init_args.class_names", self._class_names, apply_on="instantiate")
        parser.link_arguments("data", "model.init_args.features", _features, apply_on="instantiate")

    def _class_names(self, data: Any) -> list[str]:
        data.check(self.command)
        names: list[str] = data.class_names
        return names


def _features(data: Any) -> dict[str, Any]:
    return asdict(data.source)


def run_localizer(command: str, arguments: Sequence[str], data_base: type) -> None:
    """Run ``fit``, ``validate`` or ``test`` of a localizer.

    Args:
        command: name of the command.
        arguments: arguments of the command line without --help.
        data_base: class of the data module.

    Raises:
        ConfigError: the command or an option is not for localizers.
    """
    if command not in COMMANDS:
        raise ConfigError(f"{command} is for classifiers; localizers have fit, validate, test and `tempozoo localize`.")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning calls deprecated functions
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips and hardware notes
    for message in (*IGNORED_WARNINGS, *WARNINGS):
        warnings.filterwarnings("ignore", message)
    parsed = parse(arguments)
    options = lightning_options(command, parsed)
    LocalizerCLI.model_base = lit_modules.ActionLocalizer
    classes = {data_base.__name__: data_base}
    if parsed.asks_help:
        LocalizerCLI(command, options, Path(parsed.out or "runs"), data_base, classes, StopOnSignal())
        return
    stopper = StopOnSignal()
    with (
        exit_on_sigterm(),
        output_folder(command, parsed.out, parsed.options) as folder,
        run_errors(command, folder, stopper),
    ):
        resume = auto_resume_args(folder, parsed.options) if command == "fit" else []
        LocalizerCLI(command, [*options, *resume], folder, data_base, classes, stopper)


def lightning_options(command: str, parsed: TrainerArguments) -> list[str]:
    """Translate a command line to the arguments of LightningCLI.

    Raises:
        ConfigError: an option is for classifiers, or a value is missing.
    """
    given = {
        "--entry": parsed.entry, "--views": parsed.views, "--folds": parsed.folds, "--compile": parsed.compile,
        "--profile": parsed.profile, "--skip_nonfinite": parsed.skip_nonfinite,
        **dict.fromkeys(parsed.tuning, True),
    }  # fmt: skip
    for name, value in given.items():
        if value:
            raise ConfigError(f"{name} is for classifiers; leave it out for a localizer.")
    if parsed.files:
        raise ConfigError(
            f"{parsed.files[0]} is not an option; give the data of a localizer with --data.annotations FILE.csv and "
            "--data.features FOLDER."
        )
    if command != "fit" and parsed.network is None and not {"--ckpt_path", "--model.name"} & parsed.names:
        raise ConfigError(f"{command} needs a localizer: --from RUN.")
    if not (parsed.has_config or {"--data", "--data.annotations"} & parsed.names or parsed.asks_help):
        raise ConfigError(
            f"{command} needs data: --data.annotations FILE --data.features FOLDER, or the data of a run: "
            "--config RUN/config.yaml."
        )
    before = [] if parsed.has_config or "--model" in parsed.names else ["--model=ActionLocalizer"]
    before += [] if parsed.has_config or "--data" in parsed.names else ["--data=LocalizationData"]
    options = []
    for option in parsed.options:
        name, equals, value = option.partition("=")
        if name == HELP_ALL:
            option = "--help"
        elif name == "--config" and equals:
            option = f"--config={resolve_config(value)}"
        options.append(option)
    after = []
    if parsed.network is not None:
        after.append(f"--model.init_args.name={resolve_network(parsed.network)}")
    if command == "fit" and parsed.early_stop is not None:
        after += [f"--trainer.callbacks+={EARLY_STOP}", f"--trainer.callbacks.patience={parsed.early_stop}"]
    if command != "fit":
        after.append("--verbose=false")  # the report prints a table
    return [*before, *options, *after]
