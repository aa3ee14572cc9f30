"""The networks of the web page: those of its command line, or the trained networks of the index."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import ConfigError
from zoo.hub.card import escape
from zoo.index import Entry, list_models, load_index
from zoo.inference.command_predictor import default_device
from zoo.inference.predictor import Predictor
from zoo.loading import load
from zoo.models.network import VideoNetwork
from zoo.network_names import resolve_network
from zoo.provenance import entry_of, public_config
from zoo.text import printable
from zoo.training_state import describe_untrained, is_untrained
from zoo.weights.locations import HUB_PREFIX, find_weights

DEFAULT = "tanet_r18.motionclips8"  # bundled
MAX_LOADED = 3  # networks of the index in memory


class AppNetworks:
    """Networks by the name that the page shows.

    Given networks are loaded at once, so that errors are reported before the page opens. Those of the index are
    downloaded and loaded when they are first used, and only the last ``MAX_LOADED`` stay in memory.

    Args:
        names: names of the command line; none: the trained networks of the index.
        options: options of ``Predictor``.

    Attributes:
        names: valid names, the default first.

    Raises:
        ZooError: a given network cannot be loaded, is not trained or has no classifier.
    """

    def __init__(self, names: Sequence[str] = (), **options: Any) -> None:
        self._options = options | {"device": options.get("device") or default_device()}
        self._given = {printable(name): resolve_network(name) for name in names}
        self._predictors: dict[str, Predictor] = {}  # least recently used first
        self._lock = threading.Lock()
        self.names = tuple(self._given) or trained_entries()
        for name in self._given:
            self.predictor(name)

    def predictor(self, name: str) -> Predictor:
        """Return the predictor of a network.

        Raises:
            ZooError: the name is not one of ``names``, or the network cannot be downloaded or loaded.
        """
        if name not in self.names:
            raise ConfigError(f"{printable(str(name))} is not a network of this page.")
        with self._lock:
            predictor = self._predictors.pop(name, None) or self._load(name)
            self._predictors[name] = predictor
            if not self._given and len(self._predictors) > MAX_LOADED:
                del self._predictors[next(iter(self._predictors))]
            return predictor

    def _load(self, name: str) -> Predictor:
        network = load(self._given.get(name, name), progress=False)
        if is_untrained(network):
            advice = f"Fine-tune it with `tempozoo fit --from {name}`."
            raise ConfigError(f"{describe_untrained(network, name)} {advice}")
        if not network.spec.options["num_classes"]:
            raise ConfigError(f"{name} has no classifier, so it cannot label videos.")
        return Predictor(network, **self._options)

    def describe(self, name: str) -> str:
        """Return the provenance of a network as a Markdown list, without local paths. Nothing is downloaded."""
        predictor = self._predictors.get(name)
        if name in self._given and predictor is not None and name not in load_index().entries:
            return _list(_network_facts(name, predictor.model))
        entry = load_index().entries.get(name)
        return "" if entry is None else _list(_entry_facts(entry))


def trained_entries() -> tuple[str, ...]:
    """Return the names of the index whose weights include a trained classifier; the bundled network is the first."""
    entries = load_index().entries
    names = [name for name in list_models() if not entries[name].init]
    return tuple(sorted(names, key=lambda name: name != DEFAULT))


def _list(facts: Mapping[str, str | None]) -> str:
    return "\n".join(f"- **{key}:** {value}" for key, value in facts.items() if value)


def _entry_facts(entry: Entry) -> dict[str, str | None]:
    """Return facts about an index entry, as Markdown."""
    labels, reported, source = entry.class_names(), entry.reported, entry.sources[0]
    accuracy = None
    if reported.top1 is not None:
        accuracy = f"top-1 {reported.top1} %, {reported.views} views ({escape(reported.source or 'paper')})"
    if entry.is_bundled:
        weights = "bundled with the package"
    else:
        downloaded = find_weights(entry) is not None
        state = "downloaded from" if downloaded else "not downloaded yet: the first prediction downloads them from"
        weights = f"{state} {escape(source.url)}"
    return {
        "architecture": escape(entry.arch),
        "trained on": escape(entry.dataset) + (f", {len(labels)} classes" if labels else ""),
        "accuracy": accuracy,
        "input": f"{entry.protocol.num_frames} frames, {entry.protocol.crop} x {entry.protocol.crop} pixels",
        "weights": weights,
        "license": escape(entry.license.weights),
        "paper": f"[{escape(entry.paper.title)}]({entry.paper.url})" if entry.paper.url else None,
    }


def _network_facts(name: str, network: VideoNetwork) -> dict[str, str | None]:
    """Return facts about a network that is not in the index, as Markdown."""
    provenance = public_config(network.spec.to_config())["provenance"]
    entry = entry_of(provenance)
    start = provenance.get("fine_tuned_from") or (entry.name if entry is not None else None)
    videos = provenance.get("data", {}).get("videos", {})
    metrics = provenance.get("metrics", {})
    accuracy = metrics.get("val_top1")
    return {
        "architecture": escape(network.spec.arch),
        "classes": str(network.spec.options["num_classes"]),
        "trained on": f"{videos['train']:g} videos" if "train" in videos else None,
        "accuracy": f"top-1 {100 * accuracy:.1f} % on validation videos" if accuracy is not None else None,
        "input": f"{network.protocol.num_frames} frames, {network.protocol.crop} x {network.protocol.crop} pixels",
        "weights": escape(name) if name.startswith(HUB_PREFIX) else "a local file",
        "started from": escape(start) if start else None,
    }
