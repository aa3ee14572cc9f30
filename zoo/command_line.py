"""Helpers of all commands: notes to the user, and suggestions for misspelled words."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

from zoo.text import printable


def note(message: str) -> None:
    """Print a line; if several processes run the same command, only the first prints it."""
    if all(os.environ.get(rank, "0") == "0" for rank in ("LOCAL_RANK", "RANK", "SLURM_PROCID")):
        print(printable(message), flush=True)


def suggest(word: str, names: Iterable[str], prefix: str = "") -> str:
    """ " (did you mean NAME?)" with the name most similar to ``word``, or "" if none is similar."""
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), by_lower, 1, 0.5)
    return f" (did you mean {prefix}{by_lower[close[0]]}?)" if close else ""


def expand_home(path: str) -> str:
    """``path`` with a leading ``~/`` or ``~user/`` replaced by the home folder, unless a file has that literal name."""
    return path if "/" not in path or os.path.lexists(path) else os.path.expanduser(path)
