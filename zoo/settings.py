"""Where files of the package live on this machine, and whether the network may be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError
from zoo.text import brief

CONFIG_NAME = "config.yaml"
KNOWN = ("mirror",)


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where converted weights live: the argument, or TEMPOZOO_CACHE, or ~/.cache/tempozoo."""
    if cache_dir is not None:
        return Path(cache_dir)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TEMPOZOO_CACHE") or Path(home) / "tempozoo")


def config_folder() -> Path:
    """Where ``config.yaml`` and ``digests.yaml`` of the user live: TEMPOZOO_CONFIG, or ~/.config/tempozoo."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(os.environ.get("TEMPOZOO_CONFIG") or Path(home) / "tempozoo")


def offline() -> bool:
    """Whether TEMPOZOO_OFFLINE or HF_HUB_OFFLINE forbids the network."""
    return any(
        os.environ.get(name, "").strip().upper() in ("1", "ON", "YES", "TRUE")
        for name in ("TEMPOZOO_OFFLINE", "HF_HUB_OFFLINE")
    )


def mirror() -> str | None:
    """Where converted weights are looked for first: TEMPOZOO_MIRROR, or ``mirror:`` of the user's config.yaml.

    Raises:
        ConfigError: a config.yaml that cannot be read.
    """
    given = os.environ.get("TEMPOZOO_MIRROR")
    if given is None:
        given = _config().get("mirror")
    if given is not None and not isinstance(given, str):
        raise ConfigError(f"{config_folder() / CONFIG_NAME}: mirror is {brief(given)}; it must be text.")
    return given or None


def _config() -> dict[str, Any]:
    import yaml

    path = config_folder() / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: of a number or date
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not set(content) <= set(KNOWN):
        raise ConfigError(f"{path}: expected `key: value` lines with {', '.join(KNOWN)}, got {brief(content)}.")
    return content
