"""SHA-256 of published files: the index's, or that of the first download where the publisher gives none.

The digests of first downloads are recorded in the user's ``digests.yaml``. Later downloads must match them.
"""

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
from zoo.weights.disk import atomic_path

log = logging.getLogger("zoo")
HEADER = """\
# SHA-256 of published weight files, recorded at their first download on this machine. Other files are refused.
# To accept a new file for a name, remove its block. If you can confirm a digest, please propose it for
# checkpoints_index.yaml, where it protects all users.
"""


def digests_path() -> Path:
    """Return the path of the user's recorded digests."""
    return config_folder() / "digests.yaml"


def read_digests() -> dict[str, dict[str, Any]]:
    """Return the recorded digests: entry name -> sha256, size, date and source of the first download.

    Raises:
        ConfigError: the file exists, but cannot be read. It is never ignored.
    """
    path = digests_path()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: an invalid number or date
        raise ConfigError(f"{path} cannot be read: {error}. Correct or remove it.") from error
    if not isinstance(content, Mapping) or not all(
        isinstance(record, Mapping) and isinstance(record.get("sha256"), str) for record in content.values()
    ):
        raise ConfigError(f"{path}: expected a block with sha256: under each name. Correct or remove it.")
    return {name: dict(record) for name, record in content.items()}


def check_digest(name: str, digest: str, sha256: str | None, prefix: str | None, file: str | Path) -> bool:
    """Verify a file's digest against the index and the recorded digests.

    Args:
        name: of the entry.
        digest: SHA-256 of the file, or of the file that a conversion was made from.
        sha256, prefix: the publisher's full SHA-256, or its first digits.
        file: path or description of the file, for the error.

    Returns:
        Whether a full SHA-256 was compared.

    Raises:
        DownloadError: the digests differ.
    """
    if not digest.startswith(sha256 or prefix or ""):
        raise DownloadError(
            f"{file} is not the published file of {name}: its SHA-256 is {digest}, the index expects "
            f"{sha256 or f'one that begins with {prefix}'}.",
            "digest",
        )
    if sha256:
        return True
    record = read_digests().get(name)
    if record is None:
        return False
    if record["sha256"] != digest:
        raise DownloadError(
            f"{file} is not the file of {name} that was downloaded first ({record.get('date')}, {record.get('size')} "
            f"bytes, from {record.get('source')}): its SHA-256 is {digest}, the recorded one {record['sha256']}. If "
            f"the publisher replaced the file and you trust the new one, remove {name} from {digests_path()}.",
            "digest",
        )
    return True


def record_digest(name: str, digest: str, size: int | None, source: str | None) -> None:
    """Record the digest of an entry's file and log it. An existing record is not changed."""
    path = digests_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            records = read_digests()
            if name in records:
                return
            records[name] = {"sha256": digest, "size": size, "date": date.today().isoformat(), "source": source}
            with atomic_path(path) as temporary:
                temporary.write_text(HEADER + yaml.safe_dump(records), encoding="utf-8")
    except OSError as error:
        log.warning(
            "the digest of %s (SHA-256 %s) cannot be recorded in %s (%s). Set TEMPOZOO_CONFIG to a writable folder.",
            name, digest, path, error.strerror,
        )  # fmt: skip
        return
    log.warning(
        "first file of %s: %s bytes, SHA-256 %s. Its publisher gives no full SHA-256, so later downloads are verified "
        "against this one (%s).",
        name, size, digest, path,
    )  # fmt: skip
