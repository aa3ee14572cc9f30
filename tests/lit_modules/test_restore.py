"""Resuming from a checkpoint that does not fit the run: a one-line error that names the file and the part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from runs import callback, fit_arguments, flags, read_checkpoint, resume

from cli import main

Content = dict[str, Any]


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one epoch."""
    out = tmp_path_factory.mktemp("restore") / "run"
    assert main(fit_arguments(motion_folder, out, epochs=1)) == 0
    return out


@pytest.fixture(scope="module")
def content(run: Path) -> Content:
    """Content of the run's last checkpoint."""
    return read_checkpoint(run / "checkpoints" / "last.ckpt")


def first_weight(state: Content) -> str:
    return next(key for key, value in state["state_dict"].items() if value.ndim > 1)


def fit_loop(state: Content) -> Content:
    loop: Content = state["loops"]["fit_loop"]
    return loop


def callback_state(state: Content, name: str) -> Content:
    return next(part for key, part in state["callbacks"].items() if key.startswith(name))


CHANGES: dict[str, tuple[str, Callable[[Content], object]]] = {
    "missing weight": ("the weights", lambda s: s["state_dict"].pop(first_weight(s))),
    "weight of another shape": ("the weights", lambda s: s["state_dict"].update({first_weight(s): torch.zeros(1)})),
    "additional weight": ("the weights", lambda s: s["state_dict"].update(more=torch.zeros(1))),
    "no loops": ("the progress of the loops", lambda s: s.update(loops={})),
    "loops without an epoch": ("the progress of the loops", lambda s: fit_loop(s).pop("epoch_progress")),
    "negative epoch": (
        "the progress of the loops",
        lambda s: fit_loop(s)["epoch_progress"]["current"].update(completed=-1),
    ),
    "step is text": (
        "the progress of the loops",
        lambda s: fit_loop(s)["epoch_loop.batch_progress"]["total"].update(ready="four"),
    ),
    "no optimizer": ("the optimizer's state", lambda s: s.update(optimizer_states=[])),
    "optimizer of another type": (
        "the optimizer's state",
        lambda s: [group.pop("momentum") for group in s["optimizer_states"][0]["param_groups"]],
    ),
    "learning rate is text": (
        "the optimizer's state",
        lambda s: s["optimizer_states"][0]["param_groups"][0].update(lr="fast"),
    ),
    "momentum of another shape": (
        "the optimizer's state",
        lambda s: [m.update(momentum_buffer=torch.zeros(7)) for m in s["optimizer_states"][0]["state"].values()],
    ),
    "no schedule": ("the learning rate schedule", lambda s: s.update(lr_schedulers=[])),
    "schedule of other parameter groups": (
        "the learning rate schedule",
        lambda s: s["lr_schedulers"][0].update(base_lrs=[0.1]),
    ),
    "schedule without steps": ("the learning rate schedule", lambda s: s["lr_schedulers"][0].pop("last_epoch")),
    "no best checkpoint": (
        "the state of the callbacks",
        lambda s: callback_state(s, "ModelCheckpoint").pop("best_model_path"),
    ),
    "best score is text": (
        "the state of the callbacks",
        lambda s: callback_state(s, "Best").update(best_model_score="good"),
    ),
    "no position": ("the position in the data", lambda s: s["VideoFolder"]["train"].pop("batches")),
    "negative position": ("the position in the data", lambda s: s["VideoFolder"]["train"].update(batches=-3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_resume_names_the_part_of_the_checkpoint_that_does_not_fit(
    change: str, content: Content, run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    part, apply_change = CHANGES[change]
    state = copy.deepcopy(content)
    apply_change(state)
    path = tmp_path / "changed.ckpt"
    torch.save(state, path)
    assert main(fit_arguments(motion_folder, run, *resume(path))) == 1
    error = capsys.readouterr().err.replace("Seed set to 0\n", "")
    assert error.startswith(f"tempozoo: {path} does not fit this run: {part} cannot be restored (")
    assert error.count("\n") == 1
    assert f"--from {path}" in error


def test_resume_with_fewer_epochs_than_the_checkpoint_is_refused(
    content: Content, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "later.ckpt"
    state = copy.deepcopy(content)
    for name in ("total", "current"):
        fit_loop(state)["epoch_progress"][name] = dict.fromkeys(("ready", "started", "processed", "completed"), 5)
    torch.save(state, path)
    assert main(fit_arguments(motion_folder, tmp_path / "run", *resume(path))) == 1
    assert f"{path} cannot be resumed: " in capsys.readouterr().err


class FaultyCallback(Callback):
    """A callback with a bug: it restores another key than it saves."""

    def state_dict(self) -> dict[str, int]:
        return {"count": 1}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        _ = state_dict["number"]


def test_bug_in_a_callback_keeps_its_traceback(motion_folder: Path, tmp_path: Path) -> None:
    arguments = fit_arguments(motion_folder, tmp_path, *callback(f"{__name__}.FaultyCallback"), epochs=1)
    assert main(arguments) == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(KeyError, match="number"):
        main([*arguments, *flags("trainer", max_epochs=2), *resume(last)])
