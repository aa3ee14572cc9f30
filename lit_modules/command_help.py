"""Text of ``tempozoo COMMAND --help``: the most used options. ``--help_all`` lists all of them."""

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
        ("--from NETWORK --out FOLDER [options] FILE [FILE ...]",),
        "Classify videos with Lightning's Trainer. FILE is a video, a folder of videos, a quoted pattern such as "
        "'clips/*.mp4', or the URL of a shard. Put `--` before names that begin with a dash. Without the options of "
        "the Trainer, see `tempozoo predict --help`.",
    ),
    "probe": (
        ("--from NETWORK [--out FOLDER] [options] VIDEOS",),
        "Fit a logistic regression and nearest neighbors to the features of a network, without training it, and test "
        "both. --out is then a network with the logistic regression as its classifier, for --from. A repeated command "
        "reuses the features in it.",
    ),
    "calibrate": (
        ("--from NETWORK [--out FOLDER] [options] VIDEOS",),
        "Fit the temperature of the network's scores to the validation videos. --out is then a network with it, for "
        "--from.",
    ),
}

OWN_OPTIONS: Mapping[str, str] = {  # options of tempozoo; LightningCLI does not have them
    "--from NETWORK": "a name of `tempozoo list`, a .ckpt file, a run's folder (its best checkpoint), an exported "
    "folder, or hf-hub:user/repo",
    "--entry NAME": "a name of `tempozoo list`; --data is then the folder of its data set, in the published layout",
    "--out FOLDER": "folder for results (default: a new folder in runs/)",
    "--views CLIPSxCROPS": "views per video, such as 4x3, or `published` for those of the network's protocol (default: "
    "1x1 for predict, published for test)",
    "--folds K": "cross-validation (fit): K networks, each validated on other videos",
    "--probe false": "skip the probe of frozen features (fit)",
    "--report false": "do not write report.html (fit, test)",
    "--log tensorboard": "also log to TensorBoard in --out, or to Weights & Biases with `wandb` (fit; default: csv)",
    "--allow_untrained": "run a network with untrained parts, which is refused otherwise",
    "--compile": "use torch.compile, in long runs",
    "--skip_nonfinite": "skip steps with NaN or infinite loss or gradients, up to 10 in a row",
    "--profile": "profile three steps of training (fit)",
    "--early_stop N": "stop after N epochs without improvement",
    "--find_lr": "search the learning rate before the run",
    "--find_batch_size": "search the batch size first (GPU)",
}
TRAINING: Mapping[str, str] = {
    "--model.optimizer.lr RATE": "peak learning rate, for a batch of --model.optimizer.lr_batch_size clips",
    "--model.head_init probe": "start with a logistic regression of the training videos",
    "--model.train PART": "all (default), operator, head or lora",
    "--model.batch_norm frozen": "keep the statistics of trained batch norms",
    "--model.ema_decay RATE": "decay of the moving average of the weights, for example 0.999",
    "--model.regularization.label_smoothing SHARE": "label smoothing of the loss",
    "--trainer.max_epochs N": "length of the training (default: 30)",
    "--trainer.devices N": "number of GPUs or processes",
    "--trainer.precision bf16-mixed": "mixed precision; or auto",
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
        "--data.group PATTERN": "keep videos of a recording or person in one split: a regular expression of the path, "
        "'_(g\\d+)_', or a CSV column",
        "--data.balance sampler": "draw all classes equally often; `loss` weights the classes in the loss",
        "--data.flip false": "do not mirror clips, for classes that distinguish left from right",
        "--data.clips N, --data.crops N": "temporal and spatial views of a test video (default: as published)",
    },
}
LOCALIZER_OPTIONS: Mapping[str, str] = {  # options of tempozoo for localizers
    "--from RUN": "a localizer to start from or to test: a run's folder, a .ckpt file, or an exported folder",
    "--out FOLDER": OWN_OPTIONS["--out FOLDER"],
    "--early_stop N": OWN_OPTIONS["--early_stop N"],
}
LOCALIZATION: Mapping[str, Mapping[str, str]] = {  # options for localizers, by command
    "test": {
        "--data.annotations FILE": "labeled segments",
        "--data.features FOLDER": "features from `tempozoo features`",
        "--data.test_split val": "split of the annotations, if test videos have no labels",
    },
    "validate": {
        "--data.annotations FILE": "labeled segments",
        "--data.features FOLDER": "features from `tempozoo features`",
    },
}
OTHER_TASKS: Mapping[str, str] = {
    "--data.help LocalizationData": "options of --config localize/folder",
    "--data.help MoSI": "options of --config mosi/folder",
}
OUTPUT: Mapping[str, str] = {
    "--config FILE": "options from a YAML file: a recipe of `tempozoo recipes`, or config.yaml of a run",
    "--print_config": "print the options as a YAML file and exit",
}
VIEWS = {
    "test": "views per video, for example 4x3, or `published` (default)",
    "predict": "views per video, for example 4x3, or `published` (default: 1x1)",
    "probe": "views per training video, for example 4x3, or `published` (default: 1x1)",
    "calibrate": "views per video, for example 4x3, or `published` (default)",
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
    "--help_all": "all options, including the Trainer's",
}


def usage(command: str) -> str:
    """Return the usage lines of a command, without "usage:"."""
    return "\n       ".join(f"tempozoo {command} {line}" for line in COMMANDS[command][0])


def _width() -> int:
    """Return the width of the terminal, from 70 to 110 columns."""
    return max(70, min(shutil.get_terminal_size().columns, 110))


def format_options(title: str, options: Mapping[str, str]) -> str:
    """Format a group of options like argparse."""
    lines = [f"{title}:"]
    for option, text in options.items():
        lines += textwrap.wrap(text, _width(), initial_indent=f"  {option:36} ", subsequent_indent=" " * 39)
    return "\n".join(lines) + "\n"


def short_help(command: str) -> str:
    """Return the text of ``tempozoo COMMAND --help``."""
    own = {option: OWN_OPTIONS[option] for option in ("--from NETWORK", "--entry NAME")}
    network, data = {**own, **GROUPS["network"]}, dict(GROUPS["data"])
    if command != "fit":
        network["--allow_untrained"] = OWN_OPTIONS["--allow_untrained"]
    if command in VIEWS:
        data["--views CLIPSxCROPS"] = VIEWS[command]
    groups: dict[str, Mapping[str, str]] = {"network": network, "data": data}
    if command == "fit":
        switches = (
            "--probe false",
            "--early_stop N",
            "--find_lr",
            "--find_batch_size",
            "--folds K",
            "--skip_nonfinite",
            "--profile",
        )
        groups["training"] = {**TRAINING, **{name: OWN_OPTIONS[name] for name in switches}}
    if command not in ("probe", "calibrate"):
        network["--compile"] = OWN_OPTIONS["--compile"]
    if command in LOCALIZATION:
        groups["localization of actions, with a localizer as RUN of --from"] = LOCALIZATION[command]
    checkpoint = {"--ckpt_path FILE": CHECKPOINT[command]} if command in CHECKPOINT else {}
    names = {"fit": ["--report false", "--log tensorboard"], "test": ["--report false"]}.get(command, [])
    output = {name: OWN_OPTIONS[name] for name in ("--out FOLDER", *names)}
    groups["output and configuration"] = {**output, **checkpoint, **OUTPUT}
    groups["more help"] = {**MORE, **OTHER_TASKS} if command == "fit" else MORE
    parts = [f"usage: {usage(command)}\n", "\n".join(textwrap.wrap(COMMANDS[command][1], _width())) + "\n"]
    parts += [format_options(title, options) for title, options in groups.items()]
    return "\n".join(parts)
