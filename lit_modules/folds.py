"""Cross-validation: ``tempozoo fit --folds K`` trains K networks and summarizes their validation metrics."""

from __future__ import annotations

import contextlib
import csv
import gc
import inspect
import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lit_modules.console import print_line
from lit_modules.metric_table import ACCURACIES
from lit_modules.report import write_csv
from lit_modules.run_folder import CHECKPOINTS, LAST, names_checkpoint
from lit_modules.run_lock import is_first_process, locked_folder
from lit_modules.trainer_parsing import TrainerArguments
from zoo.errors import ConfigError
from zoo.weights.disk import atomic_path

SUMMARY, ROWS = "folds.json", "folds.csv"  # in the folder of the cross-validation
RESULT = "fold.json"  # in the folder of a fold, once it is finished
CHOSEN_BY = ("val_map", "val_mean_class")  # metric that selects best.ckpt, the first that is logged
PREFIX = "val_"
Metrics = dict[str, float]
Run = Callable[[str, Sequence[str]], None]  # folder, further options


def cross_validate(arguments: TrainerArguments, data_classes: Mapping[str, type], run: Run) -> None:
    """Train the folds that are not finished, one after the other, and summarize their validation metrics.

    A repeated command resumes the fold that was interrupted. The networks are in ``OUT/fold1``, ``OUT/fold2``, ...;
    ``OUT/folds.csv`` contains the metrics of each fold, their mean and standard deviation.

    Args:
        arguments: of the command line.
        data_classes: data modules by name.
        run: trains a network in a folder, with further options.

    Raises:
        ConfigError: options that a cross-validation does not support, or a folder with other options.
    """
    count = _parse_count(arguments, data_classes)
    out = Path(arguments.out or Path("runs") / f"folds-{datetime.now():%Y%m%d-%H%M%S}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be created ({error.strerror}); choose another.") from error
    command = replace(arguments, out=None).command_line("fit")
    results = []
    try:
        with locked_folder(out):
            _check_same_command(out, command)
            for fold in range(1, count + 1):
                results.append(_train_fold(out / f"fold{fold}", fold, count, run))
            _write_summary(out, command, results)
    except SystemExit:  # a signal
        print_line(f"To resume the cross-validation: {replace(arguments, out=str(out)).command_line('fit')}")
        raise
    finally:
        if not _has_started(out):
            (out / SUMMARY).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # contains other files
                out.rmdir()
    Console().print(fold_table(results))
    print_line(
        "Mean and standard deviation are those of the folds. The best epoch of a fold is chosen by its validation "
        "videos, which favors high values; the last epoch is not chosen."
    )
    print_line(f"Networks: {out / 'fold1'} to fold{count}. Metrics: {out / ROWS}")


def _parse_count(arguments: TrainerArguments, data_classes: Mapping[str, type]) -> int:
    """Return the number of folds, after checking the other options."""
    text = arguments.folds or ""
    if not text.isdecimal() or int(text) < 2:
        raise ConfigError(f"--folds is {text}; give the number of folds, at least 2.")
    if names_checkpoint(arguments.options):
        raise ConfigError("--folds resumes by itself; repeat its command without --ckpt_path.")
    for option in ("folds", "fold"):
        if arguments.names & {f"--data.{option}", f"--data.init_args.{option}"}:
            raise ConfigError(f"--folds sets --data.{option}; leave it out.")
    if arguments.value_of("--trainer.logger") == "false":
        raise ConfigError("--folds reads the metrics of each fold from metrics.csv; leave out --trainer.logger false.")
    devices = arguments.value_of("--trainer.devices") or "1"
    if devices != "1" or not is_first_process():
        raise ConfigError(
            "--folds trains on one device; leave out --trainer.devices. To use several devices, train each fold with "
            "its own command: --data.folds K --data.fold 1, and so on."
        )
    name = (arguments.value_of("--data") or "").split(".")[-1]
    if name in data_classes and not _has_folds(data_classes[name]):
        raise ConfigError(f"{name} has its own splits; --folds needs VideoFolder or a list, such as VideoList.")
    return int(text)


def _has_folds(data_class: type) -> bool:
    """Return whether a data module, or a class it inherits from, has the option ``folds``."""
    return any("folds" in inspect.signature(base).parameters for base in data_class.__mro__[:-1])


def _has_started(out: Path) -> bool:
    return any(out.glob("fold*/*"))


def _check_same_command(out: Path, command: str) -> None:
    """Record the command of a new cross-validation; refuse to resume with other options."""
    path = out / SUMMARY
    if path.is_file() and _has_started(out):
        try:
            previous = json.loads(path.read_text(encoding="utf-8")).get("command")
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{path} is damaged ({error}). Choose another --out.") from error
        if previous != command:
            raise ConfigError(
                f"{out} contains the cross-validation of another command ({previous}). Repeat that command, or choose "
                "another --out."
            )
        return
    _write_json(path, {"command": command})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def _train_fold(folder: Path, fold: int, count: int, run: Run) -> dict[str, Metrics]:
    """Train or resume a fold unless it is finished; return its metrics at the best and the last epoch."""
    result = folder / RESULT
    if result.is_file():
        print_line(f"Fold {fold} of {count} is finished: {folder}")
        return dict(json.loads(result.read_text(encoding="utf-8")))
    print_line(f"Fold {fold} of {count}: {folder}")
    options = [f"--data.init_args.folds={count}", f"--data.init_args.fold={fold}", "--trainer.devices=1"]
    last = folder / CHECKPOINTS / LAST
    if last.is_file():
        options.append(f"--ckpt_path={last}")
    else:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # of a fold that was killed in its first epoch
    run(str(folder), options)
    gc.collect()  # frees the memory of the network before the next fold
    metrics = read_epochs(folder / "metrics.csv")
    _write_json(result, metrics)
    return metrics


def read_epochs(path: Path) -> dict[str, Metrics]:
    """Return the validation metrics of the best and the last epoch in ``metrics.csv``, with their epochs.

    Raises:
        ConfigError: the file has no validation metrics.
    """
    epochs: list[Metrics] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                values = {name: float(value) for name, value in row.items() if name.startswith(PREFIX) and value}
                if values:
                    epochs.append({"epoch": float(row["epoch"]), **values})
    if not epochs:
        raise ConfigError(f"{path} has no validation metrics, which --folds needs. Turn on validation and logging.")
    chosen_by = next(name for name in CHOSEN_BY if name in epochs[-1])
    return {"best": max(epochs, key=lambda values: values[chosen_by]), "last": epochs[-1]}


def _write_summary(out: Path, command: str, results: Sequence[Mapping[str, Metrics]]) -> None:
    """Write ``folds.csv`` and ``folds.json``."""
    rows: list[list[Any]] = []
    summary: dict[str, Any] = {}
    names = [name for name in results[0]["best"] if all(name in metrics for r in results for metrics in r.values())]
    for epoch in ("best", "last"):
        values = [[result[epoch][name] for name in names] for result in results]
        rows += [[fold, epoch, *line] for fold, line in enumerate(values, start=1)]
        means = [statistics.mean(column) for column in zip(*values, strict=True)]
        deviations = [statistics.stdev(column) for column in zip(*values, strict=True)]
        rows += [["mean", epoch, *means], ["std", epoch, *deviations]]
        pairs = zip(names, means, deviations, strict=True)
        summary[epoch] = {name: {"mean": mean, "std": deviation} for name, mean, deviation in pairs}
    write_csv(out / ROWS, ["fold", "at", *names], rows)
    _write_json(out / SUMMARY, {"command": command, "folds": len(results), **summary})


def fold_table(results: Sequence[Mapping[str, Metrics]]) -> Table:
    """Build the table of a cross-validation: metrics of each fold, their mean and standard deviation."""
    table = Table()
    table.add_column("validation")
    for column in (*(f"fold {fold}" for fold in range(1, len(results) + 1)), "mean", "std"):
        table.add_column(column, justify="right")
    for epoch in ("best", "last"):
        for key, title in {**ACCURACIES, "map": "mAP", "loss": "loss"}.items():
            values = [result[epoch].get(PREFIX + key) for result in results]
            numbers = [value for value in values if value is not None]
            if len(numbers) == len(values):
                columns = [*numbers, statistics.mean(numbers), statistics.stdev(numbers)]
                cells = [f"{value:.4f}" if key == "loss" else f"{100 * value:.2f} %" for value in columns]
                table.add_row(f"{title}, {epoch} epoch", *cells)
        table.add_section()
    return table
