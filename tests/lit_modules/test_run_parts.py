"""Loggers and callbacks of a run: they write into its folder, and are checked before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from test_resume import fit
from test_run_metrics import epochs

from cli import main
from lit_modules import trainer_parts
from lit_modules.trainer_parts import logged_metrics, start_loggers
from zoo.errors import ConfigError


def refused(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line that a command ends in, before a training step."""
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "Starting from" not in printed.out
    error = printed.err.replace("Seed set to 0\n", "")
    assert error.startswith("tempozoo: ") and error.count("\n") == 1
    return error


def callback(name: str, **options: str) -> list[str]:
    return ["--trainer.callbacks+", name, *(f"--trainer.callbacks.{key}={value}" for key, value in options.items())]


@pytest.mark.parametrize("form", ["--trainer.logger", "--trainer.logger+"])
def test_a_logger_writes_into_the_folder_of_the_run(form: str, motion_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main([*fit(motion_folder, out, epochs=1), form, "CSVLogger"]) == 0
    assert {"config.yaml", "metrics.csv", "checkpoints", "lightning_logs"} <= {path.name for path in out.iterdir()}
    assert (out / "lightning_logs" / "version_0" / "metrics.csv").is_file()
    assert str(out) not in yaml.safe_dump(yaml.safe_load((out / "config.yaml").read_text())["trainer"]["logger"])
    again = tmp_path / "again"
    assert main(["fit", "--config", str(out / "config.yaml"), "--out", str(again)]) == 0
    assert (again / "lightning_logs" / "version_0" / "metrics.csv").is_file()
    assert not (out / "lightning_logs" / "version_1").exists()


def test_a_logger_with_a_folder_of_its_own_keeps_it(motion_folder: Path, tmp_path: Path) -> None:
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "logs")]
    assert main([*fit(motion_folder, tmp_path / "run", epochs=1), *logger]) == 0
    assert (tmp_path / "logs" / "lightning_logs" / "version_0" / "metrics.csv").is_file()
    assert (tmp_path / "run" / "config.yaml").is_file() and (tmp_path / "run" / "metrics.csv").is_file()


def test_tensorboard_writes_into_the_folder_of_the_run(motion_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    assert main([*fit(motion_folder, tmp_path, epochs=1), "--trainer.logger", "TensorBoardLogger"]) == 0
    assert len(list(tmp_path.glob("lightning_logs/version_0/events.out.tfevents.*"))) == 1
    assert (tmp_path / "config.yaml").is_file() and (tmp_path / "metrics.csv").is_file()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "step.ckpt"}


@pytest.mark.parametrize(("logger", "package"), [("TensorBoardLogger", "tensorboard"), ("WandbLogger", "wandb")])
@pytest.mark.parametrize("form", ["--trainer.logger", "--trainer.logger+"])
def test_a_missing_package_is_named_before_weights_are_needed(
    form: str, logger: str, package: str, motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(trainer_parts, "find_spec", lambda name: None)
    data = ["--data", "VideoFolder", "--data.root", str(motion_folder)]
    arguments = ["fit", "--from", "tanet_r50.k400_8f", *data, form, logger, "--out", str(tmp_path / "run")]
    error = refused(arguments, capsys)
    assert error == f"tempozoo: {logger} needs {package}: pip install 'tempozoo[{package}]'\n"
    assert not (tmp_path / "run").exists()


class Unavailable(Callback):
    """Needs a package when it is created, or set up."""

    def __init__(self, early: bool) -> None:
        if early:
            raise ModuleNotFoundError("Requirement 'absent>=1' not met.\nHINT: Try running `pip install -U absent`")


def test_a_callback_names_the_package_that_it_lacks(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [*fit(motion_folder, tmp_path), *callback("test_run_parts.Unavailable", early="true")]
    assert "Unavailable needs a package that is not installed: Requirement 'absent>=1'" in refused(arguments, capsys)


def test_a_package_that_lightning_misses_at_setup_is_named(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.cpu._PSUTIL_AVAILABLE", False, raising=False)
    monkeypatch.setattr("lightning.pytorch.callbacks.device_stats_monitor._PSUTIL_AVAILABLE", False, raising=False)
    arguments = [*fit(motion_folder, tmp_path), *callback("DeviceStatsMonitor")]
    assert "`psutil` is not installed" in refused(arguments, capsys)


def test_a_monitored_metric_that_fit_does_not_log_is_refused(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = fit_alone(motion_folder, tmp_path)
    for part in ("EarlyStopping", "ModelCheckpoint"):
        error = refused([*arguments, *callback(part, monitor="val_top2", mode="max")], capsys)
        assert f"{part} monitors 'val_top2', which fit does not log. Did you mean 'val_top" in error
        assert "val_mean_class, val_loss, val_top1_low" in error
    error = refused([*arguments, *callback("EarlyStopping", monitor="val_top1")], capsys)
    assert "prefers worse values; add mode=max (--trainer.callbacks.mode=max)" in error


def fit_alone(root: Path, out: Path) -> list[str]:
    """A run whose callbacks are all Lightning's: those of others may log metrics."""
    arguments = fit(root, out)
    watch = arguments.index("watch.Watch")
    del arguments[watch - 1 : watch + 3]
    return arguments


def test_a_right_metric_stops_the_run_early(motion_folder: Path, tmp_path: Path) -> None:
    stop = callback("EarlyStopping", monitor="val_top1", mode="max", patience="1", min_delta="1.0")
    arguments = [*fit_alone(motion_folder, tmp_path), "--trainer.max_epochs", "9", *stop]
    assert main(arguments) == 0
    assert epochs(tmp_path) == ["0", "1"]


class Logged(Callback):
    """Compares the metrics of a run with the names that callbacks may monitor."""

    difference: set[str] = set()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Note the names that only one of them has."""
        Logged.difference = set(logged_metrics(pl_module, validates=True)) ^ set(trainer.callback_metrics)


@pytest.mark.parametrize("mixing", [[], ["--model.mixup", "0.5"]])
def test_the_names_are_those_that_are_logged(mixing: list[str], motion_folder: Path, tmp_path: Path) -> None:
    Logged.difference = {"not called"}
    arguments = [*fit(motion_folder, tmp_path, epochs=1), *mixing]
    assert main([*arguments, *callback("test_run_parts.Logged")]) == 0
    assert Logged.difference == set()


class Refusing(Logger):
    name = version = None

    @property
    def experiment(self) -> Any:
        raise RuntimeError("api_key not configured.\nmore")

    def log_metrics(self, metrics: Any, step: Any = None) -> None: ...

    def log_hyperparams(self, params: Any) -> None: ...


def test_a_logger_that_cannot_start_is_named() -> None:
    with pytest.raises(ConfigError, match=r"Refusing cannot start: api_key not configured\. Set it up"):
        start_loggers([Refusing()])


def test_checkpoints_of_callbacks_are_written_to_the_run(motion_folder: Path, tmp_path: Path) -> None:
    more = callback("ModelCheckpoint", monitor="val_loss", filename="lowest", enable_version_counter="false")
    assert main([*fit_alone(motion_folder, tmp_path), "--trainer.max_epochs", "1", *more]) == 0
    assert (tmp_path / "checkpoints" / "lowest.ckpt").is_file()
