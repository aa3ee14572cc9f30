"""Checks of the arguments of public functions, before anything else is done."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from zoo.errors import ConfigError
from zoo.text import brief, is_printable

MAX_TEXT = 4096  # characters of a name or path; no file system takes longer paths
MAX_PART = 255  # bytes of the name of a file or folder


def check_text(name: str, value: Any, *, optional: bool = False) -> None:
    """Check a name: text of 1 to ``MAX_TEXT`` characters without null characters.

    Raises:
        ConfigError: anything else (except None if ``optional``).
    """
    if value is None and optional:
        return
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {brief(value)}; it must be text (str){_or_none(optional)}.")
    _check_characters(name, value)


def check_path(name: str, value: Any, *, optional: bool = False) -> None:
    """Check a path: a str or a pathlib.Path, not bytes.

    Raises:
        ConfigError: anything else (except None if ``optional``).
    """
    if value is None and optional:
        return
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str):
        raise ConfigError(f"{name} is {brief(value)}; it must be a str or a pathlib.Path{_or_none(optional)}.")
    _check_characters(name, path)
    if any(len(part.encode("utf-8", "replace")) > MAX_PART for part in re.split(r"[\\/]", path)):
        raise ConfigError(f"{name} is {brief(path)}; no file name may have more than {MAX_PART} bytes.")


def check_flag(name: str, value: Any, *, optional: bool = False) -> None:
    """Check a flag: True or False.

    Raises:
        ConfigError: anything else (except None if ``optional``).
    """
    if not isinstance(value, bool) and not (value is None and optional):
        raise ConfigError(f"{name} is {brief(value)}; it must be True or False{_or_none(optional)}.")


def check_labels(name: str, labels: Any, num_classes: int, max_length: int) -> None:
    """Check labels: a list with a distinct, printable text for each class.

    Raises:
        ConfigError: not a list or tuple of str, a wrong number of labels, or a label that is empty, repeated, too long
            or not printable.
    """
    if not isinstance(labels, Sequence) or isinstance(labels, (str, bytes)):
        raise ConfigError(f"{name} is {brief(labels)}; it must be a list of {num_classes} class names, or None.")
    if len(labels) != num_classes:
        raise ConfigError(
            f"there are {len(labels)} labels for {num_classes} classes: {name} must have one per class, or be None."
        )
    first: dict[str, int] = {}
    for number, label in enumerate(labels):
        if not isinstance(label, str):
            raise ConfigError(f"{name}[{number}] is {brief(label)}; it must be text (str).")
        if not label.strip() or len(label) > max_length or not is_printable(label):
            raise ConfigError(
                f"{name}[{number}] is {brief(label)}; it must be one line of 1 to {max_length} characters without "
                "control characters."
            )
        if first.setdefault(label, number) != number:
            raise ConfigError(
                f"{name}[{number}] is {brief(label)}, the same as {name}[{first[label]}]; labels must differ."
            )


def _check_characters(name: str, text: str) -> None:
    if not text or "\0" in text or len(text) > MAX_TEXT:
        raise ConfigError(f"{name} is {brief(text)}; it must have 1 to {MAX_TEXT} characters and no null character.")


def _or_none(optional: bool) -> str:
    return ", or None" if optional else ""
