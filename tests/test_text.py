"""Text from files is shown without being obeyed by the terminal."""

from __future__ import annotations

import pytest

from zoo.text import is_printable, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("two\nlines\tand a tab\r", r"two\nlines\tand a tab\r"),
        ("null \x00, delete \x7f, C1 \x9b", r"null \x00, delete \x7f, C1 \x9b"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u2066b\u2069c\u200fd", r"a\u2066b\u2069c\u200fd"),
        ("line\u2028paragraph\u2029", r"line\u2028paragraph\u2029"),
        ("lone \udc80 surrogate", r"lone \udc80 surrogate"),
    ],
)
def test_printable_escapes_control_characters(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert not is_printable(text)
    assert printable(shown) == shown
    printable(text).encode("utf-8")  # a lone surrogate could not be encoded


@pytest.mark.parametrize(
    "text", ["", "Pushing [something] up", "straße, čaj", "跳舞", "رقص", "नृत्य", "👩\u200d🚒", "می\u200cرود", "\\x1b"]
)
def test_printable_keeps_text_of_any_script(text: str) -> None:
    assert printable(text) == text
    assert is_printable(text)
