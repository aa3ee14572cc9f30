"""load(): a name -> a network with its weights, adapted to the user's task; and save(), its inverse."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.adapt import LoadReport, fit, listing
from zoo.convert import CONVERTERS, apply_rules
from zoo.errors import CheckpointError, ConfigError, IndexFileError, WeightsNotFoundError
from zoo.hub.files import WEIGHTS_FILE, read_model, read_tensors, sha256_of, write_model
from zoo.hub.hf import HUB_PREFIX, fetch_hub_folder
from zoo.index import BUNDLED, Entry, load_index
from zoo.models import build, takes
from zoo.protocol import DEFAULT_PROTOCOL, Protocol

log = logging.getLogger("zoo")
FORMAT = 1
UNTRAINED = "operator_untrained"  # in the provenance of converted image weights


def package_version() -> str:
    """Version of this package, or "unknown" in a source tree that was never installed."""
    try:
        return metadata.version("tempozoo")
    except metadata.PackageNotFoundError:
        return "unknown"


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where converted weights live: the argument, or TEMPOZOO_CACHE, or ~/.cache/tempozoo."""
    if cache_dir is not None:
        return Path(cache_dir)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TEMPOZOO_CACHE") or Path(home) / "tempozoo")


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
    dressed.config = {
        "tempozoo": FORMAT,
        "arch": arch,
        "options": dict(options),
        "labels": list(labels) if labels is not None else None,
        "protocol": protocol.to_dict(),
        "provenance": dict(provenance or {}, package=f"tempozoo {package_version()}"),
    }
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
    report = LoadReport(arch, initialised=tuple(model.state_dict()))
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
        name: a name of the index ("tada2d_r50.k400_8x8"), a folder or ``.safetensors`` file written by this package,
            or "hf-hub:user/repo[@revision]".
        weights: a published checkpoint file of that index entry, already on disk.
        num_classes: another number re-initialises the classifier and nothing else.
        num_frames: another number interpolates layers that have the size of the frame count (TAM), if any.
        image_size: side of training and test crops, pixels. Convolutional networks take any; a position embedding
            of another size than the file's is resampled.
        in_channels: another number adapts the stem.
        pretrained: False builds the same network with random weights.
        cache_dir: folder of converted weights; default TEMPOZOO_CACHE or ~/.cache/tempozoo.
        progress: show progress bars.

    Returns:
        A module in eval mode that takes clips ``(B, 3, T, H, W)``, normalised floats, and returns logits
        ``(B, num_classes)``. It carries ``config``, ``labels``, ``protocol`` and ``report`` (a LoadReport).

    Raises:
        UnknownNameError: no such name; near matches are given.
        WeightsNotFoundError: the entry's weights are not on this machine.
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
    operator_untrained: bool = False


def assemble(name: str, origin: Origin, image_size: int | None = None, **wishes: int | None) -> nn.Module:
    """Build the network of an origin, adapt it to ``wishes`` (num_classes, num_frames, in_channels), load it."""
    trained, labels = dict(origin.options), origin.labels
    options = trained | {key: value for key, value in wishes.items() if value is not None}
    if image_size is not None and takes(origin.arch, "image_size"):
        options["image_size"] = _check_size(image_size)
    operator_trained = origin.tensors is not None and not origin.operator_untrained
    if options["num_frames"] != trained["num_frames"] and operator_trained:
        with torch.device("meta"):
            host: Any = build(origin.arch, **trained)
        options = host.options_for_frames(options, options["num_frames"])
    model = build(origin.arch, **options)
    protocol = _adjust(origin.protocol, options, image_size)
    if options["num_classes"] != trained["num_classes"]:
        labels, protocol = None, protocol.with_classes([])
    if origin.tensors is None:
        report = LoadReport(name, initialised=tuple(model.state_dict()))
        return dress(model, origin.arch, options, protocol, labels, report, origin.provenance)

    where = str(origin.file)
    initialised, adapted = fit(
        model, origin.tensors, trained, options, where=where, operator_untrained=origin.operator_untrained
    )
    report = LoadReport(
        name, where, origin.sha256, origin.published, tuple(initialised), adapted, tuple(origin.ignored)
    )
    log.log(logging.INFO if report.as_trained else logging.WARNING, "%s", report)
    return dress(model, origin.arch, options, protocol, labels, report, origin.provenance)


def _find(name: str, weights: Any, pretrained: bool, cache_dir: Any, progress: bool) -> Origin:
    index = load_index()
    if name in index.entries:
        entry = index[name]
        if not pretrained or weights is not None:
            return _from_index(entry, Path(weights) if weights is not None and pretrained else None)
        return _from_folder(find_weights(entry, cache_dir), pretrained)
    if name.startswith(HUB_PREFIX):
        place = fetch_hub_folder(name, cache_dir, progress)
    elif Path(name).is_file() and not name.endswith(".safetensors"):
        raise CheckpointError(
            f"{name} is not a .safetensors file. A publisher's file goes in as weights= with the name of its index "
            "entry; a Lightning .ckpt becomes a folder for load() with: tempozoo export-checkpoint"
        )
    elif Path(name).exists():
        place = Path(name)
    elif os.sep in name or name.endswith(".safetensors"):
        raise CheckpointError(f"There is no folder or file {name}.")
    else:
        raise index.unknown(name)
    if weights is not None:
        raise ConfigError(f"weights= goes with a name of the index; {name} brings its own weights.")
    return _from_folder(place, pretrained)


def _from_folder(place: Path, pretrained: bool) -> Origin:
    tensors, config, file = read_model(place)
    return origin_of(config, file, tensors if pretrained else None)


def origin_of(config: Any, file: Path, tensors: dict[str, torch.Tensor] | None) -> Origin:
    """The origin that a saved network's config describes; ``file`` is where it and its tensors come from.

    Raises:
        IndexFileError: the config is not of this package and format, or incomplete.
    """
    where = str(file)
    if not isinstance(config, Mapping) or "tempozoo" not in config:
        raise IndexFileError(f"{where}: the config was not written by this package.")
    if config["tempozoo"] != FORMAT:
        raise IndexFileError(
            f"{where}: written in format {config['tempozoo']}, this version reads {FORMAT}; upgrade tempozoo."
        )
    missing = [key for key in ("arch", "options", "labels", "protocol") if key not in config]
    missing += [f"options.{key}" for key in ("num_classes", "num_frames") if key not in config.get("options", {})]
    if missing:
        raise IndexFileError(f"{where}: the config lacks {', '.join(missing)}.")
    protocol = Protocol.from_dict(config["protocol"], where)
    provenance = dict(config.get("provenance", {}))
    untrained = provenance.pop(UNTRAINED, False)
    origin = Origin(config["arch"], config["options"], config["labels"], protocol, provenance)
    origin.operator_untrained = untrained
    if tensors is not None:
        origin.tensors, origin.file, origin.sha256 = tensors, file, sha256_of(file)
    return origin


def _from_index(entry: Entry, file: Path | None) -> Origin:
    origin = Origin(entry.arch, entry.options, entry.class_names(), entry.protocol, {"entry": entry.name})
    if file is not None:
        origin.tensors, origin.ignored = _read_published(entry, file)
        origin.file, origin.sha256, origin.operator_untrained = file, sha256_of(file), entry.init
        origin.published = _as_published(entry, origin.sha256)
        origin.provenance = {"entry": entry.name, "file": file.name, "sha256": origin.sha256}
    return origin


def find_weights(entry: Entry, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder with an entry's converted weights: bundled with the package, or in the cache.

    Raises:
        WeightsNotFoundError: neither; the message says where the file is published and how to pass it.
    """
    for folder in (BUNDLED / entry.name, cache_folder(cache_dir) / entry.name):
        if (folder / WEIGHTS_FILE).is_file():
            return folder
    raise WeightsNotFoundError(
        f"The weights of {entry.name} are not on this machine: download {entry.sources[0].url} and pass the file, "
        f"load({entry.name!r}, weights='<file>'), or convert it once with: tempozoo convert <file> {entry.name}"
    )


def _read_published(entry: Entry, path: Path) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """A published file's tensors in our names, and the keys ignored on purpose."""
    raw = read_tensors(path)
    first = entry.converter
    best = None
    for converter in sorted(CONVERTERS, key=lambda c: c != first):  # any publisher's format of the network will do
        conversion = apply_rules(CONVERTERS[converter], raw)
        if not conversion.unknown:
            return conversion.tensors, tuple(conversion.ignored)
        best = best or conversion
    if set(raw) <= set(build(entry.arch, **entry.options).state_dict()):
        return raw, ()  # already in our names
    assert best is not None
    raise CheckpointError(
        f"{path} is not a file of {entry.name}: {len(best.unknown)} of its {len(raw)} keys are unknown to the "
        f"{first!r} format, such as {listing(best.unknown)}. Expected the file of {entry.sources[0].url}"
    )


def _as_published(entry: Entry, digest: str) -> bool | None:
    if entry.sha256:
        return digest == entry.sha256
    return digest.startswith(entry.sha256_prefix) if entry.sha256_prefix else None


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
    return write_model(Path(folder), model.state_dict(), _config_now(model))


def _config_now(model: Any) -> dict[str, Any]:
    """A network's config, after what its own methods may have changed: its classifier, its stem."""
    config, options = dict(model.config), dict(model.config["options"])
    classes, channels = model.get_classifier().out_features, model.in_channels
    if classes != options["num_classes"]:
        options["num_classes"], config["labels"] = classes, None
        config["protocol"] = model.protocol.with_classes([]).to_dict()
    if channels != options.get("in_channels", 3):
        options["in_channels"] = channels
    return config | {"options": options}


def convert(source_file: str | os.PathLike[str], name: str, out_dir: str | os.PathLike[str] | None = None) -> Path:
    """Convert a published checkpoint file to safetensors + config.json and return the folder.

    Args:
        source_file: the publisher's file.
        name: the index entry it belongs to.
        out_dir: where to write; default is the cache, where ``load(name)`` finds it from then on.
    """
    entry = load_index()[name]
    model: Any = load(name, weights=source_file)
    # of an image network, only what was trained is kept, so that later loads still tell the operator is new
    tensors = {key: value for key, value in model.state_dict().items() if key not in model.report.initialised}
    if entry.init:
        model.config["provenance"][UNTRAINED] = True
    return write_model(Path(out_dir) if out_dir is not None else cache_folder() / name, tensors, model.config)


def list_models(pattern: str = "*", *, dataset: str | None = None, arch: str | None = None) -> list[str]:
    """Names of the index that match, such as ``list_models("tada2d*", dataset="ssv2")``."""
    return load_index().find(pattern, dataset=dataset, arch=arch)


def info(name: str) -> Entry:
    """Everything the index says of a name: sources, protocol, accuracy, size, licence, paper."""
    return load_index()[name]
