"""load(): a name -> a network with its weights, adapted to the user's task; and save(), its inverse."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.adapt import LoadReport, fit
from zoo.config import UNTRAINED, check_config, config_of
from zoo.conversion import read_published
from zoo.errors import CheckpointError, ConfigError
from zoo.hub.checkpoint import SUFFIX, read_checkpoint
from zoo.hub.files import sha256_of
from zoo.hub.folders import read_model, write_model
from zoo.hub.hf import HUB_PREFIX, fetch_hub_folder
from zoo.hub.settings import offline
from zoo.index import Entry, load_index
from zoo.models import build, outline, takes
from zoo.protocol import DEFAULT_PROTOCOL, Protocol
from zoo.provenance import INITIALISED, START, provenance_now
from zoo.published import Weights, obtain

log = logging.getLogger("zoo")


def dress(
    model: nn.Module,
    arch: str,
    options: Mapping[str, Any],
    protocol: Protocol,
    labels: Sequence[str] | None,
    report: LoadReport,
    provenance: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Attach what every network of the zoo carries: config, labels, protocol, report. Returns it in eval mode."""
    classes = options["num_classes"]
    if labels is not None and len(labels) != classes:
        raise ConfigError(f"there are {len(labels)} labels for {classes} classes; give one for each, or none.")
    dressed: Any = model
    dressed.labels = tuple(labels) if labels is not None else None
    dressed.protocol = protocol
    dressed.report = report
    dressed.config = config_of(arch, options, protocol, labels, provenance)
    return dressed.eval()


def create(
    arch: str, *, image_size: int | None = None, labels: Sequence[str] | None = None, **options: Any
) -> nn.Module:
    """Build an architecture with random weights, in eval mode.

    Args:
        arch: such as "tanet_r50"; zoo.models.ARCHITECTURES holds them all.
        image_size: side of its training and test crops, pixels.
        labels: class names, if known.
        options: of the architecture: num_classes, num_frames, in_channels, width, dropout, ...

    Raises:
        UnknownNameError, ConfigError: no such architecture, or options it cannot be built with.
    """
    options = {"num_classes": 400, "num_frames": 8} | options
    if takes(arch, "image_size"):
        options["image_size"] = _check_size(image_size or DEFAULT_PROTOCOL.crop)
    model = build(arch, **options)
    protocol = _adjust(DEFAULT_PROTOCOL, options, image_size)
    report = LoadReport(arch).with_initialized(model, model.state_dict())
    return dress(model, arch, options, protocol, labels, report)


def _adjust(protocol: Protocol, options: Mapping[str, Any], image_size: int | None) -> Protocol:
    if options["num_frames"] != protocol.num_frames:
        protocol = protocol.with_frames(options["num_frames"])
    if image_size is not None:
        protocol = protocol.with_size(_check_size(image_size))
    return protocol.with_channels(options.get("in_channels", len(protocol.mean)))


def _check_size(image_size: int) -> int:
    if not isinstance(image_size, int) or image_size < 16:
        raise ConfigError(f"image_size is {image_size!r}; it must be a whole number of at least 16 pixels.")
    return image_size


def load(
    name: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    in_channels: int | None = None,
    pretrained: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> nn.Module:
    """Load a network with its trained weights.

    Args:
        name: a name of the index ("tada2d_r50.k400_8x8"), whose weights are fetched once; a folder, ``.safetensors`` or
            ``.ckpt`` file written by this package; or "hf-hub:user/repo[@revision]".
        weights: a file in a published layout of that index entry, already on disk, to use instead.
        num_classes: another number re-initialises the classifier and nothing else.
        num_frames: another number interpolates layers that have the size of the frame count (TAM), if any.
        image_size: side of training and test crops, pixels. Convolutional networks take any; a position embedding
            of another size than the file's is resampled.
        in_channels: another number adapts the stem.
        pretrained: False builds the same network with random weights.
        cache_dir: folder of converted weights; default TEMPOZOO_CACHE or ~/.cache/tempozoo. (Of "hf-hub:" names, the
            Hub client's.)
        progress: show progress bars of downloads.

    Returns:
        A module in eval mode that takes clips ``(B, 3, T, H, W)``, normalised floats, and returns logits
        ``(B, num_classes)``. It carries ``config``, ``labels``, ``protocol`` and ``report`` (a LoadReport).

    Raises:
        UnknownNameError: no such name; near matches are given.
        DownloadError: the entry's weights could not be fetched; its subclasses tell why, the message what to do.
        OfflineError: they would have to be, and TEMPOZOO_OFFLINE or HF_HUB_OFFLINE is set.
        CheckpointError: a file that cannot be read or does not fit; nothing is ever loaded in part.
    """
    name = os.fspath(name)
    origin = _find(name, weights, pretrained, cache_dir, progress)
    wishes = {"num_classes": num_classes, "num_frames": num_frames, "in_channels": in_channels}
    return assemble(name, origin, image_size, **wishes)


@dataclass
class Origin:
    """What a name stands for: the network as it was trained, and its tensors in our names (None: random)."""

    arch: str
    options: Mapping[str, Any]
    labels: Sequence[str] | None
    protocol: Protocol
    provenance: Mapping[str, Any]
    tensors: dict[str, torch.Tensor] | None = None
    file: Path | None = None
    sha256: str | None = None
    published: bool | None = None
    ignored: Sequence[str] = ()
    operator_untrained: bool = False  # the file lacks the operator's tensors
    of_index: bool = False
    untrained: frozenset[str] = frozenset()  # keys of the file that nobody has trained
    start_only: bool = False  # see LoadReport


def assemble(name: str, origin: Origin, image_size: int | None = None, **wishes: int | None) -> nn.Module:
    """Build the network of an origin, adapt it to ``wishes`` (num_classes, num_frames, in_channels), load it."""
    trained, labels = dict(origin.options), origin.labels
    options = trained | {key: value for key, value in wishes.items() if value is not None}
    if image_size is not None and takes(origin.arch, "image_size"):
        options["image_size"] = _check_size(image_size)
    where, untrained = str(origin.file), origin.operator_untrained
    other_frames = options["num_frames"] != trained["num_frames"]
    if origin.tensors is not None and (other_frames or not origin.of_index):
        host: Any = outline(origin.arch, **trained)
        # before anything of that size is made: a config may say anything
        fit(host, dict(origin.tensors), trained, trained, where=where, operator_untrained=untrained)
        if other_frames and not untrained:
            options = host.options_for_frames(options, options["num_frames"])
    model = build(origin.arch, **options)
    protocol = _adjust(origin.protocol, options, image_size)
    if options["num_classes"] != trained["num_classes"]:
        labels, protocol = None, protocol.with_classes([])
    if origin.tensors is None:
        report = LoadReport(name).with_initialized(model, model.state_dict())
        return dress(model, origin.arch, options, protocol, labels, report, origin.provenance)

    initialised, adapted = fit(model, origin.tensors, trained, options, where=where, operator_untrained=untrained)
    report = LoadReport(
        name,
        where,
        origin.sha256,
        origin.published,
        adapted=adapted,
        ignored=tuple(origin.ignored),
        untrained=tuple(key for key in model.state_dict() if key in origin.untrained),
        start_only=origin.start_only,
    ).with_initialized(model, initialised)
    complete = report.as_trained and not report.untrained
    log.log(logging.INFO if complete else logging.WARNING, "%s", report)
    return dress(model, origin.arch, options, protocol, labels, report, origin.provenance)


def _find(name: str, weights: Any, pretrained: bool, cache_dir: Any, progress: bool) -> Origin:
    index = load_index()
    if name in index.entries:
        entry = index[name]
        if not pretrained:
            return _from_index(entry)
        if weights is not None:
            return _from_index(entry, Path(weights))
        return _from_index(entry, found=obtain(entry, cache_dir, progress=progress))
    if weights is not None and (name.startswith(HUB_PREFIX) or Path(name).exists()):
        raise ConfigError(f"weights= goes with a name of the index; {name} brings its own weights.")
    if name.startswith(HUB_PREFIX):
        place = fetch_hub_folder(name, cache_dir, progress)
        try:
            return _from_folder(place, pretrained)
        except CheckpointError as error:
            if offline():
                raise
            log.warning("%s Fetching %s again.", error, name)
            place = fetch_hub_folder(name, cache_dir, progress, again=True)
    elif name.endswith(SUFFIX):
        path = Path(name)
        tensors, config = read_checkpoint(path)
        return origin_of(config, path, sha256_of(path), tensors if pretrained else None)
    elif Path(name).is_file() and not name.endswith(".safetensors"):
        raise CheckpointError(
            f"{name} is neither a .safetensors file nor a .ckpt of this package. A publisher's file goes in as "
            "weights= with the name of its index entry."
        )
    elif Path(name).exists():
        place = Path(name)
    elif os.sep in name or name.endswith(".safetensors"):
        raise CheckpointError(f"There is no folder or file {name}.")
    else:
        raise index.unknown(name)
    return _from_folder(place, pretrained)


def _from_folder(place: Path, pretrained: bool) -> Origin:
    tensors, config, file, digest = read_model(place)
    return origin_of(config, file, digest, tensors if pretrained else None)


def origin_of(config: Any, file: Path, digest: str, tensors: dict[str, torch.Tensor] | None) -> Origin:
    """The origin that a saved network's config describes; ``file``, with that sha256, is where it comes from."""
    check_config(config, str(file))
    protocol = Protocol.from_dict(config["protocol"], str(file))
    provenance = dict(config.get("provenance") or {})
    operator_untrained = provenance.pop(UNTRAINED, False)
    untrained, start_only = provenance.pop(INITIALISED, None), provenance.pop(START, False)
    origin = Origin(config["arch"], config["options"], config["labels"], protocol, provenance)
    origin.operator_untrained, origin.start_only = operator_untrained, bool(operator_untrained or start_only)
    if isinstance(untrained, list):
        origin.untrained = frozenset(map(str, untrained))
    if tensors is not None:
        origin.tensors, origin.file, origin.sha256 = tensors, file, digest
    return origin


def _from_index(entry: Entry, file: Path | None = None, found: Weights | None = None) -> Origin:
    """An entry's network: without weights, with those of a published file, or with those of its conversion."""
    origin = Origin(entry.arch, entry.options, entry.class_names(), entry.protocol, {"entry": entry.name})
    origin.operator_untrained = origin.start_only = entry.init
    origin.of_index = True
    if file is not None:
        origin.tensors, origin.ignored = read_published(entry, file)
        origin.file, origin.sha256 = file, sha256_of(file)
        expected = entry.sha256 or entry.sha256_prefix
        origin.published = origin.sha256.startswith(expected) if expected else None
        origin.provenance = {"entry": entry.name, "file": file.name, "sha256": origin.sha256}
    elif found is not None:
        origin.tensors, origin.file, origin.sha256 = found.tensors, found.file, found.sha256
        origin.published = True if entry.sha256 or entry.sha256_prefix else None
        origin.labels = origin.labels or found.config["labels"]
        origin.provenance = {key: value for key, value in found.config["provenance"].items() if key != UNTRAINED}
    return origin


def save(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Write a network to a folder as ``model.safetensors`` and ``config.json``; ``load(folder)`` is its inverse.

    Raises:
        ConfigError: the module did not come from this package.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, Mapping) or "arch" not in config:
        raise ConfigError(
            f"save() takes networks of zoo.load or zoo.create; this {type(model).__name__} has no config."
        )
    return write_model(Path(folder), model.state_dict(), config_now(model))


def config_now(model: Any) -> dict[str, Any]:
    """A network's config as it is now, after what its methods, its user or a training may have changed.

    Raises:
        ConfigError: labels that are not a text for each class.
    """
    options, labels, protocol = dict(model.config["options"]), model.labels, model.protocol
    classes, channels = model.get_classifier().out_features, model.in_channels
    if classes != options["num_classes"]:  # another classifier: what was said of the old one's classes goes
        options["num_classes"] = classes
        labels = None if labels is not None and list(labels) == model.config["labels"] else labels
        pairs_too = protocol.flip_pairs == model.config["protocol"]["flip_pairs"]
        protocol = protocol.with_classes([]) if pairs_too else protocol
    if channels != options.get("in_channels", 3):
        options["in_channels"] = channels
    if labels is not None:
        texts = isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels)
        if not texts or len(labels) != classes:
            raise ConfigError(f"model.labels must hold {classes} texts, one for each class, or be None.")
    return config_of(model.config["arch"], options, protocol, labels, provenance_now(model))


def list_models(pattern: str = "*", *, dataset: str | None = None, arch: str | None = None) -> list[str]:
    """Names of the index that match, such as ``list_models("tada2d*", dataset="ssv2")``."""
    return load_index().find(pattern, dataset=dataset, arch=arch)


def info(name: str) -> Entry:
    """Everything the index says of a name: sources, protocol, accuracy, size, licence, paper."""
    return load_index()[name]
