"""Small files designed to take gigabytes or hours are refused, or read in little memory, within seconds."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fuzz_files import call, number
from hostile import text, torch_legacy, torch_zip, zipped
from paths import PYTHONPATH
from torch import nn

from zoo.errors import CheckpointError
from zoo.weights.files import load_pickle, read_tensors
from zoo.weights.lightning_checkpoint import read_checkpoint
from zoo.weights.pickles import StoredTensor
from zoo.weights.torchscript import read_torchscript

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
TENSOR = call("torch._utils._rebuild_tensor_v2", STORAGE, b"K\x00", b"K\x04\x85", b"K\x01\x85", b"\x89", b"N")
LARGE_STORAGE = STORAGE.replace(b"K\x04tQ", number(2**30) + b"tQ")
SIZE, STEP = number(2**29) + b"\x85", b"K\x01\x85"


def nested(levels: int, pair: bytes = b"\x86") -> bytes:
    """Nest tuples that contain the previous one twice: 2**levels values in little memory."""
    return b")" + b"".join(b"q%ch%c%b" % (n, n, pair) for n in range(levels))


def entry(value: bytes) -> bytes:
    """Pickle a dictionary with one value."""
    return b"\x80\x02}" + text("w") + value + b"s."


PICKLES: dict[str, bytes] = {
    "memo index": entry(b"N") .replace(b"}", b"}r" + struct.pack("<I", 2**28)),
    "state of a tensor": entry(TENSOR + b"(" + STORAGE + b"K\x00" + SIZE + STEP + b"tb"),
    "larger than its storage": entry(call("torch._utils._rebuild_tensor", STORAGE, b"K\x00", SIZE, STEP)),
    "expanded and cast": entry(
        call("torch._utils._rebuild_device_tensor_from_cpu_tensor", TENSOR, b"ctorch\nfloat64\n", text("cpu"), b"\x89")
    ),
    "quantized": entry(call("torch._utils._rebuild_qtensor", STORAGE, b"K\x00", SIZE, STEP, b")", b"\x89", b"N")),
    "uninitialized tensor": entry(call("torch.FloatTensor", number(2**29))),
    "untyped storage": entry(call("torch.storage.UntypedStorage", number(2**30))),
    "declared storage": entry(TENSOR.replace(STORAGE, LARGE_STORAGE)),
    "hexadecimal of hexadecimal": b"\x80\x02"
    + b"c_codecs\nencode\n" * 30 + call("_codecs.encode", text("A" * 100), text("latin1"))
    + (text("hex") + b"\x86R") * 30 + b".",
    "copies": b"\x80\x02]q\x00(" + b"N" * 20_000 + b"e](" + (b"ccollections\nOrderedDict\nh\x00\x85R") * 500 + b"e.",
    "nested key": b"\x80\x02}" + nested(100) + b"Ns.",
    "nested value": entry(nested(100)),
    "list in itself": entry(b"]q\x01h\x01a"),
    "deep": entry(b"(" * 30_000 + b"t" * 30_000),
    "deep lists": entry(b"]" * 30_000 + b"a" * 29_999),
    "bytes": entry(b"\x96" + struct.pack("<Q", 2**33)),
    "integer": entry(b"I" + b"9" * 100_000 + b"\n"),
    "long name": b"\x80\x02}" + text("w" * 1_000_000) + b"Ns.",
}  # fmt: skip


def script(attributes: bytes) -> bytes:
    """Return a TorchScript archive whose root module has these attributes."""
    content = b"\x80\x02c__torch__\nM\n)\x81" + attributes + b"b."
    return zipped({"a/data.pkl": content, "a/constants.pkl": b"", "a/data/0": bytes(16), "a/byteorder": b"little"})


def module_graph(levels: int) -> bytes:
    """Return attributes with modules that each contain the previous one twice, without tensors."""
    module = b"c__torch__\nM\n)\x81"
    graph = text("m0") + module + b"q\x00"
    for level in range(levels):
        below = b"h" + bytes([level])
        graph += text(f"m{level + 1}") + module + b"}(" + text("a") + below + text("b") + below + b"ub"
        graph += b"q" + bytes([level + 1])
    return b"}(" + graph + b"u"


def many_names() -> bytes:
    """Return an archive with 10,000 names of one transposed tensor of 256 KB."""
    root = nn.Module()
    root.register_buffer("w", torch.zeros(256, 256).t())
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(root), file)
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    storage = STORAGE.replace(b"K\x04tQ", number(65536) + b"tQ")
    tensor = call(
        "torch._utils._rebuild_tensor_v2", storage, b"K\x00", b"M\x00\x01M\x00\x01\x86", b"K\x01M\x00\x01\x86"
    )
    names = b"".join(text(f"w{n}") + b"h\x00" for n in range(10_000))
    content = b"\x80\x02" + tensor + b"q\x00c__torch__\nM\n)\x81}(" + names + b"ub."
    (name,) = (name for name in parts if name.endswith("/data.pkl"))
    return zipped(parts | {name: content})


SCRIPTS: dict[str, Callable[[], bytes]] = {
    "memo index": lambda: script(b"r" + struct.pack("<I", 2**28) + b"}"),
    "state of a tensor": lambda: script(b"}" + text("w") + TENSOR + b"(" + STORAGE + b"K\x00" + SIZE + STEP + b"tbs"),
    "module graph": lambda: script(module_graph(60)),
    "many names": many_names,
    "compressed code": lambda: zipped(
        {"a/data.pkl": b"N.", "a/constants.pkl": b"", "a/code/x.py": bytes(1 << 29)}, zipfile.ZIP_DEFLATED
    ),
}


def files(folder: Path) -> list[Path]:
    contents = {f"{name} script.pt": content() for name, content in SCRIPTS.items()}
    for name, content in PICKLES.items():
        contents[f"{name}.pth"] = torch_zip(content, **{"archive/data/0": bytes(16)})
        contents[f"{name} legacy.pth"] = torch_legacy(content)
        checkpoint = b"\x80\x02}(" + text("state_dict") + b"}" + text("tempozoo_config") + content[2:-1] + b"u."
        contents[f"{name}.ckpt"] = torch_zip(checkpoint, **{"archive/data/0": bytes(16)})
    for name, data in contents.items():
        assert len(data) < 3_000_000, name
        (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


@linux
def test_small_files_take_little_memory_and_time(tmp_path: Path) -> None:
    paths = files(tmp_path)
    code = f"""
import sys, resource, warnings
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (24 << 30, -1))
sys.path[:0] = {PYTHONPATH!r}.split(":")
warnings.simplefilter("ignore")
from fuzz_files import base, violation
warm = Path({str(tmp_path)!r}, "warm.pth")
warm.write_bytes(base("zip"))
violation(warm, "zip")
for path in sys.argv[1:]:
    print(Path(path).name, violation(Path(path), "ckpt" if path.endswith(".ckpt") else "zip"), sep="|", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, timeout=300)
    lines = [line.split("|", 1) for line in done.stdout.splitlines()]
    assert [name for name, _ in lines] == [path.name for path in paths], done.stderr[-2000:]
    assert not [line for line in lines if line[1] != "None"]


@pytest.mark.parametrize("kind", sorted(set(PICKLES) - {"nested value", "list in itself", "deep", "deep lists"}))
def test_expanding_pickles_are_rejected_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    for content in (torch_zip(PICKLES[kind], **{"archive/data/0": bytes(16)}), torch_legacy(PICKLES[kind])):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"file\.pth"):
            read_tensors(path)


def test_tensor_states_are_rejected_in_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(SCRIPTS["state of a tensor"]())
    with pytest.raises(CheckpointError, match="sets the state of a StoredTensor"):
        read_torchscript(path)
    path.write_bytes(SCRIPTS["module graph"]())
    with pytest.raises(CheckpointError, match="more than 100000 tensors and modules"):
        read_torchscript(path)


def test_names_of_one_tensor_share_its_memory(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(many_names())
    tensors = read_torchscript(path)
    assert len(tensors) == 10_000
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 1
    assert tensors["w7"].shape == (256, 256)


def test_unused_tensors_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file.ckpt"
    content = {"state_dict": {"network.w": torch.arange(3.0)}, "tempozoo_config": {"arch": "x"}}
    torch.save(content | {"optimizer_states": [{"state": {0: {"m": torch.ones(4)}}}]}, path)
    tensors, _ = read_checkpoint(path)
    assert torch.equal(tensors["w"], torch.arange(3.0))
    assert isinstance(load_pickle(path)["optimizer_states"][0]["state"][0]["m"], StoredTensor)


@pytest.mark.parametrize("legacy", [False, True])
def test_views_and_types_are_read_exactly(legacy: bool, tmp_path: Path) -> None:
    base = torch.arange(24)
    tensors = {
        "transposed": base.view(4, 6).t(), "window": base[3:9], "steps": base[::5], "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3), "bool": torch.tensor([True, False, True]), "half": torch.randn(7).half(),
        "bfloat": torch.randn(5).bfloat16(), "bytes": torch.arange(3, dtype=torch.uint8),
        "parameter": nn.Parameter(torch.randn(2, 3)), "long": torch.arange(5), "double": torch.randn(3).double(),
    }  # fmt: skip
    tensors["parameter"].tag = "an attribute"  # type: ignore[attr-defined]
    torch.save(tensors, tmp_path / "file.pth", _use_new_zipfile_serialization=not legacy)
    read = read_tensors(tmp_path / "file.pth")
    assert list(read) == list(tensors)
    for key, value in tensors.items():
        assert read[key].dtype == value.dtype, key
        assert torch.equal(read[key], value), key


def test_ambiguous_archives_are_rejected(tmp_path: Path) -> None:
    good = torch_zip(pickle.dumps({}, 2))
    path = tmp_path / "file.pth"
    for content in (
        good + good,
        zipped({"a/data.pkl": b"N.", "b/data.pkl": b"N."}),
        zipped({"a/data.pkl": b"N.", "a/DATA.PKL": b"N."}),
        zipped({"a/data.pkl": b"N.", "a": b""}),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"file\.pth is damaged or incomplete"):
            read_tensors(path)
