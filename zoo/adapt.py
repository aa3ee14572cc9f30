"""Trained tensors -> a network that may differ in classes, frames or channels, with an exact account of it."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import CheckpointError
from zoo.text import printable

# A network whose operator is not in its file has more numbers than the file; in the index, at most 4 times as many.
MAX_GROWTH = 8


@dataclass(frozen=True)
class LoadReport:
    """What a network was loaded from, and how it differs from that.

    Attributes:
        name: what ``zoo.load`` or ``zoo.create`` was given.
        source: file that the weights came from; None for random weights.
        sha256: of that file.
        published: whether the file has the digest in the index; None if the index has none.
        initialized: keys that are not from the file.
        adapted: key -> how its tensor was changed.
        ignored: keys of the file that were not used.
        untrained: keys that nobody has trained: ``initialized``, and those of the file that its config declares.
        untrained_parts: the modules that hold these keys, such as ("16 TAM modules", "classifier").
        start_only: the weights were trained for another network, such as an image network, and serve as a start only.
        checksums: of the untrained parameters when they were initialized or loaded.
    """

    name: str
    source: str | None = None
    sha256: str | None = None
    published: bool | None = None
    initialized: tuple[str, ...] = ()
    adapted: Mapping[str, str] | None = None
    ignored: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()
    untrained_parts: tuple[str, ...] = ()
    start_only: bool = False
    checksums: Mapping[str, int] = field(default_factory=dict, repr=False)

    @property
    def as_trained(self) -> bool:
        """Whether every tensor of the network is that of the file, unchanged."""
        return self.source is not None and not self.initialized and not self.adapted

    def with_initialized(self, network: nn.Module, keys: Iterable[str]) -> LoadReport:
        """The report after ``keys`` of the network were initialized.

        Keys that were untrained before stay so, unless their parameters have changed since.
        """
        new = dict.fromkeys(keys)
        others = [key for key in self.untrained if key not in new]
        checksums = checksum_parameters(network, [*others, *new])
        if any(self.checksums[key] != checksums.get(key) for key in others if key in self.checksums):
            others = []
        untrained = (*others, *new)
        return replace(
            self,
            initialized=tuple(dict.fromkeys((*self.initialized, *new))),
            untrained=untrained,
            untrained_parts=name_parts(network, untrained),
            checksums={key: value for key, value in checksums.items() if key in untrained},
        )

    def still_untrained(self, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
        """``untrained``, or no keys if any of their parameters has changed: then the network was trained since.

        Args:
            tensors: the network's parameters, and perhaps more, by name.
        """
        present = all(key in tensors and not tensors[key].is_meta for key in self.checksums)
        unchanged = present and all(checksum(tensors[key]) == value for key, value in self.checksums.items())
        return self.untrained if unchanged else ()

    def __str__(self) -> str:
        parts = [self._start()]
        if self.published is not None:
            parts.append("digest as published" if self.published else "DIGEST NOT AS PUBLISHED")
        if self.source and self.start_only:
            parts.append("a start for fine-tuning")
        if self.source and self.untrained_parts:
            parts.append(f"untrained: {', '.join(self.untrained_parts)}")
        for what in dict.fromkeys((self.adapted or {}).values()):
            keys = [key for key, done in (self.adapted or {}).items() if done == what]
            cast = what.startswith("cast from") and len(keys) > 1  # usually all tensors, so their names say little
            parts.append(f"{what} in {len(keys)} tensors" if cast else f"{what} in {listing(keys)}")
        if self.ignored:
            parts.append(f"ignored {listing(self.ignored)}")
        return "; ".join(parts) + "."

    def _start(self) -> str:
        """Name and file; only the file where the name is that file or its folder."""
        name = printable(self.name)
        if self.source is None:
            return f"{name}: random weights"
        source = printable(self.source)
        if Path(self.name) in (Path(self.source), Path(self.source).parent):
            return f"weights of {source}"
        return f"{name}: weights from {source}"


def checksum(tensor: Tensor, count: int = 256) -> int:
    """CRC-32 of the first ``count`` values of a tensor."""
    return zlib.crc32(tensor.detach().reshape(-1)[:count].float().cpu().numpy().tobytes())


def checksum_parameters(network: nn.Module, keys: Iterable[str]) -> dict[str, int]:
    """Key -> checksum of a parameter; buffers, which change without training, are left out."""
    parameters = dict(network.named_parameters())
    return {key: checksum(parameters[key]) for key in keys if key in parameters and not parameters[key].is_meta}


def name_parts(network: nn.Module, keys: Iterable[str]) -> tuple[str, ...]:
    """Names of the modules that hold some state-dict keys, for messages.

    For example ("16 TAM modules", "routing of 16 TAdaConv2d modules", "classifier"), or ("all weights",).
    """
    tensors, head_prefix = network.state_dict().keys(), str(network.head_prefix)
    chosen = set(keys) & set(tensors)
    if chosen == set(tensors):
        return ("all weights",)
    modules = dict(network.named_modules())
    others = {prefix for key in tensors if key not in chosen for prefix in _prefixes(key)}
    head = {key for key in chosen if key.startswith(head_prefix)}
    # the outermost module of which all tensors are chosen; a parameter where there is none
    roots = {next((p for p in _prefixes(key) if p not in others), key) for key in chosen - head}
    counts: Counter[str] = Counter()
    for root in roots:
        parent, _, name = root.rpartition(".")
        kind, owner = type(modules.get(root)), type(modules[parent])
        in_operator = owner.__module__.startswith("zoo.ops.") and owner.__module__ != "zoo.ops.stand_in"
        of_package = kind.__module__.startswith("zoo.") and not in_operator
        counts[kind.__name__ if of_package else f"{name} of {owner.__name__}"] += 1
    names = []
    for what, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        attribute, of, kind_name = what.rpartition(" of ")
        names.append(f"{attribute}{of}{count} {kind_name} module" + ("s" if count > 1 else ""))
    return (*names, *(["classifier"] if head else []))


def _prefixes(key: str) -> list[str]:
    """Names of the modules around a tensor, outermost first."""
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def listing(keys: Any, most: int = 4) -> str:
    """A few keys as printable text, and how many more there are."""
    keys = list(keys)
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(printable(str(key)[:200]) for key in keys[:most]) + more


def adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """A stem kernel ``(O, 3, ...)`` for another number of input channels: repeated, keeping its response to gray."""
    old = weight.shape[1]
    repeated = weight[:, [i % old for i in range(channels)]]
    total, kept = weight.sum(1, keepdim=True), repeated.sum(1, keepdim=True)
    if channels < old:  # dropping channels would drop colors: spread what they all saw instead
        return total.expand_as(repeated) / channels
    scale = old / channels
    return repeated * scale + (total - kept * scale) / channels


def fit(
    model: nn.Module,
    tensors: dict[str, Tensor],
    trained: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    where: str,
    operator_untrained: bool = False,
) -> tuple[list[str], dict[str, str]]:
    """Load tensors (in our names) into a network, adapting what differs between ``trained`` and ``options``.

    Every key of the network must then be there with its shape, and no other; anything else is an error.

    Args:
        trained, options: arguments the tensors were trained with, and the network was built with.
        where: what to call the tensors in an error.
        operator_untrained: the tensors are of an image network; exactly the operator's keys may be missing.

    Returns:
        Keys left at their initialization, and key -> what was done to it.
    """
    network: Any = model
    wanted = model.state_dict()
    initialized: list[str] = []
    adapted: dict[str, str] = {}

    if options["num_classes"] != trained["num_classes"]:
        head = [key for key in wanted if key.startswith(network.head_prefix)]
        initialized += head
        for key in head:
            tensors.pop(key, None)
    if operator_untrained:
        adapted.update(dict.fromkeys(network.adapt_image(tensors), "fitted to the frames it spans here"))
        initialized += sorted(network.operator_keys() - set(tensors))
        head = [key for key in wanted if key.startswith(network.head_prefix)]
        if not any(key in tensors for key in head):  # CLIP's tower has no classifier
            initialized += [key for key in head if key not in initialized]
    if options["num_frames"] != trained["num_frames"]:
        what = f"interpolated from {trained['num_frames']} to {options['num_frames']} frames"
        adapted.update(dict.fromkeys(network.adapt_frames(tensors), what))
    if options.get("image_size") != trained.get("image_size"):
        what = f"resampled to {options['image_size']} pixels"
        adapted.update(dict.fromkeys(network.adapt_size(tensors), what))
    if options.get("in_channels", 3) != trained.get("in_channels", 3):
        channels = options["in_channels"]
        for key in network.stem_keys:
            if key in tensors:
                tensors[key] = adapt_stem(tensors[key], channels)
                adapted[key] = f"adapted to {channels} input channels"

    for key, value in wanted.items():
        if key.endswith("num_batches_tracked") and key not in tensors and key not in initialized:
            tensors[key] = torch.zeros_like(value)  # files older than this counter; nothing here reads it
            adapted[key] = "counter set to 0"
        elif key in tensors and tensors[key].dtype != value.dtype and key not in adapted:
            adapted[key] = f"cast from {str(tensors[key].dtype).removeprefix('torch.')}"

    missing = [key for key in wanted if key not in tensors and key not in initialized]
    unexpected = [key for key in tensors if key not in wanted]
    shapes = [
        f"{key} {tuple(tensors[key].shape)} (network {tuple(value.shape)})"
        for key, value in wanted.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    problems = [
        f"{title} {listing(keys)}"
        for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{where} does not fit the network: {'; '.join(problems)}. Nothing was loaded. "
            + (
                "A position embedding is resampled where image_size= is given. "
                if "pos_embed" in "".join(shapes)
                else ""
            )
            + "Check that the file and the name belong together."
        )
    with torch.no_grad():
        for key, value in wanted.items():
            if key in tensors:
                value.copy_(tensors[key])
    return initialized, adapted
