"""Fill a mirror: converted weights of published networks, in a folder or on the Hub, for all of a lab."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from zoo.hub.pull import push_folder
from zoo.index import Entry
from zoo.weights.files import disk_errors, locked
from zoo.weights.mirrors import hub_place
from zoo.weights.model_folder import CONFIG_FILE, WEIGHTS_FILE, move_model, read_model
from zoo.weights.store import obtain


def mirror_to_folder(entry: Entry, folder: Path, *, progress: bool = True) -> Path:
    """Put an entry's converted weights into ``<folder>/<entry>``, replacing older ones; returns that."""
    weights = obtain(entry, progress=progress).file
    place = folder / entry.name
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(place), tempfile.TemporaryDirectory(dir=folder, prefix=f".{entry.name}.half") as half:
            for file in (WEIGHTS_FILE, CONFIG_FILE):
                shutil.copyfile(weights.parent / file, Path(half) / file)
            return move_model(Path(half), place)


def mirror_to_hub(entry: Entry, to: str, *, private: bool = True, progress: bool = True) -> str:
    """Put an entry's converted weights into a mirror on the Hub; returns the address of the commit.

    Args:
        to: ``hf-hub:organization``, where each entry has a repository with a model card of its own, or
            ``hf-hub:user/repo``, where each has a folder.
        private: of repositories that are made.
    """
    from zoo.hub.card import model_card

    weights = obtain(entry, progress=progress).file
    repo, inside = hub_place(to, entry.name)
    with tempfile.TemporaryDirectory() as half:
        for file in (WEIGHTS_FILE, CONFIG_FILE):
            (Path(half) / file).symlink_to((weights.parent / file).resolve())
        if not inside:
            card = model_card(read_model(weights.parent)[1], repo, unchanged=True)
            (Path(half) / "README.md").write_text(card, encoding="utf-8")
        message = f"{entry.name}, converted"
        return push_folder(
            Path(half), repo, inside=inside, private=private, revision=None, create_pr=False, message=message,
            progress=progress,
        )  # fmt: skip
