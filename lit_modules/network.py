"""Building the network of a VideoClassifier: any name, fitted to the classes, heads and protocol of the data."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

import zoo
from zoo.arguments import check_labels
from zoo.errors import ConfigError, check_rate
from zoo.models import ARCHITECTURES, VideoNetwork
from zoo.protocol import MAX_LABEL
from zoo.provenance import INITIALIZED, START
from zoo.spec import ModelSpec
from zoo.training_state import describe_untrained, has_untrained_head, untrained_error

log = logging.getLogger("lit_modules")


def build_for_data(
    name: str,
    *,
    weights: str | None = None,
    pretrained: bool = True,
    class_names: list[str] | None = None,
    num_classes: int | None = None,
    heads: Mapping[str, int] | None = None,
    protocol: str | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    options: dict[str, Any] | None = None,
    multi_label: bool | None = None,
) -> tuple[VideoNetwork, str | None]:
    """Build a network for the classes of a data set. See ``VideoClassifier`` for the arguments.

    Returns:
        The network, and the change of its classifier ("re-initialized, ...") or None.

    Raises:
        ConfigError: arguments that contradict each other or do not fit the network.
    """
    check_class_count(num_classes, class_names)
    if class_names is not None:
        # a trained classifier is loaded as it is, and match_classes selects its outputs by name
        keeps_classifier = pretrained and name not in ARCHITECTURES
        num_classes = None if keeps_classifier else len(class_names)
    if num_frames is None and protocol is not None:
        num_frames = protocol_frames(protocol)
    network = build_network(
        name,
        weights=weights,
        pretrained=pretrained,
        num_classes=num_classes,
        num_frames=num_frames,
        image_size=image_size,
        options=options,
    )
    head_change = None if class_names is None else match_classes(network, class_names)
    if head_change:
        log.warning("%s: the classifier was %s", name, head_change)
    if protocol is not None:
        set_protocol(network, protocol, image_size)
    if heads is not None:
        set_heads(network, heads)
    if multi_label is not None:
        network.protocol = replace(network.protocol, multi_label=multi_label)
    return network, head_change


def build_network(
    name: str,
    *,
    weights: str | Path | None = None,
    pretrained: bool = True,
    num_classes: int | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    options: dict[str, Any] | None = None,
) -> VideoNetwork:
    """Build a network from an index name, a folder, a Hub repository, a Lightning checkpoint or an architecture.

    Raises:
        ConfigError: ``weights`` with an architecture, or ``options`` with another kind of name.
    """
    if name in ARCHITECTURES:
        if weights is not None:
            raise ConfigError(
                f"weights= needs an index name such as {', '.join(zoo.list_models(arch=name)[:2]) or 'arch.tag'}; "
                f"{name} is an architecture."
            )
        counts = {"num_classes": num_classes, "num_frames": num_frames}
        given = {key: count for key, count in counts.items() if count is not None}
        return zoo.create(name, features_only=False, image_size=image_size, **(given | (options or {})))
    if options:
        raise ConfigError(f"options= needs the name of an architecture; {name} has fixed options.")
    return zoo.load(
        name,
        weights=weights,
        pretrained=pretrained,
        num_classes=num_classes,
        num_frames=num_frames,
        image_size=image_size,
    )


# classes ---------------------------------------------------------------------------------------------------------


def check_class_count(num_classes: int | None, class_names: Sequence[str] | None) -> None:
    """Check that ``num_classes`` is the number of class names; the command line takes the names from the data.

    Raises:
        ConfigError: it is another number.
    """
    if class_names is not None and num_classes not in (None, len(class_names)):
        names = ", ".join(class_names[:3]) + ", ..." * (len(class_names) > 3)
        raise ConfigError(
            f"num_classes is {num_classes}, but the data has {len(class_names)} classes ({names}). Leave num_classes "
            "out: the classes of the data determine it."
        )


def match_classes(network: VideoNetwork, class_names: Sequence[str]) -> str | None:
    """Fit the classifier to ``class_names``, in that order.

    Classes are identified by name. If the network has all of them, its outputs are selected and reordered; otherwise
    the classifier is re-initialized.

    Returns:
        The change of the classifier, or None if there was none.

    Raises:
        ConfigError: fewer than two names, or names that a checkpoint cannot store.
    """
    names = list(class_names)
    if len(names) < 2:
        raise ConfigError(f"there must be at least 2 classes, got {names}.")
    check_labels("class_names", names, len(names), MAX_LABEL)  # else the run's checkpoints could not be loaded
    spec: ModelSpec = network.spec
    labels = None if spec.labels is None else list(spec.labels)
    change = None
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
        change = "reordered, because the data has its classes in another order"
        if len(names) < len(labels):
            change = f"cut down to the {len(names)} classes of the data, out of {len(labels)}"
    elif labels is not None or network.spec.num_classes != len(names):
        network.reset_classifier(len(names))
        spec = spec.with_classes(len(names))
        change = "re-initialized, because the data has other classes" + _missing_classes(names, labels or [])
    elif not has_untrained_head(network):
        change = "assumed to have the classes of the data in the same order, because its own classes have no names"
    network.spec = spec.with_labels(names)
    return change


def _missing_classes(names: Sequence[str], labels: Sequence[str]) -> str:
    """Describe the classes of the data that a network lacks; "" if it has none of them or no names."""
    missing = [name for name in names if name not in labels]
    if not labels or len(missing) == len(names):
        return ""
    by_lower = {label.lower(): label for label in labels}
    close = difflib.get_close_matches(missing[0].lower(), by_lower, 1)
    suggestion = f" (did you mean {by_lower[close[0]]!r}?)" if close else ""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f": it has no {missing[0]!r}{suggestion}{more}"


def check_classes(network: VideoNetwork, config: Mapping[str, Any]) -> None:
    """Check that a run's checkpoint has the classes of a network, in the same order.

    Args:
        network: network of this run.
        config: config of the checkpoint; an empty one is not checked.

    Raises:
        ConfigError: the classes differ.
    """
    theirs = config.get("labels") or range(config.get("options", {}).get("num_classes", 0))
    ours = network.labels or range(network.spec.num_classes)
    if config and list(theirs) != list(ours):
        difference = f"but the data has {len(ours)}"
        if len(theirs) == len(ours):
            difference = "which are not those of the data, or in another order"
        raise ConfigError(
            f"The checkpoint to resume from has {len(theirs)} classes, {difference}. Use the data of its run, or start "
            "a new run from its weights with --from."
        )


# untrained parts -------------------------------------------------------------------------------------------------


def declares_untrained(config: Mapping[str, Any]) -> bool:
    """Whether the config of a saved network or checkpoint declares untrained parts."""
    provenance = config.get("provenance") or {}
    return bool(provenance.get(INITIALIZED) or provenance.get(START))


def check_trained(network: VideoNetwork, name: str, head_change: str | None, allow: bool) -> None:
    """Refuse to score videos with untrained weights, because the scores would look like those of a trained network.

    Args:
        network: network with untrained parts.
        name: name of the network.
        head_change: change of its classifier, see ``match_classes``.
        allow: log a warning instead.

    Raises:
        ConfigError: names the untrained parts.
    """
    if not allow:
        raise untrained_error(network, name, head_change)
    description = describe_untrained(network, name, head_change)
    rank_zero_only(log.warning)("%s The scores are not those of a trained network.", description)


# dropout, protocol, heads ----------------------------------------------------------------------------------------


def set_drop_rates(network: VideoNetwork, drop_rate: float | None, drop_path_rate: float | None) -> None:
    """Set the dropout rate in front of the classifier and the DropPath rate of the last block.

    None keeps a rate. Both are stored in the network's spec, and with its weights.

    Raises:
        ConfigError: a rate outside [0, 1), or a network without DropPath.
    """
    if drop_rate is not None:
        check_rate("drop_rate", drop_rate)
        network.dropout.p = drop_rate
        network.spec = network.spec.with_options(drop_rate=drop_rate)
    if drop_path_rate is not None:
        network.set_drop_path(drop_path_rate)
        network.spec = network.spec.with_options(drop_path_rate=drop_path_rate)


def protocol_frames(name: str) -> int:
    """Return the frames per clip in the protocol of an index entry."""
    return zoo.info(name).protocol.num_frames


def set_protocol(network: VideoNetwork, name: str, image_size: int | None = None) -> None:
    """Set the protocol of an index entry, adapted to the network's frame count and classes.

    Pairs of classes that are exchanged by mirroring apply only if the network has the classes of the entry, in any
    order.
    """
    entry = zoo.info(name)
    protocol, labels, own = entry.protocol, entry.class_names() or (), network.labels or ()
    if tuple(labels) != tuple(own):
        same = sorted(labels) == sorted(own)
        protocol = protocol.with_classes([labels.index(label) for label in own] if same else [])
    if network.spec.num_frames != protocol.num_frames:
        protocol = protocol.with_frames(network.spec.num_frames)
    own_protocol = network.protocol  # heads and labels belong to the classifier
    protocol = replace(protocol, heads=own_protocol.heads, multi_label=own_protocol.multi_label)
    network.protocol = protocol if image_size is None else protocol.with_size(image_size)


def set_heads(network: VideoNetwork, heads: Mapping[str, int]) -> None:
    """Declare the outputs of a network as those of several classifiers side by side.

    Raises:
        ConfigError: fewer than two classifiers, or class counts that do not add up to the network's.
    """
    classes = network.spec.num_classes
    if len(heads) < 2:
        raise ConfigError(f"heads is {dict(heads)}; give two or more classifiers, or leave it out for one.")
    if sum(heads.values()) != classes:
        raise ConfigError(f"heads {dict(heads)} have {sum(heads.values())} classes in all; the network has {classes}.")
    network.protocol = replace(network.protocol, heads=tuple(heads.items()))
