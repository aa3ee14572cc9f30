"""The package's own errors. Every message names the file, key or value and says what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


class DataError(ZooError):
    """A data set, annotation file or video that cannot be used."""
