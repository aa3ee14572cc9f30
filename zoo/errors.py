"""The package's own errors. Every message names the file, key or value and says what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ZooError(ValueError):
    """Base class: catch this to catch everything the package raises on purpose."""


class UnknownNameError(ZooError):
    """A model, architecture, operator or label that does not exist."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
        """The error for ``name``, with near ones among ``known`` and a last sentence."""
        known = list(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        near += [k for k in known if name and k not in near and (k.startswith(name) or name.startswith(k))][:5]
        text = f"There is no {kind} called {name!r}."
        if near:
            text += " Did you mean " + " or ".join(repr(n) for n in near) + "?"
        return cls(f"{text} {hint}".rstrip())


class ConfigError(ZooError):
    """An option with a value that cannot work."""


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


def check_counts(**values: Any) -> None:
    """Refuse options that must be whole numbers and are not; names and values are in the message."""
    for what, value in values.items():
        least = 2 if what == "num_classes" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{what} is {value!r}; it must be a whole number of at least {least}.")


def check_rate(what: str, value: float) -> None:
    """Refuse a dropout or drop-path rate outside [0, 1)."""
    if not 0 <= value < 1:
        raise ConfigError(f"{what} is {value}; it must be at least 0 and below 1.")


def check_seed(what: str, value: int) -> None:
    """Refuse seeds that are no whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{what} is {value!r}; it must be a whole number of at least 0.")


def check_odd(what: str, kernel_size: int) -> None:
    """Refuse temporal kernels that would move frames from their place."""
    if isinstance(kernel_size, bool) or not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError(f"{what} is {kernel_size!r}; it must be odd so that frames keep their place.")
