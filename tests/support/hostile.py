"""Files that try to run code, or to take all memory, when they are read: contents by name."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

EXTENSION = 119  # under which a test registers os.mkdir with copyreg
LARGE = 1 << 27  # bytes that a bomb unpacks to


def text(value: str) -> bytes:
    """BINUNICODE, which every protocol has."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def payloads(canary: Path) -> dict[str, bytes]:
    """Pickles that make the folder ``canary`` when ``pickle`` loads them, by the opcodes that do it."""
    mkdir, path, quoted = b"cposix\nmkdir\n", text(str(canary)), repr(str(canary)).encode()
    call = mkdir + path + b"\x85R"
    partial = b"cfunctools\npartial\ncbuiltins\nprint\n\x85\x81"
    inner = b"c_codecs\nencode\n" + text((b"\x80\x02" + call + b".").decode("latin1")) + text("latin1") + b"\x86R"
    return {
        "reduce": b"\x80\x02" + call + b".",
        "stack global": b"\x80\x04" + text("posix") + text("mkdir") + b"\x93" + path + b"\x85R.",
        "build": b"\x80\x02" + partial + b"(" + mkdir + path + b"\x85}}tb)R.",
        "inst": b"(S" + quoted + b"\niposix\nmkdir\n.",
        "obj": b"(" + mkdir + b"S" + quoted + b"\no.",
        "newobj ex": b"\x80\x04cbuiltins\nlist\ncbuiltins\nmap\n" + mkdir + b"]" + path + b"a\x86}\x92\x85R.",
        "extension": b"\x80\x02\x82" + bytes([EXTENSION]) + path + b"\x85R.",
        "eval": b"\x80\x02cbuiltins\neval\n" + text(f"__import__('os').mkdir({str(canary)!r})") + b"\x85R.",
        "pickle in a pickle": b"\x80\x02c_pickle\nloads\n" + inner + b"\x85R.",
        "beside a tensor": b"\x80\x02}(" + text("a") + b"K\x01" + text("b") + call + b"u.",
    }


def silent_payloads() -> dict[str, bytes]:
    """Pickles that ask for what a weight file has no need for, without calling it."""
    return {
        "global": b"\x80\x02cposix\nsystem\n.",
        "persistent id": b"\x80\x02" + text("storage") + b"Q.",
        "persistent module": b"\x80\x02" + text("module") + b"cposix\nsystem\n" + text("x") + b"\x87Q.",
        "named persistent id": b"Pstorage\n.",
        "class of ours": b"\x80\x02czoo.adapt\nLoadReport\n)\x81.",
    }


def zipped(parts: Mapping[str, bytes] | list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive; a list may name a part twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in parts.items() if isinstance(parts, Mapping) else parts:
            archive.writestr(name, content)
    return file.getvalue()


def torch_zip(content: bytes, **more: bytes) -> bytes:
    """PyTorch's file format around a pickle."""
    return zipped({"archive/data.pkl": content, "archive/byteorder": b"little", "archive/version": b"3\n"} | more)


def torch_legacy(content: bytes) -> bytes:
    """PyTorch's format before 1.6: five pickles in a row, of which the fourth is the content."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, facts)]
    return b"".join(head) + content + pickle.dumps([], 2)


def torch_tar(content: bytes) -> bytes:
    """PyTorch's first format."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, part in (("storages", pickle.dumps(0, 2)), ("tensors", pickle.dumps(0, 2)), ("pickle", content)):
            info = tarfile.TarInfo(name)
            info.size = len(part)
            archive.addfile(info, io.BytesIO(part))
    return file.getvalue()


def containers(content: bytes) -> dict[str, bytes]:
    """A pickle in each format that PyTorch, NumPy or a person may have put it."""
    good = pickle.dumps({}, 2)
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    npy = array.getvalue() + content
    with_code = {"a/constants.pkl": pickle.dumps((), 2), "a/code/__torch__.py": b"import os"}
    return {
        "plain": content,
        "zip": torch_zip(content),
        "legacy": torch_legacy(content),
        "tar": torch_tar(content),
        "torchscript": zipped({"a/data.pkl": content, **with_code}),
        "torchscript constants": zipped({"a/data.pkl": good, **with_code, "a/constants.pkl": content}),
        "zip in a zip": zipped({"model.pth": torch_zip(content)}),
        "zip as a storage": zipped({"a/data.pkl": content, "a/data/0": torch_zip(content), "a/version": b"3\n"}),
        "two data.pkl": zipped({"a/data.pkl": good, "b/data.pkl": content, "a/version": b"3\n"}),
        "data.pkl twice": zipped([("a/data.pkl", good), ("a/data.pkl", content), ("a/version", b"3\n")]),
        "data.pkl twice, turned": zipped([("a/data.pkl", content), ("a/data.pkl", good), ("a/version", b"3\n")]),
        "absolute names": zipped({"/a/data.pkl": content, "/a/version": b"3\n", "/a/byteorder": b"little"}),
        "names above": zipped({"../a/data.pkl": content, "../a/version": b"3\n", "../../escaped": content}),
        "no folder": zipped({"data.pkl": content, "version": b"3\n"}),
        "behind a pickle": good + torch_zip(content),
        "gzip": gzip.compress(content),
        "npy": npy,
        "npz": zipped({"w.npy": npy}),
    }


class Writer(nn.Module):
    """TorchScript whose ``__setstate__`` makes a file as soon as ``torch.jit.load`` reads it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.weight = nn.Parameter(torch.zeros(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return (self.path, self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.path, self.training = state[0], state[2]
        self.weight = torch.from_file(self.path, True, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x


def torchscript_with_code(canary: Path) -> bytes:
    """An archive of ``Writer``."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Writer(str(canary))), file)
    return file.getvalue()


def safetensors_of(header: Any, body: bytes = bytes(16), length: int | None = None) -> bytes:
    """A safetensors file with any header, and any length of it."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + body


def bad_safetensors() -> dict[str, bytes]:
    """Headers that lie."""

    def tensor(start: int, stop: int, shape: int, dtype: str = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": [shape], "data_offsets": [start, stop]}

    one = json.dumps(tensor(0, 16, 4))
    return {
        "header of 2**60 bytes": safetensors_of({"w": tensor(0, 16, 4)}, length=1 << 60),
        "header longer than the file": safetensors_of({"w": tensor(0, 16, 4)}, length=1 << 20),
        "overlapping": safetensors_of({"v": tensor(0, 16, 4), "w": tensor(8, 16, 2)}),
        "hole": safetensors_of({"v": tensor(0, 4, 1), "w": tensor(8, 16, 2)}),
        "beyond the end": safetensors_of({"w": tensor(0, 1 << 50, 1 << 48)}),
        "more numbers than bytes": safetensors_of({"w": tensor(0, 16, 1 << 40)}),
        "turned offsets": safetensors_of({"w": tensor(16, 0, 4)}),
        "negative offsets": safetensors_of({"w": tensor(-16, 0, 4)}),
        "sizes that overflow": safetensors_of({"w": tensor(0, 0, 1) | {"shape": [1 << 32, 1 << 32]}}),
        "unknown type": safetensors_of({"w": tensor(0, 16, 4, "PY")}),
        "a key twice": safetensors_of(f'{{"w": {one}, "w": {one}}}'.encode()),
        "nested": safetensors_of(b'{"a":' + b"[" * 100_000),
        "metadata of numbers": safetensors_of({"__metadata__": {"tempozoo": 1}, "w": tensor(0, 16, 4)}),
        "a pickle behind it": safetensors_of({"w": tensor(0, 16, 4)}, bytes(16) + b"\x80\x02cposix\nsystem\n."),
    }


def bombs() -> dict[str, bytes]:
    """Small files that become large."""
    content = b"\x80\x02}X" + struct.pack("<I", LARGE) + bytes(LARGE) + b"K\x01s."
    plain = {"a/data.pkl": content, "a/version": b"3\n", "a/byteorder": b"little"}
    array = b"\x80\x02}" + text("w") + b"cbuiltins\nbytearray\nJ" + struct.pack("<i", LARGE) + b"\x85Rs."
    storage = pickle.dumps({"w": 1}, 2)
    return {
        "compressed pickle": zipped(plain, zipfile.ZIP_DEFLATED),
        "compressed torchscript": zipped(plain | {"a/constants.pkl": b""}, zipfile.ZIP_DEFLATED),
        "compressed storage": zipped(
            {"a/data.pkl": storage, "a/data/0": bytes(LARGE), "a/version": b"3\n"}, zipfile.ZIP_DEFLATED
        ),
        "bytearray": torch_zip(array),
        "header of 2**60 bytes": bad_safetensors()["header of 2**60 bytes"],
    }


def object_array() -> bytes:
    """A NumPy array of objects whose addresses come from the file: looking at one of them is the end."""
    address = b"c_codecs\nencode\n" + text("A" * 8) + text("latin1") + b"\x86R"
    array = b"cnumpy\nndarray\n(K\x01\x85cnumpy\ndtype\n" + text("O") + b"\x85R" + address + b"tR"
    return torch_zip(b"\x80\x02}" + text("w") + b"cbuiltins\nset\n" + array + b"\x85Rs.")
