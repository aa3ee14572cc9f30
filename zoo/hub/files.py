"""Weight files: read any of them without running what is inside, write ours without leaving halves behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.errors import CheckpointError
from zoo.hub.torchscript import is_torchscript, read_torchscript

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"

# Where publishers keep the weights in what they pickle, in the order they are looked for.
WRAPPERS = ("model_state", "state_dict", "model")

# Old checkpoints carry accuracies and learning rates as NumPy scalars; these rebuild numbers and nothing else.
_HARMLESS: list[Any] = [np.dtype, np.ndarray]
for _scalar in (np._core.multiarray.scalar, np._core.multiarray._reconstruct):  # type: ignore[attr-defined]
    _HARMLESS += [
        (_scalar, f"{module}.{_scalar.__name__}") for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    ]
_HARMLESS += [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, on the CPU; nothing in the file is executed.

    Reads safetensors, PyTorch pickles (``weights_only``) and the tensors of TorchScript archives. Takes the state dict
    out of the wrapping dictionary of the publishers we know and drops DataParallel's ``module.`` prefix.

    Raises:
        CheckpointError: missing, truncated, not a checkpoint, or asking to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no weight file {path}.")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; download it again.")
    with path.open("rb") as file:
        head = file.read(512)
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint: the host probably answered with a quota or log-in page. "
            "Download the file again in a browser."
        )
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)[0]
    if is_torchscript(path):
        return read_torchscript(path)
    return _strip(_state_dict(path, load_pickle(path)))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); fetch it again.") from error


def load_pickle(path: Path) -> Any:
    """The content of a PyTorch file, ``weights_only`` on the CPU: numbers, text and tensors, nothing executed."""
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    # mapped, tensors are read where they are copied from, and an optimizer's, which nobody asks for, not at all
    mapped = is_zipfile(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        wanted = _forbidden_globals(path)
        if wanted:
            raise CheckpointError(
                f"{path} asks to run code while it is read ({', '.join(wanted)}), which a weight file has no need "
                "for. Nothing of it was run. Do not load it; get the file from its publisher."
            ) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged: {_first_line(error)}") from error
    except Exception as error:  # a damaged file may raise anything
        raise CheckpointError(f"{path} is damaged or incomplete ({_first_line(error)}); fetch it again.") from error


def _forbidden_globals(path: Path) -> list[str]:
    with contextlib.suppress(Exception), torch.serialization.safe_globals(_HARMLESS):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    # that scan reads the current file format only; of the older one, torch's refusal names the first
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        return sorted(set(re.findall(r"GLOBAL (\S+)", str(error))))
    return []


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0][:200].rstrip(".")


def _state_dict(path: Path, content: Any) -> Mapping[str, Tensor]:
    for _ in range(2):
        if isinstance(content, Mapping):
            for wrapper in WRAPPERS:
                if isinstance(content.get(wrapper), Mapping):
                    content = content[wrapper]
                    break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict of tensors.")
    others = [key for key, value in content.items() if not isinstance(value, Tensor) or not isinstance(key, str)]
    if others:
        raise CheckpointError(
            f"{path} holds something other than tensors under {', '.join(map(str, others[:5]))}; expected a state "
            f"dict, or one under {', '.join(map(repr, WRAPPERS))}."
        )
    return content


def _strip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "module."
    if all(key.startswith(prefix) for key in tensors):
        return {key[len(prefix) :]: value for key, value in tensors.items()}
    return dict(tensors)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place on success and disappears on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; weights are meant to be shared as far as the umask allows
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_model(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """Write ``model.safetensors`` (config inside, too) and ``config.json``; whole files or none. Returns the folder."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give a folder to write the model to.")
    text = json.dumps(config, indent=2, ensure_ascii=False)
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in plain.values())
    for key, tensor in plain.items():  # safetensors refuses tensors that share memory
        if owners[tensor.untyped_storage().data_ptr()] > 1:
            plain[key] = tensor.clone()
    with atomic_path(folder / WEIGHTS_FILE) as weights, atomic_path(folder / CONFIG_FILE) as config_file:
        save_file(plain, weights, metadata={"format": "pt", "tempozoo": text})
        config_file.write_text(text + "\n", encoding="utf-8")
    return folder


def read_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    """Tensors, config and weight file of a folder or ``.safetensors`` file written by ``write_model``."""
    path = Path(path)
    weights = path / WEIGHTS_FILE if path.is_dir() else path
    if not weights.is_file():
        raise CheckpointError(f"{path} holds no {WEIGHTS_FILE}; give a folder that zoo.save or zoo.convert wrote.")
    tensors, metadata = _read_safetensors(weights)
    config_file = path / CONFIG_FILE if path.is_dir() else None
    if config_file is not None and config_file.is_file():
        text, where = config_file.read_text(encoding="utf-8"), str(config_file)
    elif "tempozoo" in metadata:
        text, where = metadata["tempozoo"], f"the metadata of {weights}"
    else:
        raise CheckpointError(
            f"{weights} was not written by this package (it names no architecture). To load a publisher's file, "
            "pass it as weights= together with the name of its index entry."
        )
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{where} is not valid JSON: {error}") from error
    return tensors, config, weights
