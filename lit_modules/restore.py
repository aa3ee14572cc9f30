"""Restoring of a checkpoint when a run is resumed, with error messages that name the part that does not fit."""

from __future__ import annotations

import contextlib
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lit_modules.sharded import is_sharded
from zoo.errors import CheckpointError, ConfigError, ZooError

# Packages that restore states. An exception that passes through other code is a bug in that code.
PACKAGES = {"lightning", "lightning_utilities", "torch", "lit_modules", "datamodules", "zoo", *sys.stdlib_module_names}
# Keys that Lightning and torch require or replace by zeros. Other keys depend on their versions.
REQUIRED = {
    "fit_loop", "epoch_progress", "epoch_loop.batch_progress", "epoch_loop.automatic_optimization.optim_progress",
    "total", "current", "ready", "completed", "epoch", "batches",
    "params", "lr", "weight_decay", "momentum", "betas", "last_epoch", "base_lrs",
}  # fmt: skip
COUNTS = {"ready", "started", "processed", "completed", "epoch", "batches", "last_epoch"}
ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}


class RestoringConnector(_CheckpointConnector):
    """Checkpoint connector with one-line errors for parts that do not fit. Bugs in other packages stay visible."""

    @contextlib.contextmanager
    def _part(self, part: str) -> Iterator[None]:
        try:
            yield
        except ZooError:
            raise
        except MisconfigurationException as error:  # caused by options such as max_epochs
            raise ConfigError(f"{self._ckpt_path} cannot be resumed: {error}") from error
        except Exception as error:
            modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
            if not all(module.split(".")[0] in PACKAGES for module in modules):
                raise
            raise self._error(part, _summary(error)) from error

    def _error(self, part: str, reason: str) -> CheckpointError:
        path = self._ckpt_path
        return CheckpointError(
            f"{path} does not fit this run: {part} cannot be restored ({reason}). Resume it with the settings of its "
            f"run, or start a new run from its weights: --from {path}."
        )

    def resume_start(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        """Read the file."""
        self._ckpt_path = checkpoint_path
        with self._part("its content"):
            super().resume_start(checkpoint_path, weights_only)

    def restore_model(self) -> None:
        """Restore the weights."""
        if not self._loaded_checkpoint:
            return
        with self._part("its content"):  # the hook may check or change it
            call._call_lightning_module_hook(self.trainer, "on_load_checkpoint", self._loaded_checkpoint)
        with self._part("the weights"):
            module = self.trainer.lightning_module
            self.trainer.strategy.load_model_state_dict(self._loaded_checkpoint, strict=module.strict_loading)

    def restore_datamodule(self) -> None:
        """Restore the position in the epoch."""
        part = "the position in the data"
        data: L.LightningDataModule | None = self.trainer.datamodule  # type: ignore[attr-defined]
        state = None if data is None else self._loaded_checkpoint.get(type(data).__qualname__)
        if state and (problem := difference({"train": {"epoch": 0, "batches": 0}}, state, type(data).__qualname__)):
            raise self._error(part, problem)
        with self._part(part):
            super().restore_datamodule()

    def restore_callbacks(self) -> None:
        """Restore the state of callbacks."""
        part = "the state of the callbacks"
        with self._part(part):
            super().restore_callbacks()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if problem := _wrong_callback(callback):
                raise self._error(part, f"{type(callback).__name__}.{problem}")

    def restore_precision_plugin_state(self) -> None:
        """Restore the state of mixed precision."""
        with self._part("the state of mixed precision"):
            super().restore_precision_plugin_state()

    def restore_loops(self) -> None:
        """Restore epoch and step."""
        part = "the progress of the loops"
        loops = self._loaded_checkpoint.get("loops")
        if self.trainer.state.fn == "fit" and loops is not None:
            expected = {"fit_loop": self.trainer.fit_loop.state_dict()}
            if problem := difference(expected, loops, "loops"):
                raise self._error(part, problem)
        with self._part(part):
            super().restore_loops()

    def restore_optimizers(self) -> None:
        """Restore the state of the optimizer."""
        part = "the optimizer's state"
        states = self._loaded_checkpoint["optimizer_states"]
        if not is_sharded(self.trainer):
            expected = [
                {"param_groups": optimizer.state_dict()["param_groups"]} for optimizer in self.trainer.optimizers
            ]
            if problem := difference(expected, states, "optimizer_states"):
                raise self._error(part, problem)
        with self._part(part):
            super().restore_optimizers()
        if not is_sharded(self.trainer):
            for optimizer in self.trainer.optimizers:
                if problem := _wrong_state(optimizer):
                    raise self._error(part, problem)

    def restore_lr_schedulers(self) -> None:
        """Restore the state of the learning rate schedule."""
        part = "the learning rate schedule"
        expected = [config.scheduler.state_dict() for config in self.trainer.lr_scheduler_configs]
        if problem := difference(expected, self._loaded_checkpoint["lr_schedulers"], "lr_schedulers"):
            raise self._error(part, problem)
        with self._part(part):
            super().restore_lr_schedulers()


def difference(expected: Any, given: Any, name: str) -> str | None:
    """Describe how a state differs from the expected one in keys, lengths or types of numbers; None if it does not.

    Args:
        expected: the state of this run.
        given: the state in a file.
        name: name of the state, for the message.
    """
    parts: list[tuple[Any, Any, str]]
    if isinstance(expected, Mapping):
        if not isinstance(given, Mapping):
            return f"{name} is {_kind(given)}"
        if missing := [key for key in expected if key in REQUIRED and key not in given]:
            return f"{name} lacks {missing[0]!r}"
        parts = [(expected[key], given[key], f"{name}.{key}") for key in expected if key in given]
    elif isinstance(expected, (list, tuple)):
        if not isinstance(given, Sequence) or isinstance(given, str):
            return f"{name} is {_kind(given)}"
        if len(given) != len(expected):
            return f"{name} has {len(given)} entries instead of {len(expected)}"
        parts = [(*pair, f"{name}.{number}") for number, pair in enumerate(zip(expected, given, strict=True))]
    else:
        return _wrong_number(expected, given, name)
    return next((problem for part in parts if (problem := difference(*part))), None)


def _wrong_number(expected: Any, given: Any, name: str) -> str | None:
    if isinstance(expected, bool) or not isinstance(expected, (int, float)):
        return None
    if isinstance(given, torch.Tensor) and given.numel() == 1:
        given = given.item()
    number = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
    count = isinstance(given, int) and given >= 0
    if not number or (name.rpartition(".")[2] in COUNTS and not count):
        return f"{name} is {_kind(given)}"
    return None


def _wrong_state(optimizer: torch.optim.Optimizer) -> str | None:
    """Describe an invalid restored state of parameters, with which the first step would fail; None if it is valid."""
    adam = isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))
    for parameter, state in optimizer.state.items():
        if adam and state and not set(state) >= ADAM_STATE:
            return f"a parameter lacks {min(ADAM_STATE - set(state))!r}"
        shape = tuple(parameter.shape)
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim and tuple(value.shape) != shape:
                return f"{key} has shape {tuple(value.shape)} for a parameter of shape {shape}"
            if not isinstance(value, (torch.Tensor, int, float, type(None))):
                return f"{key} is {_kind(value)}"
    return None


def _wrong_callback(callback: Any) -> str | None:
    """Describe an invalid restored state of a callback, which would fail after the epoch; None if it is valid."""
    kinds: dict[str, Any] = {}
    if isinstance(callback, ModelCheckpoint):
        kinds = {"best_model_path": str, "last_model_path": str, "best_k_models": dict}
        kinds |= dict.fromkeys(("best_model_score", "current_score", "kth_value"), (torch.Tensor, type(None)))
    elif isinstance(callback, EarlyStopping):
        kinds = {"wait_count": int, "stopped_epoch": int, "patience": int, "best_score": torch.Tensor}
    for name, kind in kinds.items():
        value = getattr(callback, name)
        if not isinstance(value, kind):
            return f"{name} is {_kind(value)}"
        if isinstance(value, dict) and not all(isinstance(score, torch.Tensor) for score in value.values()):
            return f"{name} has values that are not tensors"
    return None


def _kind(value: Any) -> str:
    return repr(value)[:50] if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"


def _summary(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Error(s) in loading state_dict"):
        lines = lines[1:]
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    return text[:200].rstrip(". ")
