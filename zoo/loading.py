"""load(), create() and save(): resolve a name, build the network, adapt the weights and report what was loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import nn

from zoo.adapt import MAX_GROWTH, LoadReport, load_adapted
from zoo.arguments import check_flag, check_labels, check_path, check_text
from zoo.errors import CheckpointError, ConfigError, UnknownNameError, ZooError, check_int
from zoo.hub.pull import download_hub_folder
from zoo.index import Entry, load_index
from zoo.models import VideoNetwork, build, build_on_meta, has_option
from zoo.models.features import FeatureExtractor
from zoo.protocol import DEFAULT_PROTOCOL, MAX_LABEL, Protocol, check_protocol
from zoo.provenance import INITIALIZED, START, provenance_now
from zoo.settings import offline
from zoo.spec import COUNTS, UNTRAINED, ModelSpec, check_options, rename_options
from zoo.text import brief, listing, printable
from zoo.weights.conversion import matches_hint, read_published
from zoo.weights.disk import sha256_of
from zoo.weights.lightning_checkpoint import read_checkpoint
from zoo.weights.locations import CHECKPOINT_SUFFIX, CONFIG_FILE, HUB_PREFIX, missing_network
from zoo.weights.model_folder import read_model, write_model
from zoo.weights.store import Weights, get_weights
from zoo.wrappers import COMPILED, check_module, check_savable, non_finite, state_of, unwrap

log = logging.getLogger("zoo")


@overload
def create(arch: str, *, features_only: Literal[True], **options: Any) -> FeatureExtractor: ...


@overload
def create(
    arch: str,
    *,
    image_size: int | None = None,
    labels: Sequence[str] | None = None,
    features_only: Literal[False] = False,
    out_indices: None = None,
    **options: Any,
) -> VideoNetwork: ...


def create(
    arch: str,
    *,
    image_size: int | None = None,
    labels: Sequence[str] | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **options: Any,
) -> VideoNetwork | FeatureExtractor:
    """Build an architecture with random weights, in eval mode.

    Args:
        arch: key of ``zoo.models.ARCHITECTURES``, such as "tanet_r50".
        image_size: side of the training and test crops, in pixels.
        labels: class names in the order of the logits.
        features_only: return a FeatureExtractor; see ``load``.
        out_indices: stages of the FeatureExtractor; see ``load``.
        options: of the architecture: num_classes, num_frames, in_channels, width, drop_rate, ... With num_classes=0
            the network has no classifier and returns features ``(B, num_features)``.

    Raises:
        UnknownNameError: there is no such architecture.
        ConfigError: an argument or option has an invalid value.
    """
    check_text("arch", arch)
    options = {"num_classes": 400, "num_frames": 8} | rename_options(options)
    check_options(options)
    if labels is not None:
        check_labels("labels", labels, options["num_classes"], MAX_LABEL)
    _check_features_only(features_only, out_indices)
    protocol = _adjust_protocol(DEFAULT_PROTOCOL, options, image_size)
    if has_option(arch, "image_size"):
        options["image_size"] = protocol.crop
    network = build(arch, **options)
    report = LoadReport(arch).with_initialized(network, network.state_dict())
    spec = ModelSpec(arch, options, protocol, None if labels is None else tuple(labels))
    _attach_metadata(network, spec, report)
    return FeatureExtractor(network, out_indices) if features_only else network


def _attach_metadata(network: VideoNetwork, spec: ModelSpec, report: LoadReport) -> VideoNetwork:
    """Attach spec and report to a new network, and put it into eval mode."""
    network.spec, network.report = spec, report
    return network.eval()


def _check_features_only(features_only: Any, out_indices: Any) -> None:
    check_flag("features_only", features_only)
    if out_indices is not None and not features_only:
        raise ConfigError("out_indices= requires features_only=True.")


def _adjust_protocol(protocol: Protocol, options: Mapping[str, Any], image_size: int | None) -> Protocol:
    """Adapt a protocol to other frames, channels or sizes.

    Raises:
        ConfigError: a clip would be too large.
    """
    if options["num_frames"] != protocol.num_frames:
        protocol = protocol.with_frames(options["num_frames"])
    if image_size is not None:
        check_int("image_size", image_size, *COUNTS["image_size"])
        protocol = protocol.with_size(image_size)
    protocol = protocol.with_channels(options.get("in_channels", len(protocol.mean)))
    check_protocol(protocol.to_dict())
    return protocol


@overload
def load(
    name: str | os.PathLike[str],
    *,
    features_only: Literal[True],
    out_indices: Sequence[int] | None = None,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    in_channels: int | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    pretrained: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> FeatureExtractor: ...


@overload
def load(
    name: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    in_channels: int | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    features_only: Literal[False] = False,
    out_indices: None = None,
    pretrained: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> VideoNetwork: ...


def load(
    name: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    num_frames: int | None = None,
    image_size: int | None = None,
    in_channels: int | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    pretrained: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> VideoNetwork | FeatureExtractor:
    """Load a network with its trained weights.

    Args:
        name: a name of the index ("tada2d_r50.k400_8x8"), whose weights are downloaded once and cached; a folder,
            ``.safetensors`` or ``.ckpt`` file written by this package; or "hf-hub:user/repo[@revision]".
        weights: a local file in the published format of that index entry, instead of a download.
        num_classes: another number re-initializes the classifier and nothing else; 0 removes it, and the network
            returns features ``(B, num_features)``.
        num_frames: another number interpolates layers whose size is the frame count (TAM), if any.
        image_size: side of the training and test crops, in pixels. Convolutional networks accept any size; the
            position embedding of a transformer is resampled.
        in_channels: another number adapts the stem.
        drop_rate: probability of dropout before the classifier in training.
        drop_path_rate: probability of leaving out the last block in training, of networks with stochastic depth.
        features_only: return a FeatureExtractor. Its ``forward`` returns a list with a feature map
            ``(B, C, T, H, W)`` of each stage; ``feature_info`` has their channels and reductions.
        out_indices: stages of the FeatureExtractor, such as ``(1, 2, 3)``; default: all stages, which are the blocks
            in a vision transformer.
        pretrained: False builds the same network with random weights.
        cache_dir: folder for converted weights; default: TEMPOZOO_CACHE or ~/.cache/tempozoo. For "hf-hub:" names:
            the cache of huggingface_hub.
        progress: show progress bars of downloads.

    Returns:
        A network in eval mode that takes clips ``(B, 3, T, H, W)``, normalized floats, and returns logits
        ``(B, num_classes)``. It has a ``spec`` (with ``labels`` and ``protocol``) and a ``report``.

    Raises:
        UnknownNameError: there is no such name; the message suggests similar names.
        ConfigError: an argument has an invalid type or value, or the config of a file is invalid.
        DownloadError: the weights could not be downloaded; see its ``reason``.
        WeightsNotFoundError: the weights are not on this machine, and TEMPOZOO_OFFLINE or HF_HUB_OFFLINE is set; or
            they were never released.
        CheckpointError: a file cannot be read, or its tensors do not fit the network. Nothing is loaded.
    """
    check_path("name", name)
    check_path("weights", weights, optional=True)
    check_path("cache_dir", cache_dir, optional=True)
    check_flag("pretrained", pretrained)
    check_flag("progress", progress)
    _check_features_only(features_only, out_indices)
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "num_frames": num_frames,
        "image_size": image_size,
        "in_channels": in_channels,
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
    }
    overrides: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
    check_options(overrides)
    name = os.fspath(name)
    try:
        network = _build(name, _resolve(name, weights, pretrained, cache_dir, progress), **overrides)
    except CheckpointError as error:
        if weights is None or not pretrained or type(error) is not CheckpointError:
            raise
        raise CheckpointError(f"{error} {matches_hint(Path(weights), name)}".rstrip()) from error
    return FeatureExtractor(network, out_indices) if features_only else network


@dataclass
class ResolvedModel:
    """Description and tensors of a network as it was trained, before adaptation.

    Attributes:
        spec: architecture, options, labels, protocol and provenance.
        tensors: by the network's keys; None for random weights.
        file: weight file.
        sha256: of the file.
        published: whether the SHA-256 matches the index; None if the index has none.
        ignored: keys of the file that are not used.
        operator_untrained: the file lacks the tensors of the temporal operator.
        untrained: keys of the file that its config declares as untrained.
        start_only: see LoadReport.
    """

    spec: ModelSpec
    tensors: dict[str, torch.Tensor] | None = None
    file: Path | None = None
    sha256: str | None = None
    published: bool | None = None
    ignored: Sequence[str] = ()
    operator_untrained: bool = False
    untrained: frozenset[str] = frozenset()
    start_only: bool = False


def _build(name: str, resolved: ResolvedModel, image_size: int | None = None, **overrides: Any) -> VideoNetwork:
    """Build a network with the options ``overrides`` in place of those it was trained with, and load its tensors."""
    trained = resolved.spec
    options = {**trained.options, **overrides}
    protocol = _adjust_protocol(trained.protocol, options, image_size)
    if image_size is not None and has_option(trained.arch, "image_size"):
        options["image_size"] = image_size
    where, operator_untrained = str(resolved.file), resolved.operator_untrained
    if resolved.tensors is not None and options["num_frames"] != trained.num_frames:
        # check the tensors before layers are sized after them
        original = build_on_meta(trained.arch, **trained.options)
        load_adapted(
            original,
            dict(resolved.tensors),
            trained.options,
            trained.options,
            where=where,
            operator_untrained=operator_untrained,
        )
        if not operator_untrained:
            options = original.options_for_frames(options, options["num_frames"])
    network = build(trained.arch, **options)
    spec = replace(trained, options=options, protocol=protocol)
    if options["num_classes"] != trained.num_classes:
        spec = spec.with_classes(options["num_classes"])
    if resolved.tensors is None:
        return _attach_metadata(network, spec, LoadReport(name).with_initialized(network, network.state_dict()))
    initialized, adapted = load_adapted(
        network, resolved.tensors, trained.options, options, where=where, operator_untrained=operator_untrained
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
    return _attach_metadata(network, spec, report)


def _resolve(name: str, weights: Any, pretrained: bool, cache_dir: Any, progress: bool) -> ResolvedModel:
    index = load_index()
    if name in index.entries:
        entry = index[name]
        if not pretrained:
            return _from_index(entry)
        if weights is not None:
            return _from_index(entry, Path(weights))
        return _from_index(entry, weights=get_weights(entry, cache_dir, progress=progress))
    if weights is not None and (name.startswith(HUB_PREFIX) or os.path.exists(name)):
        raise ConfigError(f"weights= requires a name of the index; {printable(name)} has weights of its own.")
    if name.startswith(HUB_PREFIX):
        folder = download_hub_folder(name, cache_dir, progress)
        try:
            return _from_folder(folder, pretrained)
        except CheckpointError as error:
            if offline():
                raise
            log.warning("%s Downloading %s again.", error, printable(name))
            return _from_folder(download_hub_folder(name, cache_dir, progress, force=True), pretrained)
    if os.path.exists(name):
        return _from_file(Path(name), pretrained)
    raise missing_network(name)


def _from_file(path: Path, pretrained: bool) -> ResolvedModel:
    """Read a folder or file of this package; the error for any other file names the index entries that it fits."""
    if path.is_dir():
        return _from_folder(path, pretrained)
    try:
        if path.suffix == CHECKPOINT_SUFFIX:
            tensors, config = read_checkpoint(path)
            return _from_config(config, path, sha256_of(path), tensors, pretrained)
        if path.suffix == ".safetensors":
            return _from_folder(path, pretrained)
    except CheckpointError as error:
        hint = matches_hint(path)
        if type(error) is not CheckpointError or not hint:
            raise
        raise CheckpointError(f"{error} {hint}") from error
    hint = matches_hint(path) or "To load a published file, pass it as weights= with the name of its index entry."
    raise CheckpointError(
        f"{printable(str(path))} is neither a .safetensors nor a {CHECKPOINT_SUFFIX} file of this package. {hint}"
    )


def _from_folder(folder: Path, pretrained: bool) -> ResolvedModel:
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
) -> ResolvedModel:
    """Validate a saved config and its tensors.

    The tensors are first compared with the network on the meta device. Regardless of the config, no more memory is
    allocated than the size of the file, even if only the architecture is used (``pretrained=False``).

    Args:
        file: the weight file.
        digest: SHA-256 of the file.
        config_file: the file with the config, for messages; None: the weight file.

    Raises:
        ConfigError: the config is invalid.
        CheckpointError: the tensors do not fit the network.
    """
    where = printable(str(config_file or file))
    spec = ModelSpec.from_config(config, where)
    provenance = dict(spec.provenance)
    operator_untrained = provenance.pop(UNTRAINED, False)
    untrained, start_only = provenance.pop(INITIALIZED, None), provenance.pop(START, False)
    tensors = {key.replace(f"{COMPILED}.", ""): value for key, value in tensors.items()}  # of compiled submodules
    try:
        network = build_on_meta(spec.arch, **spec.options)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = ""
        if not isinstance(error, ZooError):
            reason = f"{spec.arch} cannot be built with {brief(spec.options)}: "
        raise ConfigError(f"{where}: {reason}{printable(str(error))}") from error
    where_weights, options = printable(str(file)), spec.options
    load_adapted(network, dict(tensors), options, options, where=where_weights, operator_untrained=operator_untrained)
    needed = sum(value.numel() for value in network.state_dict().values())
    available = sum(value.numel() for value in tensors.values())
    if needed > MAX_GROWTH * available:
        raise ConfigError(
            f"{where}: a network with these options has {needed:,} values, the file has {available:,}; an untrained "
            f"operator, which is not in the file, may add up to {MAX_GROWTH - 1} times as many."
        )
    resolved = ResolvedModel(replace(spec, provenance=provenance))
    resolved.operator_untrained, resolved.start_only = operator_untrained, bool(operator_untrained or start_only)
    if isinstance(untrained, list):
        resolved.untrained = frozenset(map(str, untrained))
    if pretrained:
        resolved.tensors, resolved.file, resolved.sha256 = tensors, file, digest
    return resolved


def _from_index(entry: Entry, file: Path | None = None, weights: Weights | None = None) -> ResolvedModel:
    """Resolve an index entry: without weights, with those of a published file, or with converted ones.

    Args:
        file: a local file in the published format.
        weights: converted weights from the cache.
    """
    resolved = ResolvedModel(entry.spec, operator_untrained=entry.init, start_only=entry.init)
    if file is not None:
        if not os.path.isfile(file):
            raise CheckpointError(f"Weight file {printable(str(file))} does not exist.")
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
    """Write a network to a folder as ``model.safetensors`` and ``config.json``, for ``load(folder)``.

    A network in torch.compile, DataParallel, DistributedDataParallel, AveragedModel or a FeatureExtractor is saved
    without that wrapper. Tensors keep their dtype in the file; ``load`` converts them to float32, which is exact for
    float16 and bfloat16 but not for float64. NaN and infinite values are saved with a warning.

    Returns:
        The folder.

    Raises:
        ConfigError: ``model`` is not a network of this package, or was modified so that ``load`` could not rebuild it;
            or ``folder`` is not a path.
        StorageError: the folder cannot be written.
    """
    check_module("model", model)
    check_path("folder", folder)
    tensors, spec = export(model, "save")
    if bad := non_finite(tensors):
        log.warning("%s: %s have NaN or infinite values", folder, listing(bad))
    return write_model(Path(folder), tensors, spec.to_config())


def export(model: nn.Module, verb: str) -> tuple[dict[str, torch.Tensor], ModelSpec]:
    """Return a network's tensors and spec without wrappers such as torch.compile, after checking that both fit.

    Args:
        verb: "save" or "push", for messages.

    Raises:
        ConfigError: not a network of this package, or modified so that ``load`` could not rebuild it.
    """
    network = unwrap(model)
    if not isinstance(network, VideoNetwork) or not network.has_spec:
        raise ConfigError(
            f"{verb}() requires a network from zoo.load or zoo.create; this {type(network).__name__} has no spec."
        )
    if network.fused:
        raise ConfigError(
            f"cannot {verb} this network: fuse() has folded its batch norms, so load() could not rebuild it. {verb} it "
            "before fuse(), or load it again."
        )
    tensors, spec = state_of(network), current_spec(network)
    check_savable(tensors, spec.arch, spec.options, verb)
    return tensors, spec


def current_spec(network: VideoNetwork) -> ModelSpec:
    """Return a network's validated spec with the provenance of its current weights.

    Raises:
        ConfigError: labels, protocol or classifier are invalid.
    """
    classifier, this = unwrap(network.get_classifier()), f"this {type(network).__name__}"
    if not isinstance(classifier, nn.Identity) and not isinstance(getattr(classifier, "out_features", None), int):
        raise ConfigError(
            f"the classifier of {this} is a {type(classifier).__name__}; it must be a linear layer, or an identity."
        )
    spec = replace(network.spec, provenance=provenance_now(network))
    try:
        spec.check()
    except (ConfigError, UnknownNameError) as error:
        raise ConfigError(f"{this}: {error}") from error
    return spec
