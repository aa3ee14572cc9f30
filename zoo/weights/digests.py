"""Digests of published files that were fetched once: who publishes none is held to the file that came first."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from zoo.errors import ConfigError, DownloadError
from zoo.settings import config_folder
from zoo.weights.files import atomic_path

log = logging.getLogger("zoo")
HEADER = """\
# Published weight files as they were first seen on this machine; files that differ are refused from then on.
# To accept another file for a name, remove its block. A digest that is right belongs into checkpoints_index.yaml, where
# it holds for everybody: please send it in.
"""


def digests_path() -> Path:
    """The user's lock file."""
    return config_folder() / "digests.yaml"


def read_digests() -> dict[str, dict[str, Any]]:
    """name of an entry -> sha256, size, date, source of its file as first seen.

    Raises:
        ConfigError: a lock file that cannot be read: it is never passed over.
    """
    path = digests_path()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: of a number or date
        raise ConfigError(f"{path} cannot be read: {error}. Mend or remove it.") from error
    if not isinstance(content, Mapping) or not all(
        isinstance(seen, Mapping) and isinstance(seen.get("sha256"), str) for seen in content.values()
    ):
        raise ConfigError(f"{path}: expected a block with sha256: under each name. Mend or remove it.")
    return {name: dict(seen) for name, seen in content.items()}


def check_digest(name: str, digest: str, sha256: str | None, prefix: str | None, file: str | Path) -> bool:
    """Hold a file to what is known of an entry's file; whether that was a whole digest.

    Args:
        name: the entry.
        digest: sha256 of the file (or that a converted file says it was made from).
        sha256, prefix: what the publisher says.
        file: what to call it in the error.

    Raises:
        DownloadError: it is another file.
    """
    if not digest.startswith(sha256 or prefix or ""):
        raise DownloadError(
            f"{file} is not the published file of {name}: its sha256 is {digest}, the index says "
            f"{sha256 or f'that it begins with {prefix}'}.",
            "digest",
        )
    if sha256:
        return True
    seen = read_digests().get(name)
    if seen is None:
        return False
    if seen["sha256"] != digest:
        raise DownloadError(
            f"{file} is not the file of {name} that was seen first ({seen.get('date')}, {seen.get('size')} bytes, from "
            f"{seen.get('source')}): its sha256 is {digest}, that one's {seen['sha256']}. If its publisher has "
            f"replaced it and you trust the new one, remove {name} from {digests_path()}.",
            "digest",
        )
    return True


def record_digest(name: str, digest: str, size: int | None, source: str | None) -> None:
    """Note an entry's file in the lock file, and say so; one that is noted already stays."""
    path = digests_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            known = read_digests()
            if name in known:
                return
            known[name] = {"sha256": digest, "size": size, "date": date.today().isoformat(), "source": source}
            with atomic_path(path) as temporary:
                temporary.write_text(HEADER + yaml.safe_dump(known), encoding="utf-8")
    except OSError as error:
        log.warning(
            "the digest of %s (sha256 %s) cannot be kept in %s (%s): set TEMPOZOO_CONFIG to a folder of yours",
            name, digest, path, error.strerror,
        )  # fmt: skip
        return
    log.warning(
        "first file of %s: %s bytes, sha256 %s; none is published in full: this one is enforced from now on (%s)",
        name, size, digest, path,
    )  # fmt: skip
