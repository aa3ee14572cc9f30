"""config.json: what a folder written by this package says of its network, and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from types import NoneType
from typing import Any

from zoo.errors import IndexFileError
from zoo.protocol import Protocol

FORMAT = 1
UNTRAINED = "operator_untrained"  # in the provenance of converted image weights


def package_version() -> str:
    """Version of this package, or "unknown" in a source tree that was never installed."""
    try:
        return metadata.version("tempozoo")
    except metadata.PackageNotFoundError:
        return "unknown"


def config_of(
    arch: str,
    options: Mapping[str, Any],
    protocol: Protocol,
    labels: Sequence[str] | None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A network's config; the package's version joins the provenance."""
    return {
        "tempozoo": FORMAT,
        "arch": arch,
        "options": dict(options),
        "labels": list(labels) if labels is not None else None,
        "protocol": protocol.to_dict(),
        "provenance": dict(provenance or {}, package=f"tempozoo {package_version()}"),
    }


def check_config(config: Any, where: str) -> None:
    """Refuse a config of something else, of another format, or with parts missing.

    Raises:
        IndexFileError: naming ``where``.
    """
    if not isinstance(config, Mapping) or "tempozoo" not in config:
        raise IndexFileError(f"{where}: the config was not written by this package.")
    if config["tempozoo"] != FORMAT:
        raise IndexFileError(
            f"{where}: written in format {config['tempozoo']}, this version reads {FORMAT}; upgrade tempozoo."
        )
    missing = [key for key in ("arch", "options", "labels", "protocol") if key not in config]
    kinds: dict[str, tuple[type, ...]] = {
        "arch": (str,),
        "options": (dict,),
        "labels": (list, NoneType),
        "protocol": (dict,),
        "provenance": (dict, NoneType),
    }
    for key in kinds.keys() & config.keys():
        if not isinstance(config[key], kinds[key]):
            raise IndexFileError(f"{where}: {key} is {config[key]!r}; it was not written by this package.")
    if not all(isinstance(label, str) for label in config.get("labels") or []):
        raise IndexFileError(f"{where}: the labels are not all text.")
    missing += [f"options.{key}" for key in ("num_classes", "num_frames") if key not in config.get("options", {})]
    if missing:
        raise IndexFileError(f"{where}: the config lacks {', '.join(missing)}.")
