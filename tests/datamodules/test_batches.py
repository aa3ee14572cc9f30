"""Order and batches of videos: each is read once, in the same steps for any number of processes and after a resume."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, zip_longest
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from datamodules.loading import BatchSampler, ClipLoader, class_weights, derived_seed
from zoo.errors import ConfigError, DataError
from zoo.video.time_limit import within


def samplers(count: int, world: int, batch: int, **options: Any) -> list[BatchSampler]:
    return [BatchSampler(count, batch, rank=rank, world_size=world, **options) for rank in range(world)]


def numbers(batches: Any) -> list[list[int]]:
    return [[number for number, _ in batch] for batch in batches]


@pytest.mark.parametrize("count", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("sharded", [False, True])
def test_every_video_is_tested_once_with_any_number_of_processes(count: int, world: int, sharded: bool) -> None:
    shards = np.sort(np.arange(count) % 4) if sharded else None
    parts = samplers(count, world, 2, shuffle=False, shards=shards)
    assert sorted(n for part in parts for batch in numbers(part) for n in batch) == list(range(count))
    # Processes synchronize, so all have the same number of batches, if necessary with an empty last one.
    (length,) = {len(part) for part in parts}
    assert [len(list(part)) for part in parts] == [length] * world


@pytest.mark.parametrize(("count", "dropped"), [(32, 0), (33, 1), (39, 7), (5, 0)])
@pytest.mark.parametrize("sharded", [False, True])
def test_training_epoch_has_each_video_at_most_once(count: int, dropped: int, sharded: bool) -> None:
    shards = np.arange(count) // 5 if sharded else None
    for world in (1, 2):
        parts = samplers(count, world, 8 // world, shuffle=True, shards=shards)
        steps = [numbers(part) for part in parts]
        assert len({len(batches) for batches in steps}) == 1  # otherwise a process would wait for the others forever
        videos = [n for batches in steps for batch in batches for n in batch]
        assert len(videos) == len(set(videos)) == count - (dropped or (count % world if sharded else 0))


def test_step_has_the_same_videos_with_any_number_of_processes() -> None:
    one = numbers(samplers(40, 1, 8, shuffle=True, seed=3)[0])
    two = [numbers(part) for part in samplers(40, 2, 4, shuffle=True, seed=3)]
    assert [sorted(batch) for batch in one] == [sorted(a + b) for a, b in zip_longest(*two)]
    seeds = {n: s for batch in samplers(40, 1, 8, shuffle=True, seed=3)[0] for n, s in batch}
    assert all(seeds[n] == s for part in samplers(40, 2, 4, shuffle=True, seed=3) for batch in part for n, s in batch)


def test_order_and_seeds_depend_only_on_seed_and_epoch() -> None:
    (sampler,) = samplers(20, 1, 4, shuffle=True, seed=1)
    epochs = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] == epochs[2]
    assert numbers(epochs[0]) != numbers(epochs[1])
    assert {s for batch in epochs[0] for _, s in batch}.isdisjoint(s for batch in epochs[1] for _, s in batch)
    (other_sampler,) = samplers(20, 1, 4, shuffle=True, seed=2)
    assert numbers(other_sampler) != numbers(epochs[0])
    assert len({derived_seed(0, e, n) for e in range(20) for n in range(50)}) == 1000


def test_shards_are_read_sequentially_and_mostly_by_one_process() -> None:
    shards = np.arange(40_000) // 1000
    for part in samplers(40_000, 4, 10, shuffle=True, shards=shards):
        order = np.array([n for batch in numbers(part) for n in batch])
        assert len(set(shards[order])) == 10  # of 40
        assert len(set(shards[order[:4000]])) <= 6
        assert len(set(order[:10] // 10)) >= 8  # but shuffled


def test_fewer_videos_than_processes_are_refused() -> None:
    with pytest.raises(DataError, match="There are 2 training videos for 3 processes; use fewer"):
        BatchSampler(2, 1, shuffle=True, world_size=3)


class Numbers(Dataset[Any]):
    def __getitem__(self, draw: tuple[int, int]) -> int:
        return draw[0]


def loader(workers: int = 0, **changes: Any) -> ClipLoader:
    options = {"count": 24, "batch_size": 4, "shuffle": True, "seed": 0} | changes
    sampler = BatchSampler(**options)
    return ClipLoader(Numbers(), sampler, num_workers=workers, collate_fn=list)


class FailingDataset(Dataset[Any]):
    def __getitem__(self, draw: tuple[int, int]) -> int:
        raise ConfigError("host: it has to answer ConfigError: twice")


@pytest.mark.parametrize("workers", [0, 1])
def test_worker_error_has_no_traceback_in_its_message(workers: int) -> None:
    loader = ClipLoader(FailingDataset(), BatchSampler(4, 2, shuffle=False), num_workers=workers)
    with pytest.raises(ConfigError) as error:
        next(iter(loader))
    loader.close()
    assert str(error.value).endswith("twice") and "Traceback" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_resumes_after_the_yielded_batches(workers: int) -> None:
    expected = list(loader())
    for stop in range(7):
        first = loader(workers)
        yielded = list(islice(first, stop if stop < 6 else None))
        state = first.state_dict()
        second = loader(workers)
        second.load_state_dict(state)
        remaining = list(second)
        assert len(remaining) == (6 - stop if stop < 6 else 6)
        if stop < 6:
            assert yielded + remaining == expected
            assert len(list(second)) == 6  # the next epoch is complete
        else:
            first.sampler.set_epoch(1)
            assert remaining == list(first)


def test_resuming_with_other_batches_is_refused() -> None:
    state = loader().state_dict() | {"batches": 3}
    for change, message in (
        ({"batch_size": 8}, "batch_size was 4 and is now 8"),
        ({"count": 25}, "videos was 24 and is now 25"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"list_id": 1}, "the list of training videos, or its order, has changed"),
        ({"shards": np.zeros(24)}, "the list of training videos, or its order, has changed"),
    ):
        with pytest.raises(ConfigError, match=message):
            loader(**change).load_state_dict(state)
        loader(**change).load_state_dict(state | {"batches": 0})
        finished = loader()
        list(islice(finished, 6))  # like Lightning, which takes the last batch without reaching the end of the iterator
        other = loader(**change)
        other.load_state_dict(finished.state_dict())
        assert (other.sampler.epoch, other.sampler.start) == (1, 0)


# time limits -----------------------------------------------------------------------------------------------------


def test_within_returns_result_or_raises_error() -> None:
    assert within(5, "a.mp4", lambda: 7) == within(None, "a.mp4", lambda: 7) == 7

    def fails() -> None:
        raise KeyError("x")

    for limit in (None, 5):
        with pytest.raises(KeyError):
            within(limit, "a.mp4", fails)


@pytest.mark.parametrize("blocking", [lambda: time.sleep(3), lambda: torch.zeros(1) + time.sleep(3)])
def test_within_abandons_slow_work(blocking: Callable[[], Any]) -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match="a.mp4 took longer than 0.2 s to decode"):
        within(0.2, "a.mp4", blocking)
    assert time.monotonic() - start < 2


def test_late_work_leaves_no_thread_and_no_result() -> None:
    class Frames:
        pass

    references: list[weakref.ref[Frames]] = []

    def late(error: bool) -> Frames:
        time.sleep(0.2)
        frames = Frames()
        references.append(weakref.ref(frames))
        if error:
            raise ValueError("too late")  # its traceback refers to the frames as well
        return frames

    before = threading.active_count()
    for number in range(6):
        with pytest.raises(DataError):
            within(0.01, "a.mp4", functools.partial(late, number % 2 == 0))
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before
    assert [frames() for frames in references] == [None] * 6


def test_decoding_thread_is_reused_and_replaced_after_a_time_out() -> None:
    first, again = (within(5, "a.mp4", threading.get_ident) for _ in range(2))
    assert first == again != threading.get_ident()
    with pytest.raises(DataError):
        within(0.1, "a.mp4", lambda: time.sleep(1))
    assert within(5, "a.mp4", threading.get_ident) != first
    with ThreadPoolExecutor(2) as pool:  # no caller gets the result of another
        assert list(pool.map(lambda n: within(5, "a.mp4", lambda: n), range(100))) == list(range(100))


# balanced classes ------------------------------------------------------------------------------------------------

UNBALANCED = np.array([0] * 30 + [1] * 8 + [2] * 2)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("sharded", [False, True])
def test_balanced_epoch_draws_all_classes_equally_often(world: int, sharded: bool) -> None:
    shards = np.arange(40) // 5 if sharded else None
    parts = samplers(40, world, 8 // world, shuffle=True, labels=UNBALANCED, shards=shards)
    drawn: set[int] = set()
    for epoch in range(20):
        for part in parts:
            part.set_epoch(epoch)
        draws = [draw for part in parts for batch in part for draw in batch]
        videos = [number for number, _ in draws]
        assert sorted(np.bincount(UNBALANCED[videos])) == [13, 13, 14]
        assert len(set(draws)) == 40  # a repeated video has another crop
        drawn |= set(videos)
    assert drawn == set(range(40))


def test_balanced_epoch_has_the_same_videos_with_any_number_of_processes() -> None:
    one = [sorted(batch) for batch in samplers(40, 1, 8, shuffle=True, labels=UNBALANCED)[0]]
    two = [list(part) for part in samplers(40, 2, 4, shuffle=True, labels=UNBALANCED)]
    assert one == [sorted(a + b) for a, b in zip(*two, strict=True)]


def test_balanced_epoch_of_several_labels_draws_each_label() -> None:
    labels = np.zeros((40, 2), dtype=np.int64)
    labels[:36, 0] = labels[30:34, 1] = 1  # videos 36 to 39 have no label
    (part,) = samplers(40, 1, 8, shuffle=True, labels=labels)
    videos = [number for batch in numbers(part) for number in batch]
    assert labels[videos, 1].sum() >= 13
    assert sum(number >= 36 for number in videos) in (13, 14)


def test_balanced_loader_resumes_only_with_the_same_setting() -> None:
    def loader(labels: np.ndarray | None) -> ClipLoader:
        sampler = BatchSampler(40, 8, shuffle=True, labels=labels)
        return ClipLoader(Numbers(), sampler, num_workers=0, collate_fn=list)

    full_epoch = list(loader(UNBALANCED))
    first = loader(UNBALANCED)
    assert list(islice(first, 2)) == full_epoch[:2]
    second = loader(UNBALANCED)
    second.load_state_dict(first.state_dict())
    assert list(second) == full_epoch[2:]
    with pytest.raises(ConfigError, match="balanced was 1 and is now 0"):
        loader(None).load_state_dict(first.state_dict())
    unbalanced = loader(None)
    list(islice(unbalanced, 2))
    state = {key: value for key, value in unbalanced.state_dict().items() if key != "balanced"}
    loader(None).load_state_dict(state)  # of an earlier version
    with pytest.raises(ConfigError, match="balanced was 0 and is now 1"):
        loader(UNBALANCED).load_state_dict(state)


def test_class_weights_are_inverse_frequencies_with_mean_one() -> None:
    weights = class_weights(UNBALANCED, 4)
    assert weights[UNBALANCED].mean() == pytest.approx(1)
    assert weights[0] * 30 == pytest.approx(weights[1] * 8) == pytest.approx(weights[2] * 2)
    assert weights[3] == 1
