"""Read randomly damaged weight files, and measure time and memory.

``python tests/support/fuzz_files.py KIND SECONDS FIRST_SEED`` prints a line for each violation, with the seed. Pass 0
seconds to repeat a single seed. A seed gives the same file on every machine.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import pickletools
import random
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile import payloads, silent_payloads, text, zipped
from safetensors.torch import save
from torch import Tensor, nn

from zoo.errors import CheckpointError
from zoo.weights.files import check_archive, read_tensors
from zoo.weights.lightning_checkpoint import CONFIG_KEY, read_checkpoint, read_run

MEMORY = 32 << 20  # allowed memory in bytes, in addition to MULTIPLE times the size of the file
MULTIPLE = 80  # an empty dictionary needs one byte in a pickle, and 72 in memory
SECONDS = 20.0  # limit for one file, with a margin for a busy machine
NUMBERS = (0, 1, 2, 3, 7, 64, 255, 256, 65535, 2**28, 2**31 - 1, -1, -2, -(2**31))
JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    2**31,
    2**63,
    2**70,
    10**400,
    1.5,
    "",
    "F32",
    "x" * 5000,
    [],
    [[]],
    {},
    [0, 2**40],
)


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def call(name: str, *arguments: bytes) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def snippets(canary: Path) -> list[bytes]:
    """Pieces of pickles that push one value on the stack or change the last one."""
    large = [number(2**31 - 1), number(2**28), number(-1)]
    grow = [
        call(f"{name}", size)
        for size in large
        for name in (
            "torch.FloatTensor", "torch.Tensor", "torch.storage.UntypedStorage", "torch.FloatStorage",
            "builtins.bytearray", "builtins.list", "torch.Size", "torch.device", "collections.OrderedDict",
            "collections.Counter", "builtins.set",
        )
    ]  # fmt: skip
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(2**30) + b"tQ"
    tensors = [
        call("torch._utils._rebuild_tensor_v2", storage, number(0), number(2**30) + b"\x85", number(1) + b"\x85")
        for storage in (storage, b"h\x01", b"N")
    ]
    size, step = number(2**30) + b"\x85", number(1) + b"\x85"
    other = [
        call("torch._utils._rebuild_qtensor", storage, number(0), size, step, b"N", b"N"),
        call("torch._utils._rebuild_meta_tensor_no_storage", text("x"), size, b")", b"\x89"),
        call("_codecs.encode", text("A" * 1000), text("hex")),
        call("_codecs.encode", text("A" * 1000), text("latin1")),
        b"\x8b" + struct.pack("<i", 2**30),  # LONG4 without its bytes
        b"\x8a\xff" + b"\x7f" * 255,  # the largest LONG1
        b"r" + struct.pack("<I", 2**28),  # LONG_BINPUT
        b"r" + struct.pack("<I", 2**32 - 1),
        b"j" + struct.pack("<I", 2**28),  # LONG_BINGET
        b"X" + struct.pack("<I", 2**31),  # BINUNICODE without its bytes
        b"T" + struct.pack("<i", 2**31 - 1),
        b"\x96" + struct.pack("<Q", 2**33),  # BYTEARRAY8
        b"(" * 5000, b"]" * 5000, b"]\x85" * 20, b"\x85" * 5000, b"]" + b"2\x86" * 60, b"}" + b"]2\x86" * 60 + b"Ns",
        b"]q\x09h\x09a", b"}q\x09(h\x09h\x09u",
        b"0", b"2", b"b", b"R", b"\x81", b"a", b"e", b"s", b"u", b"t", b"Q", b".",
        b"}b", b"(K\x00K\x00K\x00tb", b"I" + b"9" * 6000 + b"\n", b"\x94" * 50,
    ]  # fmt: skip
    code = [content.removeprefix(b"\x80\x02").removesuffix(b".") for content in payloads(canary).values()]
    silent = [content.removeprefix(b"\x80\x02").removesuffix(b".") for content in silent_payloads().values()]
    return [*grow, *tensors, *other, *code, *silent]


class Fuzzer:
    """Creates a damaged file of one kind for each seed."""

    def __init__(self, kind: str, canary: Path) -> None:
        self.kind, self.snippets = kind, snippets(canary)
        self.suffix = {"safetensors": ".safetensors", "ckpt": ".ckpt"}.get(kind, ".pth")
        self.base = base(kind)
        changes: dict[str, list[Callable[[], bytes]]] = {
            "safetensors": [self.header],
            "legacy": [self.legacy],
        }
        self.changes = [*changes.get(kind, [self.zip_pickle, self.zip_fields, self.zip_parts]), self.bytes]

    def file(self, seed: int) -> bytes:
        self.draw = random.Random(f"{self.kind} {seed}")
        return self.draw.choice([*self.changes[:-1], *self.changes])()

    def bytes(self) -> bytes:
        data = bytearray(self.base)
        for _ in range(self.draw.randint(1, 4)):
            at = self.draw.randrange(len(data))
            action = self.draw.randrange(5)
            if action == 0:
                data[at] = self.draw.randrange(256)
            elif action == 1:
                data[at : at + 4] = struct.pack("<i", self.draw.choice(NUMBERS))
            elif action == 2:
                del data[at : at + self.draw.choice((1, 4, 100))]
            elif action == 3:
                data[at:at] = data[self.draw.randrange(len(data)) :][: self.draw.randint(1, 500)]
            else:
                del data[max(at, 1) :]
            if not data:
                return b"\x80"
        return bytes(data)

    def pickled(self, data: bytes) -> bytes:
        """Return a pickle with some opcodes or arguments changed."""
        steps = [(opcode, at) for opcode, _, at in pickletools.genops(data)]
        ends = [at for _, at in steps[1:]] + [len(data)]
        pieces = [data[at:end] for (_, at), end in zip(steps, ends, strict=True)]
        for _ in range(self.draw.randint(1, 3)):
            at = self.draw.randrange(len(pieces))
            action = self.draw.randrange(6)
            if action == 0:
                del pieces[at]
            elif action == 1:
                other = self.draw.randrange(len(pieces))
                pieces[at], pieces[other] = pieces[other], pieces[at]
            elif action == 2:
                pieces.insert(at, self.draw.choice(pieces))
            elif action == 3:
                pieces.insert(at, self.draw.choice(self.snippets))
            elif action == 4:
                numbers = [i for i, piece in enumerate(pieces) if piece[:1] in (b"K", b"M", b"J")]
                pieces[self.draw.choice(numbers or [0])] = number(self.draw.choice(NUMBERS))
            else:
                names = [i for i, piece in enumerate(pieces) if piece[:1] in (b"c", b"X")]
                pieces[self.draw.choice(names or [0])] = self.draw.choice(self.snippets)
            if not pieces:
                return b"."
        return b"".join(pieces)

    def legacy(self) -> bytes:
        stream, ends = io.BytesIO(self.base), [0]
        for _ in range(5):
            for _ in pickletools.genops(stream):
                pass
            ends.append(stream.tell())
        parts = [self.base[start:end] for start, end in itertools.pairwise(ends)]
        at = self.draw.choice((0, 1, 2, 3, 3, 3, 3, 4))
        parts[at] = self.pickled(parts[at])
        return b"".join(parts) + self.base[ends[-1] :]

    def parts(self) -> dict[str, bytes]:
        with zipfile.ZipFile(io.BytesIO(self.base)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def zip_pickle(self) -> bytes:
        return zipped({n: self.pickled(d) if n.endswith("/data.pkl") else d for n, d in self.parts().items()})

    def zip_parts(self) -> bytes:
        """Return an archive with a part that is missing, repeated, renamed, compressed or of another size."""
        parts = list(self.parts().items())
        at = self.draw.randrange(len(parts))
        name, data = parts[at]
        action = self.draw.randrange(6)
        if action == 0:
            del parts[at]
        elif action == 1:
            parts.append((name, self.draw.choice(parts)[1]))
        elif action == 2:
            parts[at] = (
                self.draw.choice(("../x", "/data.pkl", "data.pkl", name.upper(), "x" * 60000, "b/data.pkl")),
                data,
            )
        elif action == 3:
            parts[at] = (name, data + bytes(self.draw.choice((1, 4, 5000))))
        elif action == 4:
            parts[at] = (name, bytes(1 << 24))
            return zipped(parts, zipfile.ZIP_DEFLATED)
        else:
            return self.base + zipped(parts)
        return zipped(parts)

    def zip_fields(self) -> bytes:
        """Return an archive with changed fields in the local headers, the directory, or its end record."""
        data = bytearray(self.base)
        marks = {b"PK\x03\x04": range(4, 30, 2), b"PK\x01\x02": range(4, 46, 2), b"PK\x05\x06": range(4, 22, 2)}
        for _ in range(self.draw.randint(1, 2)):
            mark, fields = self.draw.choice(list(marks.items()))
            positions = [at for at in range(len(data)) if data[at : at + 4] == mark]
            if not positions:
                break
            at = self.draw.choice(positions) + self.draw.choice(fields)
            width = self.draw.choice("hi")
            value = self.draw.choice([n for n in NUMBERS if width == "i" or -(2**15) <= n < 2**15])
            data[at : at + struct.calcsize(width)] = struct.pack(f"<{width}", value)
        return bytes(data)

    def header(self) -> bytes:
        """Return a safetensors file with changed values in the header, or another length of the header."""
        (length,) = struct.unpack("<Q", self.base[:8])
        header, body = json.loads(self.base[8 : 8 + length]), self.base[8 + length :]
        for _ in range(self.draw.randint(1, 3)):
            inner, key = header, self.draw.choice(list(header) or ["w"])
            while isinstance(inner.get(key) if isinstance(inner, dict) else None, dict) and self.draw.random() < 0.8:
                inner = inner[key]
                key = self.draw.choice(list(inner) or ["w"])
            inner[key] = copy.deepcopy(self.draw.choice((*JUNK, header.get("1.weight"))))
        encoded = json.dumps(header).encode()
        if self.draw.random() < 0.1:
            encoded = b'{"a":' + b"[" * self.draw.choice((10, 100_000))
        length = self.draw.choice((len(encoded),) * 9 + (2**31, 2**60, 0, len(encoded) - 1))
        return struct.pack("<Q", length) + encoded + body


def base(kind: str) -> bytes:
    """Return a small valid file of a kind."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    module.register_buffer("transposed", torch.arange(6.0).view(2, 3).t())
    file = io.BytesIO()
    if kind == "safetensors":
        return save({key: value.contiguous() for key, value in module.state_dict().items()}, {"tempozoo": "{}"})
    if kind == "torchscript":
        torch.jit.save(torch.jit.script(module), file)
        return file.getvalue()
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    if kind == "ckpt":
        optimizer = torch.optim.Adam(module.parameters())
        module(torch.ones(2, 2, 4, 4)).sum().backward()
        optimizer.step()
        content["state_dict"] = {f"network.{key}": value for key, value in module.state_dict().items()}
        content |= {"epoch": 1, "global_step": 2, "pytorch-lightning_version": "2.6.0", "callbacks": {"a": {"b": 1}}}
        content |= {"loops": {"fit_loop": {"state_dict": {}}}, "lr_schedulers": [{"last_epoch": 1}]}
        content |= {"optimizer_states": [optimizer.state_dict()], CONFIG_KEY: {"arch": "x", "labels": ["a", "b"]}}
    torch.save(content, file, _use_new_zipfile_serialization=kind != "legacy")
    return file.getvalue()


def peak(reset: bool = False) -> int:
    """Return the peak resident memory of this process in bytes, since the start or the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10


def violation(path: Path, kind: str) -> str | None:
    """Read a file; return a description of the wrong behavior, or None."""
    for read in (read_checkpoint, read_run) if kind == "ckpt" else (read_tensors, check_archive):
        before, start = peak(reset=True), time.monotonic()
        try:
            result = read(path)
        except CheckpointError as error:
            if str(path) not in str(error) or not str(error).isprintable():
                return f"{read.__name__}: an error that does not name the file, or has several lines: {error!r}"
        except BaseException:
            return f"{read.__name__}: {traceback.format_exc()}"
        else:
            tensors = result[0] if read is read_checkpoint else result
            if read in (read_checkpoint, read_tensors) and not all(
                isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()
            ):
                return f"{read.__name__}: something other than tensors: {tensors!r}"
        grown, seconds = peak() - before, time.monotonic() - start
        if grown > MEMORY + MULTIPLE * path.stat().st_size:
            return f"{read.__name__}: {grown >> 20} MB for a file of {path.stat().st_size} bytes"
        if seconds > SECONDS:
            return f"{read.__name__}: {seconds:.0f} s"
    return None


def main(kind: str, seconds: float, first: int) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary"
        fuzzer = Fuzzer(kind, canary)
        path, end, seed = Path(folder) / f"file{fuzzer.suffix}", time.monotonic() + seconds, first
        path.write_bytes(fuzzer.base)
        problem = violation(path, kind)
        assert problem is None and (read_checkpoint(path)[0] if kind == "ckpt" else read_tensors(path)), problem
        while seed == first or time.monotonic() < end:
            path.write_bytes(fuzzer.file(seed))
            problem = violation(path, kind)
            if os.path.lexists(canary):
                problem = "reading executed code"
                canary.rmdir()
            if problem:
                print(f"VIOLATION {kind} seed {seed}: {problem}", flush=True)
            seed += 1
    print(f"{kind}: seeds {first} to {seed - 1}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
