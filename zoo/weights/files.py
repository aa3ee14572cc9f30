"""Weight files of any publisher, read without running what is inside; and files written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.errors import CheckpointError, DownloadError, StorageError
from zoo.text import one_line
from zoo.weights.archives import Archive
from zoo.weights.pickles import Opaque, StoredTensor
from zoo.weights.torch_files import is_archive, mapped, read_file
from zoo.weights.torchscript import is_torchscript, read_torchscript
from zoo.weights.utf8 import utf8_path

log = logging.getLogger("zoo")

# Where publishers keep the weights in what they pickle, in the order they are looked for.
WRAPPERS = ("model_state", "state_dict", "model")


_PLAIN = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


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
    head = refuse_page(path)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return read_safetensors(path)[0]
    if is_torchscript(path):
        return read_torchscript(path)
    return _strip(load_tensors(path, _state_dict(path, load_pickle(path))))


def refuse_page(path: Path) -> bytes:
    """The first bytes of a file that is not a web page.

    Raises:
        DownloadError: it is one.
    """
    with readable(path) as file:
        head: bytes = file.read(512)
    if head.lstrip()[:1] == b"<":
        raise DownloadError(
            f"{path} is a web page, not a checkpoint: the host probably answered with a quota or log-in page. "
            "Download the file again in a browser.",
            "web page",
        )
    return head


def check_archive(path: Path) -> bool:
    """Compare the checksums that a zip archive, as PyTorch writes, holds of its parts; False if it is none.

    For files without a published digest: their tensors are read without a look at these checksums.

    Raises:
        CheckpointError: a part is not what it was when the archive was written.
    """
    with mapped(path) as content:
        if not is_archive(content):
            return False
        Archive(path, content)  # whose limits keep the next step short
        with ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"the checksum of its part {bad} is wrong")
        return True


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        CheckpointError: it is damaged, or holds other than plain tensors.
    """
    try:
        with utf8_path(path) as utf8, safe_open(utf8, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except Exception as error:  # torch, which makes the tensors, raises others than SafetensorError
        reason = one_line(str(error), 200).rstrip(".")
        raise CheckpointError(f"{path} is not a whole safetensors file ({reason}). Download it again.") from error
    check_plain(path, tensors)
    return tensors, metadata


def load_pickle(path: Path) -> Any:
    """The content of a PyTorch file: numbers, text, and a StoredTensor for each tensor, which ``load_tensors`` reads.

    Raises:
        CheckpointError: missing, damaged, or asking to run code.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    return read_file(path)


def load_tensors(path: Path, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """Tensors of a file that ``load_pickle`` described: views of the file in memory, in general."""
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
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict of tensors.")
    check_plain(path, content)
    return content


def check_plain(path: Path, content: Mapping[Any, Any]) -> None:
    """Refuse values that are no plain tensors of numbers in memory.

    Raises:
        CheckpointError: naming the keys.
    """
    others = [key for key, value in content.items() if not isinstance(key, str) or not _is_plain(value)]
    if others:
        names = ", ".join(one_line(str(key)) for key in others[:5])
        value = content[others[0]]
        reason = f" ({value.what})" if isinstance(value, Opaque) else ""
        raise CheckpointError(
            f"{path} holds something other than tensors under {names}{reason}; expected a state dict of plain ones, "
            f"or one under {', '.join(map(repr, WRAPPERS))}."
        )


def _is_plain(value: Any) -> bool:
    return isinstance(value, StoredTensor) or (isinstance(value, Tensor) and value.dtype in _PLAIN)


def _strip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "module."
    if all(key.startswith(prefix) for key in tensors):
        return {key[len(prefix) :]: value for key, value in tensors.items()}
    return dict(tensors)


def sha256_of(path: Path) -> str:
    """Hex digest of a file.

    Raises:
        CheckpointError: it cannot be read.
    """
    digest = hashlib.sha256()
    with readable(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def readable(path: Path) -> Iterator[Any]:
    """A file opened to read its bytes; what keeps it from being read is a CheckpointError."""
    try:
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a full disk, or a folder without the right to write, raises into errors that say what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        found = re.search(r"os error (\d+)", str(error))  # safetensors' own writer
        code = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"No space is left for {folder}. Make room, or set TEMPOZOO_CACHE to a folder on another disk; "
                "nothing half-written was kept."
            ) from error
        why = os.strerror(code) if code else error
        raise StorageError(
            f"{folder} cannot be written to ({why}). Choose another folder; the cache's is set by TEMPOZOO_CACHE."
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time works on ``path``; says so when it has to wait."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=1)
        except Timeout:
            log.warning("waiting for another process that works on %s", path)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place on success and disappears on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{path.suffix}")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
