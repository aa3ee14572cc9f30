"""Network names of the command line: index names, files, and folders of runs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from zoo.command_line import expand_home, note
from zoo.errors import CheckpointError, ZooError
from zoo.index import load_index
from zoo.text import listing
from zoo.weights.locations import CHECKPOINT_SUFFIX, CONFIG_FILE, HUB_PREFIX, WEIGHTS_FILE, missing_network

SAFETENSORS = ".safetensors"
CHECKPOINT_FOLDER = "checkpoints"  # of a run, with best.ckpt and last.ckpt


def resolve_network(name: str) -> str:
    """Return the argument of ``zoo.load`` for a network name of the command line.

    The folder of a run is replaced by its best checkpoint, or by the last one if there is no best. Other names are
    unchanged.

    Raises:
        CheckpointError: a run has no checkpoints, or the name is a published file without its index entry.
    """
    if name in load_index().entries:
        return name
    name = expand_home(name)
    folder = Path(name)
    if folder.is_file():
        _reject_published(folder)
    if not folder.is_dir() or (folder / WEIGHTS_FILE).exists():
        return name
    for checkpoint in ("best.ckpt", "last.ckpt"):
        for path in (folder / CHECKPOINT_FOLDER / checkpoint, folder / checkpoint):
            if path.is_file():
                note(f"{folder} is the folder of a run; using {path}")
                return str(path)
    if (folder / CHECKPOINT_FOLDER).is_dir():
        raise CheckpointError(f"{folder / CHECKPOINT_FOLDER} contains neither best.ckpt nor last.ckpt.")
    return name


def check_network(name: str) -> None:
    """Check that a network name of the command line is an index name, a path or a name on the Hub.

    Commands call this before they import torch, so that a misspelled name is reported at once.

    Raises:
        ZooError: there is no such network; the message suggests similar names.
    """
    exists = name in load_index().entries or os.path.lexists(expand_home(name))
    if not exists and not name.startswith(HUB_PREFIX):
        raise missing_network(name)


def _reject_published(path: Path) -> None:
    """Raise a CheckpointError for a published file, naming its possible index entries; accept all other files."""
    if path.suffix == CHECKPOINT_SUFFIX or (path.suffix == SAFETENSORS and path.with_name(CONFIG_FILE).exists()):
        return
    from zoo.weights.conversion import matching_entries  # imports torch

    try:
        entries = matching_entries(path)
    except ZooError:
        return
    if entries:
        others = f" or {listing(entries[1:], 7)}" if len(entries) > 1 else ""
        raise CheckpointError(
            f"{path} is a published file of {entries[0]}{others}. Give both: "
            f"{shlex.join(['--from', entries[0], '--model.weights', str(path)])}"
        )
