"""Batcher: classify videos of concurrent requests, which share forward passes.

Videos are decoded by several threads. One thread runs the network on the views of all videos that are waiting.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, Queue

from torch import Tensor

from zoo.errors import DataError
from zoo.inference.inputs import read_video_views
from zoo.inference.predictor import Prediction, Predictor, concatenate, make_prediction
from zoo.inference.scores import average_views
from zoo.video.containers import Limits
from zoo.video.source import Source

WAIT = 0.005  # seconds to wait for views of further videos before an incomplete batch is run
# Frames of at most 4096 x 2160 pixels, an hour at 60 frames per second. A decoding thread then needs less than 1 GB.
LIMITS = Limits(pixels=4096 * 2160, frames=216_000, streams=16)


@dataclass(eq=False)
class Job:
    """A video to classify.

    source: the video; None after decoding, which releases its content.
    deadline: on the clock of ``time.monotonic``.
    result: the prediction, or the error.
    decoded: done when decoding has ended, also for a dropped video.
    views: ``(V, T, C, S, S)``, after decoding.
    decode_seconds, network_seconds: duration of decoding, and of the forward passes of the batch.
    """

    source: Source | None
    deadline: float
    result: Future[Prediction] = field(default_factory=Future)
    decoded: Future[None] = field(default_factory=Future)
    views: Tensor | None = None
    decode_seconds: float = 0.0
    network_seconds: float = 0.0

    def cancel(self) -> None:
        """Drop the video. If it is being decoded, ``decoded`` is done only after that."""
        if self.decoded.cancel():
            self.source = None  # the pool refers to the job until a thread is free
        self.result.cancel()

    def fail(self, error: BaseException) -> None:
        """End the job with an error, unless it has ended."""
        with contextlib.suppress(InvalidStateError):
            self.result.set_exception(error)


class Batcher:
    """Classifies videos with a ``Predictor``; its methods may be called from any thread.

    At most ``predictor.workers`` videos are decoded at a time, and at most ``predictor.batch_size`` decoded videos wait
    for the network. Close it, or use it in a ``with`` block, to end its threads; running jobs are completed.

    Args:
        predictor: network, views, batch size and decoder.
        on_batch: called with the number of views of each batch.
    """

    def __init__(self, predictor: Predictor, on_batch: Callable[[int], None] = lambda views: None) -> None:
        self.predictor, self._on_batch = predictor, on_batch
        self._pool = ThreadPoolExecutor(predictor.workers, thread_name_prefix="decode")
        self._ready: Queue[Job | None] = Queue(predictor.batch_size)  # decoded; None ends the thread
        self._next: Job | None = None  # did not fit into the last batch
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread of the network is running."""
        return self._thread.is_alive()

    def submit(self, source: Source, deadline: float, on_end: Callable[[], None] = lambda: None) -> Job:
        """Classify a video.

        Args:
            deadline: on the clock of ``time.monotonic``; decoding fails when it has passed.
            on_end: called when the job has ended and its video is not in memory any more.
        """
        job = Job(source, deadline)
        job.decoded = self._pool.submit(self._decode, job)
        job.result.add_done_callback(lambda _: job.decoded.add_done_callback(lambda _: on_end()))
        return job

    def close(self) -> None:
        """Complete all jobs and end the threads."""
        self._pool.shutdown(wait=True)
        self._ready.put(None)
        self._thread.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _decode(self, job: Job) -> None:
        source, job.source = job.source, None
        if job.result.cancelled() or source is None:
            return
        start = time.monotonic()
        try:
            if start >= job.deadline:
                raise DataError(f"{source} waited too long to be decoded.")
            views = read_video_views(
                source,
                self.predictor.protocol,
                decoder=self.predictor.decoder,
                time_limit=job.deadline - start,
                limits=LIMITS,
            )
        except Exception as error:
            job.fail(error)
            return
        finally:
            del source
        job.views, job.decode_seconds = views.frames, time.monotonic() - start
        self._ready.put(job)

    def _run(self) -> None:
        while (batch := self._collect()) is not None:
            jobs = [job for job in batch if job.result.set_running_or_notify_cancel()]
            if jobs:
                self._classify(jobs)
            del batch, jobs  # the views

    def _collect(self) -> list[Job] | None:
        """Wait for decoded videos, up to the batch size in views; None after ``close``."""
        job, self._next = self._next or self._ready.get(), None
        if job is None:
            return None
        batch, views = [job], _count(job)
        stop = time.monotonic() + WAIT
        while views < self.predictor.batch_size:
            try:
                job = self._ready.get(timeout=max(0.0, stop - time.monotonic()))
            except Empty:
                break
            if job is None:
                self._ready.put(None)
                break
            views += _count(job)
            if views > self.predictor.batch_size:
                self._next = job
                break
            batch.append(job)
        return batch

    def _classify(self, jobs: list[Job]) -> None:
        start = time.monotonic()
        try:
            views = [job.views for job in jobs if job.views is not None]
            logits = self.predictor.logits(concatenate(views)).split([len(item) for item in views])
            model, protocol = self.predictor.model, self.predictor.protocol
            predictions = [make_prediction(model, "upload", average_views(item, protocol)) for item in logits]
        except Exception as error:  # such as too little memory; the next batch may succeed
            for job in jobs:
                job.fail(error)
            return
        finally:
            seconds = time.monotonic() - start
            for job in jobs:
                job.views, job.network_seconds = None, seconds
        self._on_batch(sum(len(item) for item in views))
        for job, prediction in zip(jobs, predictions, strict=True):
            job.result.set_result(prediction)


def _count(job: Job) -> int:
    return 0 if job.views is None else len(job.views)
