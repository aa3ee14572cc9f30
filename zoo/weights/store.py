"""Published weights -> the cache: fetched from a mirror or a publisher, held to their digest, converted, checked."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from zoo.errors import (
    CheckpointError,
    ConfigError,
    DownloadError,
    StorageError,
    UnknownNameError,
    WeightsNotFoundError,
    ZooError,
)
from zoo.index import BUNDLED, Entry, Source
from zoo.settings import cache_folder, mirror, offline
from zoo.spec import ModelSpec
from zoo.weights.conversion import convert_file
from zoo.weights.converters import RULES_VERSION
from zoo.weights.digests import check_digest, record_digest
from zoo.weights.download import WHOLE, fetched, half_of, place_for
from zoo.weights.files import check_archive, locked, refuse_page, sha256_of
from zoo.weights.mirrors import is_remote, mirrored
from zoo.weights.model_folder import WEIGHTS_FILE, move_model, read_model, sweep

log = logging.getLogger("zoo")
FILES = "published"  # in the cache: publishers' files, by address


@dataclass(frozen=True)
class Weights:
    """An entry's tensors in our names, their spec, and the file they were read from with its sha256.

    ``held``: whether the publisher's file was verified against a full digest.
    """

    tensors: dict[str, torch.Tensor]
    spec: ModelSpec
    file: Path
    sha256: str
    held: bool = True


def find_weights(entry: Entry, cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder with an entry's converted weights, bundled or in the cache, unchecked; None if there is none."""
    for folder in (BUNDLED / entry.name, cache_folder(cache_dir) / entry.name):
        if os.path.isfile(folder / WEIGHTS_FILE):
            return folder
    return None


def obtain(
    entry: Entry, cache_dir: str | os.PathLike[str] | None = None, *, keep: bool = False, progress: bool = True
) -> Weights:
    """An entry's weights: bundled, cached, or fetched and converted into the cache; checked in any case.

    A cached file that is damaged, or was made from another file than the index or the user's lock file say, is named
    in a warning and fetched again. Processes that ask at the same time wait for the first.

    Args:
        keep: leave the publisher's file in the cache as well, and fetch it if it is not there.

    Raises:
        WeightsNotFoundError: they would have to be fetched, and that is forbidden.
        DownloadError: no source gave the file; the message says what to do by hand.
    """
    root = cache_folder(cache_dir)
    if find_weights(entry, cache_dir) == BUNDLED / entry.name:
        return _read_bundled(entry)
    folder = root / entry.name
    file_wanted = keep and not any(os.path.isfile(file_by_hand(source, root)) for source in entry.sources)
    found = _look(entry, folder, file_wanted)
    if isinstance(found, Weights):
        return found
    if offline() and all(remote for remote, _ in _ways(entry, folder, root, keep, progress)):
        raise _offline(entry, root, found)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except StorageError as error:
            raise StorageError(f"{found}. {error}") from error
        found = _look(entry, folder, file_wanted)  # another process may have been faster
        if isinstance(found, Weights):
            return found
        if os.path.isfile(folder / WEIGHTS_FILE) and not file_wanted:
            log.warning("%s. Fetching %s again.", found, entry.name)
        sweep(folder)
        _fill(entry, folder, root, found, keep, progress)
        return _noted(entry, read_cached(entry, folder))


def _look(entry: Entry, folder: Path, file_wanted: bool) -> Weights | str:
    """An entry's cached weights, or why they have to be fetched."""
    if file_wanted:
        return f"The publisher's file of {entry.name} was not kept"
    try:
        return _noted(entry, read_cached(entry, folder))
    except WeightsNotFoundError:
        return f"The weights of {entry.name} are not on this machine"
    except CheckpointError as error:
        return str(error).rstrip(".")


def _read_bundled(entry: Entry) -> Weights:
    tensors, config, file, digest = read_model(BUNDLED / entry.name)
    if digest != entry.sha256:
        raise CheckpointError(f"{file} is not the file this package came with (sha256 {digest}); install it again.")
    return Weights(tensors, ModelSpec.from_config(config, str(file)), file, digest)


def read_cached(entry: Entry, folder: Path) -> Weights:
    """An entry's weights from a folder that holds its conversion.

    Raises:
        WeightsNotFoundError: there are none.
        CheckpointError: they are damaged, or not made from the entry's file, or by other rules than today's.
    """
    if not os.path.isfile(folder / WEIGHTS_FILE):
        raise WeightsNotFoundError(f"There are no weights of {entry.name} in {folder}")
    tensors, config, file, digest = read_model(folder, untouched=True)
    try:
        spec = ModelSpec.from_config(config, str(folder))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    made = spec.provenance
    if made.get("entry") != entry.name or not isinstance(made.get("sha256"), str):
        raise CheckpointError(f"{folder} does not say that it was converted from the file of {entry.name}.")
    what = f"What {folder} was made from"
    held = check_digest(entry.name, made["sha256"], entry.sha256, entry.sha256_prefix, what)
    if spec.arch != entry.arch or spec.options != dict(entry.options) or made.get("rules") != RULES_VERSION:
        raise CheckpointError(f"{folder} was converted in another way than this version of the package does it.")
    return Weights(tensors, spec, file, digest, held)


def _noted(entry: Entry, weights: Weights) -> Weights:
    """The same weights, once the digest of the file they were made from is noted."""
    if not weights.held:
        made = weights.spec.provenance
        record_digest(entry.name, made["sha256"], made.get("size"), made.get("source", made.get("file")))
    return weights


# fetching --------------------------------------------------------------------------------------------------------


def _ways(entry: Entry, folder: Path, root: Path, keep: bool, progress: bool) -> list[tuple[bool, Callable[[], None]]]:
    """How ``folder`` can be filled, in order, and whether each needs the network: the mirror, then the sources."""
    where = mirror()
    ways: list[tuple[bool, Callable[[], None]]] = []
    if where is not None and not keep:
        ways.append((is_remote(where), partial(_from_mirror, entry, where, folder, root, progress)))
    for source in entry.sources:
        target = file_by_hand(source, root)
        remote = not os.path.isfile(target) and not os.path.isfile(half_of(target) / WHOLE)
        ways.append((remote, partial(_from_source, entry, source, folder, root, keep, progress)))
    return ways


def _fill(entry: Entry, folder: Path, root: Path, problem: str, keep: bool, progress: bool) -> None:
    """Fill ``folder`` in the first way that works."""
    failures: list[ZooError] = []
    skipped = False
    for remote, way in _ways(entry, folder, root, keep, progress):
        if remote and offline():
            skipped = True
            continue
        if failures and not _skipped(failures[-1]):
            log.warning("%s", failures[-1])
        try:
            return way()
        except (CheckpointError, UnknownNameError) as error:
            failures.append(error)
    text = " ".join(str(failure) for failure in failures)
    if skipped:
        raise _offline(entry, root, text.rstrip(".") or problem)
    attempted = [failure for failure in failures if not _skipped(failure)]
    last = (attempted or failures)[-1]
    if attempted and isinstance(last, DownloadError):  # otherwise the file was downloaded, but is a wrong one
        text += f" By hand: {by_hand(entry, root)}"
    raise last.with_message(text) from failures[-1]


def _skipped(error: ZooError) -> bool:
    return isinstance(error, DownloadError) and error.reason == "skipped"


def _offline(entry: Entry, root: Path, problem: str) -> WeightsNotFoundError:
    hint = by_hand(entry, root)
    return WeightsNotFoundError(
        f"{problem}, and TEMPOZOO_OFFLINE or HF_HUB_OFFLINE is set. Unset it, or by hand: {hint}"
    )


def file_by_hand(source: Source, root: Path) -> Path:
    """Where in the cache a source's file is taken from when a person, or ``keep``, has put it there."""
    return root / FILES / place_for(source.kind, source.url, source.file)


def by_hand(entry: Entry, root: Path) -> str:
    """What to do where nothing can be fetched."""
    ways = []
    for source in entry.sources:
        what = f"{source.file} of the folder {source.url}" if source.file else source.url
        ways.append(f"save {what} as {file_by_hand(source, root)}")
    return f"{', or '.join(ways)}, or run: tempozoo convert FILE {entry.name}"


def _from_mirror(entry: Entry, where: str, folder: Path, root: Path, progress: bool) -> None:
    with mirrored(where, entry.name, root / FILES, progress) as place:
        read_cached(entry, place)
        move_model(place, folder)


def _from_source(entry: Entry, source: Source, folder: Path, root: Path, keep: bool, progress: bool) -> None:
    target = file_by_hand(source, root)
    digests: list[str] = []

    def verify(path: Path) -> bool:
        """Whether it is proved to be the file; a CheckpointError if it is proved not to be."""
        refuse_page(path)
        digests.append(sha256_of(path))
        held = check_digest(entry.name, digests[-1], entry.sha256, entry.sha256_prefix, path)
        return held or check_archive(path)

    try:
        with fetched(source.kind, source.url, source.file, target, verify, keep=keep, progress=progress) as path:
            convert_file(entry, path, folder, digests[-1], source.url)
    except CheckpointError as error:
        # of a file that is gone by now, the address says more
        raise error.with_message(str(error).replace(str(half_of(target) / WHOLE), source.url)) from error
