"""Pickles of PyTorch files, interpreted as data: nothing is imported or called.

With ``pickle`` and ``torch.load``, a file of a few hundred bytes can allocate gigabytes, through a memo index, a tensor
size or a call of an allowed function. This interpreter supports only the opcodes that PyTorch writes and the functions
that rebuild plain tensors. A tensor remains a description of bytes in the file until it is loaded.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.text import one_line

MAX_OPCODES = 2_000_000  # a network of 1000 tensors takes about 50,000, with an optimizer 200,000
MAX_DIMS = 64  # torch's own limit
SCALARS = (str, bytes, int, float, bool, type(None))

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
_NUMPY = [
    f"{module}.multiarray {name}" for module in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")
]
_REBUILD = (
    "sparse_tensor", "qtensor", "meta_tensor_no_storage", "nested_tensor", "wrapper_subclass", "tensor_v3",
    "device_tensor_from_numpy", "device_tensor_from_cpu_tensor",
)  # fmt: skip
# Functions and classes that are allowed, but whose values are not rebuilt: "module name", as pickletools writes it.
OPAQUE = {
    *_NUMPY,
    "numpy dtype", "numpy ndarray",
    *(f"torch._utils _rebuild_{name}" for name in _REBUILD),
    "torch.serialization _get_layout",
    "torch device", "torch Tensor", "torch.nn.parameter Parameter",
    "_codecs encode", "builtins set", "__builtin__ set", "builtins complex", "__builtin__ complex",
    *(str(value).replace(".", " ") for value in vars(torch).values() if isinstance(value, torch.dtype | torch.qscheme)),
}  # fmt: skip
# TorchScript writes typed lists and dictionaries as calls of these on plain ones.
CONTAINERS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")


class ForbiddenGlobal(ValueError):
    """A pickle refers to a function or class that is not allowed. ``name`` is its dotted name.

    ``mapped`` in torch_files.py converts it to a CheckpointError.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"it refers to {name}")
        self.name = name


@dataclass(frozen=True)
class Global:
    """A reference of the file to a function or class: ``"module name"``."""

    name: str


class Opaque:
    """Placeholder for a value that is not rebuilt, such as a NumPy number or a sparse tensor."""

    def __init__(self, description: str) -> None:
        self.description = description


class Module:
    """The attributes of a TorchScript module, without its code."""

    def __init__(self) -> None:
        self.attributes: dict[Any, Any] = {}


class Ordered(dict[Any, Any]):
    """An ``OrderedDict`` without its attributes (such as ``_metadata``)."""


class Storage:
    """Numbers of one type in a file. ``load`` reads them at the first use."""

    def __init__(self, kind: str, numel: int) -> None:
        self.kind, self.numel = kind, numel
        self.dtype = DTYPES.get(kind)
        self.load: Callable[[], Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Size in the file in bytes. The elements of an untyped storage are bytes."""
        if self.dtype is not None:
            return self.numel * self.dtype.itemsize
        return self.numel * _ITEMSIZES.get(self.kind, 1)


_ITEMSIZES = {"ComplexDoubleStorage": 16, "ComplexFloatStorage": 8, "QInt32Storage": 4}
_OTHER_STORAGES = ("QUInt8Storage", "QInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage", "UntypedStorage")
STORAGES = {*DTYPES, *_ITEMSIZES, *_OTHER_STORAGES}


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A strided view of a storage. ``rebuild_tensor`` has checked its bounds."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        """Return the tensor: a view of its storage, not necessarily contiguous."""
        assert self.storage.load is not None
        return torch.as_strided(self.storage.load(), self.size, self.stride, self.offset)


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor | Opaque:
    """Return a description of the tensor of ``torch._utils._rebuild_tensor_v2``; Opaque if it is not a plain one."""
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without a storage, size and stride")
    if not all(type(number) is int and 0 <= number < 2**62 for number in (offset, *size, *stride)):
        raise ValueError("a tensor with a size, stride or offset that is not a valid number")
    if len(size) != len(stride) or len(size) > MAX_DIMS:
        raise ValueError(f"a tensor with {len(size)} sizes and {len(stride)} strides")
    if math.prod(number for number in size if number) >= 2**62:
        raise ValueError("a tensor of too many numbers")
    numel = math.prod(size)
    if numel > storage.numel:  # an expanded view, whose copy could be much larger than the file
        return Opaque(f"a tensor of {numel} numbers in a storage of {storage.numel}")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if (numel and last >= storage.numel) or offset > storage.numel:
        raise ValueError(f"a tensor that exceeds its storage of {storage.numel} numbers")
    if storage.dtype is None:
        return Opaque(f"a tensor of a {storage.kind}")
    return StoredTensor(storage, offset, size, stride)


def _ordered(pairs: Any = ()) -> Ordered:
    ordered = Ordered()
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError("an OrderedDict of something other than pairs")
        _set(ordered, pair[0], pair[1])
    return ordered


def _set(target: Any, key: Any, value: Any) -> None:
    parts = key if type(key) is tuple and len(key) <= MAX_DIMS else (key,)
    if not all(type(part) in SCALARS for part in parts):  # hashing nested tuples can take exponential time
        raise ValueError(f"a dictionary with a {type(key).__name__} as a key")
    if not isinstance(target, dict):
        raise ValueError("an item of something other than a dictionary")
    target[key] = value


CALLS: Mapping[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor": rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": rebuild_tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils _rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "collections OrderedDict": _ordered,
    "collections Counter": lambda counts=None: {} if counts is None else counts,
    "torch Size": lambda size=(): size,
}
SUBCLASS = "torch._tensor _rebuild_from_type_v2"  # for a tensor subclass or a tensor with attributes
SCRIPT_CALLS = {f"torch.jit._pickle {name}": lambda value, *_: value for name in CONTAINERS}


class Interpreter:
    """Rebuilds the content of pickles from their opcodes.

    Args:
        load_storage: returns the Storage of a persistent id.
        script: whether TorchScript modules are allowed.
    """

    def __init__(self, load_storage: Callable[[Any], Storage], *, script: bool = False) -> None:
        self.load_storage, self.script = load_storage, script
        self.calls = {**CALLS, **SCRIPT_CALLS} if script else CALLS
        self.opcodes = 0

    def run(self, stream: Any) -> Any:
        """Return the value of one pickle.

        Args:
            stream: bytes, or a file, whose position is afterwards the first byte after the pickle.

        Raises:
            ForbiddenGlobal: it refers to a function or class that is not allowed.
            ValueError, or any error of a wrong operand: it is damaged, or was not written by PyTorch.
        """
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(stream):
            self.opcodes += 1
            if self.opcodes > MAX_OPCODES:
                raise ValueError(f"its pickle has more than {MAX_OPCODES} opcodes")
            if opcode.name in CONSTANTS:
                self.stack.append(argument)
                continue
            handler = HANDLERS.get(opcode.name)
            if handler is None:
                raise ValueError(f"its pickle uses the opcode {opcode.name}, which PyTorch does not write")
            handler(self, argument)
        return self.stack.pop()

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _mark(self) -> None:
        self.outer_stacks.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.outer_stacks.pop()
        return values

    def _tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise ValueError("its pickle pops more values than the stack has")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def _append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("an element of something other than a list")
        self.stack[-1].extend(values)

    def _set_items(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(self.stack[-1], key, value)

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _global(self, name: str) -> None:
        module, _, attribute = name.partition(" ")
        is_storage = module in ("torch", "torch.storage") and attribute in STORAGES
        is_script_module = self.script and (module == "__torch__" or module.startswith("__torch__."))
        if not (is_storage or is_script_module or name == SUBCLASS or name in self.calls or name in OPAQUE):
            raise ForbiddenGlobal(one_line(name.replace(" ", ".")))
        self.stack.append(Global(name))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError("its pickle calls something other than a function")
        name = function.name
        self.opcodes += sum(len(argument) for argument in arguments if isinstance(argument, list))  # copied lists
        if name == SUBCLASS and len(arguments) == 4 and arguments[0] != function:
            return self._call(arguments[0], arguments[2])
        if name in self.calls:
            return self.calls[name](*arguments)
        if name in OPAQUE:
            return Opaque(name.replace(" ", "."))
        if name.startswith("__torch__"):
            return Module()
        raise ValueError(f"its pickle calls {name.replace(' ', '.')}")

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(function, arguments))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Module):
            if not isinstance(state, dict):
                raise ValueError("a module's state is not a dictionary")
            target.attributes = state
        elif not isinstance(target, (Ordered, Opaque)):
            raise ValueError(f"its pickle sets the state of a {type(target).__name__}")

    def _persistent(self) -> None:
        self.stack.append(self.load_storage(self.stack.pop()))


CONSTANTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
HANDLERS: Mapping[str, Callable[[Interpreter, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "MARK": lambda machine, _: machine._mark(),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._since_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPEND": lambda machine, _: machine._append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine._set_items(machine._since_mark()),
    "BINPUT": lambda machine, index: machine._put(index),
    "LONG_BINPUT": lambda machine, index: machine._put(index),
    "BINGET": lambda machine, index: machine._push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine._push(machine.memo[index]),
    "GLOBAL": lambda machine, name: machine._global(name),
    "REDUCE": lambda machine, _: machine._reduce(),
    "NEWOBJ": lambda machine, _: machine._reduce(),
    "BUILD": lambda machine, _: machine._build(),
    "BINPERSID": lambda machine, _: machine._persistent(),
}
