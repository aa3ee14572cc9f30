"""A limit on how long one video may take, whatever its decoder does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from zoo.errors import DataError

T = TypeVar("T")


class _Thread:
    """A thread that does one piece of work after another. One for each video would cost a third of the loading."""

    def __init__(self) -> None:
        self.process = os.getpid()  # a forked process has the object, and no thread
        self.work: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()  # None: there is no more
        self.done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="decoding").start()

    def _run(self) -> None:
        while (work := self.work.get()) is not None:
            done: tuple[Any, BaseException | None]
            try:
                done = work(), None
            except BaseException as error:
                done = None, error
            if self.work.empty():  # else nobody waits for it
                self.done.put(done)
            del work, done  # and the frames that they hold


_KEPT = threading.local()


def within(seconds: float | None, name: str, work: Callable[[], T]) -> T:
    """The result of ``work``, or its error; None for ``seconds`` sets no limit.

    It runs in a thread, which is left behind if it takes longer: decoders release the interpreter's lock, so the caller
    goes on, and the thread ends with the call. One that never returns keeps a core busy until its process ends; readers
    check a deadline of their own between frames, so that this stays the exception.

    Raises:
        DataError: it took longer.
    """
    if seconds is None:
        return work()
    thread: _Thread | None = getattr(_KEPT, "thread", None)
    if thread is None or thread.process != os.getpid():
        thread = _KEPT.thread = _Thread()
    thread.work.put(work)
    try:
        result, error = thread.done.get(timeout=seconds)
    except BaseException as reason:
        del _KEPT.thread  # what it still gives would be taken for the next result
        thread.work.put(None)
        if not isinstance(reason, Empty):  # but an interruption
            raise
        raise DataError(
            f"{name} took longer than {seconds:g} s to decode; increase time_limit if the video is just long."
        ) from None
    try:
        if error is not None:
            raise error
        return result
    finally:
        del error  # whose traceback has this function, and frames of the video
