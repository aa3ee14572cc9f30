"""Pickles of PyTorch files, interpreted as data: nothing is imported, and nothing in the file is called.

``pickle`` and ``torch.load`` leave memory and time to the file: an index of the memo, a size of a tensor or a call of a
listed function can take gigabytes from a few hundred bytes. This interpreter knows the opcodes that PyTorch writes and
the functions that rebuild plain tensors. Tensors stay descriptions of bytes in the file until they are loaded.
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
# Calls and classes that may occur in a file and whose values nobody needs: "module name", as pickletools writes it.
OPAQUE = {
    *_NUMPY,
    "numpy dtype", "numpy ndarray",
    *(f"torch._utils _rebuild_{name}" for name in _REBUILD),
    "torch.serialization _get_layout",
    "torch device", "torch Tensor", "torch.nn.parameter Parameter",
    "_codecs encode", "builtins set", "__builtin__ set", "builtins complex", "__builtin__ complex",
    *(str(value).replace(".", " ") for value in vars(torch).values() if isinstance(value, torch.dtype | torch.qscheme)),
}  # fmt: skip
# TorchScript's typed lists and dictionaries, as calls on plain ones.
CONTAINERS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")


class ForbiddenError(ValueError):
    """A pickle refers to a function or class that a weight file does not need. ``name`` is its dotted name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it refers to {name}")
        self.name = name


@dataclass(frozen=True)
class Global:
    """A function or class that the file refers to: ``"module name"``."""

    name: str


class Opaque:
    """Stands for a value that is not rebuilt, such as a NumPy number or a sparse tensor. ``what`` describes it."""

    def __init__(self, what: str) -> None:
        self.what = what


class Module:
    """A TorchScript module: its attributes, without its code."""

    def __init__(self) -> None:
        self.attributes: dict[Any, Any] = {}


class Ordered(dict[Any, Any]):
    """An ``OrderedDict``, whose attributes (such as ``_metadata``) are dropped."""


class Storage:
    """Numbers of one type in a file. ``load`` reads them, the first time that a tensor needs them."""

    def __init__(self, kind: str, numel: int) -> None:
        self.kind, self.numel = kind, numel
        self.dtype = DTYPES.get(kind)
        self.load: Callable[[], Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Size in the file; the numbers of an untyped storage are bytes."""
        if self.dtype is not None:
            return self.numel * self.dtype.itemsize
        return self.numel * _ITEMSIZES.get(self.kind, 1)


_ITEMSIZES = {"ComplexDoubleStorage": 16, "ComplexFloatStorage": 8, "QInt32Storage": 4}
_OTHER_STORAGES = ("QUInt8Storage", "QInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage", "UntypedStorage")
STORAGES = {*DTYPES, *_ITEMSIZES, *_OTHER_STORAGES}


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A strided view of a storage, within its bounds."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        """The tensor: a view of its storage, not necessarily contiguous."""
        assert self.storage.load is not None
        return torch.as_strided(self.storage.load(), self.size, self.stride, self.offset)


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor | Opaque:
    """What ``torch._utils._rebuild_tensor_v2`` would return; Opaque unless it is a plain tensor of the network."""
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without a storage, size and stride")
    if not all(type(number) is int and 0 <= number < 2**62 for number in (offset, *size, *stride)):
        raise ValueError("a tensor with a size, stride or offset that is not a valid number")
    if len(size) != len(stride) or len(size) > MAX_DIMS:
        raise ValueError(f"a tensor with {len(size)} sizes and {len(stride)} strides")
    if math.prod(number for number in size if number) >= 2**62:
        raise ValueError("a tensor of too many numbers")
    numel = math.prod(size)
    if numel > storage.numel:  # copies of it would take more memory than the file has bytes
        return Opaque(f"a tensor of {numel} numbers in a storage of {storage.numel}")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if (numel and last >= storage.numel) or offset > storage.numel:
        raise ValueError(f"a tensor that leaves its storage of {storage.numel} numbers")
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
    flat = key if type(key) is tuple and len(key) <= MAX_DIMS else (key,)
    if not all(type(part) in SCALARS for part in flat):  # hashing nested tuples may take forever
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
SUBCLASS = "torch._tensor _rebuild_from_type_v2"  # of a tensor with attributes of its own
SCRIPT_CALLS = {f"torch.jit._pickle {name}": lambda value, *_: value for name in CONTAINERS}


class Interpreter:
    """Rebuilds the content of pickles from their opcodes.

    Args:
        load_storage: turns a persistent id into a Storage.
        script: whether TorchScript's modules may occur.
    """

    def __init__(self, load_storage: Callable[[Any], Storage], *, script: bool = False) -> None:
        self.load_storage, self.script = load_storage, script
        self.calls = {**CALLS, **SCRIPT_CALLS} if script else CALLS
        self.opcodes = 0

    def run(self, stream: Any) -> Any:
        """The content of one pickle: bytes, or a file, which is left right behind it.

        Raises:
            ForbiddenError: it refers to what a weight file does not need.
            ValueError (or what a wrong operand raises): it is damaged, or not written by PyTorch.
        """
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
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
        self.marked.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marked.pop()
        return values

    def _tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise ValueError("its pickle takes more values than it has")
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
        module, _, last = name.partition(" ")
        storage = module in ("torch", "torch.storage") and last in STORAGES
        own = self.script and (module == "__torch__" or module.startswith("__torch__."))
        if not (storage or own or name == SUBCLASS or name in self.calls or name in OPAQUE):
            raise ForbiddenError(one_line(name.replace(" ", ".")))
        self.stack.append(Global(name))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError("its pickle calls something other than a function")
        name = function.name
        self.opcodes += sum(len(argument) for argument in arguments if isinstance(argument, list))  # which is copied
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
            raise ValueError(f"its pickle gives a state to a {type(target).__name__}")

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
