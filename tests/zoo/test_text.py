"""Text from files is escaped before it is printed, and JSON is parsed with limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from zoo.protocol import DEFAULT_PROTOCOL
from zoo.text import MAX_JSON, brief, is_printable, parse_json, pluralize, pluralize_range, printable, read_json


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


LONG = {
    "integer": 10**5000,
    "nested integer": [10**5000],
    "text": "x" * 10**6,
    "escapes": {"a": ["\x1b[31m"] * 1000},
    "depth": [[[[[[[[1]]]]]]]],
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("kind", list(LONG))
def test_brief_is_short_and_printable(kind: str) -> None:
    shown = brief(LONG[kind])
    assert len(shown) < 250
    assert is_printable(shown)


def test_brief_keeps_short_values() -> None:
    for value in (3, -1.5, None, True, "tanet_r50", [1, 2], {"a": 1}, 10**30):
        assert brief(value) == repr(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' occurs more than once"),
        ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
        ("[" * 100000, "nested too deeply"),
        ('{"a": ', "Expecting value"),
        ("[" + "1," * (MAX_JSON // 2) + "1]", "longer than 8 MiB"),
    ],
    ids=["duplicate", "digits", "depth", "cut", "size"],
)
def test_parse_json_rejects_invalid_text(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "a.json")


def test_pluralize_distinguishes_one_from_several() -> None:
    assert [pluralize(count, "clip") for count in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    assert [pluralize_range(1, high, "clip") for high in (1, 2)] == ["1 clip", "1 to 2 clips"]
    assert "1 clip x 3 crops" in str(replace(DEFAULT_PROTOCOL, clips=1, crops=3))
