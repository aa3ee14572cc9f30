"""Fill a mirror: copy converted weights of published networks to a shared folder or to the Hub."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from zoo.hub.pull import push_folder
from zoo.index import Entry
from zoo.weights.disk import disk_errors, locked
from zoo.weights.mirrors import MODEL_FILES, hub_location
from zoo.weights.model_folder import move_model, read_model
from zoo.weights.store import get_weights


def mirror_to_folder(entry: Entry, folder: Path, *, progress: bool = True) -> Path:
    """Copy an entry's converted weights to ``<folder>/<entry>``, replacing older ones. Returns that folder."""
    weights = get_weights(entry, progress=progress).file
    target = folder / entry.name
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(target), tempfile.TemporaryDirectory(dir=folder, prefix=f".{entry.name}.half") as scratch:
            for file in MODEL_FILES:
                shutil.copyfile(weights.parent / file, Path(scratch) / file)
            return move_model(Path(scratch), target)


def mirror_to_hub(entry: Entry, to: str, *, private: bool = True, progress: bool = True) -> str:
    """Push an entry's converted weights to a mirror on the Hub. Returns the URL of the commit.

    Args:
        to: ``hf-hub:organization``, where each entry has its own repository with a model card, or
            ``hf-hub:user/repo``, where each entry has a folder.
        private: whether new repositories are private.
    """
    from zoo.hub.card import model_card

    weights = get_weights(entry, progress=progress).file
    repo, subfolder = hub_location(to, entry.name)
    with tempfile.TemporaryDirectory() as scratch:
        for file in MODEL_FILES:
            (Path(scratch) / file).symlink_to((weights.parent / file).resolve())
        if not subfolder:
            card = model_card(read_model(weights.parent)[1], repo, unchanged=True)
            (Path(scratch) / "README.md").write_text(card, encoding="utf-8")
        message = f"{entry.name}, converted"
        return push_folder(
            Path(scratch), repo, subfolder=subfolder, private=private, revision=None, create_pr=False, message=message,
            progress=progress,
        )  # fmt: skip
