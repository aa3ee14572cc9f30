"""Text from files, made safe to print: control characters become visible escapes."""

from __future__ import annotations

import unicodedata

# Characters that reorder the text around them (Unicode's bidirectional formatting characters).
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Control characters (C0, C1, DEL), lone surrogates, line and paragraph separators.
_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def is_printable(text: str) -> bool:
    """Whether ``text`` is one line without control characters; letters of any script are allowed."""
    return not any(map(_is_control, text))


def printable(text: str) -> str:
    r"""``text`` as one line in which control characters are escapes such as ``\x1b`` or ``\u202e``.

    A terminal then shows a label or name from a file without obeying it. Letters of any script stay as they are.
    """
    if is_printable(text):
        return text
    return "".join(_escape(char) if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in _CATEGORIES or char in _BIDI


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
