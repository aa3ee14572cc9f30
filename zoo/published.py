"""Published weights -> the cache: fetched from a mirror or a publisher, held to their digest, converted, checked."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zoo.adapt import fit, listing
from zoo.config import UNTRAINED, config_of
from zoo.convert import CONVERTERS, apply_rules
from zoo.errors import (
    CheckpointError,
    DigestError,
    DownloadError,
    OfflineError,
    UnknownNameError,
    WeightsNotFoundError,
    ZooError,
)
from zoo.hub.digests import check_digest, record_digest
from zoo.hub.download import fetched, half_of, locked, place_for
from zoo.hub.files import check_archive, read_tensors, refuse_page, sha256_of
from zoo.hub.folders import WEIGHTS_FILE, move_model, read_model, write_model
from zoo.hub.mirrors import is_remote, mirrored
from zoo.hub.settings import cache_folder, mirror, offline
from zoo.index import BUNDLED, Entry, Source, load_index
from zoo.models import build

log = logging.getLogger("zoo")
FILES = "published"  # in the cache: publishers' files, by address


@dataclass(frozen=True)
class Weights:
    """An entry's tensors in our names, the config beside them, and the file they were read from with its sha256."""

    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    file: Path
    sha256: str


def find_weights(entry: Entry, cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder with an entry's converted weights, bundled or in the cache, unchecked; None if there is none."""
    for folder in (BUNDLED / entry.name, cache_folder(cache_dir) / entry.name):
        if (folder / WEIGHTS_FILE).is_file():
            return folder
    return None


def obtain(
    entry: Entry, cache_dir: str | os.PathLike[str] | None = None, *, keep: bool = False, progress: bool = True
) -> Weights:
    """An entry's weights: bundled, cached, or fetched and converted into the cache; checked in any case.

    A cached file that is damaged, or was made from another file than the index or the user's lock file say, is named
    in a warning and fetched again. Processes that ask at the same time wait for the first.

    Raises:
        OfflineError: they would have to be fetched, and that is forbidden.
        DownloadError: no source gave the file; the message says what to do by hand.
    """
    root = cache_folder(cache_dir)
    if (BUNDLED / entry.name / WEIGHTS_FILE).is_file():
        return _read_bundled(entry)
    folder = root / entry.name
    with contextlib.suppress(CheckpointError):
        return read_cached(entry, folder)
    with locked(folder):
        try:
            return read_cached(entry, folder)  # another process may have been faster
        except WeightsNotFoundError:
            problem = f"The weights of {entry.name} are not on this machine"
        except CheckpointError as error:
            problem = str(error).rstrip(".")
            log.warning("%s. Fetching %s again.", problem, entry.name)
        _fetch(entry, folder, root, problem, keep, progress)
        return read_cached(entry, folder)


def _read_bundled(entry: Entry) -> Weights:
    tensors, config, file, digest = read_model(BUNDLED / entry.name)
    if digest != entry.sha256:
        raise CheckpointError(f"{file} is not the file this package came with (sha256 {digest}); install it again.")
    return Weights(tensors, config, file, digest)


def read_cached(entry: Entry, folder: Path) -> Weights:
    """An entry's weights from a folder that holds its conversion.

    Raises:
        WeightsNotFoundError: there are none.
        CheckpointError: they are damaged, or not made from the entry's file, or by other rules than today's.
    """
    if not (folder / WEIGHTS_FILE).is_file():
        raise WeightsNotFoundError(f"There are no weights of {entry.name} in {folder}.")
    tensors, config, file, digest = read_model(folder, untouched=True)
    provenance = config.get("provenance") if isinstance(config, dict) else None
    if not isinstance(provenance, dict) or provenance.get("entry") != entry.name or "sha256" not in provenance:
        raise CheckpointError(f"{folder} does not say that it was converted from the file of {entry.name}.")
    check_digest(entry.name, provenance["sha256"], entry.sha256, entry.sha256_prefix, f"What {folder} was made from")
    if config.get("arch") != entry.arch or config.get("options") != dict(entry.options):
        raise CheckpointError(f"{folder} was converted for another form of {entry.arch} than the index now gives.")
    return Weights(tensors, config, file, digest)


# fetching --------------------------------------------------------------------------------------------------------


def _fetch(entry: Entry, folder: Path, root: Path, problem: str, keep: bool, progress: bool) -> None:
    """Fill ``folder`` from the first place that has the entry's weights: the mirror, then its sources in order."""
    failures: list[ZooError] = []
    where = mirror()
    ways: list[tuple[bool, Callable[[], None]]] = []
    if where is not None:
        ways.append((is_remote(where), partial(_from_mirror, entry, where, folder, root, progress)))
    for source in entry.sources:
        remote = not file_by_hand(source, root).is_file()
        ways.append((remote, partial(_from_source, entry, source, folder, root, keep, progress)))
    for remote, way in ways:
        if remote and offline():
            continue
        try:
            return way()
        except (CheckpointError, UnknownNameError) as error:
            failures.append(error)
            log.info("%s", error)
    hint = by_hand(entry, root)
    if not failures:
        raise OfflineError(f"{problem}, and TEMPOZOO_OFFLINE or HF_HUB_OFFLINE is set. Unset it, or by hand: {hint}")
    text = " ".join(str(failure) for failure in failures)
    kind = type(failures[-1])
    raise kind(f"{text} By hand: {hint}" if issubclass(kind, DownloadError) else text) from failures[-1]


def file_by_hand(source: Source, root: Path) -> Path:
    """Where in the cache a source's file is taken from when a person, or ``keep``, has put it there."""
    return root / FILES / place_for(source.kind, source.url, source.file)


def by_hand(entry: Entry, root: Path) -> str:
    """What to do where nothing can be fetched."""
    source = entry.sources[0]
    what = f"{source.file} of the folder {source.url}" if source.file else source.url
    return f"save {what} as {file_by_hand(source, root)}, or run: tempozoo convert FILE {entry.name}"


def _from_mirror(entry: Entry, where: str, folder: Path, root: Path, progress: bool) -> None:
    with mirrored(where, entry.name, root / FILES, progress) as place:
        found = read_cached(entry, place).config["provenance"]
        move_model(place, folder)
    if not (entry.sha256 or entry.sha256_prefix):
        record_digest(entry.name, found["sha256"], found.get("size"), where)


def _from_source(entry: Entry, source: Source, folder: Path, root: Path, keep: bool, progress: bool) -> None:
    target = file_by_hand(source, root)
    digests: list[str] = []

    def verify(path: Path) -> None:
        refuse_page(path)
        digests.append(sha256_of(path))
        if not check_digest(entry.name, digests[-1], entry.sha256, entry.sha256_prefix, str(path)):
            check_archive(path)

    try:
        with fetched(source.kind, source.url, source.file, target, verify, keep=keep, progress=progress) as path:
            size = path.stat().st_size
            convert_file(entry, path, folder, digests[-1])
    except CheckpointError as error:
        # of a file that is gone by now, the address says more
        raise type(error)(str(error).replace(str(half_of(target) / "file"), source.url)) from error
    if not (entry.sha256 or entry.sha256_prefix):
        record_digest(entry.name, digests[-1], size, source.url)


# conversion ------------------------------------------------------------------------------------------------------


def convert(source_file: str | os.PathLike[str], name: str, out_dir: str | os.PathLike[str] | None = None) -> Path:
    """Convert a published checkpoint file to safetensors + config.json and return the folder.

    Args:
        source_file: the publisher's file.
        name: the index entry it belongs to.
        out_dir: where to write; default is the cache, where ``load(name)`` finds it from then on. Into the cache goes
            only the published file itself, as far as its digest is known; elsewhere, any file of that network.

    Raises:
        UnknownNameError: no such entry.
        CheckpointError: a file that cannot be read, is of another network, or (DigestError) not the published one.
    """
    entry, path = load_index()[name], Path(source_file)
    if not path.is_file():
        raise CheckpointError(f"There is no weight file {path}.")
    digest = sha256_of(path)
    if out_dir is not None:
        return convert_file(entry, path, Path(out_dir), digest)
    try:
        known = check_digest(name, digest, entry.sha256, entry.sha256_prefix, path)
    except DigestError as error:
        raise DigestError(f"{error} To convert it all the same, give a folder for it: --out DIR") from error
    folder = cache_folder() / name
    with locked(folder):
        convert_file(entry, path, folder, digest)
    if not known:
        record_digest(name, digest, path.stat().st_size, f"{path.name}, converted by hand")
    return folder


def convert_file(entry: Entry, path: Path, folder: Path, digest: str) -> Path:
    """Write a published file's tensors in our names and format; its tensors are mapped, never all in memory."""
    tensors, _ = read_published(entry, path)
    with torch.device("meta"):
        network = build(entry.arch, **entry.options)
    # of an image network, only what was trained is kept, so that later loads still tell the operator is new
    fit(network, tensors, entry.options, entry.options, where=str(path), operator_untrained=entry.init)
    types = {key: value.dtype for key, value in network.state_dict().items()}
    provenance = {"entry": entry.name, "file": path.name, "sha256": digest, "size": path.stat().st_size}
    if entry.init:
        provenance[UNTRAINED] = True
    config = config_of(entry.arch, entry.options, entry.protocol, entry.class_names(), provenance)
    return write_model(folder, {key: value.to(types[key]) for key, value in tensors.items()}, config)


def read_published(entry: Entry, path: Path) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """A published file's tensors in our names, and the keys ignored on purpose.

    Raises:
        CheckpointError: the file cannot be read, or is in no format that is known of the entry.
    """
    raw = read_tensors(path)
    first = entry.converter
    best = None
    for converter in sorted(CONVERTERS, key=lambda c: c != first):  # any publisher's format of the network will do
        conversion = apply_rules(CONVERTERS[converter], raw)
        if not conversion.unknown:
            return conversion.tensors, tuple(conversion.ignored)
        best = best or conversion
    with torch.device("meta"):
        ours = build(entry.arch, **entry.options).state_dict()
    if set(raw) <= set(ours):
        return raw, ()  # already in our names
    assert best is not None
    raise CheckpointError(
        f"{path} is not a file of {entry.name}: {len(best.unknown)} of its {len(raw)} keys are unknown to the "
        f"{first!r} format, such as {listing(best.unknown)}. Expected the file of {entry.sources[0].url}"
    )
