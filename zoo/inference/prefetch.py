"""An iterator that runs ahead of its consumer in a thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()
POLL = 0.1  # seconds between checks whether the consumer has stopped


def prefetch(items: Iterable[T], size: int, drop: bool = False, stop: threading.Event | None = None) -> Iterator[T]:
    """Yield the items in order; a thread computes up to ``size`` of them ahead.

    Closing the iterator ends the thread after the item that it is computing. An error of ``items`` is raised here.

    Args:
        drop: for live sources: if ``size`` items are waiting, drop the oldest instead of blocking.
        stop: set when the iterator is closed, so that ``items`` can end before its next item.
    """
    queue: Queue[Any] = Queue(size)
    stop = stop or threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                queue.put(item, timeout=POLL)
                return
            except Full:
                if drop:
                    with contextlib.suppress(Empty):
                        queue.get_nowait()

    def run() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((_END, None))
        except BaseException as error:  # raised by the consumer
            put((_END, error))

    thread = threading.Thread(target=run, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()
