"""What all data sets share: decoding in workers, clips and views, batches to the device, an account of bad files.

A data set is a subclass that says which videos it has: see ``folder.py``, the shortest example.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from datamodules.dataset import VideoDataset, collate
from datamodules.exclude import leave_out
from datamodules.loading import BatchSampler, ClipLoader, check_same_everywhere
from datamodules.options import check_options
from datamodules.overlap import report_overlaps
from datamodules.records import VideoRecords
from datamodules.tree import Tree, open_tree
from zoo.errors import ConfigError, DataError
from zoo.protocol import Protocol
from zoo.video.decoding import check_decoder
from zoo.video.sampling import sample
from zoo.video.transforms import normalize

log = logging.getLogger("datamodules")
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}
UNREAD = {
    "fit": ("test",),
    "validate": ("train",),
    "test": ("train", "val"),
}  # for comparison


class VideoDataModule(L.LightningDataModule):
    """Base of the data sets.

    The protocol (frames, sampling, sizes, mean and std, views) is that of the network trained or tested, taken from
    it when the Trainer brings the two together; ``clips``, ``crops``, ``augment`` and ``flip`` override it.

    Args:
        batch_size: clips per training and validation batch, per device.
        num_workers: decoding processes; default one per core, at most 8.
        clips: temporal views of a test video.
        crops: spatial views of each of its clips: 1, 3 or 10 (five of the ten are mirrored).
        augment: how training clips are made: "short_side", "multi_scale", "rand_augment" or "resized_crop", see
            ``zoo.protocol``.
        flip: mirror training clips at random. Turn it off where left and right are different classes.
        flip_pairs: names of classes that trade places when a clip is mirrored.
        erasing: probability that a box of a training clip is erased, the same box in every frame.
        color_jitter: strength of a random change of brightness, contrast and saturation of a training clip; hues stay.
        repeats: clips of a training video in a batch, each cut and changed anew ("repeated augmentation"); the video is
            decoded once for all of them.
        decoder: "pyav" or "torchcodec"; the frames are the same.
        time_limit: seconds that a video may take to decode before it counts as unreadable; None sets no limit.
        exclude: text file of videos to leave out, one relative path a line; ``tempozoo data check`` writes it.
        max_missing: fraction of the listed videos that may be missing from the disk.
        max_bad_fraction: of the videos of a split that may be unreadable before the run stops.
        allow_overlap: skip the check that the training, validation and test videos are different videos, each with one
            class. ``fit`` warns of an overlap; ``validate`` and ``test`` refuse it.
    """

    # a rank may be left without videos to validate or test
    allow_zero_length_dataloader_with_multiple_devices = True
    root: str | Path | None = None  # of the data sets that have one
    frame_rate = 30.0  # of videos that are folders of frames, which do not say

    def __init__(
        self,
        batch_size: int = 8,
        num_workers: int | None = None,
        clips: int | None = None,
        crops: int | None = None,
        augment: str | None = None,
        flip: bool | None = None,
        flip_pairs: Sequence[tuple[str, str]] | None = None,
        erasing: float = 0.0,
        color_jitter: float = 0.0,
        repeats: int = 1,
        decoder: str = "pyav",
        time_limit: float | None = 60.0,
        exclude: str | Path | None = None,
        max_missing: float = 0.0,
        max_bad_fraction: float = 0.1,
        allow_overlap: bool = False,
    ) -> None:
        super().__init__()
        check_options(
            num_workers=num_workers, batch_size=batch_size, repeats=repeats, clips=clips, crops=crops, augment=augment,
            decoder=decoder, erasing=erasing, max_missing=max_missing, max_bad_fraction=max_bad_fraction,
            color_jitter=color_jitter, time_limit=time_limit,
        )  # fmt: skip
        if num_workers is None:
            num_workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.clips, self.crops, self.augment, self.flip, self.flip_pairs = clips, crops, augment, flip, flip_pairs
        self.reading: dict[str, Any] = {
            "decoder": decoder, "time_limit": time_limit, "repeats": repeats, "erasing": erasing,
            "color_jitter": color_jitter,
        }  # fmt: skip
        self.exclude, self.max_missing, self.max_bad_fraction = exclude, max_missing, max_bad_fraction
        self.allow_overlap = allow_overlap
        self.protocol: Protocol | None = None
        self.datasets: dict[str, VideoDataset] = {}
        self.skipped: dict[str, dict[str, str]] = {}  # split -> path -> reason; of the last pass, in training of all
        self._named: dict[str, set[str]] = {}  # split -> paths that the log has named
        self.repeated: set[str] = set()
        self.part_labels: dict[str, np.ndarray] = {}  # part -> labels of its videos; of all parts, set for ``fit``
        self._found: dict[str, VideoRecords] = {}  # split -> its videos, until it is set up
        self._loaders: list[ClipLoader] = []
        self._train_loader: ClipLoader | None = None
        self._place: dict[str, Any] | None = None  # in the epoch of a run that is gone on with

    # what a data set says of itself ------------------------------------------------------------------------------

    @property
    def class_names(self) -> list[str] | None:
        """Classes in label order; works before ``setup``. None where videos have no labels."""
        raise NotImplementedError

    def split_records(self, split: str) -> VideoRecords:
        """The videos of "train", "val", "test" or "predict"."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits that have videos of their own. Without "test", testing uses the validation videos."""
        return ("train", "val")

    @property
    def heads(self) -> dict[str, int] | None:
        """Names and class counts of several classifiers side by side; None where a video has one label."""
        return None

    def flip_names(self) -> list[tuple[str, str]]:
        """Names of classes that trade places when a clip is mirrored, where the data set itself says so."""
        return []

    @functools.cached_property
    def tree(self) -> Tree:
        """The videos and annotation files below ``root``."""
        assert self.root is not None
        return open_tree(self.root)

    def look(self, stage: str) -> None:
        """Find the videos of a stage, so that errors in the data are reported before any weights are downloaded.

        Raises:
            DataError: ``root`` or the annotations cannot be read, videos are missing, or parts overlap.
        """
        check_decoder(self.reading["decoder"])
        if self.root is not None:
            _ = self.tree
        self._found = self._read_stage(stage)

    def _read_stage(self, stage: str) -> dict[str, VideoRecords]:
        """The videos of each split of a stage, compared with the other parts of the data set."""
        found = {split: self._kept(split) for split in STAGES[stage]}
        if stage == "predict" or (self.allow_overlap and stage != "fit"):
            return found
        unread = UNREAD[stage] if stage != "test" or "test" in self.parts else ("train",)  # "val" is what is tested
        parts = {part: self._other_part(part) for part in unread if part in self.parts}
        others = {part: records for part, records in parts.items() if records is not None}
        if stage == "fit":
            self.part_labels = {part: records.labels for part, records in (found | others).items()}
        if not self.allow_overlap:
            report_overlaps(found, others, refuse=stage != "fit")
        return found

    def _other_part(self, part: str) -> VideoRecords | None:
        """The videos of a part that the stage does not read: those on this machine, or None if there are none."""
        data = copy.copy(self)
        data.max_missing = 1.0
        level = log.level
        log.setLevel(logging.CRITICAL)  # its warnings do not concern this stage
        try:
            return data._kept(part)
        except DataError:
            return None
        finally:
            log.setLevel(level)

    def _kept(self, split: str) -> VideoRecords:
        return self._without_excluded(split, self.split_records(split))

    # Lightning ---------------------------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int | None:
        """Number of classes, from ``class_names``."""
        return None if self.class_names is None else len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Build the splits that a stage needs, with the protocol of the Trainer's network."""
        check_decoder(self.reading["decoder"])
        if getattr(self.trainer, "overfit_batches", 0):
            raise ConfigError("overfit_batches is not for these loaders; use limit_train_batches.")
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
        stage = stage or "fit"
        if not self._found.keys() >= set(STAGES[stage]):
            self._found = self._read_stage(stage)
        for split in STAGES[stage]:
            single = replace(protocol, clips=1, crops=1) if split in ("train", "val") else protocol
            records = self._found.pop(split)
            check_same_everywhere(split, len(records), self._list_id(records))
            if len(records) < records.listed:
                log.warning(
                    "%s: %d of %d listed videos are there, and not left out", split, len(records), records.listed
                )
            sample(single, single.num_frames, 30.0, (0, single.clips))  # what cannot be is said here, not in a worker
            self.skipped[split], self._named[split] = {}, set()
            self.datasets[split] = VideoDataset(
                records, single, split, flip=flip, flip_pairs=pairs, frame_rate=self.frame_rate, **self.reading
            )

    @property
    def homes(self) -> list[str]:
        """Folders that names of videos are relative to, in lists of them."""
        return [] if self.root is None else [str(self.root)]

    def _relative(self, names: list[str]) -> list[str]:
        """Names of videos without what is only true of this machine."""
        for home in self.homes:
            names = [name.removeprefix(os.path.join(home, "")) for name in names]
        return names

    def _without_excluded(self, split: str, records: VideoRecords) -> VideoRecords:
        """Leave out the videos of the exclude list, which are given by name or by path."""
        if self.exclude is None:
            return records
        ids, paths = records.ids.tolist(), records.paths.tolist()  # of segments, a path is that of several
        known = zip(ids, self._relative(ids), paths, self._relative(paths), strict=True)
        return leave_out(records, list(known), self.exclude, split)

    def _list_id(self, records: VideoRecords) -> int:
        return zlib.crc32("\n".join(self._relative(records.ids.tolist())).encode("utf-8", "surrogateescape"))

    def _pairs(self, protocol: Protocol) -> list[tuple[int, int]]:
        wanted = self.flip_names() if self.flip_pairs is None else self.flip_pairs
        if self.flip_pairs is None and not wanted:
            return list(protocol.flip_pairs)  # a network's protocol speaks of its own classes, by now the data's
        names = self.class_names or []
        unknown = [n for pair in wanted for n in pair if n not in names]
        if unknown:
            raise ConfigError(f"flip_pairs names {unknown[0]!r}, which is no class of the data.")
        return [(names.index(a), names.index(b)) for a, b in wanted]

    def _loader(self, split: str) -> ClipLoader:
        dataset = self.datasets[split]
        train = split == "train"
        clips = dataset.repeats if train else dataset.protocol.clips * dataset.protocol.crops
        shards = dataset.records.paths if dataset.records.places is not None else None
        trainer: Any = self.trainer
        sampler = BatchSampler(
            len(dataset),
            max(1, self.batch_size // clips),
            shuffle=train,
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)),  # where Lightning's seed_everything leaves it
            rank=getattr(trainer, "global_rank", 0),
            world_size=getattr(trainer, "world_size", 1),
            shards=shards,
            list_id=self._list_id(dataset.records),
        )
        workers = min(self.num_workers, len(dataset))
        limit = self.reading["time_limit"]
        more: dict[str, Any] = {"prefetch_factor": 2 if train else 1} if workers else {}  # views of a test are many
        if workers and limit is not None:  # of a decoder that lets nobody else run, not even the clock
            more["timeout"] = 300 + 2 * limit * sampler.batch_size
        skipped = self.skipped  # and not self: loaders that know of their maker wait for the garbage collector
        loader = ClipLoader(
            dataset,
            sampler,
            None if train else lambda: skipped.update({split: {}}),  # what could not be read then may be well now
            num_workers=workers,
            **more,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0 and split in ("train", "val"),
        )
        self._loaders.append(loader)
        return loader

    def train_dataloader(self) -> ClipLoader:
        self._train_loader = self._loader("train")
        if self._place is not None:
            self._train_loader.load_state_dict(self._place)
            list_id = self._train_loader.sampler.list_id
            if self._place.get("list_id", list_id) != list_id:
                log.warning(
                    "the list of training videos is not the one this run was trained on so far: validation videos may "
                    "be among those it has seen"
                )
            self._place = None
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """The place in the training epoch. Here, as Lightning restores loaders too early where steps are counted."""
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._place = state_dict.get("train")

    def val_dataloader(self) -> ClipLoader:
        return self._loader("val")

    def test_dataloader(self) -> ClipLoader:
        return self._loader("test")

    def predict_dataloader(self) -> ClipLoader:
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
        account, named = self.skipped[split], self._named[split]
        for path, reason in batch.pop("skipped"):
            account.setdefault(path, reason)
            if path not in named:
                named.add(path)
                what = "replaced by another" if split == "train" else "left out"
                log.warning("%s video %s: %s", split, what, reason)
        for path in batch.pop("repeated"):
            if path not in self.repeated:
                self.repeated.add(path)
                frames = self.datasets[split].protocol.num_frames
                log.warning("%s has fewer than %d frames: frames are repeated", path, frames)
        self.check_bad(split, account)
        if split == "train" and not batch["path"]:
            raise DataError("no video of a training batch could be read, nor any in its place; mend or exclude them.")
        return batch

    def check_bad(self, split: str, account: dict[str, str]) -> None:
        """Take over the account of a split's unreadable videos, which may be that of all processes; stop if too many.

        Raises:
            DataError: more than ``max_bad_fraction`` of the split, or all of what is to be predicted.
        """
        self.skipped[split] = account
        listed = len(self.datasets[split])
        first = next(iter(account.values()), "")
        if split == "predict":
            if len(account) == listed:
                raise DataError(f"None of the {listed} videos can be read: {first}")
        elif len(account) > self.max_bad_fraction * listed:
            raise DataError(
                f"{len(account)} of {listed} {split} videos cannot be read (the first: {first}), more than "
                f"max_bad_fraction={self.max_bad_fraction} allows. Mend or remove them, or raise it."
            )

    def on_exception(self, exception: BaseException) -> None:
        while self._loaders:
            self._loaders.pop().close()

    def teardown(self, stage: str) -> None:
        while self._loaders:
            self._loaders.pop().close()
        self._place = None  # of a checkpoint that was only tested, or of a run that failed before it began
        for split, account in self.skipped.items():
            if account:
                count, kind = len(self.datasets[split]), "" if split == "predict" else f"{split} "
                log.warning("%d of %d %svideos could not be read", len(account), count, kind)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """uint8 frames -> normalized floats ``(..., C, T, H, W)``, on the device."""
        if len(batch["path"]):
            protocol = self.datasets[self._split_of_stage()].protocol
            batch["video"] = normalize(batch["video"], protocol.mean, protocol.std)
        return batch
