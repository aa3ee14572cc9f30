"""The network that a VideoClassifier trains: found by any name, given the data's classes and its dropout rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoo
from zoo.errors import ConfigError, check_rate
from zoo.models import ARCHITECTURES


def build_network(
    name: str,
    *,
    weights: str | Path | None = None,
    pretrained: bool = True,
    num_classes: int | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """A network from any name: of the index, a folder, the Hub, a Lightning checkpoint, or a bare architecture."""
    wishes = {"num_classes": num_classes, "num_frames": num_frames}
    given = {key: value for key, value in wishes.items() if value is not None}
    if name in ARCHITECTURES:
        if weights is not None:
            raise ConfigError(
                f"weights= goes with an index name such as {', '.join(zoo.list_models(arch=name)[:2]) or 'arch.tag'}, "
                f"not with the bare architecture {name}."
            )
        return zoo.create(name, image_size=image_size, **(given | (options or {})))
    if options:
        raise ConfigError(f"options= goes with a bare architecture, {name} fixes its own.")
    return zoo.load(name, weights=weights, pretrained=pretrained, image_size=image_size, **given)  # type: ignore[arg-type]


def head_initialised(network: Any) -> bool:
    """Whether a network came without a trained classifier."""
    return any(key.startswith(network.head_prefix) for key in network.report.initialised)


def match_classes(network: Any, class_names: Sequence[str]) -> str | None:
    """Make the classifier's outputs mean ``class_names``, in that order; returns what was done to it, or None."""
    names = list(class_names)
    if len(names) < 2:
        raise ConfigError(f"there must be at least 2 classes, got {names}.")
    protocol = network.protocol
    labels = None if network.labels is None else list(network.labels)
    done = None
    if labels == names:
        return None
    if labels is not None and sorted(labels) == sorted(names):
        order = [labels.index(name) for name in names]
        with torch.no_grad():
            for parameter in network.get_classifier().parameters():
                parameter.copy_(parameter[order].clone())
        protocol = protocol.with_classes(order)
        done = "reordered, as the data has its classes in another order"
    elif labels is not None or network.get_classifier().out_features != len(names):
        network.reset_classifier(len(names))
        protocol = protocol.with_classes([])
        head = [key for key in network.state_dict() if key.startswith(network.head_prefix)]
        initialised = dict.fromkeys((*network.report.initialised, *head))
        network.report = replace(network.report, initialised=tuple(initialised))
        done = "re-initialised, as the data has other classes"
    elif not head_initialised(network):
        done = "taken to have the data's classes in their order, as its own have no names"
    network.labels, network.protocol = tuple(names), protocol
    network.config["labels"], network.config["protocol"] = names, protocol.to_dict()
    network.config["options"]["num_classes"] = len(names)
    return done


def set_dropout(network: Any, dropout: float | None, drop_path: float | None) -> None:
    """Set the rate before the classifier, and that of DropPath, which grows linearly from 0 at the first block.

    None leaves a rate as it is. Both are noted in the network's config, so that they travel with its weights.

    Raises:
        ConfigError: a rate outside [0, 1), or a network without DropPath.
    """
    options = network.config["options"]
    if dropout is not None:
        check_rate("dropout", dropout)
        network.dropout.p = options["dropout"] = dropout
    if drop_path is None:
        return
    network.set_drop_path(drop_path)
    options["drop_path"] = drop_path


def frames_of(protocol: str) -> int:
    """Frames per clip in the protocol of an index entry."""
    return zoo.info(protocol).protocol.num_frames


def take_protocol(network: Any, name: str, image_size: int | None = None) -> None:
    """Give a network the protocol of an index entry, for its own frame count and classes.

    Classes trade places when mirrored as the entry says where the network has the classes of the entry, whatever their
    order; with other classes, none do.
    """
    entry = zoo.info(name)
    protocol, labels, own = entry.protocol, entry.class_names() or (), network.labels or ()
    if tuple(labels) != tuple(own):
        same = sorted(labels) == sorted(own)
        protocol = protocol.with_classes([labels.index(label) for label in own] if same else [])
    frames = network.config["options"]["num_frames"]
    if frames != protocol.num_frames:
        protocol = protocol.with_frames(frames)
    protocol = replace(protocol, heads=network.protocol.heads)  # of the classifier, not of how clips are made
    network.protocol = protocol if image_size is None else protocol.with_size(image_size)
    network.config["protocol"] = network.protocol.to_dict()


def set_heads(network: Any, heads: Mapping[str, int]) -> None:
    """Note that a network's outputs are those of several classifiers side by side.

    Raises:
        ConfigError: their class counts do not add up to the network's.
    """
    classes = network.config["options"]["num_classes"]
    if len(heads) < 2:
        raise ConfigError(f"heads is {dict(heads)}; give two or more classifiers, or leave it out for one.")
    if sum(heads.values()) != classes:
        raise ConfigError(f"heads {dict(heads)} have {sum(heads.values())} classes in all, the network has {classes}.")
    network.protocol = replace(network.protocol, heads=tuple(heads.items()))
    network.config["protocol"] = network.protocol.to_dict()
