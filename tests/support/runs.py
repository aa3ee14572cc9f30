"""Command line arguments of short runs, and readers of the files that runs write."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from watch import Watch

STEPS_PER_EPOCH = 4  # of `fit_arguments` with the 32 training videos of `motion_folder` and its default batch size


def flags(group: str, **options: object) -> list[str]:
    """Return command line arguments for options of one group.

    ``flags("trainer", max_epochs=2, logger=False)`` is
    ``["--trainer.max_epochs", "2", "--trainer.logger", "false"]``. Strings and paths are kept, other values are
    written as JSON.
    """
    arguments = []
    for name, value in options.items():
        text = str(value) if isinstance(value, str | Path) else json.dumps(value)
        arguments += [f"--{group}.{name}", text]
    return arguments


TINY = flags("model", options={"width": 8, "drop_rate": 0.0}, num_frames=4, image_size=32)
QUIET = flags("trainer", enable_progress_bar=False, enable_model_summary=False)
ON_CPU = flags("trainer", accelerator="cpu")
NO_SANITY_CHECK = flags("trainer", num_sanity_val_steps=0)


def model(recipe: str, name: str, **options: object) -> list[str]:
    """Return the arguments of a tiny network, trained with a recipe."""
    return ["--model", recipe, *flags("model", name=name), *TINY, *flags("model", **options)]


def video_folder(root: Path, *, batch_size: int = 8, num_workers: int = 0, **options: object) -> list[str]:
    """Return the arguments of a data set with one folder per class."""
    return [
        *("--data", "VideoFolder"),
        *flags("data", root=root, batch_size=batch_size, num_workers=num_workers, **options),
    ]


def callback(class_path: str, **options: object) -> list[str]:
    """Return the arguments that add a callback to those of the Trainer.

    Later ``--trainer.callbacks.*`` arguments change the callback that was added last.
    """
    return ["--trainer.callbacks+", class_path, *flags("trainer.callbacks", **options)]


def step_text(step: tuple[int, ...] | None) -> str:
    """Return a position in the training as ``Watch`` parses it."""
    return " ".join(map(str, step or ()))


def fit_arguments(
    root: Path,
    out: Path,
    *extra: str,
    network: str = "tadaconvnextv2_tiny",
    batch_size: int = 8,
    epochs: int = 2,
    watch: bool = True,
    kill: tuple[int, int, int] | None = None,
    stop: tuple[int, int] | None = None,
    pause: tuple[int, int] | None = None,
) -> list[str]:
    """Return the arguments of a training on the CPU that saves ``step.ckpt`` after every second step.

    The default network has no batch statistics. With them, two processes with batches of 4 would train differently
    from one process with batches of 8.

    Args:
        root: data set of ``VideoFolder``.
        out: folder of the run. It is created, since the ``Watch`` callback writes to it before training.
        extra: further arguments, appended to the others.
        network: architecture of the network.
        batch_size: videos per step and process.
        epochs: length of the training.
        watch: record the videos and the loss of each step, see ``Watch.seen``.
        kill: (rank, epoch, batch) after which ``Watch`` kills its process.
        stop: (epoch, batch) after which ``Watch`` raises a RuntimeError.
        pause: (epoch, batch) after which ``Watch`` sleeps for more than a second.
    """
    out.mkdir(parents=True, exist_ok=True)
    arguments = [
        "fit",
        *model("VideoClassifier", network, head_warmup_epochs=1),
        *video_folder(root, batch_size=batch_size),
        *QUIET,
        *ON_CPU,
        *NO_SANITY_CHECK,
        *flags("trainer", max_epochs=epochs),
        *callback(
            "ModelCheckpoint",
            dirpath=out / "checkpoints",
            filename="step",
            every_n_train_steps=2,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        ),
    ]
    if watch:
        steps = {"kill": step_text(kill), "stop": step_text(stop), "pause": step_text(pause)}
        arguments += callback("watch.Watch", folder=out, **{name: step for name, step in steps.items() if step})
    return [*arguments, "--out", str(out), *extra]


def resume(checkpoint: Path) -> list[str]:
    """Return the arguments that resume a run from a checkpoint."""
    return ["--ckpt_path", str(checkpoint)]


# files of a run --------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file by column name."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def last_metrics(run: Path) -> dict[str, float]:
    """Return the last value of each validation metric in metrics.csv."""
    rows = read_rows(run / "metrics.csv")
    return {key: float(row[key]) for row in rows for key in row if key.startswith("val_") and row[key]}


def validated_epochs(run: Path) -> list[str]:
    """Return the epochs in metrics.csv that have validation metrics."""
    return [row["epoch"] for row in read_rows(run / "metrics.csv") if row["val_top1"]]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint."""
    return dict(torch.load(path, weights_only=True))


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of a run's last.ckpt."""
    return dict(read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"])


def assert_same_last_weights(run: Path, expected_run: Path) -> None:
    """Check that the last checkpoints of two runs have exactly the same weights."""
    weights, expected = last_weights(run), last_weights(expected_run)
    different = [key for key in expected if not torch.equal(weights[key], expected[key])]
    assert not different, different


def assert_each_video_once_per_epoch(first: Path, second: Path, root: Path, *, saved_steps: int) -> None:
    """Check that a run of two epochs and the run that resumed it visited every training video once per epoch.

    Args:
        first: folder of the interrupted run.
        second: folder of the run that resumed it.
        root: their data set.
        saved_steps: steps in the checkpoint that was resumed. The first run's later steps do not count.
    """
    videos = {str(path) for path in (root / "train").rglob("*.mp4")}
    saved = [step for step in Watch(str(first)).seen() if step["epoch"] * STEPS_PER_EPOCH + step["batch"] < saved_steps]
    visits = Counter((step["epoch"], path) for step in saved + Watch(str(second)).seen() for path in step["paths"])
    assert visits == Counter({(epoch, video): 1 for epoch in (0, 1) for video in videos})
