"""Settings of this machine: cache and config folders, mirror, and offline mode."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError
from zoo.text import brief

CONFIG_NAME = "config.yaml"
CONFIG_KEYS = ("mirror",)


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of converted weights: the argument, or TEMPOZOO_CACHE, or ~/.cache/tempozoo."""
    if cache_dir is not None:
        return Path(cache_dir)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TEMPOZOO_CACHE") or Path(home) / "tempozoo")


def config_folder() -> Path:
    """Return the folder of the user's config.yaml and digests.yaml: TEMPOZOO_CONFIG, or ~/.config/tempozoo."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(os.environ.get("TEMPOZOO_CONFIG") or Path(home) / "tempozoo")


def offline() -> bool:
    """Whether TEMPOZOO_OFFLINE or HF_HUB_OFFLINE disables downloads."""
    return any(
        os.environ.get(name, "").strip().upper() in ("1", "ON", "YES", "TRUE")
        for name in ("TEMPOZOO_OFFLINE", "HF_HUB_OFFLINE")
    )


def mirror() -> str | None:
    """Return the location of a mirror of converted weights, or None.

    TEMPOZOO_MIRROR takes precedence over ``mirror:`` in the user's config.yaml. Mirrors are tried before publishers.

    Raises:
        ConfigError: config.yaml cannot be read, or has other values.
    """
    location = os.environ.get("TEMPOZOO_MIRROR")
    if location is None:
        location = _config().get("mirror")
    if location is not None and not isinstance(location, str):
        raise ConfigError(f"{config_folder() / CONFIG_NAME}: mirror is {brief(location)}; it must be text.")
    return location or None


def _config() -> dict[str, Any]:
    import yaml

    path = config_folder() / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: invalid number or date
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not set(content) <= set(CONFIG_KEYS):
        raise ConfigError(f"{path}: expected `key: value` lines with {', '.join(CONFIG_KEYS)}, got {brief(content)}.")
    return content
