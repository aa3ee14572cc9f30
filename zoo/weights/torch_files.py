"""Files of ``torch.save`` (both formats) and TorchScript, memory-mapped and read as data.

Tensors are returned as ``StoredTensor``. Their bytes are read when ``load`` is called, so unused tensors, such as those
of an optimizer's state, cost nothing.
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
from zoo.weights.archives import Archive, CompressedPart
from zoo.weights.pickles import ForbiddenGlobal, Interpreter, Storage

MAGIC = 0x1950A86A20F9469CFC6C  # of the legacy format, before PyTorch 1.6
PROTOCOL = 1001


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Memory-map a file; any error while the caller reads it becomes a CheckpointError that names the file."""
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty. Download it again.")
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        yield content
    except CheckpointError:
        raise
    except CompressedPart as error:
        raise CheckpointError(
            f"{path} is compressed ({one_line(str(error))}); PyTorch checkpoints are not. Decompress it first."
        ) from error
    except ForbiddenGlobal as error:
        raise CheckpointError(
            f"{path} would run code while it is loaded ({error.name}), which weight files do not need. Nothing was "
            "run. Do not use the file. Download it from its publisher."
        ) from error
    except Exception as error:  # a damaged file can cause any error
        text = str(error).strip() or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or incomplete, or not a PyTorch checkpoint ({one_line(text, 200).rstrip('.')}). "
            "Download it again."
        ) from error


def is_archive(content: mmap.mmap) -> bool:
    """Return whether a file is a zip archive, the format of PyTorch since version 1.6."""
    return content[: len(archives.MAGIC)] == archives.MAGIC


def read_file(path: Path) -> Any:
    """Read a file of ``torch.save``, with a StoredTensor in place of each tensor.

    Raises:
        CheckpointError: the file is damaged, was not written by PyTorch, or needs more than tensors, numbers and text.
    """
    with mapped(path) as content:
        return read_archive(Archive(path, content)) if is_archive(content) else read_legacy(content)


def read_archive(archive: Archive, *, script: bool = False) -> Any:
    """Read ``data.pkl``, with a StoredTensor in place of each tensor.

    Args:
        archive: of ``torch.save`` or TorchScript.
        script: the archive is TorchScript. The checksum of each storage is then verified when it is loaded.
    """
    if "data.pkl" not in archive.parts:
        raise ValueError("it has no data.pkl")
    if "byteorder" in archive.parts and archive.read("byteorder").decode() != sys.byteorder:
        raise ValueError("it has another byte order than this machine; convert it on a machine with that byte order")
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
    """Read the format before PyTorch 1.6: five pickles, then the bytes of the storages in sequence."""
    storages: dict[Any, Storage] = {}
    interpreter = Interpreter(lambda pid: _storage(pid, storages)[1])
    if content[:1] != b"\x80":
        raise ValueError("it is not a pickle")
    magic, protocol, system = (interpreter.run(content) for _ in range(3))
    if magic != MAGIC or protocol != PROTOCOL:
        raise ValueError("it does not start like a file of PyTorch")
    if isinstance(system, dict) and system.get("little_endian", True) != (sys.byteorder == "little"):
        raise ValueError("it has another byte order than this machine; convert it on a machine with that byte order")
    value, keys = interpreter.run(content), interpreter.run(content)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise ValueError("its list of storages is wrong")
    for key in keys:
        storage = storages[key]
        (numel,) = struct.unpack("<q", content.read(8))
        start = content.tell()
        if storage.load is not None or numel != storage.numel or start + storage.nbytes > len(content):
            raise ValueError(f"storage {one_line(key)} has another size than its tensors need")
        storage.load = _loader(content, storage, start)
        content.seek(start + storage.nbytes)
    return value


def _storage(pid: Any, storages: dict[Any, Storage]) -> tuple[str, Storage]:
    """Return the key and storage of a persistent id. Tensors with the same key share one storage."""
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
    """Return a function that loads a storage: as a view of the mapped file, or as a copy if it is not aligned."""
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
