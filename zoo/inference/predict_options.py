"""The options of ``tempozoo predict``, and which of its two implementations they select.

Importing this module does not import torch.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from typing import NoReturn

from zoo.command_line import suggest
from zoo.errors import ConfigError, check_number
from zoo.inference.compute_options import add_compute_options

DEFAULT_FPS = 30.0
STDOUT = "-"  # value of --csv and --json
USAGE = """tempozoo predict --from NETWORK [options] SOURCE [SOURCE ...]
       tempozoo predict --from NETWORK --out FOLDER [options] SOURCE [SOURCE ...]"""
DESCRIPTION = """Classify videos; with --window, every part of a video. SOURCE is a video file, a folder of videos or \
frames, a quoted pattern of videos ('clips/*.mp4') or of the frames of one video (frames/img_%05d.jpg, \
'frames/*.jpg'), a list (.txt: one source per line; .csv: column path), a URL, a camera number (0), or a stream \
(rtsp://...). Put `--` before names that begin with a dash. A repeated command continues its --csv and --json files."""
TRAINER_OPTIONS = {
    "--out FOLDER": "write predictions.csv and unreadable.csv into a folder; also reads shards",
    "--entry NAME": "a name of `tempozoo list`, instead of --from",
    "--model CLASS": "also --model.weights FILE, ...",
    "--data CLASS": "the videos of a data set; also --data.root FOLDER, --data.num_workers N, ...",
    "--trainer.devices N": "number of GPUs or processes; also --trainer.precision, ...",
    "--config FILE": "options from a YAML file; short form -c",
    "--ckpt_path FILE": "weights of a run of the configured network",
    "--seed_everything N": "seed (default: 0)",
    "--return_predictions BOOL": "false by default",
    "--print_config": "print the options as a YAML file and exit",
    "--help_all": "list all options of this form, also those of Lightning's Trainer",
}
GROUPS = {"-c", *(option.split()[0].partition(".")[0] for option in TRAINER_OPTIONS)}
OWN_OPTIONS = {
    "--csv", "--json", "--top", "--threshold", "--window", "--stride", "--save", "--plot", "--device", "--precision",
    "--batch_size", "--fps",
}  # fmt: skip  # options that the Trainer's form does not have


class OneLineParser(argparse.ArgumentParser):
    """Parser that raises a ConfigError instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError; the nearest option is suggested for an unknown one."""
        label = "unrecognized arguments: "
        if message.startswith(label):
            word = message.removeprefix(label).split()[0].partition("=")[0]
            suggestion = suggest(word, (name for name in self._option_string_actions if name.startswith("--")))
            message = f"Unknown option {word}{suggestion}"
        raise ConfigError(f"{message}. `{self.prog} --help` lists the options.")


def uses_trainer(arguments: Sequence[str]) -> bool:
    """Whether the arguments contain an option of Lightning's Trainer, of a data set or of a recipe.

    Raises:
        ConfigError: they also contain an option of the other form.
    """
    arguments = list(arguments)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    names = [option.partition("=")[0] for option in options if option.startswith("-")]
    trainer = [name for name in names if name.partition(".")[0].rstrip("+") in GROUPS]
    own = [name for name in names if name in OWN_OPTIONS]
    if trainer and own:
        raise ConfigError(
            f"{own[0]} cannot be combined with {trainer[0]}, which runs Lightning's Trainer. Leave out one of them; "
            "`tempozoo predict --help` lists the options of both forms."
        )
    return bool(trainer)


def parse_predict(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse and check the arguments of the form without the Trainer.

    Raises:
        ConfigError: an option is unknown, missing or has an invalid value.
    """
    args = predict_parser().parse_intermixed_args(list(arguments))
    _check_options(args)
    return args


def _check_options(args: argparse.Namespace) -> None:
    if args.network is None:
        raise ConfigError(
            "predict needs a network: tempozoo predict --from NETWORK SOURCE (NETWORK is a name of `tempozoo list`, a "
            ".ckpt file, or a folder)."
        )
    if not args.sources:
        raise ConfigError(
            f"predict needs files or folders of videos: tempozoo predict --from {shlex.quote(args.network)} VIDEOS"
        )
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("Several processes share the videos only with Lightning's Trainer: add --out FOLDER.")
    if args.top < 1:
        raise ConfigError(f"--top is {args.top}; it must be at least 1.")
    check_number("--threshold", args.threshold, 0.0, 1.0)
    check_number("--fps", args.fps, 0.01, 10_000.0)
    if args.csv == STDOUT and args.json == STDOUT:
        raise ConfigError("--csv and --json both write to standard output; give a file name for one of them.")


def predict_parser() -> argparse.ArgumentParser:
    """Create the parser of all options, including those of the Trainer's form, for its help."""
    parser = OneLineParser("tempozoo predict", usage=USAGE, description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=argparse.SUPPRESS)
    add_predictor_options(parser, required=False)
    parser.add_argument("--fps", type=float, default=DEFAULT_FPS, help="frames per second of image files (default: 30)")
    parser.add_argument("--compile", action="store_true", help="use torch.compile, for many videos or windows")
    parser.add_argument("--allow_untrained", action="store_true", help="also run networks with untrained parts")
    results = parser.add_argument_group("results")
    results.add_argument("--csv", metavar="FILE", help="append rows to a CSV file; - for standard output")
    results.add_argument("--json", metavar="FILE", help="append rows to a file of JSON lines; - for standard output")
    results.add_argument("--top", type=int, default=3, metavar="K", help="labels per video or window (default: 3)")
    results.add_argument(
        "--threshold", type=float, default=0.0, metavar="P",
        help="list only labels with a score of at least this, from 0 to 1; a video without any has a blank label with "
        "its best score",
    )  # fmt: skip
    windows = parser.add_argument_group("windows")
    windows.add_argument(
        "--window", type=float, metavar="SECONDS",
        help="classify a window that moves over each video (default for cameras and streams: the length of a clip)",
    )  # fmt: skip
    windows.add_argument("--stride", type=float, metavar="SECONDS", help="between two windows (default: the window)")
    windows.add_argument("--save", metavar="FILE.mp4", help="write the video with its labels and scores")
    windows.add_argument("--plot", metavar="FILE.png", help="write a chart of the scores over time")
    trainer = parser.add_argument_group(
        "with Lightning's Trainer", "One of these options selects the second form: data sets, shards, several GPUs."
    )
    for option, text in TRAINER_OPTIONS.items():
        name, _, metavar = option.partition(" ")
        if metavar:
            trainer.add_argument(name, metavar=metavar, help=text)
        else:
            trainer.add_argument(name, action="store_true", help=text)
    return parser


def add_predictor_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the options of a command that runs a ``Predictor``; ``--from`` is required or checked later."""
    parser.add_argument(
        "--from", dest="network", metavar="NETWORK", required=required, help="network, as of `tempozoo fit --from`"
    )
    add_compute_options(parser)
