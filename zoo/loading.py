"""load(): a name -> a network with its weights, adapted to the user's task; and save(), its inverse."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.adapt import MAX_GROWTH, LoadReport, fit, listing
from zoo.arguments import check_flag, check_labels, check_module, check_path, check_text
from zoo.errors import CheckpointError, ConfigError, UnknownNameError, ZooError, check_int
from zoo.hub.pull import HUB_PREFIX, download_hub_folder
from zoo.index import Entry, load_index
from zoo.models import VideoNetwork, build, outline, takes
from zoo.protocol import DEFAULT_PROTOCOL, MAX_LABEL, Protocol, check_protocol
from zoo.provenance import INITIALIZED, START, provenance_now
from zoo.settings import offline
from zoo.spec import COUNTS, UNTRAINED, ModelSpec, check_options
from zoo.text import brief, printable
from zoo.weights.conversion import matches_hint, read_published
from zoo.weights.files import sha256_of
from zoo.weights.lightning_checkpoint import SUFFIX, read_checkpoint
from zoo.weights.model_folder import CONFIG_FILE, read_model, write_model
from zoo.weights.store import Weights, get_weights
from zoo.wrappers import COMPILED, check_savable, non_finite, state_of, unwrap

log = logging.getLogger("zoo")


def create(
    arch: str, *, image_size: int | None = None, labels: Sequence[str] | None = None, **options: Any
) -> VideoNetwork:
    """Build an architecture with random weights, in eval mode.

    Args:
        arch: such as "tanet_r50"; zoo.models.ARCHITECTURES holds them all.
        image_size: side of its training and test crops, pixels.
        labels: class names, if known.
        options: of the architecture: num_classes, num_frames, in_channels, width, dropout, ...

    Raises:
        UnknownNameError, ConfigError: no such architecture, or options it cannot be built with.
    """
    check_text("arch", arch)
    options = {"num_classes": 400, "num_frames": 8} | options
    check_options(options)
    if labels is not None:
        check_labels("labels", labels, options["num_classes"], MAX_LABEL)
    protocol = _adjust(DEFAULT_PROTOCOL, options, image_size)
    if takes(arch, "image_size"):
        options["image_size"] = protocol.crop
    model = build(arch, **options)
    report = LoadReport(arch).with_initialized(model, model.state_dict())
    return _describe(model, ModelSpec(arch, options, protocol, None if labels is None else tuple(labels)), report)


def _describe(network: VideoNetwork, spec: ModelSpec, report: LoadReport) -> VideoNetwork:
    """Attach spec and report to a new network and put it into eval mode."""
    network.spec, network.report = spec, report
    return network.eval()


def _adjust(protocol: Protocol, options: Mapping[str, Any], image_size: int | None) -> Protocol:
    """A protocol for other frames, channels and sizes; a ConfigError if a clip would be too large."""
    if options["num_frames"] != protocol.num_frames:
        protocol = protocol.with_frames(options["num_frames"])
    if image_size is not None:
        check_int("image_size", image_size, *COUNTS["image_size"])
        protocol = protocol.with_size(image_size)
    protocol = protocol.with_channels(options.get("in_channels", len(protocol.mean)))
    check_protocol(protocol.to_dict())
    return protocol


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
) -> VideoNetwork:
    """Load a network with its trained weights.

    Args:
        name: a name of the index ("tada2d_r50.k400_8x8"), whose weights are fetched once; a folder, ``.safetensors`` or
            ``.ckpt`` file written by this package; or "hf-hub:user/repo[@revision]".
        weights: a file in a published layout of that index entry, already on disk, to use instead.
        num_classes: another number re-initializes the classifier and nothing else.
        num_frames: another number interpolates layers that have the size of the frame count (TAM), if any.
        image_size: side of training and test crops, pixels. Convolutional networks take any; a position embedding
            of another size than the file's is resampled.
        in_channels: another number adapts the stem.
        pretrained: False builds the same network with random weights.
        cache_dir: folder of converted weights; default TEMPOZOO_CACHE or ~/.cache/tempozoo. (Of "hf-hub:" names, the
            Hub client's.)
        progress: show progress bars of downloads.

    Returns:
        A module in eval mode that takes clips ``(B, 3, T, H, W)``, normalized floats, and returns logits
        ``(B, num_classes)``. It carries ``spec`` (of which ``labels`` and ``protocol`` are parts) and ``report``.

    Raises:
        UnknownNameError: no such name; near matches are given.
        ConfigError: an argument with a value that cannot be, or (ConfigError) of the wrong type.
        ConfigError: the file's config cannot be used; the message names the field.
        DownloadError: the entry's weights could not be fetched; its subclasses tell why, the message what to do.
        WeightsNotFoundError: they would have to be, and TEMPOZOO_OFFLINE or HF_HUB_OFFLINE is set.
        CheckpointError: a file that cannot be read or does not fit; nothing is ever loaded in part.
    """
    check_path("name", name)
    check_path("weights", weights, optional=True)
    check_path("cache_dir", cache_dir, optional=True)
    check_flag("pretrained", pretrained)
    check_flag("progress", progress)
    overrides = {"num_classes": num_classes, "num_frames": num_frames, "in_channels": in_channels}
    for what, value in {**overrides, "image_size": image_size}.items():
        if value is not None:
            check_int(what, value, *COUNTS[what])
    name = os.fspath(name)
    try:
        return _build(name, _resolve(name, weights, pretrained, cache_dir, progress), image_size, **overrides)
    except CheckpointError as error:
        if weights is None or not pretrained or type(error) is not CheckpointError:
            raise
        raise CheckpointError(f"{error} {matches_hint(Path(weights), name)}".rstrip()) from error


@dataclass
class Resolved:
    """What a name stands for: a network as it was trained, and its tensors in our names (None: random weights)."""

    spec: ModelSpec
    tensors: dict[str, torch.Tensor] | None = None
    file: Path | None = None
    sha256: str | None = None
    published: bool | None = None
    ignored: Sequence[str] = ()
    operator_untrained: bool = False  # the file lacks the operator's tensors
    untrained: frozenset[str] = frozenset()  # keys of the file that nobody has trained
    start_only: bool = False  # see LoadReport


def _build(name: str, resolved: Resolved, image_size: int | None = None, **overrides: int | None) -> VideoNetwork:
    """Build a network, adapt it to ``overrides`` (num_classes, num_frames, in_channels), and load its tensors."""
    trained = resolved.spec
    options = {**trained.options, **{key: value for key, value in overrides.items() if value is not None}}
    protocol = _adjust(trained.protocol, options, image_size)
    if image_size is not None and takes(trained.arch, "image_size"):
        options["image_size"] = image_size
    where, untrained = str(resolved.file), resolved.operator_untrained
    if resolved.tensors is not None and options["num_frames"] != trained.num_frames:
        host = outline(trained.arch, **trained.options)
        fit(host, dict(resolved.tensors), trained.options, trained.options, where=where, operator_untrained=untrained)
        if not untrained:
            options = host.options_for_frames(options, options["num_frames"])
    network = build(trained.arch, **options)
    spec = replace(trained, options=options, protocol=protocol)
    if options["num_classes"] != trained.num_classes:
        spec = spec.with_classes(options["num_classes"])
    if resolved.tensors is None:
        return _describe(network, spec, LoadReport(name).with_initialized(network, network.state_dict()))
    initialized, adapted = fit(
        network, resolved.tensors, trained.options, options, where=where, operator_untrained=untrained
    )
    report = LoadReport(
        name,
        where,
        resolved.sha256,
        resolved.published,
        adapted=adapted,
        ignored=tuple(resolved.ignored),
        untrained=tuple(key for key in network.state_dict() if key in resolved.untrained),
        start_only=resolved.start_only,
    ).with_initialized(network, initialized)
    complete = report.as_trained and not report.untrained
    log.log(logging.INFO if complete else logging.WARNING, "%s", report)
    return _describe(network, spec, report)


def _resolve(name: str, weights: Any, pretrained: bool, cache_dir: Any, progress: bool) -> Resolved:
    index = load_index()
    if name in index.entries:
        entry = index[name]
        if not pretrained:
            return _from_index(entry)
        if weights is not None:
            return _from_index(entry, Path(weights))
        return _from_index(entry, weights=get_weights(entry, cache_dir, progress=progress))
    shown = printable(name)
    if weights is not None and (name.startswith(HUB_PREFIX) or os.path.exists(name)):
        raise ConfigError(f"weights= goes with a name of the index; {shown} brings its own weights.")
    if name.startswith(HUB_PREFIX):
        folder = download_hub_folder(name, cache_dir, progress)
        try:
            return _from_folder(folder, pretrained)
        except CheckpointError as error:
            if offline():
                raise
            log.warning("%s Fetching %s again.", error, shown)
            return _from_folder(download_hub_folder(name, cache_dir, progress, force=True), pretrained)
    if os.path.exists(name):
        return _from_file(Path(name), pretrained)
    if os.sep in name or name.endswith((SUFFIX, ".safetensors")):
        kind = "file" if name.endswith((SUFFIX, ".safetensors")) else "folder or file"
        raise CheckpointError(f"There is no {kind} {shown}.")
    raise index.unknown(name)


def _from_file(path: Path, pretrained: bool) -> Resolved:
    """The network of a folder or file; of a file of someone else's, the error names the entries that it fits."""
    if path.is_dir():
        return _from_folder(path, pretrained)
    try:
        if path.suffix == SUFFIX:
            tensors, config = read_checkpoint(path)
            return _from_config(config, path, sha256_of(path), tensors, pretrained)
        if path.suffix == ".safetensors":
            return _from_folder(path, pretrained)
    except CheckpointError as error:
        hint = matches_hint(path)
        if type(error) is not CheckpointError or not hint:
            raise
        raise CheckpointError(f"{error} {hint}") from error
    hint = matches_hint(path) or "Give a publisher's file as weights= with the name of its index entry."
    raise CheckpointError(
        f"{printable(str(path))} is neither a .safetensors file nor a {SUFFIX} of this package. {hint}"
    )


def _from_folder(folder: Path, pretrained: bool) -> Resolved:
    tensors, config, file, digest = read_model(folder)
    config_file = folder / CONFIG_FILE
    where = config_file if os.path.isfile(config_file) else file
    return _from_config(config, file, digest, tensors, pretrained, where)


def _from_config(
    config: Any,
    file: Path,
    digest: str,
    tensors: dict[str, torch.Tensor],
    pretrained: bool = True,
    config_file: Path | None = None,
) -> Resolved:
    """The network that a saved config describes.

    The tensors are compared with the network on the meta device first: whatever the config says, no more memory is
    allocated than the file has, also if only the architecture is used (``pretrained=False``).

    Args:
        file: the weight file, with its sha256.
        config_file: the file that holds the config, for messages; None: the weight file.

    Raises:
        ConfigError: the config, or a value in it, cannot be used.
        CheckpointError: the tensors are not those of the network.
    """
    where = printable(str(config_file or file))
    spec = ModelSpec.from_config(config, where)
    provenance = dict(spec.provenance)
    operator_untrained = provenance.pop(UNTRAINED, False)
    untrained, start_only = provenance.pop(INITIALIZED, None), provenance.pop(START, False)
    tensors = {key.replace(f"{COMPILED}.", ""): value for key, value in tensors.items()}  # of compiled submodules
    try:
        host = outline(spec.arch, **spec.options)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = "" if isinstance(error, ZooError) else f"{spec.arch} cannot be built with {brief(spec.options)}: "
        raise ConfigError(f"{where}: {reason}{printable(str(error))}") from error
    where_weights, options = printable(str(file)), spec.options
    fit(host, dict(tensors), options, options, where=where_weights, operator_untrained=operator_untrained)
    sizes = [sum(value.numel() for value in state.values()) for state in (host.state_dict(), tensors)]
    if sizes[0] > MAX_GROWTH * sizes[1]:
        raise ConfigError(
            f"{where}: the options are of a network of {sizes[0]:,} numbers, the file has {sizes[1]:,}; an operator "
            f"that is not in the file may have up to {MAX_GROWTH - 1} times as many as the file."
        )
    resolved = Resolved(replace(spec, provenance=provenance))
    resolved.operator_untrained, resolved.start_only = operator_untrained, bool(operator_untrained or start_only)
    if isinstance(untrained, list):
        resolved.untrained = frozenset(map(str, untrained))
    if pretrained:
        resolved.tensors, resolved.file, resolved.sha256 = tensors, file, digest
    return resolved


def _from_index(entry: Entry, file: Path | None = None, weights: Weights | None = None) -> Resolved:
    """An entry's network: without weights, with those of a published file, or with those of its conversion."""
    resolved = Resolved(entry.spec, operator_untrained=entry.init, start_only=entry.init)
    if file is not None:
        if not os.path.isfile(file):
            raise CheckpointError(f"There is no weight file {printable(str(file))}.")
        resolved.tensors, resolved.ignored = read_published(entry, file)
        resolved.file, resolved.sha256 = file, sha256_of(file)
        expected = entry.sha256 or entry.sha256_prefix
        resolved.published = resolved.sha256.startswith(expected) if expected else None
        provenance = {"entry": entry.name, "file": file.name, "sha256": resolved.sha256}
        resolved.spec = replace(resolved.spec, provenance=provenance)
    elif weights is not None:
        resolved.tensors, resolved.file, resolved.sha256 = weights.tensors, weights.file, weights.sha256
        resolved.published = True if entry.sha256 or entry.sha256_prefix else None
        provenance = {key: value for key, value in weights.spec.provenance.items() if key != UNTRAINED}
        labels = resolved.spec.labels or weights.spec.labels
        resolved.spec = replace(resolved.spec, labels=labels, provenance=provenance)
    return resolved


def save(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Write a network to a folder as ``model.safetensors`` and ``config.json``; ``load(folder)`` is its inverse.

    A network in torch.compile, DataParallel, DistributedDataParallel or AveragedModel is saved without that wrapper.
    Tensors are written in the type that they have. ``load`` returns float32: exactly the values of float16 and
    bfloat16, rounded ones of float64. NaN or infinite values are written, with a warning.

    Raises:
        ConfigError: ``model`` is not a network, or ``folder`` not a path.
        ConfigError: the module did not come from this package, or was changed so that ``load`` could not build it.
    """
    check_module("model", model)
    check_path("folder", folder)
    tensors, spec = export(model, "save")
    if bad := non_finite(tensors):
        log.warning("%s: NaN or infinite values in %s", folder, listing(bad))
    return write_model(Path(folder), tensors, spec.to_config())


def export(model: nn.Module, verb: str) -> tuple[dict[str, torch.Tensor], ModelSpec]:
    """Tensors and spec of a network as ``load`` reads them, without wrappers such as torch.compile's.

    Args:
        verb: "save" or "push", for messages.

    Raises:
        ConfigError: not a network of this package, or one that ``load`` could not build.
    """
    network = unwrap(model)
    if not isinstance(network, VideoNetwork) or not network.has_spec:
        raise ConfigError(
            f"{verb}() takes networks of zoo.load or zoo.create; this {type(network).__name__} has no spec."
        )
    tensors, spec = state_of(network), current_spec(network)
    check_savable(tensors, spec.arch, spec.options, verb)
    return tensors, spec


def current_spec(network: VideoNetwork) -> ModelSpec:
    """A network's spec with the provenance of its weights as they are now, validated.

    Raises:
        ConfigError: labels, a protocol or a classifier that ``load`` could not use.
    """
    classifier, what = unwrap(network.get_classifier()), f"this {type(network).__name__}"
    if not isinstance(getattr(classifier, "out_features", None), int):
        raise ConfigError(f"the classifier of {what} is a {type(classifier).__name__}; it must be a linear layer.")
    spec = replace(network.spec, provenance=provenance_now(network))
    try:
        spec.check()
    except (ConfigError, UnknownNameError) as error:
        raise ConfigError(f"{what}: {error}") from error
    return spec


def list_models(pattern: str = "*", *, dataset: str | None = None, arch: str | None = None) -> list[str]:
    """Names of the index that match, such as ``list_models("tada2d*", dataset="ssv2")``."""
    check_text("pattern", pattern)
    check_text("dataset", dataset, optional=True)
    check_text("arch", arch, optional=True)
    return load_index().find(pattern, dataset=dataset, arch=arch)


def info(name: str) -> Entry:
    """Everything the index says of a name: sources, protocol, accuracy, size, license, paper."""
    check_text("name", name)
    return load_index()[name]
