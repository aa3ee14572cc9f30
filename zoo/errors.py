"""The package's own errors. Every message names the file, key or value and says what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from zoo.text import brief


class ZooError(ValueError):
    """Base class: catch this to catch everything the package raises on purpose."""


class UnknownNameError(ZooError):
    """A model, architecture, operator or label that does not exist."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
        """The error for ``name``, with near ones among ``known`` and a last sentence."""
        known = list(known)
        if len(name) > 200:  # longer than any name: comparing it would take seconds
            return cls(f"There is no {kind} called {brief(name)}. {hint}".rstrip())
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        near += [k for k in known if name and k not in near and (k.startswith(name) or name.startswith(k))][:5]
        text = f"There is no {kind} called {name!r}."
        if near:
            text += " Did you mean " + " or ".join(repr(n) for n in near) + "?"
        return cls(f"{text} {hint}".rstrip())


class ConfigError(ZooError):
    """An option with a value that cannot work."""


class ArgumentTypeError(ConfigError, TypeError):
    """An argument of the wrong type; also a TypeError, as Python's own functions raise."""


class IndexFileError(ZooError):
    """checkpoints_index.yaml (or a config.json) does not follow its schema."""


class CheckpointError(ZooError):
    """A weight file that cannot be read, or does not fit the network it was given for."""


class WeightsNotFoundError(CheckpointError):
    """No weights on this machine for an index entry; the message gives the address and what to do."""


class UnreleasedError(WeightsNotFoundError):
    """A network that was reported in a paper, whose weights nobody has published."""


class DownloadError(CheckpointError):
    """A published file that could not be fetched; the message says what to do by hand. The cache is as it was."""


class QuotaExceededError(DownloadError):
    """Google Drive refuses a file for some hours because too many people fetched it."""


class WebPageError(DownloadError):
    """A host answered with a page to be read by people, where a weight file was expected."""


class IncompleteError(DownloadError):
    """Fewer bytes came than the host announced, or the host did not answer in time, again and again."""


class UnreachableError(IncompleteError):
    """A host that no connection could be made to."""


class SkippedError(UnreachableError):
    """A file that was not asked for: no connection could be made to its host before, in the same command."""


class DigestError(DownloadError):
    """A file's sha256 is not the one in the index, or not the one of its first download."""


class NoSpaceError(DownloadError):
    """The disk is full, or would be."""


class AccessError(DownloadError):
    """A folder that may not be written to, or an address that may not be read."""


class OfflineError(WeightsNotFoundError):
    """Something would have to be fetched, and TEMPOZOO_OFFLINE or HF_HUB_OFFLINE forbids it."""


class HubError(ZooError):
    """A push to the Hugging Face Hub that was refused, or could not be made."""


class DataError(ZooError):
    """A data set, annotation file or video that cannot be used."""


def check_int(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Refuse a value that is not an integer from ``low`` to ``high``; ``name`` is what the message calls it.

    Raises:
        ArgumentTypeError: not an int; a bool is none.
        ConfigError: out of range.
    """
    numbers = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(f"{name} is {brief(value)}; it must be {numbers}.")
    if value < low or (high is not None and value > high):
        raise ConfigError(f"{name} is {brief(value)}; it must be {numbers}.")


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Refuse a value that is not a finite number from ``low`` to ``high``.

    Raises:
        ArgumentTypeError: not an int or a float; a bool is neither.
        ConfigError: out of range, or not a number (NaN).
    """
    numbers = f"it must be a number from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(f"{name} is {brief(value)}; {numbers}.")
    if not low <= value <= high:
        raise ConfigError(f"{name} is {brief(value)}; {numbers}.")


def check_counts(**values: Any) -> None:
    """Refuse options that must be whole numbers and are not; names and values are in the message."""
    for name, value in values.items():
        check_int(name, value, 2 if name == "num_classes" else 1)


def check_rate(name: str, value: float) -> None:
    """Refuse a dropout or drop-path rate outside [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(f"{name} is {brief(value)}; it must be a number of at least 0 and below 1.")
    if not 0 <= value < 1:
        raise ConfigError(f"{name} is {brief(value)}; it must be at least 0 and below 1.")


def check_seed(name: str, value: int) -> None:
    """Refuse seeds that are no whole number of at least 0."""
    check_int(name, value, 0)


def check_odd(name: str, kernel_size: int) -> None:
    """Refuse temporal kernels of even size, which would shift the frames."""
    problem = f"{name} is {brief(kernel_size)}; it must be odd so that frames keep their place."
    if isinstance(kernel_size, bool) or not isinstance(kernel_size, int):
        raise ArgumentTypeError(problem)
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError(problem)
