"""The ``tempozoo`` command: train, test and predict with LightningCLI; and the verbs of ``zoo.commands``."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from zoo.commands import ZOO_VERBS
from zoo.config import check_config
from zoo.errors import ConfigError, ZooError
from zoo.text import printable

TRAINER_VERBS = ("fit", "validate", "test", "predict")
USAGE = """usage: tempozoo <command> [options]

  fit                 fine-tune        tempozoo fit --config configs/finetune/folder.yaml --data.root VIDEOS
  validate, test      score            tempozoo test --from best.ckpt --data VideoFolder --data.root VIDEOS
  test --entry        reproduce        tempozoo test --entry tada2d_r50.k400_8x8 --data KINETICS400
  predict             name the action  tempozoo predict --from best.ckpt clip.mp4 more_clips/
  data check          find bad videos                tempozoo data check VIDEOS
  data stats          what the videos are like       tempozoo data stats VIDEOS
  data prepare        a copy that is quick to read   tempozoo data prepare VIDEOS --to FOLDER
  data index          shards that others made        tempozoo data index 'train-{000..099}.tar' --to FOLDER
  list, info          the zoo          tempozoo list 'tanet*'; tempozoo info tada2d_r50.k400_8x8
  download            fetch, check and convert now    tempozoo download 'tada2d_r50.*'
  convert             a published file at hand        tempozoo convert FILE NAME
  verify, cache       what is in the cache            tempozoo verify; tempozoo cache list
  mirror              converted weights, for a lab    tempozoo mirror 'tanet_*' --to /shared/weights
  export-checkpoint   .ckpt -> folder for zoo.load    tempozoo export-checkpoint best.ckpt DIR
  push                network -> Hugging Face Hub     tempozoo push best.ckpt user/repo --results TEST_FOLDER

`tempozoo <command> --help` shows the options of a command.
"""


def data_verb(arguments: Sequence[str]) -> None:
    """check, prepare, stats, index: of the videos of a data set."""
    from datamodules.tools.commands import data  # which brings Lightning along

    data(arguments)


VERBS = {**ZOO_VERBS, "data": data_verb}
FLAGS = ("--help", "-h", "--print_config")  # options of LightningCLI that take no value


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors of the package end in one line, not in a traceback."""
    arguments = list(sys.argv[1:] if args is None else args)
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    try:
        if verb in TRAINER_VERBS:
            run_trainer(verb, rest)
        elif verb in VERBS:
            VERBS[verb](rest)
        elif verb in ("-h", "--help"):
            print(USAGE, end="")
        else:
            raise ConfigError(f"there is no command {verb!r}; choose from {', '.join((*TRAINER_VERBS, *VERBS))}.")
    except ValueError as error:
        ours = zoo_error(error)
        if ours is None:
            raise
        print(f"tempozoo: {printable(str(ours))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tempozoo: interrupted. A download goes on where it stopped when it is asked for again.", file=sys.stderr)
        return 130
    except SystemExit as stop:  # argument parsers end this way, after saying why
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def zoo_error(error: BaseException | None) -> ZooError | None:
    """The package's own error in a chain of exceptions: jsonargparse wraps what constructors raise."""
    while error is not None and not isinstance(error, ZooError):
        error = error.__cause__ or error.__context__
    return error


# training, testing, prediction -----------------------------------------------------------------------------------


def split_arguments(arguments: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Our own options (``--from``, ``--entry``, ``--out``), plain arguments, and what is left for LightningCLI."""
    own: dict[str, str] = {}
    plain: list[str] = []
    rest: list[str] = []
    tokens = list(arguments)
    while tokens:
        token = tokens.pop(0)
        name, equals, value = token.partition("=")
        if name in ("--from", "--entry", "--out"):
            if not equals and not tokens:
                raise ConfigError(f"{name} needs a value.")
            own[name] = value if equals else tokens.pop(0)
        elif token.startswith("-"):
            rest.append(token)
            if not equals and token not in FLAGS and tokens and not tokens[0].startswith("--"):  # but "-1" is a value
                rest.append(tokens.pop(0))
        else:
            plain.append(token)
    return own, plain, rest


def output_folder(verb: str, own: dict[str, str], rest: Sequence[str]) -> Path:
    """``--out``, or a new folder below ``runs``. A run is not written over, only gone on with."""
    if "--out" not in own:
        return Path("runs") / f"{verb}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(own["--out"])
    resumed = any(token.split("=")[0] == "--ckpt_path" for token in rest)
    if verb == "fit" and (folder / "checkpoints").exists() and not resumed and not restarted():
        raise ConfigError(
            f"{folder} already holds a run. Choose another --out, or go on with it: "
            f"--ckpt_path {folder / 'checkpoints' / 'last.ckpt'}"
        )
    return folder


def restarted() -> bool:
    """Whether this is the very same command again: of a job that SLURM put back, or processes that torchrun did."""
    return any(os.environ.get(name, "0") != "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def to_go_on_with(folder: Path, rest: Sequence[str]) -> list[str]:
    """``--ckpt_path`` of a command that was restarted and does not name one: the last checkpoint of its folder."""
    last, named = folder / "checkpoints" / "last.ckpt", any(token.split("=")[0] == "--ckpt_path" for token in rest)
    # what Lightning writes when SLURM announces the end of a job, it also finds by itself
    if named or not restarted() or not last.is_file() or any(folder.glob("hpc_ckpt_*.ckpt")):
        return []
    return ["--ckpt_path", str(last)]


def keep_metrics(folder: Path) -> None:
    """Give the metrics of a run that is gone on with another name: the logger empties its file."""
    numbers = itertools.count(1)
    free = next(file for file in (folder / f"metrics-{n}.csv" for n in numbers) if not file.exists())
    with contextlib.suppress(FileNotFoundError):  # there is none, or another process of the run was quicker
        (folder / "metrics.csv").rename(free)
        print(f"The metrics so far are in {free} now.")


def check_resumed(verb: str, path: str) -> None:
    """Refuse a ``--ckpt_path`` that is no run's checkpoint: Lightning would unpickle whatever an address gives."""
    from zoo.hub.checkpoint import read_run

    if not Path(path).is_file():
        raise ConfigError(f"--ckpt_path {path} is no file; give a .ckpt on this machine.")
    config, whole = read_run(Path(path))
    check_config(config, path)
    if verb == "fit" and not whole:
        raise ConfigError(f"{path} holds weights only, no run to go on with; start from it with --from.")


def of_entry(own: dict[str, str], rest: Sequence[str], files: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """``--entry NAME --data FOLDER`` as ``--from NAME --data CLASS --data.root FOLDER``, with the class of its data."""
    import datamodules
    import zoo

    if "--from" in own:
        raise ConfigError("--entry and --from both name the network; give one of them.")
    entry, words = zoo.info(own["--entry"]), list(rest)
    at = next((i for i, word in enumerate(words) if word == "--data" or word.startswith("--data=")), None)
    if at is None:
        if files or any(word.split("=")[0] in ("--config", "-c") for word in words):
            return {**own, "--from": entry.name}, words
        raise ConfigError(f"--entry {entry.name} needs the folder of {entry.dataset}: --data FOLDER.")
    word = words[at].partition("=")[2] or "".join(words[at + 1 : at + 2])
    said = words[at : at + (1 if "=" in words[at] else 2)]
    del words[at : at + len(said)]
    is_class = isinstance(getattr(datamodules, word.split(".")[-1], None), type)
    if Path(word).is_dir() or "://" in word or not is_class:  # else the data are said in full
        found = datamodules.for_dataset(entry.dataset)
        if found is None:
            if entry.init:
                raise ConfigError(
                    f"{entry.name} is an untrained start for fine-tuning: there is no published figure to reproduce. "
                    f"Train it (tempozoo fit --from {entry.name}), then test its checkpoint with --from."
                )
            raise ConfigError(f"no data set here has the classes of {entry.dataset}; name one with --data CLASS.")
        more = [f"--data.{name}={value}" for name, value in found[1].items()]
        said = ["--data", found[0].__name__, "--data.root", word, *more]
    return {**own, "--from": entry.name}, [*said, *words]


def callbacks_of(verb: str, folder: Path) -> dict[str, Any]:
    """The Trainer's defaults: the callbacks that a command always has."""
    from lightning.pytorch.callbacks import LearningRateMonitor

    from lit_modules.checkpoints import run_checkpoints
    from lit_modules.report import FitReport, PredictionReport, TestReport

    if verb == "fit":
        callbacks = [*run_checkpoints(folder / "checkpoints"), LearningRateMonitor(), FitReport()]
        return {"callbacks": callbacks, "max_epochs": 30, "log_every_n_steps": 10}
    reports = {"test": TestReport, "predict": PredictionReport}
    return {"callbacks": [reports[verb](folder)]} if verb in reports else {}


def run_trainer(verb: str, arguments: Sequence[str]) -> None:
    """fit, validate, test, predict: LightningCLI with subclass modes, and four shorthands.

    ``--from X`` names the network (index name, folder, Hub repository or .ckpt), ``--entry NAME`` an index entry, whose
    data set ``--data FOLDER`` then is; ``--out`` the folder for results, and ``predict`` takes files and folders as
    plain arguments.
    """
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of calls that Lightning makes
    import lightning as L
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    import datamodules
    import lit_modules
    from lit_modules.checkpoints import WholeFiles
    from lit_modules.options import HELP, explained

    def classes(package: Any, base: type) -> dict[str, type]:
        found = {name: getattr(package, name) for name in package.__all__ if name != "VideoDataModule"}
        return {name: value for name, value in found.items() if isinstance(value, type) and issubclass(value, base)}

    known = {"data": classes(datamodules, L.LightningDataModule), "model": classes(lit_modules, L.LightningModule)}

    def classes_of(data: Any) -> list[str] | None:
        data.look(verb)  # so what is wrong with the data is found before any weights are fetched
        return None if verb == "predict" else data.class_names  # a network names what it sees in its own words

    class Parser(LightningArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            if not self.exit_on_error:  # of a class of which another may take the options
                super().error(message, ex)
            raise ConfigError(explained(message, known)) from ex

    class TempozooCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            # the protocol goes the other way, from network to data, when the Trainer brings the two together
            parser.link_arguments("data", "model.init_args.class_names", classes_of, apply_on="instantiate")
            parser.link_arguments("data.heads", "model.init_args.heads", apply_on="instantiate")

        def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
            parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
            parser._action_groups[-1].title = f"Of Trainer.{subcommand}"  # it was the beginning of its documentation
            return parser

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            super().parse_arguments(parser, args)
            if path := self.config[verb].get("ckpt_path"):
                check_resumed(verb, path)

        def _parse_ckpt_path(self) -> None:
            """The command says what the network is, not the file: Lightning would import the classes it names."""

        def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
            # here and not in the configuration, so that the saved one names no folder and can be used again
            kwargs["default_root_dir"] = str(folder)
            said = self.config_init[verb].trainer
            if verb != "fit":
                kwargs["logger"] = False
            elif said.logger in (None, True):
                keep_metrics(folder)
                kwargs["logger"] = CSVLogger(folder, name="", version="")
            # callbacks that need what was switched off
            absent = [LearningRateMonitor] if said.logger is False else []
            absent += [ModelCheckpoint] if said.enable_checkpointing is False else []
            defaults = self.trainer_defaults.get("callbacks", [])
            self.trainer_defaults["callbacks"] = [one for one in defaults if not isinstance(one, tuple(absent))]
            try:
                trainer = super().instantiate_trainer(**kwargs)
            except (MisconfigurationException, ValueError, TypeError) as error:  # of a device or strategy
                raise ConfigError(f"these --trainer options do not work here: {error}") from error
            if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that was asked for
                trainer.strategy.checkpoint_io = WholeFiles()
            return trainer

    class SaveConfigOfFit(SaveConfigCallback):
        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            if stage == "fit":
                self.config = self.config.clone()
                self.config.ckpt_path = None  # else whoever uses the file again would go on with that run
                super().setup(trainer, pl_module, stage)

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips and hardware notes
    for nothing_to_do in (
        "LightningCLI's args parameter",  # this is how a console command calls it
        ".*LeafSpec.*",
        ".*smaller than the logging interval.*",
        ".*sync_dist=True.*",  # what is logged is the same in all processes
        ".*Grad strides do not match bucket view strides.*",  # of kernels of one pixel, whose strides mean nothing
        ".*Experiment logs directory.*",  # keep_metrics has seen to it
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The dirpath has changed.*",  # a run that is gone on with elsewhere
    ):
        warnings.filterwarnings("ignore", nothing_to_do)
    own, plain, rest = split_arguments(arguments)
    if "--entry" in own:
        own, rest = of_entry(own, rest, plain)
    asks_help = any(token in FLAGS or token.endswith(".help") for token in rest)
    given = {token.split("=")[0] for token in rest}
    configured = bool(given & {"--config", "-c"})
    before: list[str] = []
    after: list[str] = []
    if "--from" in own:
        if given & {"--model.name", "--model.init_args.name"}:
            raise ConfigError("--from and --model.name both name the network; give one of them.")
        if not configured and "--model" not in given:
            before += ["--model", "VideoClassifier"]
        after += ["--model.init_args.name", own["--from"]]
        for name, value in (("options", "null"), ("weights", "null"), ("pretrained", "true")):
            if configured and not given & {f"--model.{name}", f"--model.init_args.{name}"}:
                after += [f"--model.init_args.{name}", value]  # the configured class and recipe, but these weights
    if plain and verb != "predict":
        raise ConfigError(f"{verb} takes no plain argument {plain[0]!r}; name the data with --data and --data.root.")
    if plain:
        (after if configured else before).extend(["--data", "VideoFiles", "--data.paths", json.dumps(plain)])
    if verb in ("validate", "test"):
        after += ["--verbose", str(verb == "validate").lower()]  # our own table follows a test
    if not asks_help and not configured:
        if "--model" not in (*given, *before):
            raise ConfigError(f"{verb} needs a network: --from INDEX_NAME, FOLDER or CKPT; or --model, or --config.")
        if "--data" not in (*given, *before):
            what = "files or folders to look at" if verb == "predict" else "data: --data VideoFolder --data.root FOLDER"
            raise ConfigError(f"{verb} needs {what}.")
    folder = output_folder(verb, own, rest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be made ({error.strerror}); choose another.") from error
    try:
        TempozooCLI(
            lit_modules.VideoClassifier,
            datamodules.VideoDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfigOfFit,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=callbacks_of(verb, folder),
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={
                "prog": "tempozoo",
                "description": "Train, test and predict with the networks of the zoo.",
                **{one: {"usage": f"tempozoo {one} {use}", "description": what} for one, (use, what) in HELP.items()},
            },
            args=[verb, *before, *rest, *after, *(to_go_on_with(folder, rest) if verb == "fit" else [])],
        )
    except SystemExit:  # Lightning ends this way when it is interrupted
        if verb == "fit" and (last := folder / "checkpoints" / "last.ckpt").is_file():
            print(f"tempozoo: to go on with this run, add --out {folder} --ckpt_path {last}", file=sys.stderr)
        raise
    finally:
        for place in (folder / "checkpoints", folder, Path("runs")):  # what the run made before it failed, if empty
            with contextlib.suppress(OSError):
                place.rmdir()


if __name__ == "__main__":
    sys.exit(main())
