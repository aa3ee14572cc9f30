"""Load tensors into a network with other classes, frames, image size or channels; LoadReport lists every difference."""

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
from zoo.models.network import VideoNetwork
from zoo.text import listing, printable

# An untrained operator is not in the weight file, so the network may have more values than the file.
# In the index, at most 4 times as many.
MAX_GROWTH = 8


@dataclass(frozen=True)
class LoadReport:
    """Source of a network's weights, and the tensors that differ from it.

    Attributes:
        name: first argument of ``zoo.load`` or ``zoo.create``.
        source: path of the weight file; None for random weights.
        sha256: SHA-256 of the weight file.
        published: whether the SHA-256 matches the index; None if the index has no SHA-256.
        initialized: keys of the network that are not from the file.
        adapted: key -> how the file's tensor was changed.
        ignored: keys of the file that were not used.
        untrained: keys without trained values: ``initialized``, and keys that the file's config declares as untrained.
        untrained_parts: names of the modules with these keys, such as ("16 TAM modules", "classifier").
        start_only: the weights were trained for another task, such as ImageNet, and are only a start for fine-tuning.
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
        """Whether the network has exactly the tensors of the file, unchanged."""
        return self.source is not None and not self.initialized and not self.adapted

    def with_initialized(self, network: VideoNetwork, keys: Iterable[str]) -> LoadReport:
        """Return the report after ``keys`` of the network were initialized.

        Keys that were already untrained stay untrained, unless any of their parameters has changed since.
        """
        new = dict.fromkeys(keys)
        present = network.state_dict().keys()  # without the former classifier's, if the classifier was removed
        others = [key for key in self.untrained if key in present and key not in new]
        checksums = checksum_parameters(network, [*others, *new])
        if any(self.checksums[key] != checksums.get(key) for key in others if key in self.checksums):
            others = []
        untrained = (*others, *new)
        return replace(
            self,
            initialized=tuple(key for key in dict.fromkeys((*self.initialized, *new)) if key in present),
            untrained=untrained,
            untrained_parts=name_parts(network, untrained),
            checksums={key: value for key, value in checksums.items() if key in untrained},
        )

    def with_trained(self, network: VideoNetwork, keys: Iterable[str]) -> LoadReport:
        """Return the report after ``keys`` of the network were trained, and no other tensors.

        Other untrained keys stay untrained. Without any, the network is no longer only a start for fine-tuning.
        """
        trained = set(keys)
        untrained = tuple(key for key in self.untrained if key not in trained)
        return replace(
            self,
            untrained=untrained,
            untrained_parts=name_parts(network, untrained),
            start_only=self.start_only and bool(untrained),
            checksums={key: value for key, value in self.checksums.items() if key not in trained},
        )

    def still_untrained(self, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Return ``untrained``, or no keys if any of their parameters has changed, which means training.

        Args:
            tensors: the network's parameters by name; other tensors are ignored.
        """
        present = all(key in tensors and not tensors[key].is_meta for key in self.checksums)
        unchanged = present and all(checksum(tensors[key]) == value for key, value in self.checksums.items())
        return self.untrained if unchanged else ()

    def __str__(self) -> str:
        parts = [self._describe_source()]
        if self.published is not None:
            parts.append("SHA-256 verified" if self.published else "SHA-256 differs from the index")
        if self.source and self.start_only:
            parts.append("a start for fine-tuning")
        if self.source and self.untrained_parts:
            parts.append(f"untrained: {', '.join(self.untrained_parts)}")
        adapted = self.adapted or {}
        for change in dict.fromkeys(adapted.values()):
            keys = [key for key in adapted if adapted[key] == change]
            cast = change.startswith("cast from") and len(keys) > 1  # usually all tensors: names say little
            parts.append(f"{len(keys)} tensors {change}" if cast else f"{listing(keys)} {change}")
        if self.ignored:
            parts.append(f"not used: {listing(self.ignored)}")
        return "; ".join(parts) + "."

    def _describe_source(self) -> str:
        """Name and weight file; only the file if ``name`` is its path or folder."""
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
    """Key -> checksum of a parameter. Buffers are left out, because they change without training."""
    parameters = dict(network.named_parameters())
    return {key: checksum(parameters[key]) for key in keys if key in parameters and not parameters[key].is_meta}


def name_parts(network: VideoNetwork, keys: Iterable[str]) -> tuple[str, ...]:
    """Name the modules that contain some state-dict keys, for messages.

    For example ("16 TAM modules", "routing of 16 TAdaConv2d modules", "classifier"), or ("all weights",).
    """
    tensors, head_prefix = network.state_dict().keys(), network.head_prefix
    chosen = set(keys) & set(tensors)
    if chosen == set(tensors):
        return ("all weights",)
    modules = dict(network.named_modules())
    others = {prefix for key in tensors if key not in chosen for prefix in _prefixes(key)}
    head = {key for key in chosen if key.startswith(head_prefix)}
    # of each key, the outermost module whose tensors are all chosen, or else the key itself
    roots = {next((p for p in _prefixes(key) if p not in others), key) for key in chosen - head}
    counts: Counter[str] = Counter()
    for root in roots:
        parent, _, name = root.rpartition(".")
        kind, owner = type(modules.get(root)), type(modules[parent])
        in_operator = owner.__module__.startswith("zoo.ops.") and owner.__module__ != "zoo.ops.stand_in"
        of_package = kind.__module__.startswith("zoo.") and not in_operator
        counts[kind.__name__ if of_package else f"{name} of {owner.__name__}"] += 1
    names = []
    for part, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        attribute, of, kind_name = part.rpartition(" of ")
        names.append(f"{attribute}{of}{count} {kind_name} module" + ("s" if count > 1 else ""))
    return (*names, *(["classifier"] if head else []))


def _prefixes(key: str) -> list[str]:
    """Names of the modules that contain a tensor, outermost first."""
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """Adapt a stem kernel ``(O, 3, ...)`` to another number of input channels, keeping its response to gray."""
    old = weight.shape[1]
    repeated = weight[:, [i % old for i in range(channels)]]
    total, repeated_total = weight.sum(1, keepdim=True), repeated.sum(1, keepdim=True)
    if channels < old:  # dropping input channels would drop colors: use the sum over all of them instead
        return total.expand_as(repeated) / channels
    scale = old / channels
    return repeated * scale + (total - repeated_total * scale) / channels


def load_adapted(
    network: VideoNetwork,
    tensors: dict[str, Tensor],
    trained: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    where: str,
    operator_untrained: bool = False,
) -> tuple[list[str], dict[str, str]]:
    """Copy tensors into a network after adapting them to its options.

    Args:
        network: the network, which was built with ``options``.
        tensors: by the network's keys; modified in place.
        trained: options of the network that the tensors were trained with.
        options: options of ``network``.
        where: name of the weight file, for errors.
        operator_untrained: the tensors are those of an image network; exactly the operator's keys may be missing.

    Returns:
        Keys that keep their initial values, and key -> how its tensor was changed.

    Raises:
        CheckpointError: after adapting, a key is missing, unexpected, or has another shape. Nothing is loaded.
    """
    expected = network.state_dict()
    initialized, adapted = _replace_head(network, tensors, trained, options)
    if operator_untrained:
        adapted.update(dict.fromkeys(network.adapt_image(tensors), "inflated from an image network"))
        initialized += sorted(network.operator_keys() - set(tensors))
        head = [key for key in expected if key.startswith(network.head_prefix)]
        if not any(key in tensors for key in head):  # CLIP's image encoder has no classifier
            initialized += [key for key in head if key not in initialized]
    adapted |= _adapt_inputs(network, tensors, trained, options)
    for key, value in expected.items():
        if key.endswith("num_batches_tracked") and key not in tensors and key not in initialized:
            tensors[key] = torch.zeros_like(value)  # not in files of old PyTorch versions, and never read here
            adapted[key] = "set to 0"
        elif key in tensors and tensors[key].dtype != value.dtype and key not in adapted:
            adapted[key] = f"cast from {str(tensors[key].dtype).removeprefix('torch.')}"
    _check_keys(expected, tensors, initialized, where)
    with torch.no_grad():
        for key, value in expected.items():
            if key in tensors:
                value.copy_(tensors[key])
    return initialized, adapted


def _replace_head(
    network: VideoNetwork, tensors: dict[str, Tensor], trained: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[list[str], dict[str, str]]:
    """Drop the trained classifier if the number of classes differs; returns its keys as initialized or removed."""
    if options["num_classes"] == trained["num_classes"]:
        return [], {}
    former = [key for key in tensors if key.startswith(network.head_prefix)]
    for key in former:
        del tensors[key]
    if options["num_classes"] == 0:
        return [], dict.fromkeys(former, "removed")
    return [key for key in network.state_dict() if key.startswith(network.head_prefix)], {}


def _adapt_inputs(
    network: VideoNetwork, tensors: dict[str, Tensor], trained: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, str]:
    """Adapt tensors to the network's frames, image size and channels; returns key -> how it was changed."""
    adapted: dict[str, str] = {}
    if options["num_frames"] != trained["num_frames"]:
        change = f"interpolated from {trained['num_frames']} to {options['num_frames']} frames"
        adapted.update(dict.fromkeys(network.adapt_frames(tensors), change))
    if options.get("image_size") != trained.get("image_size"):
        change = f"resampled to {options['image_size']} pixels"
        adapted.update(dict.fromkeys(network.adapt_size(tensors), change))
    if options.get("in_channels", 3) != trained.get("in_channels", 3):
        channels = options["in_channels"]
        for key in network.stem_keys:
            if key in tensors:
                tensors[key] = adapt_stem(tensors[key], channels)
                adapted[key] = f"adapted to {channels} input channels"
    return adapted


def _check_keys(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], initialized: Iterable[str], where: str
) -> None:
    """Raise a CheckpointError unless every key is expected, and has the expected shape or is initialized."""
    initialized = set(initialized)
    missing = [key for key in expected if key not in tensors and key not in initialized]
    unexpected = [key for key in tensors if key not in expected]
    shapes = [
        f"{key} {tuple(tensors[key].shape)} (network {tuple(value.shape)})"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes))
    problems = [f"{title} {listing(keys)}" for title, keys in groups if keys]
    if not problems:
        return
    hint = "Check that the file belongs to this name."
    if any("pos_embed" in shape for shape in shapes):
        hint = f"To resample a position embedding, pass image_size=. {hint}"
    raise CheckpointError(f"{where} does not fit the network: {'; '.join(problems)}. Nothing was loaded. {hint}")
