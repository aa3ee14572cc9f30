"""Escape text from files for printing, and parse JSON with limits."""

from __future__ import annotations

import json
import reprlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MAX_JSON = 8 << 20  # characters or bytes; published configs have at most 60 thousand
MAX_DIGITS = 300  # of an integer; the largest finite float has 309

# Unicode's bidirectional formatting characters, which reorder the text around them.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Control characters (C0, C1, DEL), lone surrogates, line and paragraph separators.
_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def is_printable(text: str) -> bool:
    """Whether ``text`` is one line without control characters; letters of any script are allowed."""
    return text.isprintable() or not any(
        map(_is_control, text)
    )  # str.isprintable is faster, but also rejects harmless characters


def printable(text: str) -> str:
    r"""Return ``text`` as one line, with control characters replaced by escapes such as ``\x1b`` or ``\u202e``.

    A label or name from a file can then not control the terminal. Letters of any script are unchanged.
    """
    if is_printable(text):
        return text
    return "".join(_escape(char) if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in _CATEGORIES or char in _BIDI


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def one_line(text: str, max_length: int = 80) -> str:
    """Return text from a file or server as one printable line of at most ``max_length`` characters, for messages."""
    text = "".join(char if char.isprintable() else "?" for char in text[: max_length + 1])
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def pluralize(count: int, noun: str) -> str:
    """Return a number and its noun, such as "1 clip" or "3 clips"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def pluralize_range(low: int, high: int, noun: str) -> str:
    """Return a range of numbers and their noun, such as "2 to 5 clips", or "5 clips" if both numbers are equal."""
    return pluralize(high, noun) if low == high else f"{low} to {pluralize(high, noun)}"


def listing(keys: Iterable[Any], most: int = 4) -> str:
    """Join the first ``most`` keys to printable text, with the number of the others."""
    keys = list(keys)
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(printable(str(key)[:200]) for key in keys[:most]) + more


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxdict = 12

    def repr_int(self, x: int, level: int) -> str:
        """Abbreviate long integers; Python refuses to print integers of more than 4300 digits."""
        return repr(x) if abs(x) < 10**40 else f"an integer of {x.bit_length()} bits"


def brief(value: Any) -> str:
    """Return ``repr(value)`` cut to about a hundred characters and without control characters, for messages."""
    return printable(_Brief().repr(value))


def parse_json(text: str) -> Any:
    """Parse JSON from an untrusted source.

    Raises:
        ValueError: not JSON, longer than ``MAX_JSON``, a duplicate key, or an integer over ``MAX_DIGITS`` digits.
    """
    if len(text) > MAX_JSON:
        raise ValueError(f"it is longer than {MAX_JSON >> 20} MiB")
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_int=_bounded_int)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> Any:
    """Read a JSON file with the limits of ``parse_json``.

    Raises:
        OSError: the file cannot be read.
        ValueError: its content is not UTF-8, or ``parse_json`` rejects it.
    """
    with path.open("rb") as file:
        content = file.read(MAX_JSON + 1)
    if len(content) > MAX_JSON:
        raise ValueError(f"it is longer than {MAX_JSON >> 20} MiB")
    return parse_json(content.decode("utf-8"))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {brief(duplicate)} occurs more than once")
    return values


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer has {len(digits)} digits, more than {MAX_DIGITS}")
    return int(digits)
