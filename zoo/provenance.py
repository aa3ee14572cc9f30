"""Where a network's weights come from: what is true of them as they are now, and what of it is told to everybody."""

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

from zoo.errors import ZooError
from zoo.hub.pull import HUB_PREFIX
from zoo.index import Entry, load_index
from zoo.models import ARCHITECTURES
from zoo.spec import UNTRAINED
from zoo.weights.conversion import read_published
from zoo.weights.digests import read_digests
from zoo.weights.files import sha256_of
from zoo.weights.lightning_checkpoint import SUFFIX, read_checkpoint
from zoo.weights.model_folder import WEIGHTS_FILE, read_model
from zoo.wrappers import COMPILED, state_of, unwrap

LOCAL = "a local checkpoint"
INITIALIZED = "initialized"  # keys of a network that nobody has trained
START = "start_only"  # the weights were trained for another network, such as an image network, and not since
COPY_OF = "copy_of"  # the Hub's repository whose weights these are, unchanged
OF_ALL = ("package",)  # what a network brings along that is true of it however it was initialized,
OF_START = (*OF_ALL, "entry", "sha256", "size", "source")  # and what is true of the file its training goes back to


def provenance_now(network: Any) -> dict[str, Any]:
    """What a network's provenance may say of its tensors as they are now.

    Anybody may have trained or changed them since they were loaded: unless they are, bit for bit, those of the file
    that they came from, only their start is known.
    """
    network = unwrap(network)
    report, made = network.report, dict(network.spec.provenance)
    untrained = report.still_untrained(state_of(network))
    new: dict[str, Any] = {INITIALIZED: list(untrained)} if untrained else {}
    if report.source is None:
        return {key: made[key] for key in OF_ALL if key in made} | new
    start = {key: made[key] for key in OF_START if key in made}
    if report.name in load_index().entries:
        made = start = {"sha256": report.sha256} | start | {"entry": report.name}
    untouched = _untouched(report, state_of(network))
    if report.start_only and (untrained if report.untrained else untouched):
        new[START] = True
    if untouched and report.as_trained:
        return made | new | ({COPY_OF: report.name} if report.name.startswith(HUB_PREFIX) else {})
    return start | {"fine_tuned_from": report.name} | new


def _untouched(report: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Whether all tensors taken as they stood in a file are still so; no if the file has gone or is another by now."""
    path = Path(report.source)
    try:
        if sha256_of(path) != report.sha256:
            return False
        if path.suffix == SUFFIX:
            held = read_checkpoint(path)[0]
        elif report.name in load_index().entries and path.name != WEIGHTS_FILE:
            held = read_published(load_index()[report.name], path)[0]
        else:
            held = read_model(path)[0]
    except (ZooError, OSError):
        return False
    taken = set(tensors) - {*report.initialized, *(report.adapted or {})}
    if not taken <= set(held):
        return False
    return fingerprint({key: held[key] for key in taken}) == fingerprint({key: tensors[key] for key in taken})


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """One sha256 for all tensors by name, type, shape and content, wherever they are and however they are saved.

    The names are those of the network without torch.compile.
    """
    digest = hashlib.sha256()
    tensors = {key.replace(f"{COMPILED}.", ""): tensor for key, tensor in tensors.items()}
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def entry_of(made: Mapping[str, Any]) -> Entry | None:
    """The index entry that a provenance goes back to; None where it names one of which no weights were taken."""
    index = load_index().entries
    if str(made.get("entry")) in index and "sha256" in made:
        return index[made["entry"]]
    start = index.get(str(made.get("fine_tuned_from")))
    if start is not None and ("sha256" in made or start.is_bundled):
        return start
    return None


def is_published(entry: Entry, made: Mapping[str, Any]) -> bool:
    """Whether the file a provenance goes back to is the published one of its entry, as far as can be known."""
    if "sha256" not in made:
        return entry.is_bundled
    known = entry.sha256 or entry.sha256_prefix or read_digests().get(entry.name, {}).get("sha256")
    if known is None:  # it was noted where the file was fetched, which may have been on another machine
        return made.get("source") in [source.url for source in entry.sources]
    return str(made["sha256"]).startswith(known)


# what is told -----------------------------------------------------------------------------------------------------


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without anything that is of its author's machine only: no paths, whoever wrote them there."""
    made = _mapping(config.get("provenance"))
    public = {key: clean(made[key]) for key, clean in TOLD.items() if key in made}
    public = {key: value for key, value in public.items() if value not in (None, {}, [])}
    entry = entry_of(public)
    if entry is not None and made.get("source") in [source.url for source in entry.sources]:
        public["source"] = made["source"]
    return {key: config[key] for key in ("tempozoo", "arch", "options", "labels", "protocol")} | {"provenance": public}


def hub_repository(name: Any) -> str | None:
    """The "user/repo" of a text that begins as ``hf-hub:user/repo[@revision]`` does and holds nothing else."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    found = re.fullmatch(rf"{HUB_PREFIX}([\w.-]+/[\w.-]+)(@\w[\w./-]*)?", str(name), re.ASCII)
    if found is None:
        return None
    try:
        validate_repo_id(found[1])
    except HFValidationError:
        return None
    return found[1]


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return value if type(value) in (int, float) and math.isfinite(value) else None


def _numbers(value: Any) -> dict[str, float]:
    found = {_without_paths(str(key)): _number(inner) for key, inner in _mapping(value).items()}
    return {key: number for key, number in found.items() if number is not None}


def _text(value: Any) -> str | None:
    return _without_paths(value) if isinstance(value, str) else None


def _digest(value: Any) -> str | None:
    return value if re.fullmatch("[0-9a-f]{64}", str(value)) else None


def _start(value: Any) -> str | None:
    known = value in load_index().entries or value in ARCHITECTURES if isinstance(value, str) else False
    return value if known or hub_repository(value) else LOCAL


def _data(value: Any) -> dict[str, Any]:
    found = {"class": _text(_mapping(value).get("class")), "videos": _numbers(_mapping(value).get("videos"))}
    return {key: inner for key, inner in found.items() if inner}


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


# of what provenance may hold, what may be told to everybody, and how it is made fit for that
TOLD: dict[str, Callable[[Any], Any]] = {
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
