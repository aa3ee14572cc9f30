"""Text of files and servers in messages."""

from __future__ import annotations


def one_line(text: str, most: int = 80) -> str:
    """Text of a file as it may stand in a message: printable, on one line, shortened."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text[: most + 1])
    return text if len(text) <= most else f"{text[:most]}..."
