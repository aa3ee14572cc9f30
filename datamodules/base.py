"""What all data sets share: decoding in workers, clips and views, batches to the device, an account of bad files.

A data set is a subclass that says which videos it has: see ``folder.py``, the shortest example.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.decoding import VideoReader
from datamodules.sampling import sample
from datamodules.transforms import normalise, resize_short_side, train_clip, view_crops
from zoo.errors import ConfigError, DataError
from zoo.protocol import CHOICES, CROPS, Protocol

log = logging.getLogger("datamodules")
SPLITS = ("train", "val", "test", "predict")
REPLACEMENTS = 10  # videos tried in place of an unreadable one before training gives up


@dataclass(frozen=True)
class VideoRecords:
    """The videos of a split. Arrays, not lists: workers then share them instead of copying them bit by bit."""

    paths: np.ndarray  # of str
    labels: np.ndarray  # of int64; -1 where unknown

    @classmethod
    def of(cls, paths: Sequence[str | Path], labels: Sequence[int] | None = None) -> VideoRecords:
        """From lists of equal length."""
        known = np.full(len(paths), -1) if labels is None else np.asarray(labels)
        return cls(np.array([str(p) for p in paths], dtype=np.str_), known.astype(np.int64))

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, numbers: Sequence[int] | np.ndarray) -> VideoRecords:
        """A subset, in the order given."""
        return VideoRecords(self.paths[numbers], self.labels[numbers])


class VideoDataset(Dataset[dict[str, Any]]):
    """Videos -> clips. One decoder a video, one decode for all of its views.

    An item of a training split is one clip ``(T, 3, S, S)``; of the other splits ``views`` clips
    ``(V, T, 3, S, S)``; uint8 RGB. A video that cannot be read is replaced in training, deterministically, by the
    next one that can; in the other splits its item has no clip. Either way ``skipped`` names it.
    """

    def __init__(
        self, records: VideoRecords, protocol: Protocol, split: str, flip: bool, flip_pairs: Sequence[tuple[int, int]]
    ) -> None:
        self.records, self.protocol, self.split, self.flip = records, protocol, split, flip
        self.mirror = dict(flip_pairs) | {b: a for a, b in flip_pairs}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> dict[str, Any]:
        skipped: list[tuple[str, str]] = []
        for attempt in range(REPLACEMENTS if self.split == "train" else 1):
            at = (number + attempt) % len(self)
            path, label = str(self.records.paths[at]), int(self.records.labels[at])
            try:
                video, repeated, mirrored = self._clips(path)
            except DataError as error:
                skipped.append((path, str(error)))
                continue
            label = self.mirror.get(label, label) if mirrored else label
            return {"video": video, "label": label, "path": path, "repeated": repeated, "skipped": skipped}
        return {"video": None, "label": label, "path": path, "repeated": False, "skipped": skipped}

    def _clips(self, path: str) -> tuple[Tensor, bool, bool]:
        protocol = self.protocol
        train = self.split == "train"
        views = [None] if train else [(k, protocol.clips) for k in range(protocol.clips)]
        with VideoReader(path) as reader:
            repeated = len(reader) < protocol.num_frames
            clips = [sample(protocol, len(reader), reader.fps, view) for view in views]
            wanted, position = np.unique(np.concatenate(clips), return_inverse=True)
            frames = reader.frames(wanted)  # (unique, 3, H, W)
        position = position.reshape(len(clips), -1)
        if train:
            clip, mirrored = train_clip(frames[position[0]], protocol, self.flip)
            return clip, repeated, mirrored
        frames = resize_short_side(frames, protocol.resize, protocol.antialias)
        crops = view_crops(frames, protocol.crop, protocol.crops)
        return torch.stack([crop[rows] for rows in position for crop in crops]), repeated, False


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items -> batch; those without a clip stay only in ``skipped``. A batch may be empty but for that."""
    good = [item for item in items if item["video"] is not None]
    return {
        "video": torch.stack([item["video"] for item in good]) if good else torch.empty(0, dtype=torch.uint8),
        "label": torch.tensor([item["label"] for item in good], dtype=torch.long),
        "path": [item["path"] for item in good],
        "repeated": [item["path"] for item in good if item["repeated"]],
        "skipped": [bad for item in items for bad in item["skipped"]],
    }


class VideoDataModule(L.LightningDataModule):
    """Base of the data sets.

    The protocol (frames, sampling, sizes, mean and std, views) is that of the network trained or tested, taken from
    it when the Trainer brings the two together; ``clips``, ``crops``, ``augment`` and ``flip`` override it.

    Args:
        batch_size: clips per training and validation batch, per device.
        num_workers: decoding processes; default one per core, at most 8.
        clips, crops: temporal and spatial views of a test video; crops is 1, 3 or 10 (five of the ten are mirrored).
        augment: how training clips are made: "short_side", "multi_scale" or "rand_augment", see ``zoo.protocol``.
        flip: mirror training clips at random. Turn it off where left and right are different classes.
        flip_pairs: names of classes that trade places when a clip is mirrored.
        max_bad_fraction: of the videos of a split that may be unreadable before the run stops.
    """

    def __init__(
        self,
        batch_size: int = 8,
        num_workers: int | None = None,
        clips: int | None = None,
        crops: int | None = None,
        augment: str | None = None,
        flip: bool | None = None,
        flip_pairs: Sequence[tuple[str, str]] | None = None,
        max_bad_fraction: float = 0.1,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
        if clips is not None and clips < 1:
            raise ConfigError(f"clips is {clips}; it must be at least 1.")
        if crops is not None and crops not in CROPS:
            raise ConfigError(f"crops is {crops}; choose from {', '.join(map(str, CROPS))}.")
        if augment is not None and augment not in CHOICES["augment"]:
            raise ConfigError(f"augment is {augment!r}; choose from {', '.join(CHOICES['augment'])}.")
        if num_workers is None:
            num_workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.clips, self.crops, self.augment, self.flip, self.flip_pairs = clips, crops, augment, flip, flip_pairs
        self.max_bad_fraction = max_bad_fraction
        self.protocol: Protocol | None = None
        self.datasets: dict[str, VideoDataset] = {}
        self.skipped: dict[str, dict[str, str]] = {}  # split -> path -> reason
        self.repeated: set[str] = set()

    # what a data set says of itself ------------------------------------------------------------------------------

    @property
    def class_names(self) -> list[str] | None:
        """Classes in label order; works before ``setup``. None where videos have no labels."""
        raise NotImplementedError

    def split_records(self, split: str) -> VideoRecords:
        """The videos of "train", "val", "test" or "predict"."""
        raise NotImplementedError

    # Lightning ---------------------------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int | None:
        """Number of classes, from ``class_names``."""
        return None if self.class_names is None else len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Build the splits that a stage needs, with the protocol of the Trainer's network."""
        network = getattr(getattr(self.trainer, "lightning_module", None), "network", None)
        protocol = self.protocol or getattr(network, "protocol", None)
        if protocol is None:
            raise ConfigError(
                "there is no protocol: train with a VideoClassifier, or set the data module's .protocol to a network's."
            )
        asked = {"clips": self.clips, "crops": self.crops, "augment": self.augment}
        protocol = replace(protocol, **{name: value for name, value in asked.items() if value is not None})
        flip = protocol.flip if self.flip is None else self.flip
        pairs = self._pairs(protocol)
        if protocol.crops == 10 and (pairs or not flip) and stage in ("test", "predict"):
            log.warning("five of ten crops are mirror images, though mirroring changes classes here or was not trained")
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}
        for split in needed.get(stage or "fit", SPLITS):
            single = replace(protocol, clips=1, crops=1) if split in ("train", "val") else protocol
            self.datasets[split] = VideoDataset(self.split_records(split), single, split, flip, pairs)

    def _pairs(self, protocol: Protocol) -> list[tuple[int, int]]:
        if self.flip_pairs is None:
            return list(protocol.flip_pairs)  # a network's protocol speaks of its own classes, by now the data's
        names = self.class_names or []
        unknown = [n for pair in self.flip_pairs for n in pair if n not in names]
        if unknown:
            raise ConfigError(f"flip_pairs names {unknown[0]!r}, which is no class of the data.")
        return [(names.index(a), names.index(b)) for a, b in self.flip_pairs]

    def _loader(self, split: str) -> DataLoader[dict[str, Any]]:
        dataset = self.datasets[split]
        views = dataset.protocol.clips * dataset.protocol.crops
        return DataLoader(
            dataset,
            batch_size=self.batch_size if split in ("train", "val") else max(1, self.batch_size // views),
            shuffle=split == "train",
            drop_last=split == "train" and len(dataset) >= self.batch_size,
            num_workers=min(self.num_workers, len(dataset)),
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0 and split in ("train", "val"),
        )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("predict")

    def _split_of_stage(self) -> str:
        assert self.trainer is not None
        if self.trainer.training:
            return "train"
        if self.trainer.testing:
            return "test"
        return "predict" if self.trainer.predicting else "val"

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Keep the account of videos that could not be read; stop when there are too many."""
        split = self._split_of_stage()
        account = self.skipped.setdefault(split, {})
        for path, reason in batch.pop("skipped"):
            if path not in account:
                account[path] = reason
                what = "replaced by another" if split == "train" else "left out"
                log.warning("%s video %s: %s", split, what, reason)
        for path in batch.pop("repeated"):
            if path not in self.repeated:
                self.repeated.add(path)
                frames = self.datasets[split].protocol.num_frames
                log.warning("%s has fewer than %d frames: frames are repeated", path, frames)
        listed = len(self.datasets[split])
        if len(account) > self.max_bad_fraction * listed and not (split == "predict" and len(account) < listed):
            first = next(iter(account.values()))
            raise DataError(
                f"{len(account)} of {listed} {split} videos cannot be read (the first: {first}), more than "
                f"max_bad_fraction={self.max_bad_fraction} allows. Mend or remove them, or raise it."
            )
        return batch

    def teardown(self, stage: str) -> None:
        for split, account in self.skipped.items():
            if account:
                log.warning("%d of %d %s videos could not be read", len(account), len(self.datasets[split]), split)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """uint8 frames -> normalised floats ``(..., C, T, H, W)``, on the device."""
        if len(batch["path"]):
            protocol = next(iter(self.datasets.values())).protocol
            batch["video"] = normalise(batch["video"], protocol.mean, protocol.std)
        return batch


def split_stratified(
    labels: np.ndarray, fractions: Mapping[str, float], seed: int, names: Sequence[str], where: str
) -> dict[str, np.ndarray]:
    """Split indices so that each class keeps its share; the first split takes what the others leave.

    Every class gets at least one video in every split.

    Raises:
        DataError: a class with fewer videos than splits.
    """
    splits = list(fractions)
    generator = np.random.Generator(np.random.PCG64(seed))
    parts: dict[str, list[np.ndarray]] = {split: [] for split in splits}
    for label, name in enumerate(names):
        members = generator.permutation(np.flatnonzero(labels == label))
        if len(members) < len(splits):
            raise DataError(
                f"class {name!r} of {where} has {len(members)} video{'s' * (len(members) != 1)}, too few to split into "
                f"{', '.join(splits)}: add videos, remove the class, or give separate folders or lists for the splits."
            )
        start = 0
        for after, split in enumerate(splits[1:], start=1):
            spare = len(members) - start - 1 - (len(splits) - after)  # the first split and those to come keep one each
            count = 1 + min(max(round(fractions[split] * len(members)) - 1, 0), spare)
            parts[split].append(members[start : start + count])
            start += count
        parts[splits[0]].append(members[start:])
    return {split: np.sort(np.concatenate(found)) for split, found in parts.items()}
