"""Trained tensors -> a network that may differ in classes, frames or channels, with an exact account of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import CheckpointError
from zoo.text import printable

# A network whose operator is not in its file has more numbers than the file; in the index, at most 4 times as many.
MAX_GROWTH = 8


@dataclass(frozen=True)
class LoadReport:
    """What a network was loaded from, and what of it was not taken as it stood.

    source: file the weights came from, None for a random network. sha256: of that file. published: whether it has
    the digest the index gives, None where none is published.
    initialised: keys that start untrained. adapted: key -> what was done to it. ignored: keys of the file left out.
    """

    name: str
    source: str | None = None
    sha256: str | None = None
    published: bool | None = None
    initialised: tuple[str, ...] = ()
    adapted: Mapping[str, str] | None = None
    ignored: tuple[str, ...] = ()

    @property
    def as_trained(self) -> bool:
        """Whether every tensor of the network is the trained one, unchanged."""
        return self.source is not None and not self.initialised and not self.adapted

    def __str__(self) -> str:
        name, source = printable(self.name), printable(self.source or "")
        parts = [f"{name}: " + (f"weights from {source}" if source else "random weights")]
        if self.published is not None:
            parts.append("digest as published" if self.published else "DIGEST NOT AS PUBLISHED")
        if self.source and self.initialised:
            parts.append(f"re-initialised {listing(self.initialised)}")
        for what in dict.fromkeys((self.adapted or {}).values()):
            keys = [key for key, done in (self.adapted or {}).items() if done == what]
            parts.append(f"{what} in {listing(keys)}")
        if self.ignored:
            parts.append(f"ignored {listing(self.ignored)}")
        return "; ".join(parts) + "."


def listing(keys: Any, most: int = 4) -> str:
    """A few keys as printable text, and how many more there are."""
    keys = list(keys)
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(printable(str(key)[:200]) for key in keys[:most]) + more


def adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """A stem kernel ``(O, 3, ...)`` for another number of input channels: repeated, keeping its response to grey."""
    old = weight.shape[1]
    repeated = weight[:, [i % old for i in range(channels)]]
    total, kept = weight.sum(1, keepdim=True), repeated.sum(1, keepdim=True)
    if channels < old:  # dropping channels would drop colours: spread what they all saw instead
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
        Keys left at their initialisation, and key -> what was done to it.
    """
    network: Any = model
    wanted = model.state_dict()
    initialised: list[str] = []
    adapted: dict[str, str] = {}

    if options["num_classes"] != trained["num_classes"]:
        head = [key for key in wanted if key.startswith(network.head_prefix)]
        initialised += head
        for key in head:
            tensors.pop(key, None)
    if operator_untrained:
        adapted.update(dict.fromkeys(network.adapt_image(tensors), "fitted to the frames it spans here"))
        initialised += sorted(network.operator_keys() - set(tensors))
        head = [key for key in wanted if key.startswith(network.head_prefix)]
        if not any(key in tensors for key in head):  # CLIP's tower has no classifier
            initialised += [key for key in head if key not in initialised]
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
        if key.endswith("num_batches_tracked") and key not in tensors and key not in initialised:
            tensors[key] = torch.zeros_like(value)  # files older than this counter; nothing here reads it
            adapted[key] = "counter set to 0"
        elif key in tensors and tensors[key].dtype != value.dtype and key not in adapted:
            adapted[key] = f"cast from {str(tensors[key].dtype).removeprefix('torch.')}"

    missing = [key for key in wanted if key not in tensors and key not in initialised]
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
    return initialised, adapted
