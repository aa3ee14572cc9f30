"""Weight files of any publisher, read without running what is inside; and files written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import mmap
import os
import pickle
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.errors import AccessError, CheckpointError, NoSpaceError, WebPageError
from zoo.hub.torchscript import is_torchscript, read_torchscript
from zoo.hub.utf8 import utf8_path

log = logging.getLogger("zoo")

# Where publishers keep the weights in what they pickle, in the order they are looked for.
WRAPPERS = ("model_state", "state_dict", "model")


class _LeftBehind:
    """Stands for a NumPy value, such as an accuracy in an old checkpoint, which nobody here asks for.

    NumPy itself would make arrays of objects at addresses that the file gives.
    """

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_NUMPY = [
    f"{module}.multiarray.{name}" for module in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")
]
_HARMLESS: list[Any] = [(_LeftBehind, name) for name in ("numpy.dtype", "numpy.ndarray", *_NUMPY)]
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
    return _strip(_state_dict(path, load_pickle(path)))


def refuse_page(path: Path) -> bytes:
    """The first bytes of a file that is not a web page.

    Raises:
        WebPageError: it is one.
    """
    with readable(path) as file:
        head: bytes = file.read(512)
    if head.lstrip()[:1] == b"<":
        raise WebPageError(
            f"{path} is a web page, not a checkpoint: the host probably answered with a quota or log-in page. "
            "Download the file again in a browser."
        )
    return head


def check_archive(path: Path) -> bool:
    """Compare the checksums that a zip archive, as PyTorch writes, holds of its parts; False if it is none.

    For files without a published digest: torch itself does not look at these checksums.

    Raises:
        CheckpointError: a part is not what it was when the archive was written.
    """
    if not is_zipfile(path):
        return False
    try:
        with ZipFile(path) as archive:
            bad = archive.testzip()
    except (OSError, BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise CheckpointError(f"{path} is a damaged archive ({error}); fetch it again.") from error
    if bad is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of its part {bad} is wrong. Fetch it again.")
    return True


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        CheckpointError: it is damaged, or holds other than plain tensors.
    """
    try:
        with utf8_path(path) as utf8, safe_open(utf8, framework="pt") as file:
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
        refuse_growth(path)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except CheckpointError:
        raise
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


def refuse_growth(path: Path) -> None:
    """Refuse a file that asks for much more memory than it has bytes.

    Raises:
        CheckpointError: a part of an archive, apart from a script, is compressed, as PyTorch never writes it; or a
            pickle makes a byte array of any length.
    """
    if is_zipfile(path):
        with ZipFile(path) as archive:
            packed = [i.filename for i in archive.infolist() if i.compress_type and "/code/" not in i.filename]
            if packed:
                raise CheckpointError(
                    f"{path} is compressed ({packed[0]}), as PyTorch writes no file; unpack it first."
                )
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
            grows = any(b"\nbytearray\n" in content for content in pickles)
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            grows = content.find(b"\nbytearray\n") >= 0
    if grows:
        raise CheckpointError(f"{path} asks for a byte array, which a weight file has no need for; it was not read.")


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
    check_plain(path, content)
    return content


def check_plain(path: Path, content: Mapping[Any, Any]) -> None:
    """Refuse values that are no plain tensors of numbers in memory.

    Raises:
        CheckpointError: naming the keys.
    """
    others = [key for key, value in content.items() if not isinstance(key, str) or not _is_plain(value)]
    if others:
        raise CheckpointError(
            f"{path} holds something other than tensors under {', '.join(map(str, others[:5]))}; expected a state "
            f"dict of plain ones, or one under {', '.join(map(repr, WRAPPERS))}."
        )


def _is_plain(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.is_nested or value.layout != torch.strided or value.device.type != "cpu":
        return False
    # one that repeats its storage would need more memory than the file has, once it is copied
    return value.dtype in _PLAIN and value.numel() * value.itemsize <= value.untyped_storage().nbytes()


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
            raise NoSpaceError(
                f"No space is left for {folder}. Make room, or set TEMPOZOO_CACHE to a folder on another disk; "
                "nothing half-written was kept."
            ) from error
        why = os.strerror(code) if code else error
        raise AccessError(
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
