"""The tensors of a TorchScript archive, read without its code: CLIP's authors publish such files.

``torch.load`` refuses them with ``weights_only`` and ``torch.jit.load`` runs what is inside. The archive is a zip whose
``data.pkl`` describes a tree of modules, with the bytes of every tensor in a record beside it. Here the tree is rebuilt
from plain attribute holders, by an unpickler that knows tensors and nothing else.
"""

from __future__ import annotations

import io
import itertools
import math
import pickle
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from zoo.errors import CheckpointError

# Storages name their type by a class of torch, which is looked up here and never imported.
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# TorchScript's typed lists and dictionaries, as calls on plain ones.
CONTAINERS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
MOST = 100_000  # tensors of a network: modules that hold one another twice over would have names without end
MODULES = "__torch__"  # where the classes that an archive brings along live


def is_torchscript(path: Path) -> bool:
    """Whether a file is a whole TorchScript archive: PyTorch's other zip files have no ``constants.pkl``."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, OSError):
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Tensors of a TorchScript archive by attribute path, such as ``visual.conv1.weight``, on the CPU.

    Parameters, buffers and other tensor attributes of its modules, in their own data type, contiguous; numbers, text
    and lists are left out. A tensor that several modules share comes under each of its names.

    Raises:
        CheckpointError: damaged, or in need of anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            roots = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(roots) != 1:
                raise CheckpointError(f"{path} is not a TorchScript archive: it has no data.pkl.")
            if archive.getinfo(roots[0]).compress_type:
                raise CheckpointError(f"{path} is compressed, as PyTorch writes no file; unpack it first.")
            reader = _Reader(archive, roots[0].removesuffix("data.pkl"), path)
            tensors = dict(itertools.islice(_tensors(reader.load(), "", ()), MOST + 1))
            if len(tensors) > MOST:
                raise ValueError(f"it names more than {MOST} tensors")
            return tensors
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, zlib.error, KeyError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged or incomplete ({error}); fetch it again.") from error
    except (TypeError, ValueError, AttributeError, IndexError, NotImplementedError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a TorchScript archive of tensors ({error}); fetch it again.") from error


def _tensors(module: Any, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    if id(module) in above:
        raise ValueError(f"{prefix.rstrip('.')} contains itself")
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value.contiguous()
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.", (*above, id(module)))


class _Module:
    """A module of the archive: its attributes, without its code."""

    attributes: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise ValueError("a module's state is not a dictionary")
        self.attributes = state


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str, path: Path) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self.archive, self.root, self.path = archive, root, path
        self.storages: dict[str, Tensor] = {}
        order = f"{root}byteorder"
        if order in archive.namelist() and archive.read(order).decode() != sys.byteorder:
            raise CheckpointError(f"{path} was written on a machine of another byte order; convert it there.")

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a global: everything that is not listed is refused."""
        if module == MODULES or module.startswith(f"{MODULES}."):
            return type("Module", (_Module,), {})  # a class of its own, so that nothing outside can be altered
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _tensor(*arguments)
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return lambda *pairs: OrderedDict(*pairs)
        if module == "torch.jit._pickle" and name in CONTAINERS:
            return lambda value, *_: value
        if (module, name) == ("torch", "device"):
            return lambda *_: None
        raise CheckpointError(
            f"{self.path} asks for {module}.{name}, which is not needed for weights: it was not read. "
            "Fetch the file from its publisher, or convert it to safetensors where you trust it."
        )

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage of a tensor, from its record; tensors that share a storage get the same one."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError(f"{kind!r} is not a storage")
        if key not in self.storages:
            record = self.archive.getinfo(f"{self.root}data/{key}")
            # before it is read: a few bytes may unpack to very many
            if record.compress_type or record.file_size != count * dtype.itemsize:
                raise ValueError(f"storage {key} has {record.file_size} bytes for {count} numbers")
            data = bytearray(self.archive.read(record))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        if self.storages[key].dtype != dtype:
            raise ValueError(f"storage {key} has two data types")
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A view of a storage; torch refuses one that leaves it, and this one that repeats it."""
    if math.prod(size) > storage.numel():
        raise ValueError(f"a tensor of {math.prod(size)} numbers is made of {storage.numel()}")
    return torch.as_strided(storage, size, stride, offset)
