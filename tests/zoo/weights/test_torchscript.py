"""The tensors of TorchScript archives are read, and their code is not run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.adapt import load_adapted
from zoo.errors import CheckpointError
from zoo.models import build
from zoo.weights.converters import CONVERTERS, apply_rules
from zoo.weights.files import read_tensors
from zoo.weights.torchscript import is_torchscript, read_torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")


class Part(nn.Module):
    """Half precision, a scalar buffer, and attributes that are not tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.numbers, self.table = (
            torch.jit.Attribute([1, 2], list[int]),
            torch.jit.Attribute({"a": 1.0}, dict[str, float]),
        )
        self.name, self.scale, self.device = "part", 1.5, torch.device("cpu")
        self.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Network(nn.Module):
    """Nested modules, batch norm, a transposed view and two views of one storage."""

    def __init__(self) -> None:
        super().__init__()
        base = torch.arange(12.0)
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.register_buffer("transposed", base.view(3, 4).t())
        self.register_buffer("shared", base[4:8])
        self.register_buffer("nothing", torch.zeros(0, 5))
        self.register_buffer("brain", torch.randn(5).to(torch.bfloat16))
        self.part = Part()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.again = self.layers[0]

    def forward(self, x: Tensor) -> Tensor:
        return x


def nested(tensors: dict[str, Tensor]) -> nn.Module:
    """Return a module with tensors under dotted names."""
    root = nn.Module()
    for key, value in tensors.items():
        *path, name = key.split(".")
        module = root
        for step in path:
            if not hasattr(module, step):
                module.add_module(step, nn.Module())
            module = getattr(module, step)
        module.register_buffer(name, value)
    return root


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    torch.jit.script(Network()).save(str(tmp_path / "source.pt"))
    return tmp_path / "source.pt"


def rewritten(archive: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Copy a zip file with changed content."""
    copy = archive.with_name("changed.pt")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return copy


@pytest.mark.parametrize("method", ["script", "trace"])
def test_tensors_are_those_of_the_state_dict(method: str, tmp_path: Path) -> None:
    module = Network().eval()
    path = tmp_path / "model.pt"
    (torch.jit.script(module) if method == "script" else torch.jit.trace(module, torch.ones(1))).save(str(path))
    assert is_torchscript(path)
    expected, read = module.state_dict(), read_tensors(path)
    assert set(read) == set(expected)
    for key, value in expected.items():
        assert read[key].dtype == value.dtype, key
        assert torch.equal(read[key], value), key
    assert read["part.linear.weight"].dtype == torch.float16  # the loader casts, and reports it


def test_other_files_are_not_torchscript(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "plain.pth")
    assert not is_torchscript(tmp_path / "plain.pth")
    assert torch.equal(read_tensors(tmp_path / "plain.pth")["a"], torch.ones(2))
    with zipfile.ZipFile(tmp_path / "empty.pt", "w") as empty:
        empty.writestr("empty/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="no data.pkl"):
        read_tensors(tmp_path / "empty.pt")


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_truncated_archive_is_an_error(part: float, archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: int(part * len(content))])
    with pytest.raises(CheckpointError, match=r"source\.pt"):
        read_tensors(archive)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("data/0", lambda data: data[:-4], "storage 0 has 44 bytes for 12 numbers"),
        ("data.pkl", lambda data: data[: len(data) // 2], "damaged"),
        ("data.pkl", lambda data: data.replace(b"FloatStorage", b"DrunkStorage"), r"run code.*torch.DrunkStorage"),
        ("byteorder", lambda data: b"big" if data == b"little" else b"little", "another byte order"),
    ],
)
def test_damage_is_described(name: str, change: Callable[[bytes], bytes], message: str, archive: Path) -> None:
    changed = rewritten(archive, lambda n, data: change(data) if n.endswith(f"/{name}") else data)
    with pytest.raises(CheckpointError, match=message):
        read_tensors(changed)


def test_changed_bytes_are_detected(archive: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        record = source.read("source/data/0")
    content = archive.read_bytes()
    assert content.count(record) == 1
    archive.write_bytes(content.replace(record, record[:-1] + bytes([record[-1] ^ 0xFF])))
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        read_tensors(archive)


class Shell:
    """Pickles to a call of a global."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("function", [eval, exec, getattr, torch.load])
def test_calls_of_other_functions_are_rejected(function: Any, archive: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    evil = pickle.dumps(Shell(function, f"open({str(touched)!r}, 'w').close()"), protocol=2)
    changed = rewritten(archive, lambda n, data: evil if n.endswith("/data.pkl") else data)
    with pytest.raises(CheckpointError, match="Nothing was run"):
        read_tensors(changed)
    assert not touched.exists()


def test_views_beyond_their_storage_are_rejected(archive: Path) -> None:
    old, new = b"(K\x04K\x03t", b"(K\x7fK\x03t"  # the transposed buffer's size, (4, 3) -> (127, 3)
    with zipfile.ZipFile(archive) as source:
        assert source.read("source/data.pkl").count(old) == 1
    changed = rewritten(archive, lambda n, data: data.replace(old, new) if n.endswith("/data.pkl") else data)
    with pytest.raises(CheckpointError, match="transposed is a tensor of 381 numbers in a storage of 12"):
        read_tensors(changed)


def test_module_that_contains_itself_is_an_error(archive: Path) -> None:
    # GLOBAL, EMPTY_TUPLE, NEWOBJ, memo 0, {"self": memo 0}, BUILD
    loop = b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x04\x00\x00\x00selfh\x00sb."
    changed = rewritten(archive, lambda n, data: loop if n.endswith("/data.pkl") else data)
    with pytest.raises(CheckpointError, match="contains itself"):
        read_torchscript(changed)


def test_a_half_precision_clip_archive_becomes_a_tadaformer(tmp_path: Path) -> None:
    """From file to network: the tower's tensors cast, the text tower ignored, TAda blocks and head initialized."""
    options = {"num_classes": 5, "num_frames": 4, "image_size": 32, "width": 16, "depth": 2, "heads": 2}
    model: Any = build("tadaformer_b16", **options)
    inverse = {
        "stem.weight": "conv1.weight", "pos_embed": "positional_embedding", "blocks.": "transformer.resblocks.",
        "attn.qkv.": "attn.in_proj_", "attn.proj.": "attn.out_proj.", "fc1.": "mlp.c_fc.", "fc2.": "mlp.c_proj.",
        "norm_pre.": "ln_pre.", "norm1.": "ln_1.", "norm2.": "ln_2.",
    }  # fmt: skip
    tensors = {}
    for key, value in model.state_dict().items():
        if key in model.operator_keys() or key.startswith("fc."):
            continue
        name = f"ln_post.{key[5:]}" if key.startswith("norm.") else key
        for ours, theirs in inverse.items():
            name = name.replace(ours, theirs)
        value = torch.randn_like(value[:, :, 0] if key == "stem.weight" else value)
        tensors[f"visual.{name}"] = value.half()
    extra = {"text_projection": torch.ones(2, 2), "logit_scale": torch.ones(()), "input_resolution": torch.tensor(32)}
    torch.jit.script(nested(tensors | extra)).save(str(tmp_path / "clip.pt"))

    conversion = apply_rules(CONVERTERS["clip"], read_tensors(tmp_path / "clip.pt"))
    assert not conversion.unknown
    assert set(conversion.ignored) == set(extra)
    initialized, adapted = load_adapted(
        model, conversion.tensors, options, options, where="clip.pt", operator_untrained=True
    )
    assert set(initialized) == model.operator_keys() | {"fc.weight", "fc.bias"}
    assert adapted["blocks.1.attn.qkv.weight"] == "cast from float16"
    state = model.state_dict()
    in_proj = tensors["visual.transformer.resblocks.1.attn.in_proj_weight"]
    assert torch.equal(state["blocks.1.attn.qkv.weight"], in_proj.float())
    assert torch.equal(state["stem.weight"][:, :, 1], tensors["visual.conv1.weight"].float())
