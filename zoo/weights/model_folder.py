"""Folders with ``model.safetensors``, which also has the config as metadata, and ``config.json`` with its SHA-256."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from zoo.errors import CheckpointError
from zoo.text import brief, parse_json, read_json
from zoo.weights.disk import atomic_path, disk_errors, sha256_of
from zoo.weights.files import read_safetensors
from zoo.weights.locations import CONFIG_FILE, WEIGHTS_FILE
from zoo.weights.utf8 import is_utf8

DIGEST_KEY = "sha256"  # in config.json: digest of the weight file


def write_model(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """Write ``model.safetensors`` (with the config as metadata) and ``config.json`` (with its digest).

    A killed process leaves the old network or the new one, never a mixture: the old config.json is removed before the
    weights are replaced, and a weight file without a config.json is loaded with the config of its metadata.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file. Give a folder to write the model to.")
    config = {key: value for key, value in config.items() if key != DIGEST_KEY}
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in plain.values())
    for key, tensor in plain.items():  # safetensors refuses tensors with shared memory
        if owners[tensor.untyped_storage().data_ptr()] > 1:
            plain[key] = tensor.clone()
    with (
        disk_errors(folder),
        atomic_path(folder / CONFIG_FILE) as config_file,
        TemporaryDirectory(prefix=f".{WEIGHTS_FILE}.", dir=folder) as scratch,  # safetensors may leave temporary files
    ):
        weights = Path(scratch) / WEIGHTS_FILE
        save_file(plain, weights, metadata={"tempozoo": _to_json(config)})
        weights.chmod(config_file.stat().st_mode)  # safetensors 0.8 makes it readable for the owner only
        text = _to_json({**config, DIGEST_KEY: sha256_of(weights)}, indent=2)
        config_file.write_text(text + "\n", encoding="utf-8")
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        weights.replace(folder / WEIGHTS_FILE)  # before config.json, which has their digest
    return folder


def _to_json(config: Mapping[str, Any], indent: int | None = None) -> str:
    """Return JSON with unescaped Unicode, unless a name in it is not UTF-8."""
    text = json.dumps(config, indent=indent, ensure_ascii=False)
    return text if is_utf8(text) else json.dumps(config, indent=indent)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder. The caller must have its lock."""
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        for path in folder.glob(f".{name}.*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def move_model(source: Path, folder: Path) -> Path:
    """Move both files from ``source`` to ``folder``, in the safe order of ``write_model``. Returns ``folder``."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            (source / name).replace(folder / name)
    return folder


def read_model(path: Path, *, untouched: bool = False) -> tuple[dict[str, Tensor], dict[str, Any], Path, str]:
    """Read a folder, or its ``.safetensors`` file, that ``write_model`` wrote.

    Args:
        path: the folder or the weight file.
        untouched: also refuse a missing or edited config.json. Users may edit that of their own folders.

    Returns:
        Tensors, config, path of the weight file, and its SHA-256.

    Raises:
        CheckpointError: not written by this package, or the weights do not match the digest in config.json.
    """
    path = Path(path)
    weights = path / WEIGHTS_FILE if path.is_dir() else path
    if not weights.is_file():
        raise CheckpointError(f"{path} has no {WEIGHTS_FILE}. Give a folder that zoo.save or zoo.convert wrote.")
    before = weights.stat()
    tensors, metadata = read_safetensors(weights)
    digest = sha256_of(weights)
    after = weights.stat()
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
        raise CheckpointError(f"{weights} was replaced while it was read. Load it again.")
    config_file = path / CONFIG_FILE if path.is_dir() else None
    if untouched and not (path / CONFIG_FILE).is_file():
        raise CheckpointError(f"{path} lacks {CONFIG_FILE}, which has the digest of {weights}.")
    if config_file is not None and config_file.is_file():
        config = _read_config(config_file)
        expected = config.pop(DIGEST_KEY, digest) if isinstance(config, dict) else digest
        if expected != digest:
            raise CheckpointError(
                f"{weights} is damaged, or does not belong to the {CONFIG_FILE} in its folder: its SHA-256 is "
                f"{digest}, expected {brief(expected)}. Download both again. If you changed the weights on purpose, "
                f"remove {DIGEST_KEY!r} from {CONFIG_FILE}."
            )
        if untouched and config != _json(metadata.get("tempozoo", "null"), weights):
            raise CheckpointError(f"{config_file} was changed after it was written.")
    elif "tempozoo" in metadata:
        config = _json(metadata["tempozoo"], weights)
    else:
        raise CheckpointError(
            f"{weights} was not written by this package (its metadata has no config). To load a publisher's file, "
            "pass it as weights= together with the name of its index entry."
        )
    return tensors, config, weights, digest


def _read_config(path: Path) -> Any:
    try:
        return read_json(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from error


def _json(text: str, file: Path) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"{file} has a config that is not valid JSON: {error}.") from error
