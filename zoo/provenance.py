"""Provenance: verified facts about a network's weights, and the subset that is safe to publish."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.adapt import LoadReport
from zoo.errors import ZooError
from zoo.index import Entry, load_index
from zoo.models import ARCHITECTURES, VideoNetwork
from zoo.spec import UNTRAINED
from zoo.weights.conversion import read_published
from zoo.weights.digests import read_digests
from zoo.weights.disk import sha256_of
from zoo.weights.lightning_checkpoint import read_checkpoint
from zoo.weights.locations import CHECKPOINT_SUFFIX, HUB_PREFIX, WEIGHTS_FILE
from zoo.weights.model_folder import read_model
from zoo.wrappers import COMPILED, state_of, unwrap

LOCAL = "a local checkpoint"
INITIALIZED = "initialized"  # keys without trained values
START = "start_only"  # the weights were trained for another network, such as an image network, and not since
COPY_OF = "copy_of"  # repository on the Hub that has exactly these weights
ALWAYS_VALID_KEYS = ("package",)  # stay valid whatever happens to the weights
SOURCE_KEYS = (*ALWAYS_VALID_KEYS, "entry", "sha256", "size", "source")  # stay valid when the weights are fine-tuned


def provenance_now(network: torch.nn.Module) -> dict[str, Any]:
    """Return the provenance of a network's current tensors.

    The tensors may have been trained or modified since they were loaded. Unless they are bit for bit those of the
    weight file, only the file is reported, as the start of the training.
    """
    network = unwrap(network)
    assert isinstance(network, VideoNetwork)
    report, provenance = network.report, dict(network.spec.provenance)
    untrained = report.still_untrained(state_of(network))
    current: dict[str, Any] = {INITIALIZED: list(untrained)} if untrained else {}
    if report.source is None:
        return {key: provenance[key] for key in ALWAYS_VALID_KEYS if key in provenance} | current
    source = {key: provenance[key] for key in SOURCE_KEYS if key in provenance}
    if report.name in load_index().entries:
        provenance = source = {"sha256": report.sha256} | source | {"entry": report.name}
    unchanged = _is_unchanged(report, state_of(network))
    if report.start_only and (untrained if report.untrained else unchanged):
        current[START] = True
    if unchanged and report.as_trained:
        copy = {COPY_OF: report.name} if report.name.startswith(HUB_PREFIX) else {}
        return provenance | current | copy
    return source | {"fine_tuned_from": report.name} | current


def _is_unchanged(report: LoadReport, tensors: Mapping[str, Tensor]) -> bool:
    """Whether all tensors that were loaded unchanged still equal those in the file.

    False if the file was removed or replaced.
    """
    path = Path(str(report.source))
    try:
        if sha256_of(path) != report.sha256:
            return False
        if path.suffix == CHECKPOINT_SUFFIX:
            saved = read_checkpoint(path)[0]
        elif report.name in load_index().entries and path.name != WEIGHTS_FILE:
            saved = read_published(load_index()[report.name], path)[0]
        else:
            saved = read_model(path)[0]
    except (ZooError, OSError):
        return False
    loaded = set(tensors) - {*report.initialized, *(report.adapted or {})}
    if not loaded <= set(saved):
        return False
    return fingerprint({key: saved[key] for key in loaded}) == fingerprint({key: tensors[key] for key in loaded})


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Compute one SHA-256 of all tensors, by name, dtype, shape and values; independent of device and file format.

    The prefix that torch.compile adds to the names is ignored.
    """
    digest = hashlib.sha256()
    tensors = {key.replace(f"{COMPILED}.", ""): tensor for key, tensor in tensors.items()}
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def entry_of(provenance: Mapping[str, Any]) -> Entry | None:
    """Return the index entry that the weights were loaded or fine-tuned from; None if no weights of it were used."""
    index = load_index().entries
    if str(provenance.get("entry")) in index and "sha256" in provenance:
        return index[provenance["entry"]]
    start = index.get(str(provenance.get("fine_tuned_from")))
    if start is not None and ("sha256" in provenance or start.is_bundled):
        return start
    return None


def is_published(entry: Entry, provenance: Mapping[str, Any]) -> bool:
    """Whether the weight file is the published file of its entry, as far as this machine can verify it."""
    if "sha256" not in provenance:
        return entry.is_bundled
    expected = entry.sha256 or entry.sha256_prefix or read_digests().get(entry.name, {}).get("sha256")
    if expected is None:  # it was recorded on the machine that downloaded the file
        return provenance.get("source") in [source.url for source in entry.sources]
    return str(provenance["sha256"]).startswith(expected)


# publishing -------------------------------------------------------------------------------------------------------


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without local information such as paths, for a public repository."""
    provenance = _mapping(config.get("provenance"))
    public = {key: clean(provenance[key]) for key, clean in PUBLIC_KEYS.items() if key in provenance}
    public = {key: value for key, value in public.items() if value not in (None, {}, [])}
    entry = entry_of(public)
    if entry is not None and provenance.get("source") in [source.url for source in entry.sources]:
        public["source"] = provenance["source"]
    return {key: config[key] for key in ("tempozoo", "arch", "options", "labels", "protocol")} | {"provenance": public}


def hub_repository(name: Any) -> str | None:
    """Return "user/repo" of a name ``hf-hub:user/repo[@revision]``; None for any other value."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    match = re.fullmatch(rf"{HUB_PREFIX}([\w.-]+/[\w.-]+)(@\w[\w./-]*)?", str(name), re.ASCII)
    if match is None:
        return None
    try:
        validate_repo_id(match[1])
    except HFValidationError:
        return None
    return match[1]


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return value if type(value) in (int, float) and math.isfinite(value) else None


def _numbers(value: Any) -> dict[str, float]:
    numbers = {_without_paths(str(key)): _number(inner) for key, inner in _mapping(value).items()}
    return {key: number for key, number in numbers.items() if number is not None}


def _text(value: Any) -> str | None:
    return _without_paths(value) if isinstance(value, str) else None


def _digest(value: Any) -> str | None:
    return value if re.fullmatch("[0-9a-f]{64}", str(value)) else None


def _start(value: Any) -> str | None:
    is_name = isinstance(value, str) and (value in load_index().entries or value in ARCHITECTURES)
    return value if is_name or hub_repository(value) else LOCAL


def _data(value: Any) -> dict[str, Any]:
    data = {"class": _text(_mapping(value).get("class")), "videos": _numbers(_mapping(value).get("videos"))}
    return {key: inner for key, inner in data.items() if inner}


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_without_paths(str(key)): _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(inner) for inner in value]
    if isinstance(value, str) and re.search(r"[\\/]|^~", value):
        return "a local file"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number
    return value


# key of a provenance that may be published -> function that returns the public part of its value, or None
PUBLIC_KEYS: dict[str, Callable[[Any], Any]] = {
    "entry": _text,
    "sha256": _digest,
    "size": _number,
    "package": _text,
    "fine_tuned_from": _start,
    COPY_OF: lambda value: value if hub_repository(value) else None,
    INITIALIZED: lambda value: [key for key in value if isinstance(key, str)] if isinstance(value, list) else None,
    "epochs": _number,
    "recipe": lambda value: _without_paths(_mapping(value)),
    "data": _data,
    "metrics": _numbers,
    UNTRAINED: lambda value: value is True or None,
    START: lambda value: value is True or None,
}
