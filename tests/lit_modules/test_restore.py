"""Checkpoints that do not fit the run that is resumed: one line that names the file and the part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_resume import fit

from cli import main

Content = dict[str, Any]


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch of a training."""
    out = tmp_path_factory.mktemp("restore") / "run"
    assert main(fit(motion_folder, out, epochs=1)) == 0
    return out


@pytest.fixture(scope="module")
def content(run: Path) -> Content:
    """Its last checkpoint."""
    return dict(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True))


def first_key(state: Content) -> str:
    return next(key for key, value in state["state_dict"].items() if value.ndim > 1)


def loops(state: Content) -> Content:
    part: Content = state["loops"]["fit_loop"]
    return part


def callback_state(state: Content, name: str) -> Content:
    return next(part for key, part in state["callbacks"].items() if key.startswith(name))


CHANGES: dict[str, tuple[str, Callable[[Content], object]]] = {
    "missing weight": ("the weights", lambda s: s["state_dict"].pop(first_key(s))),
    "weight of another shape": ("the weights", lambda s: s["state_dict"].update({first_key(s): torch.zeros(1)})),
    "more weights": ("the weights", lambda s: s["state_dict"].update(more=torch.zeros(1))),
    "no loops": ("the progress of the loops", lambda s: s.update(loops={})),
    "loops without an epoch": ("the progress of the loops", lambda s: loops(s).pop("epoch_progress")),
    "a negative epoch": (
        "the progress of the loops",
        lambda s: loops(s)["epoch_progress"]["current"].update(completed=-1),
    ),
    "a step in words": (
        "the progress of the loops",
        lambda s: loops(s)["epoch_loop.batch_progress"]["total"].update(ready="four"),
    ),
    "no optimizer": ("the optimizer's state", lambda s: s.update(optimizer_states=[])),
    "optimizer of another kind": (
        "the optimizer's state",
        lambda s: [group.pop("momentum") for group in s["optimizer_states"][0]["param_groups"]],
    ),
    "a rate in words": (
        "the optimizer's state",
        lambda s: s["optimizer_states"][0]["param_groups"][0].update(lr="fast"),
    ),
    "momentum of another shape": (
        "the optimizer's state",
        lambda s: [m.update(momentum_buffer=torch.zeros(7)) for m in s["optimizer_states"][0]["state"].values()],
    ),
    "no schedule": ("the learning rate schedule", lambda s: s.update(lr_schedulers=[])),
    "schedule of other groups": (
        "the learning rate schedule",
        lambda s: s["lr_schedulers"][0].update(base_lrs=[0.1]),
    ),
    "schedule without steps": ("the learning rate schedule", lambda s: s["lr_schedulers"][0].pop("last_epoch")),
    "no best checkpoint": (
        "the state of the callbacks",
        lambda s: callback_state(s, "ModelCheckpoint").pop("best_model_path"),
    ),
    "a best score in words": (
        "the state of the callbacks",
        lambda s: callback_state(s, "Best").update(best_model_score="good"),
    ),
    "no position": ("the position in the data", lambda s: s["VideoFolder"]["train"].pop("batches")),
    "a negative position": ("the position in the data", lambda s: s["VideoFolder"]["train"].update(batches=-3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_does_not_fit_is_named(
    change: str, content: Content, run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    part, apply = CHANGES[change]
    state = copy.deepcopy(content)
    apply(state)
    path = tmp_path / "changed.ckpt"
    torch.save(state, path)
    assert main([*fit(motion_folder, run), "--ckpt_path", str(path)]) == 1
    error = capsys.readouterr().err.replace("Seed set to 0\n", "")
    assert error.startswith(f"tempozoo: {path} does not fit this run: {part} cannot be restored (")
    assert error.count("\n") == 1
    assert f"--from {path}" in error


def test_fewer_epochs_than_the_checkpoint_has_are_named(
    content: Content, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "later.ckpt"
    state = copy.deepcopy(content)
    for name in ("total", "current"):
        loops(state)["epoch_progress"][name] = dict.fromkeys(("ready", "started", "processed", "completed"), 5)
    torch.save(state, path)
    assert main([*fit(motion_folder, tmp_path / "run"), "--ckpt_path", str(path)]) == 1
    assert f"{path} cannot be resumed: " in capsys.readouterr().err


class Faulty(Callback):
    """Has a bug in how it restores its state."""

    def state_dict(self) -> dict[str, int]:
        """Something to restore."""
        return {"count": 1}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Fail."""
        _ = state_dict["number"]


def test_bugs_of_other_code_keep_their_traceback(motion_folder: Path, tmp_path: Path) -> None:
    arguments = fit(motion_folder, tmp_path, 8, "--trainer.callbacks+", "test_restore.Faulty", epochs=1)
    assert main(arguments) == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(KeyError, match="number"):
        main([*arguments, "--trainer.max_epochs", "2", "--ckpt_path", str(last)])
