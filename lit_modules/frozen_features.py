"""Features of the videos of a data module: the input of a network's classifier, for views without augmentation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from lit_modules.console import describe_duration, print_line
from lit_modules.interfaces import EvaluationData
from lit_modules.linear_probe import VideoSamples
from lit_modules.scores import gather_by_name
from zoo.errors import ConfigError, DataError
from zoo.inference.feature_files import FeatureFolder, VideoFeatures
from zoo.models import VideoNetwork
from zoo.protocol import Protocol
from zoo.provenance import fingerprint
from zoo.text import pluralize
from zoo.video.transforms import normalize

if TYPE_CHECKING:
    from lit_modules.base import VideoClassifier

# fields of a protocol that do not change the features of a video
UNUSED_FIELDS = ("average", "train_crop", "augment", "flip", "flip_pairs", "heads", "temperature")

PROGRESS_SECONDS = 30.0  # between two lines of progress

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


def check_trainer(command: str, trainer: L.Trainer) -> None:
    """Check that a command can compute features with a Trainer.

    Raises:
        ConfigError: the Trainer has several processes or another precision.
    """
    if trainer.world_size > 1:
        raise ConfigError(f"{command} runs in one process; set --trainer.devices 1 and --trainer.num_nodes 1.")
    if str(trainer.precision) not in PRECISIONS:
        raise ConfigError(
            f"{command} does not support --trainer.precision {trainer.precision}; use 32, 16-mixed or bf16-mixed."
        )


def compute_samples(
    trainer: L.Trainer,
    module: VideoClassifier,
    data: EvaluationData,
    split: str,
    views: tuple[int, int] | None = None,
    folder: Path | None = None,
) -> VideoSamples:
    """Compute the features of all readable videos of a split with the network as it is.

    With several processes, all must call this. They share the videos, and each returns all of them.

    Args:
        trainer: determines device and precision.
        module: module with the network.
        data: data module that was set up for the split.
        split: "train", "val" or "test".
        views: clips and crops; None for those of the split.
        folder: folder for the features, so that a repeated command computes the missing ones only; None for memory
            only.

    Raises:
        ConfigError: the folder has features of another network, protocol, precision or views.
        DataError: too many videos are unreadable, or all.
    """
    dataset = data.datasets[split]
    protocol = dataset.protocol if views is None else replace(dataset.protocol, clips=views[0], crops=views[1])
    cache = None if folder is None else FeatureFolder(folder)
    if cache is not None:
        cache.start(describe_features(module.network, protocol, str(trainer.precision)))
    names = list(dataset.records.ids)
    cached = set() if cache is None else {name for name in names if cache.has(name)}
    features = {} if cache is None else {name: cache.read_video(name).features for name in names if name in cached}
    modes = {part: part.training for part in module.network.modules()}
    module.network.eval()
    try:
        batches = data.evaluation_batches(split, protocol, cached)
        if trainer.is_global_zero:
            batches = print_progress(batches, (len(names) - len(cached)) // trainer.world_size)
        for batch in batches:
            values = _batch_features(trainer, module, batch["video"], protocol)
            for name, value in zip(batch["path"], values, strict=True):
                features[name] = value.clone()  # a view would keep the entire batch in memory
                if cache is not None:
                    cache.write(VideoFeatures(name, features[name], *torch.empty(2, 0)))
    finally:
        for part, mode in modes.items():
            part.training = mode
    features = _gather(features)
    numbers = [number for number, name in enumerate(names) if name in features]
    if not numbers:
        raise DataError(f"None of the {len(names)} {split} videos can be read.")
    groups = data.groups_of(split)
    return VideoSamples(
        [names[number] for number in numbers],
        torch.stack([features[names[number]] for number in numbers]),
        dataset.records.labels[numbers].astype("int64"),
        None if groups is None else [groups[number] for number in numbers],
    )


def print_progress(batches: Iterable[dict[str, Any]], videos: int) -> Iterator[dict[str, Any]]:
    """Yield the batches, and print the number of their videos and the remaining time every half minute.

    Args:
        batches: batches with ``path``.
        videos: expected number of videos.
    """
    start = printed = time.perf_counter()
    count = 0
    for batch in batches:
        yield batch
        count += len(batch["path"])
        now = time.perf_counter()
        if now - printed >= PROGRESS_SECONDS and 0 < count < videos:
            printed = now
            remaining = describe_duration((now - start) * (videos - count) / count)
            print_line(f"  features of {count} of {pluralize(videos, 'video')}, about {remaining} left")


def describe_features(network: VideoNetwork, protocol: Protocol, precision: str) -> dict[str, Any]:
    """Return the manifest of a folder of features: everything that determines them, except for the videos."""
    weights = {key: value for key, value in network.state_dict().items() if not key.startswith(network.head_prefix)}
    fields = {name: value for name, value in protocol.to_dict().items() if name not in UNUSED_FIELDS}
    clips, crops = fields.pop("clips"), fields.pop("crops")
    return {
        "arch": network.spec.arch,
        "weights": fingerprint(weights),
        "protocol": fields,
        "views": f"{clips}x{crops}",
        "precision": precision,
    }


@torch.no_grad()
def _batch_features(trainer: L.Trainer, module: VideoClassifier, views: Tensor, protocol: Protocol) -> Tensor:
    """Views ``(B, V, T, 3, S, S)``, 0 to 255 -> features ``(B, V, D)``, float32 on the CPU."""
    if not len(views):
        return torch.empty(0)
    network, precision = module.network, trainer.precision_plugin
    outputs = []
    for chunk in views.flatten(0, 1).split(module.hparams["view_chunk"]):
        clips = normalize(chunk.to(module.device, non_blocking=True), protocol.mean, protocol.std)
        with precision.forward_context():
            maps = network.forward_features(precision.convert_input(clips))
            outputs.append(network.forward_head(maps, pre_logits=True).float().cpu())
    return torch.cat(outputs).unflatten(0, views.shape[:2])


def _gather(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge the features of all processes, in every process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return features
    packed = {}
    if features:
        packed[str(torch.distributed.get_rank())] = (list(features), torch.stack(list(features.values())))
    merged: dict[str, Tensor] = {}
    for names, values in gather_by_name(packed).values():
        merged |= dict(zip(names, values, strict=True))
    return merged
