"""ModelSpec: architecture, options, labels, protocol and provenance of a network, and their validation.

A spec may come from an index entry, a folder, a ``.ckpt`` or a repository of the Hub. It is untrusted, so it is
validated before a network is built from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any

import zoo
from zoo.arguments import check_labels
from zoo.errors import ConfigError, UnknownNameError, check_int, check_num_classes, check_number, check_rate
from zoo.models.registry import ALL_ARCHITECTURES, ARCHITECTURES
from zoo.protocol import BOUNDS, MAX_CLASSES, MAX_LABEL, Protocol, check_protocol
from zoo.text import brief, is_printable, printable

FORMAT = 1
TASK, LOCALIZATION = "task", "localization"  # key and value in the config of a localizer (zoo/localization)
UNTRAINED = "operator_untrained"  # in the provenance of converted image weights

# Smallest and largest values of integer options.
COUNTS = {
    "num_frames": BOUNDS["num_frames"],
    "in_channels": (1, 1024),
    "image_size": (16, BOUNDS["crop"][1]),
    "width": (1, 8192),
    "depth": (1, 256),
    "temporal_depth": (1, 256),
    "heads": (1, 256),
    "patch": (1, 256),
    "alpha": (1, 64),
    "fusion_kernel": (1, 99),
}
RATES = ("drop_rate", "drop_path_rate")  # at least 0 and below 1
NUMBERS = {"layer_scale": (0.0, 1000.0)}
FLAGS = ("stem_pool", "temporal_projection", "double_tada")
# options with nested values, such as those of an operator; the limits below apply to each value in them
NESTED = ("op_options", "non_local", "routing", "op_stages", "adapted", "hidden", "parts")
MAX_NESTED_INT, MAX_NESTED_FLOAT, MAX_NESTED_TEXT, MAX_NESTED_ITEMS = 65536, 1e6, 100, 1000
# limits of the provenance, which is informative only
MAX_DEPTH, MAX_ITEMS, MAX_TEXT, MAX_INT = 8, 100_000, 10_000, 2**63


# Option names before version 0.2 -> current names. Arguments, index entries, config.json and .ckpt files may use both.
RENAMED_OPTIONS = {"dropout": "drop_rate", "drop_path": "drop_path_rate"}


def rename_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace former option names by the current ones.

    Raises:
        ConfigError: an option is given under both names.
    """
    for former, current in RENAMED_OPTIONS.items():
        if former in options and current in options:
            raise ConfigError(f"both {former} and {current} are given; {former} is the former name of {current}.")
    return {RENAMED_OPTIONS.get(name, name): value for name, value in options.items()}


@dataclass(frozen=True)
class ModelSpec:
    """Description of a network, shared by index entries, saved folders, ``.ckpt`` files and networks.

    Specs are immutable: ``dataclasses.replace`` and the methods below return changed copies.

    Attributes:
        arch: key of ``zoo.models.ARCHITECTURES``.
        options: options of the architecture, including ``num_classes`` and ``num_frames``. Do not modify.
        protocol: how clips are sampled and preprocessed.
        labels: class names in the order of the logits, or None.
        provenance: origin of the weights, as plain JSON values.
    """

    arch: str
    options: Mapping[str, Any]
    protocol: Protocol
    labels: tuple[str, ...] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.options["num_classes"]

    @property
    def num_frames(self) -> int:
        """Frames per clip."""
        return self.options["num_frames"]

    @property
    def in_channels(self) -> int:
        """Channels of a frame."""
        return self.options.get("in_channels", 3)

    def with_options(self, **changes: Any) -> ModelSpec:
        """Return a copy with other options of the architecture."""
        return replace(self, options={**self.options, **changes})

    def with_labels(self, labels: Sequence[str] | None) -> ModelSpec:
        """Return a copy with other class names.

        Raises:
            ConfigError: ``labels`` is not a sequence of one string per class.
        """
        if labels is not None:
            check_labels("labels", labels, self.num_classes, MAX_LABEL)
        return replace(self, labels=None if labels is None else tuple(labels))

    def with_classes(self, num_classes: int, order: Sequence[int] = ()) -> ModelSpec:
        """Return the spec after the classifier was replaced.

        Args:
            num_classes: new number of logits.
            order: former class index of each logit; empty if the classes are new.
        """
        labels = None if self.labels is None or not order else tuple(self.labels[index] for index in order)
        spec = self.with_options(num_classes=num_classes)
        return replace(spec, labels=labels, protocol=self.protocol.with_classes(order))

    def check(self) -> None:
        """Validate every field and the agreement of the fields.

        Raises:
            UnknownNameError: the architecture does not exist.
            ConfigError: a value is invalid; the message names the field, its value and the valid values.
        """
        check_protocol(self.protocol.to_dict())
        check_description(self.arch, self.options, self.protocol, self.labels)
        check_provenance(self.provenance)

    def to_config(self) -> dict[str, Any]:
        """Return the content of config.json, with the version of this package in the provenance."""
        return {
            "tempozoo": FORMAT,
            "arch": self.arch,
            "options": dict(self.options),
            "labels": None if self.labels is None else list(self.labels),
            "protocol": self.protocol.to_dict(),
            "provenance": dict(self.provenance, package=f"tempozoo {zoo.__version__}"),
        }

    @classmethod
    def from_config(cls, config: Any, where: str) -> ModelSpec:
        """Create a spec from the content of a config.json, or from the config in a ``.ckpt``.

        Raises:
            ConfigError: a value is invalid; the message names ``where``, the field, its value and the valid values.
        """
        protocol = check_config(config, where)
        labels = None if config["labels"] is None else tuple(config["labels"])
        options = rename_options(config["options"])
        provenance = dict(config.get("provenance") or {})
        if "initialised" in provenance:  # the spelling of version 0.1
            provenance.setdefault("initialized", provenance.pop("initialised"))
        return cls(config["arch"], options, protocol, labels, provenance)


def check_config(config: Any, where: str) -> Protocol:
    """Validate a config.json, or the config in a ``.ckpt``, and return its protocol.

    Raises:
        ConfigError: a value is invalid; the message names ``where``, the field, its value and the valid values.
    """
    where = printable(where)
    if not isinstance(config, Mapping) or "tempozoo" not in config:
        raise ConfigError(f"{where}: the config was not written by this package.")
    if config.get(TASK) == LOCALIZATION:
        raise ConfigError(
            f"{where} is a localizer, not a classifier; use it with `tempozoo localize VIDEO --from`, or test it with "
            "`tempozoo test --from RUN --config RUN/config.yaml`."
        )
    if type(config["tempozoo"]) is not int or config["tempozoo"] != FORMAT:
        raise ConfigError(
            f"{where}: written in format {brief(config['tempozoo'])}, this version reads {FORMAT}; upgrade tempozoo."
        )
    missing = [key for key in ("arch", "options", "labels", "protocol") if key not in config]
    kinds: dict[str, tuple[type, ...]] = {
        "arch": (str,),
        "options": (dict,),
        "labels": (list, NoneType),
        "protocol": (dict,),
        "provenance": (dict, NoneType),
    }
    for key in kinds.keys() & config.keys():
        if not isinstance(config[key], kinds[key]):
            raise ConfigError(f"{where}: {key} is {brief(config[key])}; it was not written by this package.")
    missing += [f"options.{key}" for key in ("num_classes", "num_frames") if key not in config.get("options", {})]
    if missing:
        raise ConfigError(f"{where}: the config lacks {', '.join(missing)}.")
    protocol = Protocol.from_dict(config["protocol"], where)
    try:
        check_description(config["arch"], rename_options(config["options"]), protocol, config["labels"])
        check_provenance(config.get("provenance") or {})
    except (ConfigError, UnknownNameError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return protocol


def check_description(arch: str, options: Mapping[str, Any], protocol: Protocol, labels: Sequence[str] | None) -> None:
    """Validate an architecture, its options and labels, and their agreement with a (valid) protocol.

    Raises:
        UnknownNameError: the architecture does not exist.
        ConfigError: a value is invalid; the message names the field, its value and the valid values.
    """
    if arch not in ARCHITECTURES:
        raise UnknownNameError.of("architecture", arch, ARCHITECTURES, ALL_ARCHITECTURES)
    check_options(options)
    classes, frames, channels = options["num_classes"], options["num_frames"], options.get("in_channels", 3)
    if frames != protocol.num_frames:
        raise ConfigError(f"num_frames is {frames} in options and {protocol.num_frames} in protocol; they must agree.")
    if len(protocol.mean) != channels:
        raise ConfigError(
            f"mean and std have {len(protocol.mean)} values for {channels} input channels; they must agree."
        )
    for number, pair in enumerate(protocol.flip_pairs):
        if max(pair) >= classes:
            raise ConfigError(f"flip_pairs[{number}] is {list(pair)}; classes are 0 to {classes - 1}.")
    total = sum(count for _, count in protocol.heads)
    if protocol.heads and total != classes:
        raise ConfigError(f"heads have {total} classes in all, num_classes is {classes}; they must agree.")
    if labels is not None:
        check_labels("labels", labels, classes, MAX_LABEL)


def check_options(options: Mapping[str, Any]) -> None:
    """Validate the type and range of options. Their names are validated when the architecture is built.

    Raises:
        ConfigError: a value is invalid; the message names the option, its value and the valid values.
    """
    for name, value in options.items():
        if not isinstance(name, str) or not name.isidentifier() or len(name) > MAX_NESTED_TEXT:
            raise ConfigError(f"the name of an option is {brief(name)}; it must be an identifier, such as num_frames.")
        if name == "num_classes":
            check_num_classes(value, MAX_CLASSES)
        elif name in COUNTS:
            check_int(name, value, *COUNTS[name])
        elif name in RATES:
            check_rate(name, value)
        elif name in NUMBERS:
            check_number(name, value, *NUMBERS[name])
        elif name in FLAGS:
            if not isinstance(value, bool):
                raise ConfigError(f"{name} is {brief(value)}; it must be true or false.")
        else:
            _check_nested(name, value)


def _check_nested(name: str, value: Any) -> None:
    for inner in _walk(name, value, depth=5, items=MAX_NESTED_ITEMS):
        if isinstance(inner, int):
            check_int(f"a number in {name}", int(inner), -MAX_NESTED_INT, MAX_NESTED_INT)
        elif isinstance(inner, float):
            check_number(f"a number in {name}", inner, -MAX_NESTED_FLOAT, MAX_NESTED_FLOAT)
        elif isinstance(inner, str) and (len(inner) > MAX_NESTED_TEXT or not is_printable(inner)):
            raise ConfigError(
                f"a text in {name} is {brief(inner)}; it must be one line of at most {MAX_NESTED_TEXT} characters."
            )


def check_provenance(provenance: Any) -> None:
    """Check that a provenance consists of plain JSON values of bounded depth, number and size.

    Raises:
        ConfigError: a value is invalid; the message names it.
    """
    for inner in _walk("provenance", provenance, MAX_DEPTH, MAX_ITEMS):
        if isinstance(inner, str) and len(inner) > MAX_TEXT:
            raise ConfigError(f"a text in provenance has {len(inner)} characters; at most {MAX_TEXT} are allowed.")
        if isinstance(inner, int) and abs(inner) > MAX_INT:
            raise ConfigError(f"a number in provenance is {brief(inner)}; it must be within 64 bits.")
    if not isinstance(provenance.get(UNTRAINED, False), bool):
        raise ConfigError(f"provenance.{UNTRAINED} is {brief(provenance[UNTRAINED])}; it must be true or false.")


def _walk(name: str, value: Any, depth: int, items: int) -> list[Any]:
    """Return all keys and plain values inside ``value``; raise a ConfigError for other, too many or too deep values."""
    plain: list[Any] = []
    level: list[Any] = [value]
    for _ in range(depth):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                if not all(isinstance(key, str) for key in item):
                    raise ConfigError(f"a key in {name} is not text; keys must be strings, as in JSON.")
                plain.extend(item)
                deeper.extend(item.values())
            elif isinstance(item, (list, tuple)):
                deeper.extend(item)
            elif item is None or isinstance(item, (bool, int, float, str)):
                plain.append(item)
            else:
                raise ConfigError(f"a value in {name} is a {type(item).__name__}; it must be a plain JSON value.")
        if len(plain) + len(deeper) > items:
            raise ConfigError(f"{name} has more than {items} values; at most {items} are allowed.")
        level = deeper
    if level:
        raise ConfigError(f"{name} is nested more than {depth} levels deep; at most {depth} are allowed.")
    return plain
