"""The ``tempozoo`` command: the list of its subcommands, and how errors are printed."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import zoo
from zoo import commands as zoo_commands
from zoo.allocation import reuse_freed_memory
from zoo.command_line import suggest
from zoo.errors import DownloadError, UnknownNameError, WeightsNotFoundError, ZooError
from zoo.network_names import check_network
from zoo.text import printable

Arguments = Sequence[str]

DEBUG = "--debug"
DEBUG_VARIABLE = "TEMPOZOO_DEBUG"


def train(command: str, arguments: Arguments) -> None:
    """Run fit, validate, test, predict, probe or calibrate."""
    from lit_modules.command_help import short_help
    from lit_modules.trainer_parsing import HELP, parse

    if HELP in parse(arguments).names:
        print(short_help(command), end="")
        return
    import datamodules
    from lit_modules.localization.localizer_arguments import names_localizer

    if names_localizer(arguments):
        from lit_modules.localization.localizer_cli import run_localizer  # imports Lightning

        run_localizer(command, arguments, datamodules.LocalizationData)
        return
    from lit_modules.trainer_cli import run_trainer  # imports Lightning

    run_trainer(command, arguments, datamodules, datamodules.VideoDataModule, datamodules.for_dataset)


def data_tools(arguments: Arguments) -> None:
    """Run a tool for the videos of a data set: check, stats, prepare or index."""
    from datamodules.tools.commands import data

    data(arguments)


def recipes(arguments: Arguments) -> None:
    """List or print the training recipes."""
    from lit_modules.recipe_files import recipes_command

    recipes_command(arguments)


def report(arguments: Arguments) -> None:
    """Write an HTML report of runs."""
    from lit_modules.html_report.report_command import report_command

    report_command(arguments)


def predict(arguments: Arguments) -> None:
    """Classify videos, or their windows; options of Lightning's Trainer or of a data set select ``train``."""
    from zoo.inference.predict_options import parse_predict, uses_trainer

    if uses_trainer(arguments):
        train("predict", arguments)
        return
    args = parse_predict(arguments)
    check_network(args.network)
    from zoo.inference.predict_command import predict_command  # imports torch

    predict_command(args)


def localize(arguments: Arguments) -> None:
    """Find the segments of a video."""
    from zoo.inference.parsers import localize_parser

    args = localize_parser().parse_args(arguments)
    check_network(args.localizer)
    from zoo.localization.localize_command import localize_command  # imports torch

    localize_command(args)


def explain(arguments: Arguments) -> None:
    """Explain the prediction for a video."""
    from zoo.inference.parsers import explain_parser

    args = explain_parser().parse_args(arguments)
    check_network(args.network)
    from zoo.inference.commands import explain_command  # imports torch

    explain_command(args)


def features(arguments: Arguments) -> None:
    """Write the features of videos."""
    from zoo.inference.parsers import features_parser

    args = features_parser().parse_args(arguments)
    check_network(args.network)
    from zoo.inference.commands import features_command  # imports torch

    features_command(args)


def search(arguments: Arguments) -> None:
    """Find similar videos."""
    from zoo.inference.parsers import search_parser

    args = search_parser().parse_args(arguments)
    from zoo.inference.commands import search_command  # imports torch

    search_command(args)


def export(arguments: Arguments) -> None:
    """Export a network to ONNX, PyTorch's exported programs or OpenVINO."""
    from zoo.inference.parsers import export_parser

    args = export_parser().parse_args(arguments)
    check_network(args.network)
    from zoo.inference.commands import export_network_command  # imports torch

    export_network_command(args)


def serve(arguments: Arguments) -> None:
    """Serve a network by HTTP."""
    from zoo.inference.serve_command import serve_command

    serve_command(arguments)


def app(arguments: Arguments) -> None:
    """Open a web page that classifies videos."""
    from zoo.inference.app_command import app_command

    app_command(arguments)


class Command(NamedTuple):
    """Subcommand of ``tempozoo``.

    Attributes:
        run: function that takes the remaining arguments.
        help: purpose -> example, one line each.
    """

    run: Callable[[Arguments], None]
    help: Mapping[str, str]


COMMANDS: dict[str, Command] = {
    "fit": Command(
        functools.partial(train, "fit"),
        {"train or fine-tune": "tempozoo fit --from tanet_r18.motionclips8 --out runs/mine VIDEOS"},
    ),
    "validate": Command(
        functools.partial(train, "validate"),
        {"score validation videos": "tempozoo validate --from runs/mine VIDEOS"},
    ),
    "test": Command(
        functools.partial(train, "test"),
        {
            "score test videos": "tempozoo test --from runs/mine VIDEOS",
            "reproduce a result": "tempozoo test --entry tada2d_r50.k400_8x8 --data KINETICS400",
        },
    ),
    "probe": Command(
        functools.partial(train, "probe"),
        {"measure frozen features": "tempozoo probe --from tanet_r50.k400_8f --out runs/probe VIDEOS"},
    ),
    "report": Command(report, {"describe runs in HTML": "tempozoo report runs/mine runs/other --out report.html"}),
    "calibrate": Command(
        functools.partial(train, "calibrate"),
        {"calibrate the scores": "tempozoo calibrate --from runs/mine --out runs/calibrated VIDEOS"},
    ),
    "predict": Command(
        predict,
        {
            "classify videos": "tempozoo predict --from runs/mine clip.mp4 more_clips/ --csv rows.csv",
            "classify over time": "tempozoo predict --from runs/mine long.mp4 --window 2 --plot chart.png",
        },
    ),
    "localize": Command(
        localize,
        {"find actions in a video": "tempozoo localize long.mp4 --from runs/localizer --plot chart.png"},
    ),
    "explain": Command(
        explain,
        {"explain a prediction": "tempozoo explain clip.mp4 --from runs/mine --save relevance.png"},
    ),
    "features": Command(
        features,
        {"compute features": "tempozoo features VIDEOS --from runs/mine --out FOLDER"},
    ),
    "search": Command(
        search,
        {"find similar videos": "tempozoo search clip.mp4 --features FOLDER"},
    ),
    "export": Command(export, {"export to ONNX, pt2, OpenVINO": "tempozoo export runs/mine --to onnx"}),
    "serve": Command(serve, {"answer HTTP requests": "tempozoo serve runs/mine --port 8000"}),
    "app": Command(app, {"classify in a browser": "tempozoo app --from runs/mine"}),
    "data": Command(
        data_tools,
        {
            "find unreadable videos": "tempozoo data check VIDEOS",
            "describe the videos": "tempozoo data stats VIDEOS",
            "copy for fast reading": "tempozoo data prepare VIDEOS --to FOLDER",
            "index existing shards": "tempozoo data index 'train-{000..099}.tar' --to FOLDER",
        },
    ),
    "recipes": Command(recipes, {"list training recipes": "tempozoo recipes finetune/folder"}),
    "list": Command(
        zoo_commands.list_command,
        {"list networks": "tempozoo list 'tanet*'", "compare networks": "tempozoo list --plot networks.html"},
    ),
    "info": Command(zoo_commands.info_command, {"describe a network": "tempozoo info tada2d_r50.k400_8x8"}),
    "download": Command(zoo_commands.download_command, {"download weights": "tempozoo download 'tada2d_r50.*'"}),
    "convert": Command(zoo_commands.convert_command, {"convert a published file": "tempozoo convert FILE NAME"}),
    "verify": Command(zoo_commands.verify_command, {"verify the cache": "tempozoo verify"}),
    "cache": Command(zoo_commands.cache_command, {"list or clear the cache": "tempozoo cache list"}),
    "mirror": Command(
        zoo_commands.mirror_command, {"share converted weights": "tempozoo mirror 'tanet_*' --to /shared/weights"}
    ),
    "export-checkpoint": Command(
        zoo_commands.export_command, {"export a checkpoint": "tempozoo export-checkpoint runs/mine FOLDER"}
    ),
    "push": Command(
        zoo_commands.push_command, {"upload to the Hub": "tempozoo push runs/mine user/repo --results TEST_FOLDER"}
    ),
}


def usage() -> str:
    """Return the text of ``tempozoo --help``."""
    lines = ["usage: tempozoo <command> [options]", ""]
    for name, command in COMMANDS.items():
        for purpose, example in command.help.items():
            lines.append(f"  {name:18} {purpose:25} {example}")
            name = ""
    lines += [
        "",
        "VIDEOS is a folder with a sub-folder of videos per class, or a CSV file (columns path, label).",
        "`tempozoo <command> --help` shows the options of a command.",
        f"With {DEBUG} or {DEBUG_VARIABLE}=1, an error message is preceded by its traceback.",
        "",
    ]
    return "\n".join(lines)


def run_command(name: str, arguments: Arguments) -> None:
    """Run a subcommand, ``--help`` or ``--version``.

    Raises:
        UnknownNameError: there is no such command.
    """
    if name in ("-h", "--help"):
        print(usage(), end="")
    elif name == "--version":
        print(f"tempozoo {zoo.__version__}")
    elif name in COMMANDS:
        COMMANDS[name].run(arguments)
    else:
        suggestion = suggest(name, COMMANDS)
        raise UnknownNameError(f"Unknown command {name!r}{suggestion}; choose from {', '.join(COMMANDS)}.")


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status. Errors of the package are printed as one line."""
    arguments, debug = take_debug(sys.argv[1:] if args is None else args)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    reuse_freed_memory()
    try:
        run_command(name, rest)
    except ValueError as error:
        package_error = find_package_error(error)
        if package_error is None:
            raise
        if debug:
            traceback.print_exception(error)
        print(f"tempozoo: {printable(str(package_error))}", file=sys.stderr)
        print_offline_advice(name, rest, package_error)
        return 1
    except KeyboardInterrupt as interrupt:
        advice = " The download resumes where it stopped when you repeat the command." if is_download(interrupt) else ""
        print(f"tempozoo: interrupted.{advice}", file=sys.stderr)
        return 130
    except SystemExit as stop:  # argument parsers exit this way, after printing the reason
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def take_debug(args: Sequence[str]) -> tuple[list[str], bool]:
    """Remove ``--debug`` from the arguments, except after ``--``; return them and whether tracebacks are printed."""
    arguments = list(args)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != DEBUG]
    debug = len(options) < end or os.environ.get(DEBUG_VARIABLE, "").strip().upper() in ("1", "ON", "YES", "TRUE")
    return options + arguments[end:], debug


def print_offline_advice(command: str, arguments: Arguments, error: ZooError) -> None:
    """Print commands that work offline if the error is a download that failed because no host was reachable."""
    unreachable = isinstance(error, DownloadError) and error.reason in ("unreachable", "skipped")
    loads = command in ("fit", "validate", "test", "predict", "probe", "calibrate")
    if loads and (unreachable or isinstance(error, WeightsNotFoundError)):
        from lit_modules.trainer_arguments import offline_advice

        for purpose, alternative in offline_advice(command, arguments).items():
            print(f"  {purpose}: {printable(alternative)}", file=sys.stderr)


def is_download(interrupt: BaseException) -> bool:
    """Whether an exception was raised during a download."""
    modules = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(interrupt.__traceback__)}
    return bool(modules & {"zoo.weights.download", "zoo.hub.pull"})


def find_package_error(error: BaseException | None) -> ZooError | None:
    """Return the package's own error in a chain of exceptions: jsonargparse wraps the errors of constructors."""
    while error is not None and not isinstance(error, ZooError):
        error = error.__cause__ or error.__context__
    return error


if __name__ == "__main__":
    sys.exit(main())
