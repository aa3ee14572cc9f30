"""Helpers of all commands: notes to the user, run folders as network names, suggestions for misspelled words."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from zoo.adapt import listing
from zoo.errors import CheckpointError, ZooError
from zoo.index import load_index
from zoo.text import printable
from zoo.weights.conversion import matching_entries
from zoo.weights.lightning_checkpoint import SUFFIX
from zoo.weights.model_folder import CONFIG_FILE, WEIGHTS_FILE

SAFETENSORS = ".safetensors"
CHECKPOINT_FOLDER = "checkpoints"  # of a run, with best.ckpt and last.ckpt


def note(message: str) -> None:
    """Print a line; if several processes run the same command, only the first prints it."""
    if all(os.environ.get(rank, "0") == "0" for rank in ("LOCAL_RANK", "RANK", "SLURM_PROCID")):
        print(printable(message), flush=True)


def suggest(word: str, names: Iterable[str], prefix: str = "") -> str:
    """ " (did you mean NAME?)" with the name most similar to ``word``, or "" if none is similar."""
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), by_lower, 1, 0.5)
    return f" (did you mean {prefix}{by_lower[close[0]]}?)" if close else ""


def expand_home(path: str) -> str:
    """``path`` with a leading ``~/`` or ``~user/`` replaced by the home folder, unless a file has that literal name."""
    return path if "/" not in path or os.path.lexists(path) else os.path.expanduser(path)


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


def _reject_published(path: Path) -> None:
    """Raise a CheckpointError for a published file, naming its possible index entries; accept all other files."""
    if path.suffix == SUFFIX or (path.suffix == SAFETENSORS and path.with_name(CONFIG_FILE).exists()):
        return
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
