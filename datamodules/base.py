"""Base class of the data modules: decoding in workers, clips and views, normalization, handling of unreadable videos.

A data set is a subclass that lists its videos; ``folder.py`` is an example.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from datamodules.dataset import VideoDataset, collate
from datamodules.exclude import exclude_videos
from datamodules.interface import is_classifier
from datamodules.loading import BatchSampler, ClipLoader, check_same_everywhere, class_weights
from datamodules.options import check_options
from datamodules.overlap import report_overlaps
from datamodules.records import VideoRecords
from datamodules.tree import Tree, open_tree
from zoo.cores import available_cores
from zoo.errors import ConfigError, DataError
from zoo.protocol import Protocol
from zoo.text import printable
from zoo.video.decoding import check_decoder
from zoo.video.sampling import sample
from zoo.video.transforms import normalize

log = logging.getLogger("datamodules")
STAGES = {"fit": ("train", "val"), "validate": ("val",), "calibrate": ("val",), "test": ("test",),
          "predict": ("predict",)}  # fmt: skip
# splits that a stage does not use, but compares its videos with
COMPARED = {"fit": ("test",), "validate": ("train",), "calibrate": ("train", "test"), "test": ("train", "val")}


class VideoDataModule(L.LightningDataModule):
    """Base class of the data sets.

    The protocol (frames, sampling, sizes, mean and std, views) is taken from the Trainer's network in ``setup``;
    ``clips``, ``crops``, ``augment`` and ``flip`` override it.

    Args:
        batch_size: clips per training and validation batch, per device.
        num_workers: decoding processes; default one per core, at most 8.
        clips: temporal views of a test video.
        crops: spatial views of each test clip: 1, 3 or 10 (five of the ten are mirrored).
        augment: augmentation of training clips: "short_side", "multi_scale", "multi_scale_5", "rand_augment" or
            "resized_crop", see ``zoo.protocol``.
        flip: mirror training clips at random. Turn it off if classes differ only in left and right.
        flip_pairs: pairs of class names that are exchanged when a clip is mirrored.
        erasing: probability that a box of a training clip is erased, the same box in every frame.
        color_jitter: strength of random changes of brightness, contrast and saturation of a training clip; hue is not
            changed.
        repeats: clips per training video in a batch, each with its own crop and augmentation ("repeated augmentation");
            the video is decoded once.
        decoder: "pyav" or "torchcodec"; the frames are the same.
        time_limit: seconds after which a video counts as unreadable; None for no limit.
        exclude: text file of videos to exclude, one relative path per line; ``tempozoo data check`` writes it.
        max_missing: fraction of the listed videos that may be missing on disk.
        max_bad_fraction: fraction of the videos of a split that may be unreadable before the run stops.
        allow_overlap: skip the check for videos that occur in two splits, or in two classes of one split. Without it,
            ``fit`` warns about an overlap; ``validate`` and ``test`` raise an error.
        balance: compensation of unequal class sizes in training: "sampler" draws all classes equally often, "loss"
            weights the loss of each class by its inverse frequency, "none" does neither.

    Attributes:
        protocol: the protocol to use instead of that of the Trainer's network, or None.
        datasets: split ("train", "val", "test", "predict") -> dataset; filled by ``setup``.
        skipped: split -> path of an unreadable video -> reason. Training accumulates them over the run; the other
            splits start again with each pass.
        repeated: paths of videos with fewer frames than a clip, which repeat frames.
        part_labels: split -> labels of its videos, including splits that the stage does not use; set for ``fit``.
        class_weights: weights of the classes in the training loss, ``(classes,)``, with a mean of 1 over the training
            videos; None unless ``balance`` is "loss". Set by ``setup``.
        group_counts: split -> number of its groups, if the data set has groups; set for ``fit``.
        reading: the options of ``VideoDataset`` that determine how clips are decoded and augmented, as given.
        generates_clips: whether clips are generated from the videos, so that frames of a video do not show its clip.

    A classifier (``lit_modules.VideoClassifier`` and its reports) uses these attributes, ``batch_size``, ``clips``,
    ``crops``, ``class_names``, ``heads``, ``check`` and ``check_bad``. In turn, the data module uses the classifier's
    network, see ``datamodules.interface``.
    """

    # with many processes, some may have no videos to validate or test
    allow_zero_length_dataloader_with_multiple_devices = True
    root: str | Path | None = None  # folder of the data set, if there is a single one
    frame_rate = 30.0  # frames per second of folders of frames
    generates_clips = False

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
        balance: str = "none",
    ) -> None:
        super().__init__()
        check_options(
            num_workers=num_workers, batch_size=batch_size, repeats=repeats, clips=clips, crops=crops, augment=augment,
            decoder=decoder, erasing=erasing, max_missing=max_missing, max_bad_fraction=max_bad_fraction,
            color_jitter=color_jitter, time_limit=time_limit, balance=balance,
        )  # fmt: skip
        if num_workers is None:
            num_workers = min(8, available_cores())
        self.batch_size, self.num_workers = batch_size, num_workers
        self.clips, self.crops, self.augment, self.flip, self.flip_pairs = clips, crops, augment, flip, flip_pairs
        self.reading: dict[str, Any] = {
            "decoder": decoder, "time_limit": time_limit, "repeats": repeats, "erasing": erasing,
            "color_jitter": color_jitter,
        }  # fmt: skip
        self.balance = balance
        self.exclude, self.max_missing, self.max_bad_fraction = exclude, max_missing, max_bad_fraction
        self.allow_overlap = allow_overlap
        self.protocol: Protocol | None = None
        self.datasets: dict[str, VideoDataset] = {}
        self.skipped: dict[str, dict[str, str]] = {}
        self._logged: dict[str, set[str]] = {}  # split -> unreadable videos with a warning in the log
        self.repeated: set[str] = set()
        self.part_labels: dict[str, np.ndarray] = {}
        self.group_counts: dict[str, int] = {}
        self.class_weights: np.ndarray | None = None
        self._stage_records: dict[str, VideoRecords] = {}  # split -> videos listed by ``check``, until ``setup``
        self._loaders: list[ClipLoader] = []
        self._train_loader: ClipLoader | None = None
        self._resume_state: dict[str, Any] | None = None  # state of the training loader of the resumed checkpoint

    # defined by each data set ------------------------------------------------------------------------------------

    @property
    def class_names(self) -> list[str] | None:
        """Class names in label order, available before ``setup``; None for videos without labels."""
        raise NotImplementedError

    def split_records(self, split: str) -> VideoRecords:
        """The videos of "train", "val", "test" or "predict"."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits with their own videos. Without "test", the validation videos are tested."""
        return ("train", "val")

    @property
    def heads(self) -> dict[str, int] | None:
        """Name -> class count of each classifier head; None if a video has a single label."""
        return None

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several classes; its label is then a row of 0 and 1, one for each class."""
        return False

    def groups_of(self, split: str) -> list[str] | None:
        """Name of the recording that each video of a split is part of; None if every video is its own recording.

        Cross-validation on the training videos does not divide a recording.
        """
        return None

    def flip_names(self) -> list[tuple[str, str]]:
        """Pairs of class names that are exchanged when a clip is mirrored, if the data set defines them."""
        return []

    @functools.cached_property
    def tree(self) -> Tree:
        """The videos and annotation files below ``root``."""
        assert self.root is not None
        return open_tree(self.root)

    def make_dataset(self, records: VideoRecords, protocol: Protocol, split: str, **options: Any) -> VideoDataset:
        """Create the dataset of a split; ``options`` are those of ``VideoDataset``."""
        return VideoDataset(records, protocol, split, **options)

    def check(self, stage: str) -> None:
        """List the videos of a stage, so that data errors are reported before any weights are downloaded.

        Args:
            stage: "fit", "validate", "calibrate", "test" or "predict".

        Raises:
            DataError: ``root`` or the annotations cannot be read, videos are missing, or splits overlap.
        """
        check_decoder(self.reading["decoder"])
        if self.root is not None:
            _ = self.tree
        self._stage_records |= self._list_stage(stage)  # `probe` checks two stages before `setup`

    def _list_stage(self, stage: str) -> dict[str, VideoRecords]:
        """List the videos of each split of a stage, and compare them with the other splits."""
        records = {split: self._list_split(split) for split in STAGES[stage]}
        if stage == "predict" or (self.allow_overlap and stage != "fit"):
            return records
        compared = COMPARED[stage]
        if stage == "test" and "test" not in self.parts:
            compared = ("train",)  # the validation videos are tested
        listed = {part: self._list_compared(part) for part in compared if part in self.parts}
        others = {part: part_records for part, part_records in listed.items() if part_records is not None}
        if stage == "fit":
            self.part_labels = {part: part_records.labels for part, part_records in (records | others).items()}
            self._check_groups(records | others)
        if not self.allow_overlap:
            report_overlaps(records, others, refuse=stage != "fit")
        return records

    def _check_groups(self, parts: Mapping[str, VideoRecords]) -> None:
        """Warn about groups of videos that are in several splits; for data sets that draw splits."""

    def _list_compared(self, part: str) -> VideoRecords | None:
        """List the videos of a split that the stage does not use; None if none are on this machine."""
        data = copy.copy(self)
        data.max_missing = 1.0
        level = log.level
        log.setLevel(logging.CRITICAL)  # warnings about this split do not concern the stage
        try:
            return data._list_split(part)
        except DataError:
            return None
        finally:
            log.setLevel(level)

    def _list_split(self, split: str) -> VideoRecords:
        return self._exclude(split, self.split_records(split))

    # Lightning ---------------------------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int | None:
        """Number of classes, from ``class_names``."""
        return None if self.class_names is None else len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Create the datasets of a stage, with the protocol of the Trainer's network."""
        check_decoder(self.reading["decoder"])
        if isinstance(self.trainer, L.Trainer) and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            raise ConfigError("Data modules do not support overfit_batches; use limit_train_batches.")
        overrides: dict[str, Any] = {"clips": self.clips, "crops": self.crops, "augment": self.augment}
        overrides = {name: value for name, value in overrides.items() if value is not None}
        protocol = replace(self._network_protocol(), **overrides)
        flip = protocol.flip if self.flip is None else self.flip
        pairs = self._flip_indices(protocol)
        if protocol.crops == 10 and (pairs or not flip) and stage in ("test", "predict"):
            log.warning("five of the ten crops are mirrored, but mirroring changes classes or was off in training")
        stage = stage or "fit"
        if not self._stage_records.keys() >= set(STAGES[stage]):
            self._stage_records = self._list_stage(stage)
        for split in STAGES[stage]:
            single = replace(protocol, clips=1, crops=1) if split in ("train", "val") else protocol
            records = self._stage_records.pop(split)
            check_same_everywhere(split, len(records), self._list_id(records))
            if len(records) < records.listed:
                log.warning("%s: using %d of %d listed videos", split, len(records), records.listed)
            sample(single, single.num_frames, 30.0, (0, single.clips))  # raises errors here rather than in a worker
            self.skipped[split], self._logged[split] = {}, set()
            self.datasets[split] = self.make_dataset(
                records, single, split, flip=flip, flip_pairs=pairs, frame_rate=self.frame_rate,
                multi_label=self.multi_label, **self.reading,
            )  # fmt: skip
            if split == "train" and self.balance != "none":
                self._balance(records)

    def _balance(self, records: VideoRecords) -> None:
        """Set the weights of the classes, if they are used.

        Raises:
            ConfigError: the videos have several labels.
        """
        if self.heads is not None or self.num_classes is None:
            raise ConfigError(f"--data.balance {self.balance} needs one classifier; set it to none.")
        if self.balance == "loss":
            self.class_weights = class_weights(records.labels, self.num_classes)

    def _network_protocol(self) -> Protocol:
        """Return ``protocol``, or that of the Trainer's network.

        Raises:
            ConfigError: neither exists.
        """
        if self.protocol is not None:
            return self.protocol
        module = None if self.trainer is None else self.trainer.lightning_module
        if not is_classifier(module):
            raise ConfigError(
                "The data module has no protocol. Train with a VideoClassifier, or set the data module's .protocol to "
                "that of a network."
            )
        return module.network.protocol

    @property
    def base_folders(self) -> list[str]:
        """Folders that relative paths of videos refer to."""
        return [] if self.root is None else [str(self.root)]

    def _relative(self, names: list[str]) -> list[str]:
        """Names of videos relative to the base folders, the same on every machine."""
        for folder in self.base_folders:
            names = [name.removeprefix(os.path.join(folder, "")) for name in names]
        return names

    def _exclude(self, split: str, records: VideoRecords) -> VideoRecords:
        """Remove the videos of the exclude list, which contains names or paths."""
        if self.exclude is None:
            return records
        ids, paths = records.ids.tolist(), records.paths.tolist()  # several segments have the same path
        names = zip(ids, self._relative(ids), paths, self._relative(paths), strict=True)
        return exclude_videos(records, list(names), self.exclude, split)

    def _list_id(self, records: VideoRecords) -> int:
        return zlib.crc32("\n".join(self._relative(records.ids.tolist())).encode("utf-8", "surrogateescape"))

    def _flip_indices(self, protocol: Protocol) -> list[tuple[int, int]]:
        """Pairs of class indices that are exchanged when a clip is mirrored."""
        pairs = self.flip_names() if self.flip_pairs is None else self.flip_pairs
        if self.flip_pairs is None and not pairs:
            return list(protocol.flip_pairs)  # the classifier has been matched to the classes of the data by now
        names = self.class_names or []
        unknown = [n for pair in pairs for n in pair if n not in names]
        if unknown:
            raise ConfigError(f"flip_pairs contains {unknown[0]!r}, which is not a class of the data.")
        return [(names.index(a), names.index(b)) for a, b in pairs]

    def _loader(self, split: str, dataset: VideoDataset | None = None) -> ClipLoader:
        """Create a loader of a split, or of another dataset with videos of the split."""
        dataset = self.datasets[split] if dataset is None else dataset
        train = dataset.split == "train"
        clips = dataset.repeats if train else dataset.protocol.clips * dataset.protocol.crops
        shards = dataset.records.paths if dataset.records.byte_spans is not None else None
        trainer: Any = self.trainer  # None, if the loader is used without a Trainer
        sampler = BatchSampler(
            len(dataset),
            max(1, self.batch_size // clips),
            shuffle=train,
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)),  # set by Lightning's seed_everything
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
            shards=shards,
            list_id=self._list_id(dataset.records),
            labels=dataset.records.labels if train and self.balance == "sampler" else None,
        )
        workers = min(self.num_workers, len(dataset))
        limit = self.reading["time_limit"]
        options: dict[str, Any] = {"prefetch_factor": 2 if train else 1} if workers else {}  # all test views are large
        if workers and limit is not None:  # for decoders that never release the interpreter lock
            options["timeout"] = 300 + 2 * limit * sampler.batch_size
        skipped = self.skipped  # a reference to self would keep the loader alive until garbage collection
        loader = ClipLoader(
            dataset,
            sampler,
            None if train else lambda: skipped.update({split: {}}),  # a video may be readable again
            num_workers=workers,
            **options,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0 and split in ("train", "val"),
        )
        self._loaders.append(loader)
        return loader

    def train_dataloader(self) -> ClipLoader:
        self._train_loader = self._loader("train")
        if self._resume_state is not None:
            self._train_loader.load_state_dict(self._resume_state)
            list_id = self._train_loader.sampler.list_id
            if self._resume_state.get("list_id", list_id) != list_id:
                log.warning(
                    "the list of training videos has changed since the checkpoint: the run may have been trained on "
                    "videos that are now used for validation"
                )
            self._resume_state = None
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """The position in the training epoch. Lightning would restore it too early as part of the loaders' state."""
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resume_state = state_dict.get("train")

    def val_dataloader(self) -> ClipLoader:
        return self._loader("val")

    def test_dataloader(self) -> ClipLoader:
        return self._loader("test")

    def predict_dataloader(self) -> ClipLoader:
        return self._loader("predict")

    def evaluation_batches(
        self, split: str, protocol: Protocol, exclude: Collection[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Read each video of a split once, in order, without augmentation. Processes share the videos.

        Args:
            split: "train", "val" or "test", after ``setup``.
            protocol: frames, pixels and views of the clips.
            exclude: names of videos to omit.

        Yields:
            Batches, whose "video" is ``(B, V, T, 3, S, S)`` on the CPU, 0 to 255, with "label" and "path".

        Raises:
            DataError: more than ``max_bad_fraction`` of the split is unreadable.
        """
        records = self.datasets[split].records
        if exclude:
            records = records.take([number for number, name in enumerate(records.ids) if name not in exclude])
        if not len(records):
            self.skipped[split] = {}
            return
        dataset = self.make_dataset(
            records, protocol, "val", flip=False, frame_rate=self.frame_rate,
            decoder=self.reading["decoder"], time_limit=self.reading["time_limit"],
        )  # fmt: skip
        loader = self._loader(split, dataset)
        try:
            for batch in loader:
                self._record(split, batch, "skipped")
                yield batch
        finally:
            loader.close()
            self._loaders.remove(loader)

    def _split_of_stage(self) -> str:
        assert self.trainer is not None
        if self.trainer.training:
            return "train"
        if self.trainer.testing:
            return "test"
        return "predict" if self.trainer.predicting else "val"

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Record unreadable videos and videos that repeat frames; raise an error if too many are unreadable."""
        split = self._split_of_stage()
        self._record(split, batch, "replaced by another" if split == "train" else "skipped")
        if split == "train" and not batch["path"]:
            raise DataError(
                "No video of a training batch can be read, nor any of its replacements. Repair or exclude the videos "
                "named in the log."
            )
        return batch

    def _record(self, split: str, batch: dict[str, Any], action: str) -> None:
        """Move the unreadable videos of a batch, and those that repeat frames, to the attributes and the log."""
        skipped, logged = self.skipped[split], self._logged[split]
        for path, reason in batch.pop("skipped"):
            skipped.setdefault(path, reason)
            if path not in logged:
                logged.add(path)
                log.warning("%s video %s: %s", split, action, printable(reason))
        for path in batch.pop("repeated"):
            if path not in self.repeated:
                self.repeated.add(path)
                frames = self.datasets[split].protocol.num_frames
                log.warning("%s has fewer than %d frames: frames are repeated", printable(path), frames)
        self.check_bad(split, skipped)

    def check_bad(self, split: str, skipped: dict[str, str]) -> None:
        """Record the unreadable videos of a split, and refuse too many of them.

        Args:
            skipped: path -> reason; of all processes, if there are several.

        Raises:
            DataError: more than ``max_bad_fraction`` of the split is unreadable; for "predict", all videos are.
        """
        self.skipped[split] = skipped
        listed = len(self.datasets[split])
        first = next(iter(skipped.values()), "")
        if split == "predict":
            if len(skipped) == listed:
                raise DataError(f"None of the {listed} videos can be read: {first}")
        elif len(skipped) > self.max_bad_fraction * listed:
            raise DataError(
                f"{len(skipped)} of {listed} {split} videos cannot be read (the first: {first}), more than "
                f"max_bad_fraction={self.max_bad_fraction} allows. Repair or exclude them, or increase it."
            )

    def on_exception(self, exception: BaseException) -> None:
        while self._loaders:
            self._loaders.pop().close()

    def teardown(self, stage: str) -> None:
        while self._loaders:
            self._loaders.pop().close()
        self._resume_state = None  # unused after `test`, or if the run failed before its first batch
        for split, skipped in self.skipped.items():
            if skipped:
                count, kind = len(self.datasets[split]), "" if split == "predict" else f"{split} "
                log.warning("%d of %d %svideos could not be read", len(skipped), count, kind)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Normalize frames on the device: uint8 -> floats ``(..., C, T, H, W)``."""
        if len(batch["path"]):
            protocol = self.datasets[self._split_of_stage()].protocol
            batch["video"] = normalize(batch["video"], protocol.mean, protocol.std)
        return batch
