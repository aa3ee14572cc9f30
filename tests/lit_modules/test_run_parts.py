"""Loggers and callbacks of a run write into its folder and are checked before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from runs import callback, fit_arguments, flags, validated_epochs, video_folder

from cli import main
from lit_modules import trainer_parts
from lit_modules.trainer_parts import logged_metrics, start_loggers
from zoo.errors import ConfigError


def error_of(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """Return the one-line error of a command that fails before training."""
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "Starting from" not in printed.out
    error = printed.err.replace("Seed set to 0\n", "")
    assert error.startswith("tempozoo: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize("form", ["--trainer.logger", "--trainer.logger+"])
def test_logger_writes_into_the_run_folder(form: str, motion_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(fit_arguments(motion_folder, out, form, "CSVLogger", epochs=1)) == 0
    assert {"config.yaml", "metrics.csv", "checkpoints", "lightning_logs"} <= {path.name for path in out.iterdir()}
    assert (out / "lightning_logs" / "version_0" / "metrics.csv").is_file()
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert str(out) not in yaml.safe_dump(config["trainer"]["logger"])

    other = tmp_path / "other"
    assert main(["fit", "--config", str(out / "config.yaml"), "--out", str(other)]) == 0
    assert (other / "lightning_logs" / "version_0" / "metrics.csv").is_file()
    assert not (out / "lightning_logs" / "version_1").exists()


def test_logger_with_save_dir_writes_there(motion_folder: Path, tmp_path: Path) -> None:
    logger = ["--trainer.logger", "CSVLogger", *flags("trainer.logger", save_dir=tmp_path / "logs")]
    assert main(fit_arguments(motion_folder, tmp_path / "run", *logger, epochs=1)) == 0
    assert (tmp_path / "logs" / "lightning_logs" / "version_0" / "metrics.csv").is_file()
    assert (tmp_path / "run" / "config.yaml").is_file() and (tmp_path / "run" / "metrics.csv").is_file()


def test_tensorboard_writes_into_the_run_folder(motion_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logger = flags("trainer", logger="TensorBoardLogger")
    assert main(fit_arguments(motion_folder, tmp_path, *logger, epochs=1)) == 0
    assert len(list(tmp_path.glob("lightning_logs/version_0/events.out.tfevents.*"))) == 1
    assert (tmp_path / "config.yaml").is_file() and (tmp_path / "metrics.csv").is_file()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "step.ckpt"}


@pytest.mark.parametrize(("logger", "package"), [("TensorBoardLogger", "tensorboard"), ("WandbLogger", "wandb")])
@pytest.mark.parametrize("form", ["--trainer.logger", "--trainer.logger+"])
def test_missing_logger_package_is_reported_before_weights_are_loaded(
    form: str, logger: str, package: str, motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(trainer_parts, "find_spec", lambda name: None)
    arguments = ["fit", "--from", "tanet_r50.k400_8f", *video_folder(motion_folder), form, logger]
    error = error_of([*arguments, "--out", str(tmp_path / "run")], capsys)
    assert error == f"tempozoo: {logger} needs {package}: pip install 'tempozoo[{package}]'\n"
    assert not (tmp_path / "run").exists()


class MissingPackage(Callback):
    """A callback whose package is not installed."""

    def __init__(self) -> None:
        raise ModuleNotFoundError("Requirement 'absent>=1' not met.\nHINT: Try running `pip install -U absent`")


def test_callback_that_lacks_a_package_is_reported(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = fit_arguments(motion_folder, tmp_path, *callback(f"{__name__}.MissingPackage"))
    assert "MissingPackage needs a package that is not installed: Requirement 'absent>=1'" in error_of(
        arguments, capsys
    )


def test_package_that_lightning_misses_at_setup_is_reported(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.cpu._PSUTIL_AVAILABLE", False, raising=False)
    monkeypatch.setattr("lightning.pytorch.callbacks.device_stats_monitor._PSUTIL_AVAILABLE", False, raising=False)
    arguments = fit_arguments(motion_folder, tmp_path, *callback("DeviceStatsMonitor"))
    assert "`psutil` is not installed" in error_of(arguments, capsys)


# The runs below have no `Watch`: metrics are checked only if all callbacks are Lightning's, as others may log metrics.


@pytest.mark.parametrize("name", ["EarlyStopping", "ModelCheckpoint"])
def test_callback_that_monitors_an_unknown_metric_is_refused(
    name: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monitor = callback(name, monitor="val_top2", mode="max")
    error = error_of(fit_arguments(motion_folder, tmp_path, *monitor, watch=False), capsys)
    assert f"{name} monitors 'val_top2', which fit does not log. Did you mean 'val_top" in error
    assert "val_mean_class, val_loss, val_top1_low" in error


def test_callback_that_minimizes_an_accuracy_is_refused(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monitor = callback("EarlyStopping", monitor="val_top1")
    error = error_of(fit_arguments(motion_folder, tmp_path, *monitor, watch=False), capsys)
    assert "prefers worse values; add mode=max (--trainer.callbacks.mode=max)" in error


def test_early_stopping_ends_the_run(motion_folder: Path, tmp_path: Path) -> None:
    early_stopping = callback("EarlyStopping", monitor="val_top1", mode="max", patience=1, min_delta=1.0)
    assert main(fit_arguments(motion_folder, tmp_path, *early_stopping, epochs=9, watch=False)) == 0
    assert validated_epochs(tmp_path) == ["0", "1"]


class CompareMetricNames(Callback):
    """Compares the logged metrics of a run, without learning rates, with the names that callbacks may monitor."""

    difference: set[str] = set()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        logged = {name for name in trainer.callback_metrics if not name.startswith("lr-")}
        CompareMetricNames.difference = set(logged_metrics(pl_module, validates=True)) ^ logged


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_metrics_to_monitor_are_those_that_fit_logs(mixup: float, motion_folder: Path, tmp_path: Path) -> None:
    CompareMetricNames.difference = {"not called"}
    mixing = flags("model.regularization", mixup=mixup)
    compare = callback(f"{__name__}.CompareMetricNames")
    assert main(fit_arguments(motion_folder, tmp_path, *mixing, *compare, epochs=1)) == 0
    assert CompareMetricNames.difference == set()


class FailingLogger(Logger):
    """A logger that fails when it starts."""

    name = version = None

    @property
    def experiment(self) -> Any:
        raise RuntimeError("api_key not configured.\nmore")

    def log_metrics(self, metrics: Any, step: Any = None) -> None: ...

    def log_hyperparams(self, params: Any) -> None: ...


def test_logger_that_cannot_start_is_named() -> None:
    with pytest.raises(ConfigError, match=r"FailingLogger cannot start: api_key not configured\. Set it up"):
        start_loggers([FailingLogger()])


def test_checkpoint_callbacks_write_into_the_run_folder(motion_folder: Path, tmp_path: Path) -> None:
    lowest_loss = callback("ModelCheckpoint", monitor="val_loss", filename="lowest", enable_version_counter=False)
    assert main(fit_arguments(motion_folder, tmp_path, *lowest_loss, epochs=1, watch=False)) == 0
    assert (tmp_path / "checkpoints" / "lowest.ckpt").is_file()
