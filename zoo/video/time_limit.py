"""A time limit for decoding a video, even if the decoder hangs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from zoo.errors import DataError

T = TypeVar("T")


class _Thread:
    """Worker thread, reused because a thread for each video would cost a third of the loading time."""

    def __init__(self) -> None:
        self.process = os.getpid()  # a forked process inherits the object without the thread
        self.work: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()  # None ends the thread
        self.done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="decoding").start()

    def _run(self) -> None:
        while (work := self.work.get()) is not None:
            done: tuple[Any, BaseException | None]
            try:
                done = work(), None
            except BaseException as error:
                done = None, error
            if self.work.empty():  # else the caller has given up
                self.done.put(done)
            del work, done  # releases the frames


_local = threading.local()  # the worker thread of each calling thread


def within(seconds: float | None, name: str, work: Callable[[], T]) -> T:
    """Return the result of ``work``, or raise its error.

    ``work`` runs in a thread, which is abandoned at the time limit: decoders release the interpreter lock, so the
    caller can continue. An abandoned thread ends when ``work`` returns; a decoder that never returns keeps a core busy
    until the process ends. This is rare, as readers also check a deadline between frames.

    Args:
        seconds: the time limit; None for no limit.
        name: the name of the video in error messages.

    Raises:
        DataError: ``work`` exceeds the time limit.
    """
    if seconds is None:
        return work()
    thread: _Thread | None = getattr(_local, "thread", None)
    if thread is None or thread.process != os.getpid():
        thread = _local.thread = _Thread()
    thread.work.put(work)
    try:
        result, error = thread.done.get(timeout=seconds)
    except BaseException as reason:
        del _local.thread  # else its late result would be taken for that of the next call
        thread.work.put(None)
        if not isinstance(reason, Empty):  # an interruption
            raise
        raise DataError(
            f"{name} took longer than {seconds:g} s to decode; increase time_limit if the video is just long."
        ) from None
    try:
        if error is not None:
            raise error
        return result
    finally:
        del error  # its traceback refers to this function and to frames of the video
