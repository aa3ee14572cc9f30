"""Lightning checkpoints that ``tempozoo fit`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import CheckpointError
from zoo.hub.files import check_plain, load_pickle

CONFIG_KEY = "tempozoo_config"  # where a VideoClassifier puts its network's config
PREFIX = "network."  # of its network's keys
SUFFIX = ".ckpt"
RUN_KEYS = {"loops", "optimizer_states", "lr_schedulers", "pytorch-lightning_version"}  # of a run to go on with


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The network's tensors and config in a ``.ckpt`` file; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, damaged, or was not written by this package.
    """
    content = _content(path)
    state = content["state_dict"]
    tensors = {key[len(PREFIX) :]: value for key, value in state.items() if str(key).startswith(PREFIX)}
    return tensors, content[CONFIG_KEY]


def _content(path: Path) -> dict[str, Any]:
    content = load_pickle(path)
    if not isinstance(content, dict) or CONFIG_KEY not in content or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path} is not a Lightning checkpoint of this package: it lacks {CONFIG_KEY!r}.")
    check_plain(path, content["state_dict"])
    return content


def read_run(path: Path) -> tuple[dict[str, Any], bool]:
    """The network's config in a ``.ckpt`` file, and whether the file holds what it takes to go on with the run.

    Raises:
        CheckpointError: as ``read_checkpoint``.
    """
    content = _content(path)
    return content[CONFIG_KEY], set(content) >= RUN_KEYS
