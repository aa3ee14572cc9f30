"""``tempozoo fit --help`` and the like: the options in common use. ``--help_all`` shows those of Lightning as well."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping

COMMANDS: Mapping[str, tuple[tuple[str, ...], str]] = {  # usages, purpose
    "fit": (
        ("--config RECIPE [--from NETWORK] [--out FOLDER] [options]", "--from NETWORK [--out FOLDER] [options] VIDEOS"),
        "Train a network. VIDEOS is a folder with a sub-folder of videos per class, or a CSV file.",
    ),
    "validate": (
        ("--from NETWORK [--out FOLDER] [options] VIDEOS",),
        "Score the validation videos of a data set: one view per video, as during training.",
    ),
    "test": (
        (
            "--from NETWORK [--out FOLDER] [options] VIDEOS",
            "--entry NAME --data FOLDER [--out FOLDER] [options]",
        ),
        "Score the test videos of a data set with the views of the network's protocol.",
    ),
    "predict": (
        ("--from NETWORK [--out FOLDER] [options] FILE [FILE ...]",),
        "Classify videos. FILE is a video, a folder of videos, a quoted pattern such as 'clips/*.mp4', or the address "
        "of a shard. A name that begins with a dash goes after `--`.",
    ),
}

OWN_OPTIONS: Mapping[str, str] = {  # of tempozoo, not of LightningCLI
    "--from NETWORK": "a name of `tempozoo list`, a .ckpt file, a run's folder (its best checkpoint), an exported "
    "folder, or hf-hub:user/repo",
    "--entry NAME": "a name of `tempozoo list`; --data is then the folder of its data set, in its published form",
    "--out FOLDER": "folder for results (default: a new folder in runs/)",
    "--views CLIPSxCROPS": "views per video, such as 4x3, or `published` for those of the network's protocol (default: "
    "1x1 for predict, published for test)",
    "--allow_untrained": "run a network with untrained parts, which is refused otherwise",
}
TRAINING: Mapping[str, str] = {
    "--model.optimizer.lr RATE": "peak learning rate, for a batch of --model.optimizer.lr_batch_size clips",
    "--model.freeze_backbone true": "train only the classifier",
    "--model.ema_decay RATE": "average the weights over the run, for example 0.999",
    "--model.regularization.label_smoothing SHARE": "label smoothing of the loss",
    "--trainer.max_epochs N": "length of the training (default: 30)",
    "--trainer.devices N": "number of GPUs or processes",
    "--trainer.precision bf16-mixed": "mixed precision",
    "--trainer.accumulate_grad_batches N": "batches per optimizer step",
    "--seed_everything N": "seed (default: 0)",
}
GROUPS: Mapping[str, Mapping[str, str]] = {
    "network": {
        "--model CLASS": "training recipe: VideoClassifier (default with --from), TANet, TAda2D, ...",
        "--model.weights FILE": "the published weights of the --from entry, as a file on this machine",
        "--model.num_frames N": "frames per clip (default: as published)",
        "--model.image_size N": "size of the crops in pixels (default: as published)",
    },
    "data": {
        "--data CLASS": "VideoFolder, VideoList (CSV files), Kinetics, UCF101, ...",
        "--data.root FOLDER": "folder of the videos",
        "--data.batch_size N": "clips per batch and device (default: 8)",
        "--data.num_workers N": "decoding processes (default: one per core, at most 8)",
        "--data.flip false": "do not mirror clips; for classes that differ in left and right",
        "--data.clips N, --data.crops N": "temporal and spatial views of a test video (default: as published)",
    },
}
OUTPUT: Mapping[str, str] = {
    "--config FILE": "options from a YAML file: a recipe of `tempozoo recipes`, or config.yaml of a run",
    "--print_config": "print the options as a YAML file and exit",
}
UNTRAINED = {"--allow_untrained": "run a network with untrained parts, which is refused otherwise"}
VIEWS = {
    "test": "views of a video, for example 4x3; or published (default)",
    "predict": "views of a video, for example 4x3; or published (default: 1x1)",
}
CHECKPOINT = {
    "fit": "resume the run of this checkpoint",
    "validate": "weights of a run of the configured network",
    "test": "weights of a run of the configured network",
    "predict": "weights of a run of the configured network",
}
MORE: Mapping[str, str] = {
    "--model.help CLASS": "all options of a training recipe",
    "--data.help CLASS": "all options of a data set",
    "--help_all": "all options, also those of Lightning's Trainer",
}


def usage(command: str) -> str:
    """The ``usage:`` lines of a command, without that word."""
    return "\n       ".join(f"tempozoo {command} {one}" for one in COMMANDS[command][0])


def _width() -> int:
    """Columns of the terminal, within reason."""
    return max(70, min(shutil.get_terminal_size().columns, 110))


def format_options(title: str, options: Mapping[str, str]) -> str:
    """A group of options in the layout of argparse."""
    lines = [f"{title}:"]
    for option, text in options.items():
        lines += textwrap.wrap(text, _width(), initial_indent=f"  {option:36} ", subsequent_indent=" " * 39)
    return "\n".join(lines) + "\n"


def short_help(command: str) -> str:
    """The text of ``tempozoo COMMAND --help``."""
    groups = {"network": {**OWN_OPTIONS, **GROUPS["network"]}, "data": GROUPS["data"]}
    groups["network"].pop("--out FOLDER")
    if command != "fit":
        groups["network"] |= UNTRAINED
    if command in VIEWS:
        groups["data"] = {**groups["data"], "--views CLIPSxCROPS": VIEWS[command]}
    if command == "fit":
        groups["network"].pop("--allow_untrained")
    if command not in ("test", "predict"):
        groups["network"].pop("--views CLIPSxCROPS")
    if command == "fit":
        groups["training"] = TRAINING
    groups["output and configuration"] = {
        "--out FOLDER": OWN_OPTIONS["--out FOLDER"],
        "--ckpt_path FILE": CHECKPOINT[command],
        **OUTPUT,
    }
    groups["more help"] = MORE
    parts = [f"usage: {usage(command)}\n", "\n".join(textwrap.wrap(COMMANDS[command][1], _width())) + "\n"]
    parts += [format_options(title, options) for title, options in groups.items()]
    return "\n".join(parts)
