"""The ``tempozoo`` command: train, test and predict with LightningCLI; list, show, convert and export networks."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import zoo
from zoo.errors import ConfigError, ZooError

TRAINER_VERBS = ("fit", "validate", "test", "predict")
USAGE = """usage: tempozoo <command> [options]

  fit                 fine-tune        tempozoo fit --config configs/finetune.yaml --data.root VIDEOS --out runs/mine
  validate, test      score            tempozoo test --from best.ckpt --data VideoFolder --data.root VIDEOS
  predict             name the action  tempozoo predict --from best.ckpt clip.mp4 more_clips/
  list, info          the zoo          tempozoo list 'tanet*'; tempozoo info tada2d_r50.k400_8x8
  convert             published file -> safetensors    tempozoo convert FILE NAME
  export-checkpoint   Lightning .ckpt -> folder for zoo.load    tempozoo export-checkpoint best.ckpt DIR

`tempozoo <command> --help` shows the options of a command.
"""
FLAGS = ("--help", "-h", "--print_config")  # options of LightningCLI that take no value


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors of the package end in one line, not in a traceback."""
    arguments = list(sys.argv[1:] if args is None else args)
    for name in ("zoo", "datamodules", "lit_modules"):
        if not logging.getLogger(name).handlers:
            logging.getLogger(name).addHandler(logging.StreamHandler())
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    try:
        if verb in TRAINER_VERBS:
            run_trainer(verb, rest)
        elif verb in ZOO_VERBS:
            ZOO_VERBS[verb](rest)
        elif verb in ("-h", "--help"):
            print(USAGE, end="")
        else:
            raise ConfigError(f"there is no command {verb!r}; choose from {', '.join((*TRAINER_VERBS, *ZOO_VERBS))}.")
    except ValueError as error:
        ours = zoo_error(error)
        if ours is None:
            raise
        print(f"tempozoo: {ours}", file=sys.stderr)
        return 1
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
    """Our own options (``--from``, ``--out``), plain arguments, and what is left for LightningCLI."""
    own: dict[str, str] = {}
    plain: list[str] = []
    rest: list[str] = []
    tokens = list(arguments)
    while tokens:
        token = tokens.pop(0)
        name, equals, value = token.partition("=")
        if name in ("--from", "--out"):
            if not equals and not tokens:
                raise ConfigError(f"{name} needs a value.")
            own[name] = value if equals else tokens.pop(0)
        elif token.startswith("-"):
            rest.append(token)
            optional = token.endswith(".help") and tokens and tokens[0].startswith("-")
            if not equals and token not in FLAGS and not optional and tokens:
                rest.append(tokens.pop(0))
        else:
            plain.append(token)
    return own, plain, rest


def output_folder(verb: str, own: dict[str, str], rest: Sequence[str]) -> Path:
    """``--out``, or a new folder below ``runs``. A run is not written over, only gone on with."""
    if "--out" not in own:
        return Path("runs") / f"{verb}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path(own["--out"])
    if verb == "fit" and (folder / "checkpoints").exists():
        if not any(token.split("=")[0] == "--ckpt_path" for token in rest):
            raise ConfigError(
                f"{folder} already holds a run. Choose another --out, or go on with it: "
                f"--ckpt_path {folder / 'checkpoints' / 'last.ckpt'}"
            )
        metrics = folder / "metrics.csv"
        if metrics.exists():  # the logger would begin the file anew
            taken = len(list(folder.glob("metrics-*.csv")))
            metrics.rename(folder / f"metrics-{taken + 1}.csv")
    return folder


def callbacks_of(verb: str, folder: Path) -> dict[str, Any]:
    """The Trainer's defaults: the callbacks that a command always has."""
    from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint

    from lit_modules.report import PredictionReport, TestReport

    if verb == "fit":
        best = ModelCheckpoint(folder / "checkpoints", "best", monitor="val_top1", mode="max")
        # not save_last=True: that one is only written when the best one is
        last = ModelCheckpoint(folder / "checkpoints", "last", enable_version_counter=False)
        return {"callbacks": [best, last, LearningRateMonitor()], "max_epochs": 30, "log_every_n_steps": 10}
    reports = {"test": TestReport, "predict": PredictionReport}
    return {"callbacks": [reports[verb](folder)]} if verb in reports else {}


def run_trainer(verb: str, arguments: Sequence[str]) -> None:
    """fit, validate, test, predict: LightningCLI with subclass modes, and three shorthands.

    ``--from X`` names the network (index name, folder, Hub repository or .ckpt), ``--out`` the folder for results,
    and ``predict`` takes files and folders as plain arguments.
    """
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of calls that Lightning makes
    import lightning as L
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
    from lightning.pytorch.loggers import CSVLogger

    import datamodules
    import lit_modules

    class TempozooCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            # the protocol goes the other way, from network to data, when the Trainer brings the two together
            parser.link_arguments("data.class_names", "model.init_args.class_names", apply_on="instantiate")

        def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
            # here and not in the configuration, so that the saved one names no folder and can be used again
            kwargs["default_root_dir"] = str(folder)
            if verb != "fit":
                kwargs["logger"] = False
            elif self.config_init[verb].trainer.logger in (None, True):
                kwargs["logger"] = CSVLogger(folder, name="", version="")
            return super().instantiate_trainer(**kwargs)

    class SaveConfigOfFit(SaveConfigCallback):
        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            if stage == "fit":
                super().setup(trainer, pl_module, stage)

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips and hardware notes
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # this is how a console command calls it
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    own, plain, rest = split_arguments(arguments)
    asks_help = any(token in FLAGS or token.endswith(".help") for token in rest)
    given = {token.split("=")[0] for token in rest}
    configured = bool(given & {"--config", "-c"})
    before: list[str] = []
    after: list[str] = []
    if "--from" in own:
        if not configured and "--model" not in given:
            before += ["--model", "VideoClassifier"]
        after += ["--model.init_args.name", own["--from"]]
        if configured:  # the configured class and recipe, but these weights
            after += ["--model.init_args.options", "null", "--model.init_args.weights", "null"]
    if plain and verb != "predict":
        raise ConfigError(f"{verb} takes no plain argument {plain[0]!r}; name the data with --data and --data.root.")
    if plain:
        before += ["--data", "VideoFiles", "--data.paths", json.dumps(plain)]
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
            parser_kwargs={"prog": "tempozoo", "description": "Train, test and predict with the networks of the zoo."},
            args=[verb, *before, *rest, *after],
        )
    except ValueError:
        for place in (folder / "checkpoints", folder, Path("runs")):  # what the run made before it failed, if empty
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


# the zoo ---------------------------------------------------------------------------------------------------------


def _where(name: str) -> str:
    from zoo.index import BUNDLED
    from zoo.loading import find_weights

    try:
        folder = find_weights(zoo.info(name))
    except ZooError:
        return "not here"
    return "bundled" if folder.parent == BUNDLED else f"cached, {folder}"


def list_verb(arguments: Sequence[str]) -> None:
    """A table of the index."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser("tempozoo list", description="List the networks of the zoo.")
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as 'tada2d*'")
    parser.add_argument("--dataset", help="kinetics400, ssv1, ssv2, ...")
    parser.add_argument("--arch", help="architecture or shell pattern")
    asked = parser.parse_args(arguments)
    names = zoo.list_models(asked.pattern, dataset=asked.dataset, arch=asked.arch)
    if not names:
        raise ZooError(f"No network matches {asked.pattern!r}. `tempozoo list` shows all of them.")
    table = Table(caption="top-1 / top-5 as published, with these views (clips x crops)", caption_justify="left")
    for column in ("name", "data", "frames", "top-1 / top-5", "views", "M params", "GMACs", "weights"):
        table.add_column(column, justify="left" if column in ("name", "data", "weights") else "right", no_wrap=True)
    for name in names:
        e = zoo.info(name)
        accuracy = " / ".join("-" if value is None else str(value) for value in (e.reported.top1, e.reported.top5))
        accuracy = "start only" if e.init else accuracy
        views, size = e.reported.views or "", f"{e.params / 1e6:.2f}"
        row = (name, e.dataset, str(e.protocol.num_frames), accuracy, views, size, f"{e.gmacs.value:.2f}", _where(name))
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def info_verb(arguments: Sequence[str]) -> None:
    """Everything the index says of one network."""
    parser = argparse.ArgumentParser("tempozoo info", description="Show everything the index says of a network.")
    parser.add_argument("name")
    e = zoo.info(parser.parse_args(arguments).name)
    labels = e.class_names()
    reported = f"top-1 {e.reported.top1}, " + (f"top-5 {e.reported.top5}, " if e.reported.top5 is not None else "")
    reported += f"{e.reported.views} views at {e.reported.size}"
    stated = f"{e.stated.params_m} M parameters, {e.stated.gmacs} GMACs at {e.stated.input}" if e.stated else "nothing"
    lines = {
        "name": e.name,
        "architecture": f"{e.arch} {json.dumps(dict(e.options))}",
        "trained on": e.dataset + (" (a start for fine-tuning)" if e.init else ""),
        "labels": f"{len(labels)}: {', '.join(labels[:3])}, ..." if labels else "not published",
        "reported": "nothing" if e.reported.top1 is None else f"{reported} ({e.reported.source})",
        "protocol": str(e.protocol),
        "mean, std": f"{list(e.protocol.mean)}, {list(e.protocol.std)}",
        "parameters": f"{e.params:,}",
        "GMACs": f"{e.gmacs.value} at {e.gmacs.input}",
        "stated size": stated.replace("None M parameters, ", "").replace(", None GMACs", ""),
        "paper": f"{e.paper.title} ({e.paper.venue}), {e.paper.url}",
        "licence": f"weights: {e.licence.weights}; code: {e.licence.code}",
        "sources": "; ".join(s.url + (f" -> {s.file}" if s.file else "") for s in e.sources),
        "sha256": e.sha256 or (f"begins with {e.sha256_prefix}" if e.sha256_prefix else "not published"),
        "weights": _where(e.name),
        "notes": e.notes or "none",
    }
    for key, value in lines.items():
        print(f"{key + ':':14}{value.strip()}")


def convert_verb(arguments: Sequence[str]) -> None:
    """A published file -> safetensors and config.json."""
    parser = argparse.ArgumentParser("tempozoo convert", description="Convert a published checkpoint to safetensors.")
    parser.add_argument("file", help="the publisher's file")
    parser.add_argument("name", help="the index name it belongs to")
    parser.add_argument("--out", help="folder to write (default: the cache, where load() finds it)")
    asked = parser.parse_args(arguments)
    print(f"Wrote {zoo.convert(asked.file, asked.name, asked.out)}")


def export_verb(arguments: Sequence[str]) -> None:
    """A Lightning checkpoint -> a folder for zoo.load."""
    from lit_modules.checkpoint import export_checkpoint

    parser = argparse.ArgumentParser("tempozoo export-checkpoint", description="Turn a .ckpt into a folder for load().")
    parser.add_argument("checkpoint", help="a .ckpt written by tempozoo fit")
    parser.add_argument("folder", help="folder to write")
    asked = parser.parse_args(arguments)
    print(f"Wrote {export_checkpoint(asked.checkpoint, asked.folder)}")


ZOO_VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "list": list_verb,
    "info": info_verb,
    "convert": convert_verb,
    "export-checkpoint": export_verb,
}

if __name__ == "__main__":
    sys.exit(main())
