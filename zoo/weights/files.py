"""Read weight files of any format without executing anything in them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors import safe_open
from torch import Tensor

from zoo.errors import CheckpointError, DownloadError
from zoo.text import one_line
from zoo.weights.archives import Archive
from zoo.weights.disk import readable
from zoo.weights.pickles import Opaque, StoredTensor
from zoo.weights.torch_files import is_archive, mapped, read_file
from zoo.weights.torchscript import is_torchscript, read_torchscript
from zoo.weights.utf8 import utf8_path

log = logging.getLogger("zoo")

# Keys under which publishers pickle the state dict, in the order in which they are tried.
WRAPPERS = ("model_state", "state_dict", "model")

_PLAIN = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file by name, on the CPU. Nothing in the file is executed.

    Reads safetensors, PyTorch pickles and TorchScript archives. A state dict inside one of ``WRAPPERS`` is unwrapped,
    and DataParallel's ``module.`` prefix is removed.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, or requires running code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"Weight file {path} does not exist.")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty. Download it again.")
    head = refuse_page(path)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return read_safetensors(path)[0]
    if is_torchscript(path):
        return read_torchscript(path)
    return _strip_prefix(load_tensors(path, _state_dict(path, load_pickle(path))))


def refuse_page(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        DownloadError: the file is a web page.
    """
    with readable(path) as file:
        head: bytes = file.read(512)
    if head.lstrip()[:1] == b"<":
        raise DownloadError(
            f"{path} is a web page, not a checkpoint: the host probably answered with a quota or login page. "
            "Download the file again in a browser.",
            "web page",
        )
    return head


def check_archive(path: Path) -> bool:
    """Verify the CRC-32 checksums in a zip archive of PyTorch. Returns False for any other file.

    Files without a published digest need this, because reading tensors does not verify the checksums.

    Raises:
        CheckpointError: a checksum is wrong.
    """
    with mapped(path) as content:
        if not is_archive(content):
            return False
        Archive(path, content)  # its limits bound the time of testzip
        with ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"the checksum of its part {bad} is wrong")
        return True


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and metadata of a safetensors file.

    Raises:
        CheckpointError: the file is damaged, or has values other than plain tensors.
    """
    try:
        with utf8_path(path) as utf8, safe_open(utf8, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except Exception as error:  # SafetensorError, or any error of torch while it creates the tensors
        reason = one_line(str(error), 200).rstrip(".")
        raise CheckpointError(f"{path} is not a complete safetensors file ({reason}). Download it again.") from error
    check_plain(path, tensors)
    return tensors, metadata


def load_pickle(path: Path) -> Any:
    """Read a PyTorch file, with a StoredTensor in place of each tensor; ``load_tensors`` reads those.

    Raises:
        CheckpointError: the file is missing, damaged, or requires running code.
    """
    if not path.is_file():
        raise CheckpointError(f"File {path} does not exist.")
    return read_file(path)


def load_tensors(path: Path, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """Read tensors that ``load_pickle`` described. Most are views of the memory-mapped file."""
    try:
        return {key: value.load() for key, value in stored.items()}
    except (RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be read into memory ({one_line(str(error), 200)}).") from error


def _state_dict(path: Path, content: Any) -> Mapping[str, StoredTensor]:
    for _ in range(2):
        if isinstance(content, Mapping):
            for wrapper in WRAPPERS:
                if isinstance(content.get(wrapper), Mapping):
                    content = content[wrapper]
                    break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} contains a {type(content).__name__}, not a state dict of tensors.")
    check_plain(path, content)
    return content


def check_plain(path: Path, content: Mapping[Any, Any]) -> None:
    """Refuse values other than plain dense tensors.

    Raises:
        CheckpointError: a value is something else. The message names the keys.
    """
    others = [key for key, value in content.items() if not isinstance(key, str) or not _is_plain(value)]
    if others:
        names = ", ".join(one_line(str(key)) for key in others[:5])
        value = content[others[0]]
        reason = f" ({value.description})" if isinstance(value, Opaque) else ""
        raise CheckpointError(
            f"{path} has values other than plain tensors under {names}{reason}. Expected a state dict of tensors, "
            f"or one under {', '.join(map(repr, WRAPPERS))}."
        )


def _is_plain(value: Any) -> bool:
    return isinstance(value, StoredTensor) or (isinstance(value, Tensor) and value.dtype in _PLAIN)


def _strip_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "module."
    if all(key.startswith(prefix) for key in tensors):
        return {key[len(prefix) :]: value for key, value in tensors.items()}
    return dict(tensors)
