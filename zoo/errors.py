"""Error classes of the package, and checks that raise them.

Every message names the file, key or value that is wrong, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Literal, Self

from zoo.text import brief

DownloadReason = Literal["unreachable", "skipped", "incomplete", "quota", "web page", "digest", "refused"]
DataReason = Literal["missing", "forbidden", "unreachable", "invalid"]


class ZooError(ValueError):
    """Base class of all errors of this package."""

    def with_message(self, message: str) -> Self:
        """Return a copy of the error with another message."""
        error = type(self)(message)
        error.__dict__.update(self.__dict__)
        return error


class UnknownNameError(ZooError):
    """A model, architecture, operator or label that does not exist."""

    @classmethod
    def of(cls, kind: str, name: str, valid: Iterable[str], hint: str = "") -> UnknownNameError:
        """Create the error for ``name``, with similar names among ``valid`` and a final ``hint``."""
        valid = list(valid)
        if len(name) > 200:  # longer than any valid name; finding similar ones would take seconds
            return cls(f"Unknown {kind} {brief(name)}. {hint}".rstrip())
        near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
        near += [k for k in valid if name and k not in near and (k.startswith(name) or name.startswith(k))][:5]
        text = f"Unknown {kind} {name!r}."
        if near:
            text += " Did you mean " + " or ".join(repr(n) for n in near) + "?"
        return cls(f"{text} {hint}".rstrip())


class ConfigError(ZooError):
    """An argument, option, config.json or index entry with a wrong type or value."""


class CheckpointError(ZooError):
    """A weight file that cannot be read or does not fit the network."""


class WeightsNotFoundError(CheckpointError):
    """The weights were never released, or are not on this machine and downloads are disabled."""


class DownloadError(CheckpointError):
    """A file that could not be downloaded; the cache is unchanged.

    reason:
        "unreachable": no connection to the host. "skipped": the host was unreachable earlier in the same command.
        "incomplete": the transfer ended early several times; repeating the command resumes it. "quota": the Google
        Drive quota of the file is exceeded. "web page": the server sent an HTML page instead of weights. "digest":
        the SHA-256 is wrong. "refused": anything else, such as HTTP 403 or 404.
    """

    def __init__(self, message: str, reason: DownloadReason = "refused") -> None:
        super().__init__(message)
        self.reason: DownloadReason = reason


class StorageError(ZooError):
    """A disk is full or a folder is not writable."""


class HubError(ZooError):
    """A push to the Hugging Face Hub failed; nothing was pushed."""


class DataError(ZooError):
    """A dataset, annotation file or video that cannot be used.

    reason:
        Of remote files: "missing", "forbidden" (HTTP 403), or "unreachable" (the host failed repeatedly and may
        recover). Otherwise "invalid".
    """

    def __init__(self, message: str, reason: DataReason = "invalid") -> None:
        super().__init__(message)
        self.reason: DataReason = reason


def check_int(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raise a ConfigError unless ``value`` is an integer (not a bool) from ``low`` to ``high``.

    Args:
        name: name of the value in the message.
    """
    numbers = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or value < low or (high is not None and value > high):
        raise ConfigError(f"{name} is {brief(value)}; it must be {numbers}.")


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise a ConfigError unless ``value`` is an int or float (not a bool or NaN) from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{name} is {brief(value)}; it must be a number from {low:g} to {high:g}.")


def check_counts(**values: Any) -> None:
    """Raise a ConfigError unless all values are integers of at least 1 (``num_classes``: at least 2)."""
    for name, value in values.items():
        check_int(name, value, 2 if name == "num_classes" else 1)


def check_num_classes(value: Any, high: int | None = None) -> None:
    """Raise a ConfigError unless ``value`` is 0 (no classifier) or an integer from 2 to ``high``."""
    if type(value) is int and value == 0:
        return
    try:
        check_int("num_classes", value, 2, high)
    except ConfigError as error:
        raise ConfigError(f"{str(error).removesuffix('.')}, or 0 for a network without a classifier.") from None


def check_rate(name: str, value: float) -> None:
    """Raise a ConfigError unless ``value`` is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} is {brief(value)}; it must be a number of at least 0 and below 1.")
    if not 0 <= value < 1:
        raise ConfigError(f"{name} is {brief(value)}; it must be at least 0 and below 1.")


def check_seed(name: str, value: int) -> None:
    """Raise a ConfigError unless ``value`` is an integer of at least 0."""
    check_int(name, value, 0)


def check_odd(name: str, kernel_size: int) -> None:
    """Raise a ConfigError unless ``kernel_size`` is odd; even temporal kernels would shift the frames."""
    is_odd = isinstance(kernel_size, int) and not isinstance(kernel_size, bool) and kernel_size % 2 == 1
    if not is_odd or kernel_size < 1:
        raise ConfigError(f"{name} is {brief(kernel_size)}; it must be odd, since an even kernel shifts the frames.")
