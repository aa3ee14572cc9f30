"""Files of ``torch.save`` (both formats) and of TorchScript, mapped into memory and read as data.

Tensors are returned as ``StoredTensor``: their bytes are neither read nor copied before ``load`` is called, so that an
optimizer's state, or a tensor that the network does not have, costs nothing.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import CheckpointError
from zoo.text import one_line
from zoo.weights import archives
from zoo.weights.archives import Archive, CompressedError
from zoo.weights.pickles import ForbiddenError, Interpreter, Storage

MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before PyTorch 1.6
PROTOCOL = 1001


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a file; whatever is wrong with them becomes a CheckpointError that names it."""
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty; download it again.")
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        yield content
    except CheckpointError:
        raise
    except CompressedError as error:
        raise CheckpointError(
            f"{path} is compressed ({one_line(str(error))}); PyTorch checkpoints are not. Decompress it first."
        ) from error
    except ForbiddenError as error:
        raise CheckpointError(
            f"{path} asks to run code while it is read ({error.name}), which weight files do not need. Nothing of it "
            "was run. Do not load it; get the file from its publisher."
        ) from error
    except Exception as error:  # a damaged file may raise anything
        text = str(error).strip() or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or incomplete, or not a PyTorch checkpoint ({one_line(text, 200).rstrip('.')}). "
            "Download it again."
        ) from error


def is_archive(content: mmap.mmap) -> bool:
    """Whether a file is a zip archive, which PyTorch has written since version 1.6."""
    return content[: len(archives.MAGIC)] == archives.MAGIC


def read_file(path: Path) -> Any:
    """The content of a file of ``torch.save``, with a StoredTensor for each tensor.

    Raises:
        CheckpointError: damaged, not written by PyTorch, or in need of more than tensors, numbers and text.
    """
    with mapped(path) as content:
        return read_archive(Archive(path, content)) if is_archive(content) else read_legacy(content)


def read_archive(archive: Archive, *, script: bool = False) -> Any:
    """The content of ``data.pkl``.

    Args:
        archive: of ``torch.save``, or of TorchScript.
        script: it is TorchScript; the checksum of each tensor is then compared when it is loaded.
    """
    if "data.pkl" not in archive.parts:
        raise ValueError("it has no data.pkl")
    if "byteorder" in archive.parts and archive.read("byteorder").decode() != sys.byteorder:
        raise ValueError("it was written on a machine of another byte order; convert it there")
    storages: dict[Any, Storage] = {}

    def load_storage(pid: Any) -> Storage:
        key, storage = _storage(pid, storages)
        if storage.load is None:
            name = f"data/{key}"
            part = archive.parts[name]
            if part.size != storage.nbytes:
                raise ValueError(f"storage {key} has {part.size} bytes for {storage.numel} numbers")
            check = (lambda: archive.check(name)) if script else None
            storage.load = _loader(archive.content, storage, part.start, check)
        return storage

    return Interpreter(load_storage, script=script).run(archive.read("data.pkl"))


def read_legacy(content: mmap.mmap) -> Any:
    """The content of a file before PyTorch 1.6: five pickles, then the bytes of the storages, one after another."""
    storages: dict[Any, Storage] = {}
    interpreter = Interpreter(lambda pid: _storage(pid, storages)[1])
    if content[:1] != b"\x80":
        raise ValueError("it is no pickle")
    first, protocol, facts = (interpreter.run(content) for _ in range(3))
    if first != MAGIC or protocol != PROTOCOL:
        raise ValueError("it does not start as PyTorch's files do")
    if isinstance(facts, dict) and facts.get("little_endian", True) != (sys.byteorder == "little"):
        raise ValueError("it was written on a machine of another byte order; convert it there")
    value, keys = interpreter.run(content), interpreter.run(content)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise ValueError("its list of storages is wrong")
    for key in keys:
        storage = storages[key]
        (numel,) = struct.unpack("<q", content.read(8))
        start = content.tell()
        if storage.load is not None or numel != storage.numel or start + storage.nbytes > len(content):
            raise ValueError(f"storage {one_line(key)} has other bytes than its tensors say")
        storage.load = _loader(content, storage, start)
        content.seek(start + storage.nbytes)
    return value


def _storage(pid: Any, storages: dict[Any, Storage]) -> tuple[str, Storage]:
    """Key and storage of a persistent id; tensors that share a storage get the same one."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or pid[5:] not in ((), (None,)):
        raise ValueError("a persistent id that is not a storage")
    kind, key, numel = getattr(pid[1], "name", "").partition(" ")[2], pid[2], pid[4]
    if not isinstance(key, str) or type(numel) is not int or not 0 <= numel < 2**60:
        raise ValueError("a storage without a key or size")
    storage = storages.setdefault(key, Storage(kind, numel))
    if storage.kind != kind or storage.numel != numel:
        raise ValueError(f"storage {one_line(key)} has two data types or sizes")
    return key, storage


def _loader(
    content: mmap.mmap, storage: Storage, start: int, check: Callable[[], None] | None = None
) -> Callable[[], Tensor]:
    """Loads the numbers of a storage: mapped, or copied where they are not aligned."""
    tensors: list[Tensor] = []

    def load() -> Tensor:
        if not tensors:
            assert storage.dtype is not None
            if check is not None:
                check()
            if storage.numel == 0:
                tensors.append(torch.empty(0, dtype=storage.dtype))
            elif start % storage.dtype.itemsize:
                data = bytearray(content[start : start + storage.nbytes])
                tensors.append(torch.frombuffer(data, dtype=storage.dtype))
            else:
                tensors.append(torch.frombuffer(content, dtype=storage.dtype, count=storage.numel, offset=start))
        return tensors[0]

    return load
