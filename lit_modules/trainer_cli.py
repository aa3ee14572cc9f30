"""The commands that train or test: LightningCLI with this package's defaults and messages."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import lightning as L
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import lit_modules
from lit_modules.bottleneck import Bottleneck
from lit_modules.calibrate_command import run_calibrate
from lit_modules.checkpoints import AtomicCheckpointIO, run_checkpoints
from lit_modules.command_help import COMMANDS, OWN_OPTIONS, format_options, usage
from lit_modules.compilation import CompileNetwork
from lit_modules.fit_probe import FitProbe
from lit_modules.folds import cross_validate
from lit_modules.html_report.report_command import report_at_end
from lit_modules.interfaces import CommandData, FindDataset
from lit_modules.interrupts import StopOnSignal, exit_on_sigterm
from lit_modules.option_values import PARSER_MODE
from lit_modules.options import format_parser_error
from lit_modules.precision import AUTO, Precision, resolve_precision
from lit_modules.prediction_report import PredictionReport
from lit_modules.probe_command import run_probe
from lit_modules.progress import EpochLines, EpochProgressBar, ParameterSummary, RunEstimate
from lit_modules.report import FitReport, TestReport
from lit_modules.report_images import ReportImages
from lit_modules.restore import RestoringConnector
from lit_modules.run_errors import run_errors
from lit_modules.run_folder import (
    CHECKPOINTS,
    LAST,
    auto_resume_args,
    check_resumable,
    names_checkpoint,
    output_folder,
)
from lit_modules.run_metrics import LogShortEpochs, MetricsLogger, ResumeMetrics
from lit_modules.run_record import RunRecord
from lit_modules.step_profile import StepProfile
from lit_modules.trainer_arguments import classes_of, expand_data, expand_entry, lightning_arguments
from lit_modules.trainer_options import check_trainer_options
from lit_modules.trainer_parsing import FIND_BATCH_SIZE, FIND_LR, parse
from lit_modules.trainer_parts import RUN_FOLDER, PartFactory, check_monitors, check_packages, start_loggers
from lit_modules.tuning import check_tuning, find_batch_size, find_lr, values_of_run
from lit_modules.validate_report import ValidateReport
from zoo.command_line import note
from zoo.errors import ConfigError
from zoo.weights.disk import atomic_path

IGNORED_WARNINGS = (
    "LightningCLI's args parameter",  # this is how a console command calls it
    ".*LeafSpec.*",
    ".*smaller than the logging interval.*",
    ".*sync_dist=True.*",  # logged values are the same in all processes
    ".*Grad strides do not match bucket view strides.*",  # of 1x1 kernels, whose strides are meaningless
    ".*Experiment logs directory.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*The dirpath has changed.*",  # of a run that is resumed in another folder
)


DEFAULT_SEED = 0


class ArgumentParser(LightningArgumentParser):
    """Parser with one-line error messages.

    Attributes:
        classes: "data" and "model" -> name -> class that the option accepts.
        command: name of the command; None for the parser above the commands.
        option_names: options of the command, for suggestions.
        own_options: options of tempozoo with their help.
    """

    classes: Mapping[str, Mapping[str, type]] = {}
    command: str | None = None
    option_names: Sequence[str] = ()
    own_options: Mapping[str, str] = OWN_OPTIONS

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return the help of all options. The options of tempozoo come first."""
        text = super().format_help(*args, **kwargs)
        if self.command is None:
            return text
        start, title, options = text.partition("\noptions:\n")
        return start + "\n" + format_options("tempozoo options", self.own_options) + title + options

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a ConfigError."""
        if not self.exit_on_error:  # jsonargparse tries the options on several classes
            super().error(message, ex)
        raise ConfigError(format_parser_error(message, self.classes, self.option_names)) from ex

    def add_class_arguments(self, class_type: Any, *args: Any, **options: Any) -> list[str]:
        """Add the arguments of a class. The default ``save_dir`` of a logger is the folder of the run."""
        is_logger = isinstance(class_type, type) and issubclass(class_type, Logger)
        if not is_logger or "save_dir" not in inspect.signature(class_type).parameters:
            return super().add_class_arguments(class_type, *args, **options)
        options["skip"] = {*(options.get("skip") or ()), "save_dir"}
        added = super().add_class_arguments(class_type, *args, **options)
        self.add_argument(
            "--save_dir", type=str, default=RUN_FOLDER, help="Folder of the logs (default: that of the run)."
        )
        return [*added, "save_dir"]


class SaveFitConfig(SaveConfigCallback):
    """Writes ``config.yaml`` of a training run into ``folder``, without the checkpoint that it was resumed from."""

    def __init__(self, *args: Any, folder: Path, **options: Any) -> None:
        super().__init__(*args, **options)
        self.folder = folder

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file if the stage is "fit"."""
        if stage == "fit":
            config = self.config.clone()
            config.ckpt_path = None  # a run that reuses the file must not resume this one
            with atomic_path(self.folder / self.config_filename) as temporary:
                self.parser.save(config, temporary, skip_none=False, overwrite=True, multifile=False)


class RunTrainer(L.Trainer):
    """Trainer with the commands ``probe`` and ``calibrate``.

    All processes raise an error if the first cannot write a checkpoint. The options accept ``precision: auto``, which
    ``TrainerCLI`` resolves before the Trainer is built.
    """

    def __init__(self, *args: Any, precision: Precision | None = None, **options: Any) -> None:
        super().__init__(*args, precision=precision, **options)  # type: ignore[arg-type]

    def probe(self, model: lit_modules.VideoClassifier, datamodule: CommandData, views: str = "1x1") -> None:
        """Fit a logistic regression and nearest neighbors to the features of a network, and test both.

        Args:
            model: module with the network.
            datamodule: the videos.
            views: clips and crops of the training videos.
        """
        run_probe(self, model, datamodule, views, Path(self.default_root_dir))

    def calibrate(self, model: lit_modules.VideoClassifier, datamodule: CommandData, views: str = "published") -> None:
        """Fit the temperature of a network's scores to the validation videos.

        Args:
            model: module with the network.
            datamodule: the videos.
            views: clips and crops of the videos.
        """
        run_calibrate(self, model, datamodule, views, Path(self.default_root_dir))

    def save_checkpoint(self, filepath: Any, weights_only: bool | None = None, storage_options: Any = None) -> None:
        """Write a checkpoint. All processes must call this method.

        Raises:
            OSError: the file cannot be written.
        """
        if self.world_size == 1:
            super().save_checkpoint(filepath, weights_only, storage_options)
            return
        checkpoint = self._checkpoint_connector.dump_checkpoint(weights_only)
        problem: OSError | None = None
        try:
            self.strategy.save_checkpoint(checkpoint, filepath, storage_options=storage_options)
        except OSError as error:
            problem = error
        if problem := self.strategy.broadcast(problem):
            raise problem


def default_callbacks(command: str, folder: Path, probe: bool | None = None) -> dict[str, Any]:
    """Return default options of the Trainer: callbacks, and the length of a training run or the number of devices."""
    if command == "fit":
        others = [
            ResumeMetrics(),
            LogShortEpochs(),
            LearningRateMonitor(),
            FitReport(),
            RunRecord(folder),
            ReportImages(folder),
            FitProbe(folder, probe),
            ParameterSummary(),
            RunEstimate(),
            Bottleneck(),
            EpochLines(),
            EpochProgressBar(),
        ]
        return {
            "callbacks": [*run_checkpoints(folder / CHECKPOINTS), *others],
            "max_epochs": 30,
            "log_every_n_steps": 10,
        }
    if command in ("probe", "calibrate"):
        return {"callbacks": [], "devices": 1}
    reports = {"test": TestReport(folder), "predict": PredictionReport(folder), "validate": ValidateReport()}
    return {"callbacks": [reports[command]]}


class TrainerCLI(LightningCLI):
    """Parses the arguments of one command, builds network, data and Trainer, and runs it.

    Args:
        command: "fit", "validate", "test", "predict", "probe" or "calibrate".
        arguments: arguments of LightningCLI, without the command.
        folder: where the command writes.
        data_base: base class of the data modules.
        data_classes: data modules by name.
        stopper: callback that ends the command after a signal.
        single_view: use one clip and one crop per video unless the options of the data set them.
        allow_untrained: run a network with untrained parts, see ``VideoClassifier``.
        compile: run the network with torch.compile.
        probe: measure a baseline at the start of ``fit``, see ``FitProbe``.
        profile: profile a few steps of ``fit``, see ``StepProfile``.
        tuning: values to search before the run, ``--find_lr`` and ``--find_batch_size``.
    """

    model: lit_modules.VideoClassifier
    datamodule: CommandData
    model_base: type[L.LightningModule] | None = None  # VideoClassifier, unless a subclass trains other modules
    own_options: Mapping[str, str] = OWN_OPTIONS  # options of tempozoo with their help

    def __init__(
        self,
        command: str,
        arguments: Sequence[str],
        folder: Path,
        data_base: type,
        data_classes: Mapping[str, type],
        stopper: StopOnSignal,
        *,
        single_view: bool = False,
        allow_untrained: bool = False,
        compile: bool = False,
        probe: bool | None = None,
        profile: bool = False,
        tuning: Sequence[str] = (),
    ) -> None:
        self.tuning, self.compile, self.profile = tuning, compile, profile
        self.command, self.folder, self.stopper = command, folder, stopper
        self.single_view, self.allow_untrained = single_view, allow_untrained
        self.parts = PartFactory(folder)
        model_base = self.model_base or lit_modules.VideoClassifier
        model_classes = {**classes_of(lit_modules, model_base), model_base.__name__: model_base}
        self.classes = {"data": data_classes, "model": model_classes}
        self.seed_given = any(argument.startswith("--seed_everything") for argument in arguments)
        super().__init__(
            model_base,
            data_base,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveFitConfig,
            save_config_kwargs={"save_to_log_dir": False, "folder": folder},
            trainer_class=RunTrainer,
            trainer_defaults=self.default_options(probe),
            seed_everything_default=DEFAULT_SEED,
            auto_configure_optimizers=False,
            parser_class=ArgumentParser,
            parser_kwargs={"prog": "tempozoo", command: {"usage": usage(command), "description": COMMANDS[command][1]}},
            args=[command, *arguments],
        )

    def default_options(self, probe: bool | None) -> dict[str, Any]:
        """Return default options of the Trainer, see ``default_callbacks``."""
        return default_callbacks(self.command, self.folder, probe)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the command that runs only, because parsers take long to build."""
        own = {command: {"model", "datamodule"} for command in ("probe", "calibrate")}
        commands = {**LightningCLI.subcommands(), **own}
        return {self.command: commands[self.command]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Create a parser that accepts any file name, rejects abbreviations, and has the classes for its messages."""
        parser = super().init_parser(parser_mode=PARSER_MODE, allow_abbrev=False, **kwargs)
        parser.classes = self.classes  # type: ignore[attr-defined]
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link class names from the data to the network; the protocol goes from the network to the data later."""
        parser.link_arguments("data", "model.init_args.class_names", self._class_names, apply_on="instantiate")
        parser.link_arguments("data.heads", "model.init_args.heads", apply_on="instantiate")
        parser.link_arguments("data", "model.init_args.multi_label", self._multi_label, apply_on="instantiate")

    def _class_names(self, data: CommandData) -> list[str] | None:
        stages = {"probe": ("test", "fit")}.get(self.command, (self.command,))
        for stage in stages:
            data.check(stage)  # data errors are reported before any weights are downloaded
        return None if self.command == "predict" else data.class_names  # predictions use the network's own labels

    def _multi_label(self, data: CommandData) -> bool | None:
        return data.multi_label if self.command == "fit" else None  # trained networks keep their setting

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser._action_groups[-1].title = f"Options of Trainer.{subcommand}"  # instead of its docstring
        own = [option.split()[0] for option in self.own_options]
        options = [*own, *parser._option_string_actions]
        parser.command, parser.option_names = subcommand, options  # type: ignore[attr-defined]
        parser.own_options = self.own_options  # type: ignore[attr-defined]
        self.parser.option_names = options  # type: ignore[attr-defined]  # which reports unknown options
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments; check the Trainer's options, the loggers, and the checkpoint to resume.

        ``precision: auto`` is replaced by the precision, which ``config.yaml`` of a run then contains.
        """
        super().parse_arguments(parser, args)
        config = self.config[self.command]
        path = config.get("ckpt_path")
        checkpoint = check_resumable(self.command, path) if path else None
        if config.trainer.precision == AUTO:
            resumed = checkpoint if self.command == "fit" else None
            config.trainer.precision = resolve_precision(config.trainer.accelerator, resumed)
        check_trainer_options(self.command, config.trainer, config.seed_everything)
        check_packages(config.trainer.logger)

    def _set_seed(self) -> None:
        """Set the seed. The default seed is logged by ``fit`` only."""
        config = self.config[self.command]
        seed = config.seed_everything
        if seed is False:
            return
        verbose = self.command == "fit" or self.seed_given or seed != DEFAULT_SEED
        config.seed_everything = L.seed_everything(None if seed is True else seed, workers=True, verbose=verbose)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would import the classes that the checkpoint names."""

    def _add_instantiators(self) -> None:
        super()._add_instantiators()
        self.parser.add_instantiator(self.parts.create_logger, Logger)
        self.parser.add_instantiator(self.parts.create, Callback)

    def instantiate_classes(self) -> None:
        """Create data, network and Trainer; apply the options that LightningCLI does not have."""
        try:
            super().instantiate_classes()
        except ValueError:
            if self.parts.error is not None:
                raise self.parts.error from None
            raise
        if self.allow_untrained:
            self.model.allow_untrained = True
        if self.single_view:
            self.datamodule.clips = self.datamodule.clips or 1
            self.datamodule.crops = self.datamodule.crops or 1

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Create the Trainer. Folders are set here so that the saved configuration does not contain them."""
        options = self.config_init[self.command].trainer
        kwargs["default_root_dir"] = str(self.folder)
        kwargs["enable_model_summary"] = False  # ParameterSummary instead
        kwargs["logger"] = self._loggers(options.logger) if self.command == "fit" else False
        self._choose_callbacks(options)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:  # for example of a device or strategy
            raise ConfigError(f"These --trainer options do not work here: {error}") from error
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # unless the user chose another
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        trainer._checkpoint_connector = RestoringConnector(trainer)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if self.compile:
            callbacks.append(CompileNetwork())
        if self.profile:
            callbacks.append(StepProfile(self.folder))
        callbacks.append(self.stopper)  # must be the last one, also in a run without checkpoints
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the command; raise ConfigErrors for options that do not fit each other or the data."""
        try:
            super()._run_subcommand(subcommand)
        except MisconfigurationException as error:
            raise ConfigError(f"These --trainer options do not work here: {' '.join(str(error).split())}") from error
        except ValueError as error:
            if "val_check_interval" not in str(error):
                raise
            raise ConfigError(f"--trainer.val_check_interval does not work here: {str(error).strip()}") from error

    def _loggers(self, configured: Any) -> list[Logger] | bool:
        """Return the user's loggers and the logger of metrics.csv; False if logging is off."""
        if configured is False:
            return False
        loggers = [] if configured in (None, True) else configured
        return [*(loggers if isinstance(loggers, Iterable) else [loggers]), MetricsLogger(self.folder)]

    def _choose_callbacks(self, options: Any) -> None:
        """Remove default callbacks that the options replace or disable; set the folder of all checkpoints."""
        configured = options.callbacks or []
        configured = configured if isinstance(configured, list) else [configured]
        dropped: list[type] = []
        if options.logger is False:
            dropped.append(LearningRateMonitor)
        if options.enable_checkpointing is False:
            dropped.append(ModelCheckpoint)
        if options.enable_model_summary is False:
            dropped.append(ParameterSummary)
        if options.enable_progress_bar is False or any(isinstance(callback, ProgressBar) for callback in configured):
            dropped.append(EpochProgressBar)
        defaults = self.trainer_defaults["callbacks"]
        self.trainer_defaults["callbacks"] = [part for part in defaults if not isinstance(part, tuple(dropped))]
        for callback in configured:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.folder / CHECKPOINTS)
        if self.command == "fit" and options.enable_checkpointing is not False:
            self.stopper.path = self.folder / CHECKPOINTS / LAST

    def before_fit(self) -> None:
        """Raise errors that Lightning would raise only after the first epoch."""
        check_monitors(self.trainer, self.model)
        check_tuning(self.trainer, self.tuning)
        if self.tuning:
            self._tune()
        start_loggers(self.trainer.loggers)

    def _tune(self) -> None:
        """Search the batch size and the learning rate, print them, and use them in this run and its config.yaml."""
        config = self.config[self.command]
        options = self.config_init[self.command].trainer
        if FIND_BATCH_SIZE in self.tuning:
            size = find_batch_size(self.model, self.datamodule, options)
            self.datamodule.batch_size = config.data.init_args.batch_size = size
            note(f"Batch size found by --find_batch_size: --data.batch_size {size}")
        if FIND_LR in self.tuning:
            lr = find_lr(self.model, self.datamodule, options)
            self.model.set_lr(lr)
            config.model.init_args.optimizer.lr = lr
            note(f"Learning rate found by --find_lr: --model.optimizer.lr {lr:g}")


def run_trainer(
    command: str, arguments: Sequence[str], data_package: ModuleType, data_base: type, find_dataset: FindDataset
) -> None:
    """Run ``fit``, ``validate``, ``test``, ``predict``, ``probe`` or ``calibrate``.

    Args:
        command: name of the command.
        arguments: arguments of the command line without --help, see ``tempozoo COMMAND --help``.
        data_package: package with the data modules.
        data_base: base class of the data modules.
        find_dataset: maps the data set of an index entry to a data module and its options, or None.
    """
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning calls deprecated functions
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips and hardware notes
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    data_classes = classes_of(data_package, data_base)
    parsed = expand_entry(command, parse(arguments), data_classes, find_dataset)
    parsed = expand_data(command, parsed, data_classes)
    lightning_args = lightning_arguments(command, parsed)
    if parsed.asks_help:
        TrainerCLI(command, lightning_args, Path(parsed.out or "runs"), data_base, data_classes, StopOnSignal())
        return

    def run(out: str | None, options: Sequence[str]) -> None:
        stopper = StopOnSignal()
        with (
            exit_on_sigterm(),
            output_folder(command, out, [*parsed.options, *options]) as folder,
            run_errors(command, folder, stopper),
            report_at_end(folder, enabled=command in ("fit", "test") and parsed.report != "false"),
        ):
            resume = auto_resume_args(folder, [*parsed.options, *options]) if command == "fit" else []
            resumes = bool(resume) or names_checkpoint([*parsed.options, *options])
            if resumes:  # with the values that the run has found
                resume = [*values_of_run(folder, parsed.tuning), *resume]
            TrainerCLI(
                command,
                [*lightning_args, *options, *resume],
                folder,
                data_base,
                data_classes,
                stopper,
                single_view=command == "predict" and parsed.views is None,
                allow_untrained=parsed.allow_untrained,
                compile=parsed.compile,
                probe=None if parsed.probe is None else parsed.probe == "true",
                profile=parsed.profile,
                tuning=() if resumes else parsed.tuning,
            )

    if parsed.folds is None:
        run(parsed.out, [])
    else:
        cross_validate(parsed, data_classes, run)
