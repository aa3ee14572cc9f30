"""Apply a function to many videos in worker processes that may hang or crash without affecting other videos."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.cores import available_cores
from zoo.errors import ConfigError, DataError, StorageError, ZooError

T = TypeVar("T")
R = TypeVar("R")


def each(
    work: Callable[[T], R], items: Sequence[T], label: str, workers: int | None = None, time_limit: float | None = None
) -> list[R | ZooError]:
    """Apply ``work`` to every item; returns results in order, an error in place of each failed item.

    A process that exceeds the time limit is killed. A process that crashes loses only its current item.

    Args:
        work: module-level function, or ``functools.partial`` of one: it is pickled.
        items: the arguments; messages name each by its ``str``.
        label: text beside the progress bar.
        workers: number of processes; default one per core.
        time_limit: seconds per item; None for no limit.

    Raises:
        ConfigError: ``workers`` is less than 1.
        StorageError: ``work`` raised one; the remaining items are skipped.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; it must be at least 1.")
    team = [_Worker(work) for _ in range(min(workers or available_cores(), len(items)))]
    free: SimpleQueue[_Worker] = SimpleQueue()
    for worker in team:
        free.put(worker)

    def one(item: T) -> R | ZooError:
        worker = free.get()
        try:
            return worker.run(item, time_limit)
        finally:
            free.put(worker)

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    with progress, ThreadPoolExecutor(max(1, len(team))) as pool:
        try:
            futures = [pool.submit(one, item) for item in items]
            for future in progress.track(as_completed(futures), total=len(items)):
                result = future.result()
                if isinstance(result, StorageError):
                    raise result
            return [future.result() for future in futures]
        finally:
            for worker in team:
                worker.stop()
            pool.shutdown(cancel_futures=True)


class _Worker:
    """A process that handles items one by one, and is restarted after a crash or a time-out."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work, self.process, self.stopped = work, None, False

    def run(self, item: Any, time_limit: float | None) -> Any:
        """Return the result for an item, or the error."""
        if self.process is None:
            self._start()
        try:
            self.pipe.send(item)
            if self.pipe.poll(time_limit):
                return self.pipe.recv()
            problem = f"{item} took longer than {time_limit:g} s; increase the time limit if the video is just long."
        except (EOFError, OSError):
            self.process.join()
            end = self.process.exitcode
            how = signal.Signals(-end).name if end is not None and end < 0 else f"status {end}"
            problem = f"{item} crashed its worker process ({how})."
        self.process.kill()
        self.process.join()
        self.process = None
        return DataError(problem)

    def _start(self) -> None:
        # a fork of this process would inherit locks held by other threads, and the pipes of other workers
        server = "forkserver" in multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if server else "spawn")
        if server:
            context.set_forkserver_preload(["datamodules"])
        self.pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self.work, theirs), daemon=True)
        process.start()
        theirs.close()
        self.process = process
        try:
            self.pipe.recv()  # the time limit does not include starting the process
        except EOFError:
            raise DataError("A worker process ended during startup; try again with fewer workers.") from None
        finally:
            if self.stopped:
                process.kill()

    process: Any

    def stop(self) -> None:
        """Kill the process."""
        self.stopped = True
        if self.process is not None:
            self.process.kill()


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and ends this process
    pipe.send(None)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            result = work(item)
        except ZooError as error:
            result = error
        except Exception as error:  # a damaged file may raise anything
            result = DataError(f"{item}: {type(error).__name__}: {error}")
        pipe.send(result)
