"""The network that a VideoClassifier trains: found by any name, given the data's classes and its dropout rates."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn

import zoo
from zoo.arguments import check_labels
from zoo.errors import ConfigError, check_rate
from zoo.index import load_index
from zoo.models import ARCHITECTURES
from zoo.protocol import MAX_LABEL
from zoo.provenance import INITIALIZED, START
from zoo.spec import ModelSpec

log = logging.getLogger("lit_modules")


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


def head_initialized(network: Any) -> bool:
    """Whether the classifier of a network is untrained."""
    return any(key.startswith(network.head_prefix) for key in network.report.untrained)


def check_class_count(num_classes: int | None, class_names: Sequence[str] | None) -> None:
    """Refuse a ``num_classes`` that is not the number of class names; the command line takes these from the data."""
    if class_names is not None and num_classes not in (None, len(class_names)):
        names = ", ".join(class_names[:3]) + ", ..." * (len(class_names) > 3)
        raise ConfigError(
            f"num_classes is {num_classes}, but the data has {len(class_names)} classes ({names}). Leave num_classes "
            "out: the classes of the data determine it."
        )


def match_classes(network: Any, class_names: Sequence[str]) -> str | None:
    """Make the classifier's outputs mean ``class_names``, in that order; returns what was done to it, or None.

    Outputs are told apart by name. Where all classes are among the network's, those are taken; otherwise the classifier
    begins anew.
    """
    names = list(class_names)
    if len(names) < 2:
        raise ConfigError(f"there must be at least 2 classes, got {names}.")
    check_labels("class_names", names, len(names), MAX_LABEL)  # else the run's checkpoints could not be loaded
    spec: ModelSpec = network.spec
    labels = None if spec.labels is None else list(spec.labels)
    done = None
    if labels == names:
        return None
    if labels is not None and set(names) <= set(labels):
        order, report = [labels.index(name) for name in names], network.report
        rows = {key: value[order].clone() for key, value in network.get_classifier().state_dict().items()}
        if len(names) < len(labels):
            network.reset_classifier(len(names))
        network.get_classifier().load_state_dict(rows)
        untrained_head = [key for key in report.untrained if key.startswith(network.head_prefix)]
        network.report = report.with_initialized(network, untrained_head)
        spec = spec.with_classes(len(names), order)
        done = "reordered, as the data has its classes in another order"
        if len(names) < len(labels):
            done = f"cut down to the data's {len(names)} of its {len(labels)} classes"
    elif labels is not None or network.spec.num_classes != len(names):
        network.reset_classifier(len(names))
        spec = spec.with_classes(len(names))
        done = "re-initialized, as the data has other classes" + _unknown(names, labels or [])
    elif not head_initialized(network):
        done = "taken to have the data's classes in their order, as its own have no names"
    network.spec = spec.with_labels(names)
    return done


def _unknown(names: Sequence[str], labels: Sequence[str]) -> str:
    """Which of a data set's classes a network that has others of them does not have."""
    absent = [name for name in names if name not in labels]
    if not labels or len(absent) == len(names):
        return ""
    lower = {label.lower(): label for label in labels}
    close = difflib.get_close_matches(absent[0].lower(), lower, 1)
    meant = f" (did you mean {lower[close[0]]!r}?)" if close else ""
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    return f": it has no {absent[0]!r}{meant}{more}"


def is_untrained(network: Any) -> bool:
    """Whether parts of a network were never trained, or never for this network."""
    report = network.report
    return bool(report.still_untrained(dict(network.named_parameters()))) if report.untrained else report.start_only


def declares_untrained(config: Mapping[str, Any]) -> bool:
    """Whether the config of a saved network or checkpoint declares untrained parts."""
    provenance = config.get("provenance") or {}
    return bool(provenance.get(INITIALIZED) or provenance.get(START))


def describe_untrained(network: Any, name: str, head_change: str | None = None) -> str:
    """A sentence that names the untrained parts of a network.

    Args:
        name: of the network.
        head_change: what ``match_classes`` did to its classifier.
    """
    report, parts = network.report, network.report.untrained_parts
    entry = load_index().entries.get(str(network.spec.provenance.get("entry")))
    if report.untrained and len(report.untrained) == len(network.state_dict()):
        return f"{name} has random weights."
    if parts == ("classifier",) and head_change:
        return f"the classifier of {name} was {head_change}."
    what = f"{name} is a start for fine-tuning" if report.start_only else f"{name} is not fully trained"
    what += f"; untrained: {', '.join(parts)}." if parts else "."
    if entry is not None and entry.labels == "imagenet1k" and not head_initialized(network):
        what += " Its labels are those of images (ImageNet-1k), not of actions."
    return what


def refuse_untrained(network: Any, name: str, head_change: str | None, allow: bool) -> None:
    """Refuse to score videos with untrained weights: the scores would be taken for those of a trained network.

    Args:
        name: of the network.
        head_change: what ``match_classes`` did to its classifier.
        allow: log a warning instead.

    Raises:
        ConfigError: naming the untrained parts.
    """
    what = describe_untrained(network, name, head_change)
    if allow:
        rank_zero_only(log.warning)("%s The scores are not those of a trained network.", what)
        return
    todo = "Correct the labels, fine-tune" if head_change else "Fine-tune"
    raise ConfigError(f"{what} {todo} with `tempozoo fit --from {name}`, or add --allow_untrained to run it as it is.")


def check_classes(network: Any, config: Mapping[str, Any]) -> None:
    """Refuse a run's checkpoint whose config has other classes than a network, or has them in another order.

    Raises:
        ConfigError: what to do instead.
    """
    theirs = config.get("labels") or range(config.get("options", {}).get("num_classes", 0))
    ours = network.labels or range(network.spec.num_classes)
    if config and list(theirs) != list(ours):
        others = "others, or in another order" if len(theirs) == len(ours) else f"the data {len(ours)}"
        raise ConfigError(
            f"the checkpoint to go on with has {len(theirs)} classes, {others}. Give the data that it was made with, "
            "or take its weights for other classes with --from."
        )


def set_dropout(network: Any, dropout: float | None, drop_path: float | None) -> None:
    """Set the rate before the classifier, and that of DropPath, which grows linearly from 0 at the first block.

    None leaves a rate as it is. Both are stored in the network's spec, and so with its weights.

    Raises:
        ConfigError: a rate outside [0, 1), or a network without DropPath.
    """
    if dropout is not None:
        check_rate("dropout", dropout)
        network.dropout.p = dropout
        network.spec = network.spec.with_options(drop_rate=dropout)
    if drop_path is None:
        return
    check_rate("drop_path", drop_path)
    network.set_drop_path(drop_path)
    network.spec = network.spec.with_options(drop_path_rate=drop_path)


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
    if network.spec.num_frames != protocol.num_frames:
        protocol = protocol.with_frames(network.spec.num_frames)
    protocol = replace(protocol, heads=network.protocol.heads)  # of the classifier, not of how clips are made
    network.protocol = protocol if image_size is None else protocol.with_size(image_size)


def set_heads(network: Any, heads: Mapping[str, int]) -> None:
    """Note that a network's outputs are those of several classifiers side by side.

    Raises:
        ConfigError: their class counts do not add up to the network's.
    """
    classes = network.spec.num_classes
    if len(heads) < 2:
        raise ConfigError(f"heads is {dict(heads)}; give two or more classifiers, or leave it out for one.")
    if sum(heads.values()) != classes:
        raise ConfigError(f"heads {dict(heads)} have {sum(heads.values())} classes in all, the network has {classes}.")
    network.protocol = replace(network.protocol, heads=tuple(heads.items()))
