"""A limit on how long one video may take, whatever its decoder does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from zoo.errors import DataError

T = TypeVar("T")


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
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name=f"decoding {name}")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise DataError(f"{name} took longer than {seconds:g} s to decode; raise time_limit if it is only long.")
    return results[0]
