"""LocalizerSpec: the features, labels and options of a localizer, and their validation. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import zoo
from zoo.arguments import check_labels
from zoo.errors import ConfigError, check_int, check_number
from zoo.localization.boundary_options import GROUPS, BoundaryOptions
from zoo.protocol import MAX_LABEL
from zoo.spec import FORMAT, LOCALIZATION, TASK, check_provenance
from zoo.text import brief, is_printable, printable

MAX_CLASSES = 10_000
MAX_DIM = 65_536
MAX_TEXT = 4096
MAX_SECONDS = 86_400.0
COUNTS = {  # option -> smallest and largest value
    "width": (8, 2048),
    "heads": (1, 64),
    "layers": (1, 24),
    "levels": (1, 12),
    "attention_window": (1, 4097),
}


@dataclass(frozen=True)
class FeatureSource:
    """Origin of the features of a localizer; ``manifest.json`` of ``tempozoo features`` has the same facts.

    Attributes:
        network: name or path of the network, for ``zoo.load``.
        weights: fingerprint of its weights, see ``zoo.provenance.fingerprint``.
        window: seconds of a window.
        stride: seconds between the starts of two windows.
        dim: features of a window.
        views: views of a window, such as "1x1".
        stage: stage whose feature maps are averaged; None for the input of the classifier.
    """

    network: str
    weights: str
    window: float
    stride: float
    dim: int
    views: str = "1x1"
    stage: int | None = None

    def check(self) -> None:
        """Validate every field.

        Raises:
            ConfigError: a value is invalid; the message names it.
        """
        for name in ("network", "weights", "views"):
            value = getattr(self, name)
            if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not is_printable(value):
                raise ConfigError(f"features.{name} is {brief(value)}; it must be one line of text.")
        check_number("features.window", self.window, 0.01, MAX_SECONDS)
        check_number("features.stride", self.stride, 0.01, MAX_SECONDS)
        check_int("features.dim", self.dim, 1, MAX_DIM)
        if self.stage is not None:
            check_int("features.stage", self.stage, -1000, 1000)

    @classmethod
    def from_dict(cls, values: Any, where: str) -> FeatureSource:
        """Create a source from plain values.

        Raises:
            ConfigError: a value is missing, unknown or invalid; the message names ``where`` and the value.
        """
        where = printable(where)
        names = [one.name for one in fields(cls)]
        if not isinstance(values, Mapping) or set(values) != set(names):
            raise ConfigError(f"{where}: features is {brief(values)}; it must have the values {', '.join(names)}.")
        source = cls(**values)
        try:
            source.check()
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        return source


@dataclass(frozen=True)
class PointOptions:
    """Options of ``PointLocalizer``.

    Attributes:
        width: channels of the pyramid.
        heads: attention heads; a divisor of ``width``.
        layers: transformer blocks in front of the pyramid.
        levels: levels of the pyramid; each has half the points of the level below it.
        attention_window: cells that a cell attends to, odd.
        dropout: dropout in training.
        input_dropout: probability that a feature is 0 in all cells of a video in training.
    """

    width: int = 192
    heads: int = 4
    layers: int = 2
    levels: int = 5
    attention_window: int = 19
    dropout: float = 0.1
    input_dropout: float = 0.0

    def check(self) -> None:
        """Validate every option.

        Raises:
            ConfigError: a value is invalid; the message names it.
        """
        for name, bounds in COUNTS.items():
            check_int(name, getattr(self, name), *bounds)
        check_number("dropout", self.dropout, 0.0, 0.9)
        check_number("input_dropout", self.input_dropout, 0.0, 0.9)
        if self.width % self.heads:
            raise ConfigError(f"width is {self.width}; it must be a multiple of heads, {self.heads}.")
        if self.attention_window % 2 == 0:
            raise ConfigError(
                f"attention_window is {self.attention_window}; it must be odd, so that a cell is in the middle of it."
            )


NETWORKS: dict[str, type[PointOptions | BoundaryOptions]] = {  # name in config.json -> options
    "point": PointOptions,
    "boundary_matching": BoundaryOptions,
}


@dataclass(frozen=True)
class LocalizerSpec:
    """Description of a localizer.

    Attributes:
        features: origin of its features.
        labels: class names in the order of the logits.
        options: options of the network; their class selects the network.
        provenance: origin of the weights, as plain JSON values.
    """

    features: FeatureSource
    labels: tuple[str, ...]
    options: PointOptions | BoundaryOptions = PointOptions()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Validate every field.

        Raises:
            ConfigError: a value is invalid; the message names it.
        """
        self.features.check()
        self.options.check()
        if isinstance(self.options, BoundaryOptions) and self.features.dim % GROUPS:
            raise ConfigError(
                f"features.dim is {self.features.dim}; a Boundary-Matching Network needs a multiple of {GROUPS}."
            )
        check_int("the number of labels", len(self.labels), 1, MAX_CLASSES)
        check_labels("labels", self.labels, len(self.labels), MAX_LABEL)
        check_provenance(self.provenance)

    def to_config(self) -> dict[str, Any]:
        """Return the content of config.json, with the version of this package in the provenance."""
        return {
            "tempozoo": FORMAT,
            TASK: LOCALIZATION,
            "network": next(name for name, options in NETWORKS.items() if isinstance(self.options, options)),
            "features": asdict(self.features),
            "labels": list(self.labels),
            "options": asdict(self.options),
            "provenance": dict(self.provenance, package=f"tempozoo {zoo.__version__}"),
        }

    @classmethod
    def from_config(cls, config: Any, where: str) -> LocalizerSpec:
        """Create a spec from the content of a config.json, or from the config in a ``.ckpt``.

        Raises:
            ConfigError: a value is invalid; the message names ``where`` and the value.
        """
        where = printable(where)
        if not is_localizer_config(config):
            raise ConfigError(f"{where} is not a localizer; train one with `tempozoo fit --config localize/folder`.")
        if config.get("tempozoo") != FORMAT:
            raise ConfigError(
                f"{where}: written in format {brief(config.get('tempozoo'))}, this version reads {FORMAT}; upgrade "
                "tempozoo."
            )
        labels, options, provenance = (config.get(key) for key in ("labels", "options", "provenance"))
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ConfigError(f"{where}: labels is {brief(labels)}; it must be a list of class names.")
        network = config.get("network", "point")
        if not isinstance(network, str) or network not in NETWORKS:
            raise ConfigError(f"{where}: network is {brief(network)}; choose from {', '.join(NETWORKS)}.")
        names = [one.name for one in fields(NETWORKS[network])]
        if not isinstance(options, Mapping) or set(options) != set(names):
            raise ConfigError(f"{where}: options is {brief(options)}; it must have the values {', '.join(names)}.")
        if not isinstance(provenance, Mapping):
            raise ConfigError(f"{where}: provenance is {brief(provenance)}; it must be a mapping.")
        source = FeatureSource.from_dict(config.get("features"), where)
        spec = cls(source, tuple(labels), NETWORKS[network](**options), dict(provenance))
        try:
            spec.check()
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        return spec


def is_localizer_config(config: Any) -> bool:
    """Whether the content of a config.json or the config of a ``.ckpt`` describes a localizer."""
    return isinstance(config, Mapping) and config.get(TASK) == LOCALIZATION
