"""Get the weights of an index entry: bundled, cached, or downloaded, verified and converted.

``get_weights`` is the entry point. The functions below it follow in the order of their calls.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
from zoo.weights.disk import locked, sha256_of
from zoo.weights.download import COMPLETE_FILE, downloaded_file
from zoo.weights.files import check_archive, refuse_page
from zoo.weights.locations import PUBLISHED, WEIGHTS_FILE, find_weights, parts_folder, published_path
from zoo.weights.mirrors import is_remote, mirrored
from zoo.weights.model_folder import move_model, read_model, remove_leftovers

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Weights:
    """Converted weights of an entry.

    tensors: tensors by state-dict key, on the CPU.
    spec: description of the network that they belong to.
    file, sha256: the converted file and its digest.
    fully_verified: whether the published file was verified against a full SHA-256, not only a prefix.
    """

    tensors: dict[str, torch.Tensor]
    spec: ModelSpec
    file: Path
    sha256: str
    fully_verified: bool = True


def get_weights(
    entry: Entry, cache_dir: str | os.PathLike[str] | None = None, *, keep: bool = False, progress: bool = True
) -> Weights:
    """Return an entry's weights: bundled, cached, or downloaded and converted into the cache. All are verified.

    If the cached file is damaged, or does not match the index or the user's recorded digests, a warning names it and
    it is downloaded again. Concurrent processes wait for the first one and share its result.

    Args:
        keep: also keep the publisher's file in the cache, and download it if it is not there.

    Raises:
        WeightsNotFoundError: the weights are not cached and downloads are disabled.
        DownloadError: no source provided the file. The message says how to download it by hand.
    """
    if find_weights(entry, cache_dir) == BUNDLED / entry.name:
        return _read_bundled(entry)
    root = cache_folder(cache_dir)
    folder = root / entry.name
    need_file = keep and not any(os.path.isfile(published_path(source, root)) for source in entry.sources)
    try:
        return _read_cache(entry, folder, need_file)
    except CheckpointError as error:
        problem = str(error).rstrip(".")
    sources = _weight_sources(entry, folder, root, keep, progress)
    if offline() and all(source.needs_network for source in sources):
        raise _offline_error(entry, root, problem)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except StorageError as error:
            raise StorageError(f"{problem}. {error}") from error
        try:
            return _read_cache(entry, folder, need_file)  # another process may have filled it meanwhile
        except CheckpointError as error:
            problem = str(error).rstrip(".")
        if os.path.isfile(folder / WEIGHTS_FILE) and not need_file:
            log.warning("%s. Downloading %s again.", problem, entry.name)
        remove_leftovers(folder)
        _download_first_available(entry, folder, root, problem, keep, progress)
        return _record_digest(entry, read_converted(entry, folder))


# cached ----------------------------------------------------------------------------------------------------------


def _read_bundled(entry: Entry) -> Weights:
    tensors, config, file, digest = read_model(BUNDLED / entry.name)
    if digest != entry.sha256:
        raise CheckpointError(
            f"{file} is not the file of this version of the package (SHA-256 {digest}, expected {entry.sha256}). "
            "Reinstall the package."
        )
    return Weights(tensors, ModelSpec.from_config(config, str(file)), file, digest)


def _read_cache(entry: Entry, folder: Path, need_file: bool) -> Weights:
    """Read an entry's cached weights; the message of a CheckpointError is the reason for a download."""
    if need_file:
        raise WeightsNotFoundError(f"The published file of {entry.name} is not in the cache")
    return _record_digest(entry, read_converted(entry, folder))


def read_converted(entry: Entry, folder: Path) -> Weights:
    """Read and verify an entry's converted weights.

    Raises:
        WeightsNotFoundError: the folder has no weights.
        CheckpointError: they are damaged, come from another published file, or were converted by outdated rules.
    """
    if not os.path.isfile(folder / WEIGHTS_FILE):
        raise WeightsNotFoundError(f"The weights of {entry.name} are not on this machine (expected in {folder})")
    tensors, config, file, digest = read_model(folder, untouched=True)
    try:
        spec = ModelSpec.from_config(config, str(folder))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    provenance = spec.provenance
    if provenance.get("entry") != entry.name or not isinstance(provenance.get("sha256"), str):
        raise CheckpointError(f"{folder} was not converted from the published file of {entry.name}.")
    fully_verified = check_digest(
        entry.name, provenance["sha256"], entry.sha256, entry.sha256_prefix, f"The published file behind {folder}"
    )
    if spec.arch != entry.arch or spec.options != dict(entry.options) or provenance.get("rules") != RULES_VERSION:
        raise CheckpointError(f"{folder} was converted by the rules of another version of the package.")
    return Weights(tensors, spec, file, digest, fully_verified)


def _record_digest(entry: Entry, weights: Weights) -> Weights:
    """Record the digest of the published file, unless a full one is recorded already; return ``weights``."""
    if not weights.fully_verified:
        provenance = weights.spec.provenance
        source = provenance.get("source", provenance.get("file"))
        record_digest(entry.name, provenance["sha256"], provenance.get("size"), source)
    return weights


# downloaded, verified and converted --------------------------------------------------------------------------------


class _WeightSource(NamedTuple):
    """A mirror or a publisher's source; ``download`` fills the entry's cache folder from it."""

    needs_network: bool
    download: Callable[[], None]


def _download_first_available(entry: Entry, folder: Path, root: Path, problem: str, keep: bool, progress: bool) -> None:
    """Fill ``folder`` from the first source that works. ``problem``: why the cache could not be used.

    Raises:
        WeightsNotFoundError: no source worked, and at least one was skipped because downloads are disabled.
        CheckpointError, UnknownNameError: the error of the last source contacted, with the messages of all.
    """
    failures: list[ZooError] = []
    needs_download = False
    for source in _weight_sources(entry, folder, root, keep, progress):
        if source.needs_network and offline():
            needs_download = True
            continue
        if failures and not _is_skipped(failures[-1]):
            log.warning("%s", failures[-1])
        try:
            return source.download()
        except (CheckpointError, UnknownNameError) as error:
            failures.append(error)
    message = " ".join(str(failure) for failure in failures)
    if needs_download:
        raise _offline_error(entry, root, message.rstrip(".") or problem)
    contacted = [failure for failure in failures if not _is_skipped(failure)]
    last = (contacted or failures)[-1]
    if contacted and isinstance(last, DownloadError):  # other errors: the file was downloaded but is unusable
        message += f" By hand: {manual_steps(entry, root)}"
    raise last.with_message(message) from failures[-1]


def _weight_sources(entry: Entry, folder: Path, root: Path, keep: bool, progress: bool) -> list[_WeightSource]:
    """Return the mirror, if any, and the publisher's sources, in the order of attempts."""
    sources: list[_WeightSource] = []
    location = mirror()
    if location is not None and not keep:  # mirrors contain only converted weights
        download = partial(_download_from_mirror, entry, location, folder, root, progress)
        sources.append(_WeightSource(is_remote(location), download))
    for source in entry.sources:
        path = published_path(source, root)
        on_disk = os.path.isfile(path) or os.path.isfile(parts_folder(path) / COMPLETE_FILE)
        download = partial(_download_from_publisher, entry, source, folder, root, keep, progress)
        sources.append(_WeightSource(not on_disk, download))
    return sources


def _download_from_mirror(entry: Entry, location: str, folder: Path, root: Path, progress: bool) -> None:
    with mirrored(location, entry.name, root / PUBLISHED, progress) as copy:
        read_converted(entry, copy)
        move_model(copy, folder)


def _download_from_publisher(
    entry: Entry, source: Source, folder: Path, root: Path, keep: bool, progress: bool
) -> None:
    """Convert the published file: the copy in the cache, or else a verified download."""
    target = published_path(source, root)
    digests: list[str] = []

    def verify(path: Path) -> bool:
        """Return whether ``path`` is verified to be the published file; raise CheckpointError if it cannot be."""
        refuse_page(path)
        digests.append(sha256_of(path))
        fully_verified = check_digest(entry.name, digests[-1], entry.sha256, entry.sha256_prefix, path)
        return fully_verified or check_archive(path)

    try:
        with downloaded_file(source, target, verify, keep=keep, progress=progress) as path:
            convert_file(entry, path, folder, digests[-1], source.url)
    except CheckpointError as error:
        # the temporary file has been deleted, so the message names its URL instead
        temporary = str(parts_folder(target) / COMPLETE_FILE)
        raise error.with_message(str(error).replace(temporary, source.url)) from error


# messages --------------------------------------------------------------------------------------------------------


def _is_skipped(error: ZooError) -> bool:
    return isinstance(error, DownloadError) and error.reason == "skipped"


def _offline_error(entry: Entry, root: Path, problem: str) -> WeightsNotFoundError:
    return WeightsNotFoundError(
        f"{problem}, and TEMPOZOO_OFFLINE or HF_HUB_OFFLINE is set. Unset it, or by hand: {manual_steps(entry, root)}"
    )


def manual_steps(entry: Entry, root: Path) -> str:
    """Return instructions for downloading and installing an entry's file by hand."""
    steps = []
    for source in entry.sources:
        file = f"{source.file} from the folder {source.url}" if source.file else source.url
        steps.append(f"save {file} as {published_path(source, root)}")
    return f"{', or '.join(steps)}, or run: tempozoo convert FILE {entry.name}"
