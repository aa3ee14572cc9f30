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
        self.work: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self.done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="decoding").start()

    def _run(self) -> None:
        while True:
            work = self.work.get()
            try:
                self.done.put((work(), None))
            except BaseException as error:
                self.done.put((None, error))
            del work  # and the frames that it holds


_KEPT = threading.local()


def within(seconds: float | None, name: str, work: Callable[[], T]) -> T:
    """The result of ``work``, or its error; None for ``seconds`` sets no limit.

    It runs in a thread, which is left behind if it takes longer: decoders release the interpreter's lock, so the caller
    goes on, but a call that never returns keeps a core busy until its process ends. Readers check a deadline of their
    own between frames, so that this stays the exception.

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
    except Empty:
        del _KEPT.thread
        raise DataError(
            f"{name} took longer than {seconds:g} s to decode; raise time_limit if it is only long."
        ) from None
    if error is not None:
        raise error
    return result
