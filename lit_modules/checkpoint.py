"""Lightning checkpoints of this package -> networks and zoo folders, without the weights they started from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoo
from zoo.errors import CheckpointError
from zoo.hub.files import load_pickle
from zoo.loading import assemble, origin_of

CONFIG_KEY = "tempozoo_config"
PREFIX = "network."


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The network's tensors and config in a ``.ckpt`` file written by ``tempozoo fit``; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, damaged, or was not written by this package.
    """
    path = Path(path)
    content = load_pickle(path)
    if not isinstance(content, dict) or CONFIG_KEY not in content or "state_dict" not in content:
        raise CheckpointError(f"{path} is not a Lightning checkpoint of this package: it lacks {CONFIG_KEY!r}.")
    tensors = {key[len(PREFIX) :]: v for key, v in content["state_dict"].items() if key.startswith(PREFIX)}
    return tensors, content[CONFIG_KEY]


def network_from_checkpoint(path: str | os.PathLike[str], **wishes: Any) -> nn.Module:
    """The network of a ``.ckpt`` with its trained weights; ``wishes`` are those of ``zoo.load``."""
    tensors, config = read_checkpoint(path)
    return assemble(str(path), origin_of(config, Path(path), tensors), **wishes)


def export_checkpoint(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Turn a ``.ckpt`` into a folder that ``zoo.load`` reads."""
    return zoo.save(network_from_checkpoint(path), folder)
