"""Order and batches of videos: independent of the number of workers, and resumable in mid-epoch.

No random state is carried along. The order of an epoch is derived from (seed, epoch), the randomness of a clip from
(seed, epoch, video, attempt). A resumed run therefore reads the same clips as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from zoo.errors import ConfigError, DataError, ZooError

Draw = tuple[int, int]  # index of a video, seed of its clips
WINDOW = 4096  # number of consecutive videos that are shuffled together when reading shard after shard


def derived_seed(*parts: int) -> int:
    """Derive a seed for torch, in [0, 2 ** 63), from integers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def derived_number(seed: int, text: str) -> float:
    """Derive a number from 0 to 1 from a seed and a text, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}/{text}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def check_same_everywhere(split: str, count: int, list_id: int) -> None:
    """Check that all processes have the same list of videos, of which each reads its share.

    Raises:
        DataError: the number of videos or the list differs between processes.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    lists: list[tuple[int, int]] = [(count, list_id)] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(lists, (count, list_id))
    other = next((rank for rank, one in enumerate(lists) if one != lists[0]), None)
    if other is not None:
        raise DataError(
            f"Process 0 has {lists[0][0]} {split} videos, and process {other} has {lists[other][0]} or different ones; "
            "all must have the same. Copy all data to every machine, or exclude the videos that one of them lacks."
        )


class BatchSampler:
    """Batches of ``Draw`` for one of several processes.

    In training (``shuffle``), all processes get the same number of batches of the same size. The last videos of an
    epoch, too few for a full batch on every process, are left out of that epoch. Together, the processes read the same
    videos at step k, whatever their number; from shards, each process reads a consecutive part instead. Without
    ``shuffle``, each video is read once, by one process.

    Args:
        count: number of videos.
        batch_size: videos in a batch of one process.
        shards: the shard of each video, or None.
        list_id: checksum of the list of videos; a position in an epoch is only valid for the same list.
        labels: class number of each video, ``(n,)``, or a column for each class, ``(n, classes)``, with 0 or 1. If they
            are given, all classes are drawn equally often in an epoch of as many videos: videos of small classes are
            repeated, and each epoch has other videos of large classes.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shards: Iterable[Any] | None = None,
        list_id: int = 0,
        labels: np.ndarray | None = None,
    ) -> None:
        if shuffle and count < world_size:
            raise DataError(f"There are {count} training videos for {world_size} processes; use fewer processes.")
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.rank, self.world_size, self.list_id = rank, world_size, list_id
        self.shards = None if shards is None else np.unique(list(shards), return_inverse=True)[1]  # as numbers from 0
        self.class_members = None if labels is None else _class_members(labels)
        self.epoch, self.start = 0, 0

    def _used(self) -> int:
        """Return the number of videos that all processes together read in an epoch."""
        full = self.batch_size * self.world_size
        if not self.shuffle:
            return self.count
        if self.count >= full:
            return self.count // full * full
        return self.count if self.shards is None else self.count // self.world_size * self.world_size

    def _share(self) -> np.ndarray:
        """Return the indices of this process's videos, in order.

        Balanced classes repeat videos; the index of repetition k is increased by ``count * k``.
        """
        rng = np.random.Generator(np.random.PCG64(derived_seed(self.seed, self.epoch)))
        if self.class_members is not None:
            order = _balanced_order(self.class_members, self.count, rng)
        else:
            order = rng.permutation(self.count) if self.shuffle else np.arange(self.count)
        if self.shards is None:
            return order[: self._used()][self.rank :: self.world_size]
        if self.shuffle:
            ranks = rng.permutation(self.shards.max() + 1)
            order = order[np.argsort(ranks[self.shards[order % self.count]], kind="stable")]
        share = np.array_split(order[: self._used()], self.world_size)[self.rank]
        if self.shuffle:
            share = np.concatenate([rng.permutation(share[i : i + WINDOW]) for i in range(0, len(share), WINDOW)])
        return share

    def __len__(self) -> int:
        most = -(-self._used() // self.world_size)  # videos of a process
        return -(-most // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self._share()
        for at in range(self.start * self.batch_size, len(self) * self.batch_size, self.batch_size):
            batch = share[at : at + self.batch_size].tolist()
            yield [(number % self.count, derived_seed(self.seed, self.epoch, number)) for number in batch]

    def set_epoch(self, epoch: int) -> None:
        """Start another epoch; for the current epoch, keep the position to resume from."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0


def _class_members(labels: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the videos of each class that has any; videos without a class are a class of their own."""
    if labels.ndim == 1:
        return [np.flatnonzero(labels == label) for label in np.unique(labels)]
    columns = [*labels.T.astype(bool), ~labels.any(1)]
    return [np.flatnonzero(column) for column in columns if column.any()]


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return weights ``(classes,)`` of the classes, inversely proportional to their numbers of videos.

    The mean weight of the labels is 1. Classes without videos have the weight 1.

    Args:
        labels: class number of each video, ``(n,)``, or a column for each class, ``(n, classes)``, with 0 or 1.
        classes: number of classes.
    """
    counts = labels.sum(0) if labels.ndim > 1 else np.bincount(labels, minlength=classes)
    return np.where(counts > 0, counts.sum() / (max(1, (counts > 0).sum()) * np.maximum(counts, 1)), 1.0)


def _balanced_order(members: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` indices in random order, with the same number of videos of each class to within one.

    ``count * k`` is added to the index of a video that is drawn for the (k + 1)-th time, so that its clips differ.
    """
    extra = rng.permutation(len(members)) < count % len(members)  # these classes have one video more
    draws = []
    for videos, more in zip(members, extra.tolist(), strict=True):
        number = count // len(members) + more
        draws.append(np.concatenate([rng.permutation(videos) for _ in range(-(-number // len(videos)))])[:number])
    order = rng.permutation(np.concatenate(draws))
    ranked = np.argsort(order, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(order[ranked])) + 1])
    sizes = np.diff([*starts, count])
    repetitions = np.empty(count, dtype=np.int64)
    repetitions[ranked] = np.arange(count) - np.repeat(starts, sizes)
    return order + count * repetitions


def ignore_signals(worker: int) -> None:
    """Leave Ctrl-C and signals to the process group to the main process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()


class ClipLoader:
    """DataLoader that Lightning neither wraps nor shuffles, and that saves its position in the epoch in checkpoints.

    Args:
        begin: called at the start of every pass over the videos.
        options: options of ``torch.utils.data.DataLoader``.

    Attributes:
        num_workers: loading processes; 0 if batches are loaded by this process.
        wait_seconds: total time spent waiting for batches.
        yielded_at: value of ``time.perf_counter()`` when the last batch was yielded.
    """

    def __init__(
        self, dataset: Dataset[Any], sampler: BatchSampler, begin: Callable[[], object] | None = None, **options: Any
    ) -> None:
        self.dataset, self._begin = dataset, begin
        self.sampler = self.batch_sampler = sampler  # Lightning reads both attributes and calls set_epoch
        generator = torch.Generator()  # else every epoch would advance the global generator
        options.setdefault("worker_init_fn", ignore_signals)
        self._loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=sampler, generator=generator, **options)
        self._batches: Any = None  # iterator of the current pass, which owns the workers
        self.num_workers, self.wait_seconds, self.yielded_at = self._loader.num_workers, 0.0, 0.0
        self._epoch, self._done = 0, 0  # the epoch, and the number of its batches yielded so far

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        # a generator, so that the epoch is read with the first batch: Lightning sets it after iter()
        self._epoch, self._done = self.sampler.epoch, self.sampler.start
        if self._begin is not None:
            self._begin()
        start = time.perf_counter()
        self._batches = iter(self._loader)
        try:
            for batch in self._batches:
                self._done += 1
                self.yielded_at = time.perf_counter()
                self.wait_seconds += self.yielded_at - start
                yield batch
                start = time.perf_counter()
        except ZooError as error:  # from a worker: its text is a traceback
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) and "DataLoader timed out" not in str(error):
                raise
            raise DataError(
                f"A worker process crashed or hung ({error}). `tempozoo data check` finds videos that crash the "
                "decoder; if memory ran out, reduce num_workers or batch_size."
            ) from error
        self.sampler.set_epoch(self.sampler.epoch + 1)  # for training loops that do not call set_epoch

    def close(self) -> None:
        """End the worker processes. Otherwise the garbage collector would, and wait up to five seconds for each."""
        if hasattr(self._batches, "_shutdown_workers"):
            self._batches._shutdown_workers()
        self._batches = self._loader._iterator = None

    def _settings(self) -> dict[str, int]:
        """The settings that determine the videos of each batch."""
        sampler = self.sampler
        return {
            "videos": sampler.count,
            "list_id": sampler.list_id,
            "sharded": int(sampler.shards is not None),
            "batch_size": sampler.batch_size,
            "processes": sampler.world_size,
            "seed": sampler.seed,
            "balanced": int(sampler.class_members is not None),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of its batches yielded so far; after the last batch, the next epoch and 0."""
        epoch = self.sampler.epoch
        done = self._done if self._epoch == epoch else self.sampler.start
        over = done >= len(self.sampler)
        return {"epoch": epoch + over, "batches": 0 if over else done, **self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the batches that were yielded before.

        Raises:
            ConfigError: the position is in mid-epoch, and the list of videos or a batch setting has changed.
        """
        settings = self._settings()
        state = {"balanced": 0, **state}  # checkpoints of earlier versions lack this setting
        differing = [key for key, value in settings.items() if state.get(key) != value]
        if differing and state["batches"]:
            key = differing[0]
            change = f"{key} was {state.get(key)} and is now {settings[key]}"
            if key in ("list_id", "sharded"):
                change = "the list of training videos, or its order, has changed"
            raise ConfigError(
                f"The checkpoint is from the middle of an epoch, but {change}, so the remaining videos of the epoch "
                "are unknown. Restore the setting, or resume from a checkpoint written at the end of an epoch."
            )
        self.sampler.epoch, self.sampler.start = self._epoch, self._done = state["epoch"], state["batches"]
