"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with the defaults and messages of this package."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import lit_modules
from lit_modules.checkpoints import WholeFiles, run_checkpoints
from lit_modules.command_help import COMMANDS, OWN_OPTIONS, format_options, short_help, usage
from lit_modules.option_values import PARSER_MODE
from lit_modules.options import format_parser_error
from lit_modules.prediction_report import PredictionReport
from lit_modules.report import FitReport, TestReport
from lit_modules.run_folder import (
    CHECKPOINTS,
    auto_resume_args,
    check_resumable,
    output_folder,
    remove_empty_folders,
    rotate_metrics,
)
from lit_modules.trainer_arguments import (
    HELP,
    FindDataset,
    classes_of,
    expand_data,
    expand_entry,
    lightning_arguments,
    parse,
)
from lit_modules.trainer_options import check_trainer_options
from zoo.errors import ConfigError

IGNORED_WARNINGS = (
    "LightningCLI's args parameter",  # this is how a console command calls it
    ".*LeafSpec.*",
    ".*smaller than the logging interval.*",
    ".*sync_dist=True.*",  # logged values are the same in all processes
    ".*Grad strides do not match bucket view strides.*",  # of 1x1 kernels, whose strides are meaningless
    ".*Experiment logs directory.*",  # rotate_metrics keeps the earlier file
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*The dirpath has changed.*",  # of a run that is resumed in another folder
)


class ArgumentParser(LightningArgumentParser):
    """Parser with errors of one line.

    Attributes:
        classes: the classes that ``--data`` and ``--model`` accept, by name.
        command: of the parser of a command.
        option_names: of the command, for suggestions.
    """

    classes: Mapping[str, Mapping[str, type]] = {}
    command: str | None = None
    option_names: Sequence[str] = ()

    def format_help(self) -> str:
        """The help of all options; of a command, our own options come first."""
        text = super().format_help()
        if self.command is None:
            return text
        start, title, options = text.partition("\noptions:\n")
        return start + "\n" + format_options("tempozoo's own options", OWN_OPTIONS) + title + options

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a ConfigError."""
        if not self.exit_on_error:  # jsonargparse tries the options on several classes
            super().error(message, ex)
        raise ConfigError(format_parser_error(message, self.classes, self.option_names)) from ex


class SaveFitConfig(SaveConfigCallback):
    """Writes ``config.yaml`` of a training, without the checkpoint that it was resumed from."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file if the stage is "fit"."""
        if stage == "fit":
            self.config = self.config.clone()
            self.config.ckpt_path = None  # a run that reuses the file must not resume this one
            super().setup(trainer, pl_module, stage)


def default_callbacks(command: str, folder: Path) -> dict[str, Any]:
    """Defaults of the Trainer: the callbacks of a command, and the length of a training."""
    if command == "fit":
        callbacks = [*run_checkpoints(folder / CHECKPOINTS), LearningRateMonitor(), FitReport()]
        return {"callbacks": callbacks, "max_epochs": 30, "log_every_n_steps": 10}
    reports = {"test": TestReport, "predict": PredictionReport}
    return {"callbacks": [reports[command](folder)]} if command in reports else {}


class TrainerCLI(LightningCLI):
    """Parses the arguments of one command, builds network, data and Trainer, and runs it.

    Args:
        command: "fit", "validate", "test" or "predict".
        arguments: of LightningCLI, without the command.
        folder: where the command writes.
        data_classes: data modules by name; ``data_base`` is their base class.
        single_view: use one clip and one crop per video where the data module leaves them to the protocol.
        allow_untrained: see ``VideoClassifier``.
    """

    def __init__(
        self,
        command: str,
        arguments: Sequence[str],
        folder: Path,
        data_base: type,
        data_classes: Mapping[str, type],
        *,
        single_view: bool = False,
        allow_untrained: bool = False,
    ) -> None:
        self.command, self.folder = command, folder
        self.single_view, self.allow_untrained = single_view, allow_untrained
        model_classes = classes_of(lit_modules, L.LightningModule)
        self.classes = {"data": data_classes, "model": model_classes}
        super().__init__(
            lit_modules.VideoClassifier,
            data_base,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveFitConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=default_callbacks(command, folder),
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=ArgumentParser,
            parser_kwargs={"prog": "tempozoo", command: {"usage": usage(command), "description": COMMANDS[command][1]}},
            args=[command, *arguments],
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the command that runs, as parsers take long to build."""
        return {self.command: LightningCLI.subcommands()[self.command]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Create a parser that takes any file name, no abbreviations, and knows the classes for its messages."""
        parser = super().init_parser(parser_mode=PARSER_MODE, allow_abbrev=False, **kwargs)
        parser.classes = self.classes  # type: ignore[attr-defined]
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link class names from the data to the network; the protocol goes from the network to the data later."""
        parser.link_arguments("data", "model.init_args.class_names", self._class_names, apply_on="instantiate")
        parser.link_arguments("data.heads", "model.init_args.heads", apply_on="instantiate")

    def _class_names(self, data: Any) -> list[str] | None:
        data.look(self.command)  # data errors are reported before any weights are downloaded
        return None if self.command == "predict" else data.class_names  # predictions use the network's own labels

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser._action_groups[-1].title = f"Options of Trainer.{subcommand}"  # instead of its docstring
        own = [option.split()[0] for option in OWN_OPTIONS]
        options = [*own, *parser._option_string_actions]
        parser.command, parser.option_names = subcommand, options  # type: ignore[attr-defined]
        self.parser.option_names = options  # type: ignore[attr-defined]  # which reports unknown options
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and check the Trainer's options and a checkpoint to resume from."""
        super().parse_arguments(parser, args)
        config = self.config[self.command]
        check_trainer_options(self.command, config.trainer, config.seed_everything)
        if path := config.get("ckpt_path"):
            check_resumable(self.command, path)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would import the classes that the checkpoint names."""

    def instantiate_classes(self) -> None:
        """Create network, data and Trainer, and apply the options that are not those of LightningCLI."""
        super().instantiate_classes()
        if self.allow_untrained:
            self.model.allow_untrained = True
        if self.single_view:
            self.datamodule.clips = self.datamodule.clips or 1
            self.datamodule.crops = self.datamodule.crops or 1

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Create the Trainer; folders are set here so that the saved configuration does not contain them."""
        kwargs["default_root_dir"] = str(self.folder)
        options = self.config_init[self.command].trainer
        if self.command != "fit":
            kwargs["logger"] = False
        elif options.logger in (None, True):
            rotate_metrics(self.folder)
            kwargs["logger"] = CSVLogger(self.folder, name="", version="")
        self._drop_callbacks(
            without_logger=options.logger is False, without_files=options.enable_checkpointing is False
        )
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:  # of a device or strategy
            raise ConfigError(f"These --trainer options do not work here: {error}") from error
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # unless the user chose another
            trainer.strategy.checkpoint_io = WholeFiles()
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command; report options that fit neither each other nor the data in one line."""
        try:
            super()._run_subcommand(subcommand)
        except MisconfigurationException as error:
            raise ConfigError(f"These --trainer options do not work here: {' '.join(str(error).split())}") from error
        except ValueError as error:
            if "val_check_interval" not in str(error):
                raise
            raise ConfigError(f"--trainer.val_check_interval does not work here: {str(error).strip()}") from error

    def _drop_callbacks(self, without_logger: bool, without_files: bool) -> None:
        """Remove default callbacks that need what the user switched off."""
        dropped: list[type] = []
        if without_logger:
            dropped.append(LearningRateMonitor)
        if without_files:
            dropped.append(ModelCheckpoint)
        callbacks = self.trainer_defaults.get("callbacks", [])
        self.trainer_defaults["callbacks"] = [one for one in callbacks if not isinstance(one, tuple(dropped))]


def run_trainer(command: str, arguments: Sequence[str], data_package: Any, find_dataset: FindDataset) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        command: which of them.
        arguments: of the command line. Besides those of LightningCLI: ``--from X`` names the network (index name,
            folder, Hub repository or .ckpt), ``--entry NAME`` an index entry, whose dataset is read from
            ``--data FOLDER``, ``--out`` the folder for results; ``predict`` takes files and folders.
        data_package: package with the data modules.
        find_dataset: data set of an index entry -> class and options, or None.
    """
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of calls that Lightning makes
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips and hardware notes
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    data_base = data_package.VideoDataModule
    data_classes = classes_of(data_package, data_base)
    parsed = parse(arguments)
    if HELP in parsed.names:
        print(short_help(command), end="")
        return
    parsed = expand_data(command, expand_entry(command, parsed, data_classes, find_dataset), data_classes)
    lightning_args = lightning_arguments(command, parsed)
    folder = output_folder(command, parsed.out, parsed.options)
    if command == "fit":
        lightning_args += auto_resume_args(folder, parsed.options)
    try:
        TrainerCLI(
            command,
            lightning_args,
            folder,
            data_base,
            data_classes,
            single_view=command == "predict" and parsed.views is None,
            allow_untrained=parsed.allow_untrained,
        )
    except SystemExit as stop:  # Lightning exits with status 1 when it is interrupted
        if command != "fit" and stop.code == 1:
            raise SystemExit(130) from None
        if command == "fit" and (last := folder / CHECKPOINTS / "last.ckpt").is_file():
            print(f"tempozoo: to resume this run, add --out {folder} --ckpt_path {last}", file=sys.stderr)
        raise
    finally:
        remove_empty_folders(folder)
