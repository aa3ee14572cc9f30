"""Lines on the console, and numbers in them."""

from __future__ import annotations

from rich.console import Console

from zoo.text import printable


def print_line(line: str) -> None:
    """Print a line without wrapping it or interpreting markup."""
    Console().print(printable(line), highlight=False, markup=False, soft_wrap=True)


def describe_duration(seconds: float) -> str:
    """Return a rounded time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
