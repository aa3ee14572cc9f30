"""Which videos are read when, by whom: the same for any number of workers, and able to go on in mid-epoch.

Nothing here is drawn from a state that moves on. The order of an epoch follows from (seed, epoch), a clip's own
randomness from (seed, epoch, video, turn): so a run that is killed and resumed sees what it would have seen.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from zoo.errors import ConfigError, DataError, ZooError

Draw = tuple[int, int]  # number of a video, seed of its clips
WINDOW = 4096  # videos that are shuffled together when they are read from shards, one shard after another


def derived_seed(*parts: int) -> int:
    """A seed for torch, in [0, 2 ** 63), that differs with every part."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def derived_number(seed: int, text: str) -> float:
    """A number from 0 to 1 that follows from a seed and a text alone, on every machine."""
    digest = hashlib.blake2b(f"{seed}/{text}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def check_same_everywhere(split: str, count: int, list_id: int) -> None:
    """Refuse processes that have different videos: each would do its share of another list.

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
            f"process 0 has {lists[0][0]} {split} videos and process {other} has {lists[other][0]}, or others: all "
            "must see the same. Copy the data whole to every machine, or exclude what one of them lacks."
        )


class BatchSampler:
    """Batches of ``Draw`` for one of several processes.

    In training (``shuffle``) every process gets as many batches, all of one size; the videos of an epoch that do not
    fill a batch on every process are left for another epoch (fewer than one such batch in all). Step k of all processes
    together holds the same videos, however many processes share them; from shards, each process reads its own stretch
    instead. Otherwise each video is read once, by one process.

    Args:
        count: videos.
        batch_size: videos in a batch of one process.
        shards: of each video, the shard it is in; or None.
        list_id: a number that stands for the list of videos; a place in an epoch is of one list only.
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
    ) -> None:
        if shuffle and count < world_size:
            raise DataError(f"there are {count} training videos for {world_size} processes; use fewer.")
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.rank, self.world_size, self.list_id = rank, world_size, list_id
        self.shards = None if shards is None else np.unique(list(shards), return_inverse=True)[1]  # as numbers from 0
        self.epoch, self.start = 0, 0

    def _used(self) -> int:
        """How many videos of an epoch all processes read together."""
        whole = self.batch_size * self.world_size
        if not self.shuffle:
            return self.count
        if self.count >= whole:
            return self.count // whole * whole
        return self.count if self.shards is None else self.count // self.world_size * self.world_size

    def _share(self) -> np.ndarray:
        """Numbers of the videos of this process, in order."""
        draw = np.random.Generator(np.random.PCG64(derived_seed(self.seed, self.epoch)))
        order = draw.permutation(self.count) if self.shuffle else np.arange(self.count)
        if self.shards is None:
            return order[: self._used()][self.rank :: self.world_size]
        if self.shuffle:
            turns = draw.permutation(self.shards.max() + 1)
            order = order[np.argsort(turns[self.shards[order]], kind="stable")]
        share = np.array_split(order[: self._used()], self.world_size)[self.rank]
        if self.shuffle:
            share = np.concatenate([draw.permutation(share[i : i + WINDOW]) for i in range(0, len(share), WINDOW)])
        return share

    def __len__(self) -> int:
        most = -(-self._used() // self.world_size)  # videos of a process
        return -(-most // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self._share()
        for at in range(self.start * self.batch_size, len(self) * self.batch_size, self.batch_size):
            batch = share[at : at + self.batch_size].tolist()
            yield [(number, derived_seed(self.seed, self.epoch, number)) for number in batch]

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch; in the one that is under way, go on where it was left."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0


def leave_signals(worker: int) -> None:
    """Let Ctrl-C, and signals to the whole process group, reach the main process only: it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        os.setsid()


class ClipLoader:
    """A DataLoader that Lightning neither wraps nor shuffles, and whose place in the epoch goes into checkpoints.

    Args:
        begin: is called at the start of every pass over the videos.
        options: of torch's DataLoader.
    """

    def __init__(
        self, dataset: Dataset[Any], sampler: BatchSampler, begin: Callable[[], object] | None = None, **options: Any
    ) -> None:
        self.dataset, self._begin = dataset, begin
        self.sampler = self.batch_sampler = sampler  # Lightning asks for both, and calls set_epoch
        own = torch.Generator()  # else every epoch would take a number from the process's
        options.setdefault("worker_init_fn", leave_signals)
        self._loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=sampler, generator=own, **options)
        self._batches: Any = None  # of the pass that is under way, and the processes that make them
        self._epoch, self._done = 0, 0  # batches of that epoch that were handed out

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        # a generator: the sampler is asked when the first batch is, and by then knows its epoch
        self._epoch, self._done = self.sampler.epoch, self.sampler.start
        if self._begin is not None:
            self._begin()
        self._batches = iter(self._loader)
        try:
            for batch in self._batches:
                self._done += 1
                yield batch
        except ZooError as error:  # which a worker gives a traceback for a text
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) and "DataLoader timed out" not in str(error):
                raise
            raise DataError(
                f"a process that reads videos crashed or hung ({error}). `tempozoo data check` finds videos that make "
                "their decoder do so; if memory ran out, lower num_workers or batch_size."
            ) from error
        self.sampler.set_epoch(self.sampler.epoch + 1)  # for loops that do not say which epoch it is

    def close(self) -> None:
        """End the processes that read videos. Left to the garbage collector, each may take five seconds to go."""
        if hasattr(self._batches, "_shutdown_workers"):
            self._batches._shutdown_workers()
        self._batches = self._loader._iterator = None

    def _shape(self) -> dict[str, int]:
        """What decides which videos the batches of an epoch hold."""
        s = self.sampler
        kind = {"videos": s.count, "list_id": s.list_id, "sharded": int(s.shards is not None)}
        return {**kind, "batch_size": s.batch_size, "processes": s.world_size, "seed": s.seed}

    def state_dict(self) -> dict[str, Any]:
        """The epoch and how many of its batches were handed out; behind the last of them, the next epoch."""
        epoch = self.sampler.epoch
        done = self._done if self._epoch == epoch else self.sampler.start
        over = done >= len(self.sampler)
        return {"epoch": epoch + over, "batches": 0 if over else done, **self._shape()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batches that were handed out.

        Raises:
            ConfigError: in the middle of an epoch, with other videos or batches than before.
        """
        differing = [key for key, value in self._shape().items() if state.get(key) != value]
        if differing and state["batches"]:
            key = differing[0]
            what = f"with {key} {state.get(key)}, and now {key} is {self._shape()[key]}"
            if key in ("list_id", "sharded"):
                what = "over another list of videos, or the same in another order"
            raise ConfigError(
                f"the run to go on with was in the middle of an epoch {what}: which videos it has seen would be lost. "
                "Resume it as it was, or from the checkpoint of an epoch's end."
            )
        self.sampler.epoch, self.sampler.start = self._epoch, self._done = state["epoch"], state["batches"]
