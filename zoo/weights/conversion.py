"""Convert a publisher's file: rules rename and reshape its tensors; the result is a folder of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.adapt import MAX_GROWTH, load_adapted
from zoo.arguments import check_path, check_text
from zoo.errors import CheckpointError, DownloadError, ZooError
from zoo.index import Entry, load_index
from zoo.models import build_on_meta
from zoo.settings import cache_folder
from zoo.spec import UNTRAINED
from zoo.text import listing, printable
from zoo.weights.converters import CONVERTERS, RULES_VERSION, apply_rules
from zoo.weights.digests import check_digest, record_digest
from zoo.weights.disk import locked, sha256_of
from zoo.weights.files import read_tensors
from zoo.weights.model_folder import remove_leftovers, write_model

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # tensors that are not parameters


def convert(source_file: str | os.PathLike[str], name: str, out_dir: str | os.PathLike[str] | None = None) -> Path:
    """Convert a published checkpoint file to safetensors + config.json and return the folder.

    Args:
        source_file: the publisher's file.
        name: the index entry it belongs to.
        out_dir: folder to write. The default is the cache, from which ``load(name)`` reads. The cache accepts only
            the published file, as far as its digest is known; another folder accepts any file of that network.

    Raises:
        UnknownNameError: the index has no such entry.
        CheckpointError: the file cannot be read or is of another network, or (DownloadError) is not the published one.
    """
    check_path("source_file", source_file)
    check_text("name", name)
    check_path("out_dir", out_dir, optional=True)
    entry, path = load_index()[name], Path(source_file)
    if not path.is_file():
        raise CheckpointError(f"Weight file {printable(str(path))} does not exist.")
    digest = sha256_of(path)
    if out_dir is not None:
        try:
            return convert_file(entry, path, Path(out_dir), digest)
        except CheckpointError as error:
            if type(error) is not CheckpointError:
                raise
            raise CheckpointError(f"{error} {matches_hint(path, name)}".rstrip()) from error
    try:
        check_digest(name, digest, entry.sha256, entry.sha256_prefix, path)
    except DownloadError as error:
        raise error.with_message(f"{error} To convert it anyway, give an output folder: --out DIR") from error
    folder = cache_folder() / name
    with locked(folder):
        remove_leftovers(folder)
        convert_file(entry, path, folder, digest)
        if not entry.sha256:
            record_digest(name, digest, path.stat().st_size, f"{path.name}, converted by hand")
    return folder


def convert_file(entry: Entry, path: Path, folder: Path, digest: str, source: str | None = None) -> Path:
    """Write a published file's tensors to ``folder`` in our names and format, and return the folder.

    The tensors are memory-mapped, so they are never all in memory.

    Args:
        digest: SHA-256 of the file.
        source: URL that it was downloaded from.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the entry's network.
    """
    tensors, _ = read_published(entry, path)
    network = build_on_meta(entry.arch, **entry.options)
    # the tensors of an image network are written without the operator's, so that later loads report it as untrained
    load_adapted(network, tensors, entry.options, entry.options, where=str(path), operator_untrained=entry.init)
    dtypes = {key: value.dtype for key, value in network.state_dict().items()}
    size = path.stat().st_size
    provenance: dict[str, Any] = {"entry": entry.name, "sha256": digest, "size": size, "rules": RULES_VERSION}
    provenance |= {"source": source} if source else {"file": path.name}
    if entry.init:
        provenance[UNTRAINED] = True
    config = replace(entry.spec, provenance=provenance).to_config()
    return write_model(folder, {key: value.to(dtypes[key]) for key, value in tensors.items()}, config)


def read_published(entry: Entry, path: Path) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Return a published file's tensors in our names, and the keys ignored on purpose.

    Raises:
        CheckpointError: the file cannot be read, or its keys match no known format.
    """
    raw = read_tensors(path)
    unknown: list[str] = []  # in the entry's own format, which is tried first
    for converter in sorted(CONVERTERS, key=lambda name: name != entry.converter):
        conversion = apply_rules(CONVERTERS[converter], raw)
        if not conversion.unknown:
            return conversion.tensors, tuple(conversion.ignored)
        unknown = unknown or conversion.unknown
    if set(raw) <= set(build_on_meta(entry.arch, **entry.options).state_dict()):
        return raw, ()  # already in our names
    raise CheckpointError(
        f"{path} is not a file of {entry.name}: {len(unknown)} of its {len(raw)} keys are unknown in the "
        f"{entry.converter!r} format, such as {listing(unknown)}. Expected the file of {entry.sources[0].url}"
    )


def matching_entries(path: str | os.PathLike[str]) -> list[str]:
    """Return the index entries whose networks a publisher's file fits by keys and shapes, in index order.

    Networks with the same keys and shapes all match. The search takes a few seconds at most.

    Raises:
        CheckpointError: the file cannot be read, or has no weights.
    """
    check_path("path", path)
    file = read_tensors(Path(path))
    shapes = {key: torch.empty(value.shape, dtype=value.dtype, device="meta") for key, value in file.items()}
    formats: dict[str | None, dict[str, torch.Tensor]] = {None: shapes}  # None: already in our names
    for name, rules in CONVERTERS.items():
        conversion = apply_rules(rules, shapes)
        if conversion.tensors and not conversion.unknown:
            formats[name] = conversion.tensors
    names: list[str] = []
    fits: dict[str, bool] = {}
    for entry in load_index().entries.values():
        # entries with the same image network, or with the same architecture and options, need one comparison
        key = entry.sources[0].url if entry.init else f"{entry.arch} {sorted(entry.options.items())}"
        if key not in fits:
            candidates = [formats[name] for name in (entry.converter, None) if name in formats]
            fits[key] = any(_fits(entry, tensors) for tensors in candidates)
        if fits[key]:
            names.append(entry.name)
    return names


def _fits(entry: Entry, tensors: Mapping[str, torch.Tensor]) -> bool:
    params = sum(value.numel() for key, value in tensors.items() if not key.endswith(BUFFERS))
    growth = MAX_GROWTH if entry.init else 1
    if not params <= entry.params <= growth * params:
        return False  # decided without building the network, which takes most of the time
    network = build_on_meta(entry.arch, **entry.options)
    try:
        load_adapted(network, dict(tensors), entry.options, entry.options, where="", operator_untrained=entry.init)
    except CheckpointError:
        return False
    return True


def matches_hint(path: Path, name: str | None = None) -> str:
    """Name the entries that a file fits, in a sentence. Empty if it fits none, fits ``name``, or cannot be read."""
    try:
        names = matching_entries(path)
    except ZooError:
        return ""
    if not names or name in names:
        return ""
    file = printable(path.name)
    return f"{file} fits {listing(names, 8)}: pass weights={printable(str(path))} with one of these names."
