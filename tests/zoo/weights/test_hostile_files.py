"""Files that would run code or exhaust memory are refused by name in every call that reads a file."""

from __future__ import annotations

import copyreg
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import (
    EXTENSION,
    LARGE,
    bad_safetensors,
    bombs,
    containers,
    object_array,
    payloads,
    silent_payloads,
    torchscript_with_code,
)
from small_models import FOUR, small

import cli
import zoo
from zoo.errors import CheckpointError, ZooError
from zoo.weights.files import read_tensors

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of deprecated formats
    pytest.mark.skipif(os.name != "posix", reason="the pickles call posix.mkdir"),
]
NAME = "tanet_r50.k400_8f"
PAYLOADS, SILENT = list(payloads(Path("x"))), list(silent_payloads())


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    copyreg.add_extension("posix", "mkdir", EXTENSION)
    yield
    copyreg.remove_extension("posix", "mkdir", EXTENSION)
    copyreg.clear_extension_cache()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Save a network and return its folder."""
    return zoo.save(small("tanet_r18", labels=list(FOUR)), tmp_path / "saved")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


class Readers:
    """Every call that reads a user's file, and a check that it writes nothing."""

    def __init__(self, root: Path, saved: Path) -> None:
        self.root, self.saved = root, saved
        self.calls: dict[str, Callable[[bytes], Any]] = {
            "weights=": lambda content: zoo.load(NAME, weights=self.written("a.pth", content)),
            "weights= safetensors": lambda content: zoo.load(NAME, weights=self.written("a.safetensors", content)),
            "file": lambda content: zoo.load(self.written("a.pth", content)),
            "safetensors": lambda content: zoo.load(self.written("a.safetensors", content)),
            "checkpoint": lambda content: zoo.load(self.written("a.ckpt", content)),
            "folder": lambda content: zoo.load(self.folder("model.safetensors", content)),
            "config": lambda content: zoo.load(self.folder("config.json", content)),
            "convert": lambda content: zoo.convert(self.written("a.pth", content), NAME, saved),
            "convert safetensors": lambda content: zoo.convert(self.written("a.safetensors", content), NAME, saved),
        }

    def written(self, name: str, content: bytes) -> Path:
        path = self.root / "hostile" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def folder(self, name: str, content: bytes) -> Path:
        """Copy the saved folder with one file replaced, and without the digest that would reveal it."""
        folder = self.root / "hostile" / "folder"
        shutil.copytree(self.saved, folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text())
        config.pop("sha256", None)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / name).write_bytes(content)
        return folder

    def state(self) -> dict[str, bytes]:
        """Return the content of all files except the hostile ones."""
        files = [p for p in self.root.rglob("*") if "hostile" not in p.parts[len(self.root.parts) :]]
        return {str(p): p.read_bytes() if p.is_file() else b"" for p in files}

    def all_refuse(self, label: str, content: bytes) -> None:
        """Assert that each call raises a ZooError that names the file, and writes nothing."""
        before = self.state()
        for name, call in self.calls.items():
            outcome: Exception | None = None
            try:
                call(content)
            except Exception as error:
                outcome = error
            assert isinstance(outcome, ZooError), (label, name, repr(outcome))
            assert "hostile/a." in str(outcome) or "hostile/folder" in str(outcome), (label, name, outcome)
            assert self.state() == before, (label, name)


@pytest.fixture
def readers(tmp_path: Path, saved: Path) -> Readers:
    return Readers(tmp_path, saved)


@pytest.mark.parametrize("kind", PAYLOADS)
def test_payloads_create_the_canary_when_unpickled(kind: str, canary: Path) -> None:
    pickle.loads(payloads(canary)[kind])
    assert canary.is_dir()


@pytest.mark.parametrize("kind", [*PAYLOADS, *SILENT])
def test_pickles_are_rejected_in_every_container(kind: str, readers: Readers, canary: Path) -> None:
    content = (payloads(canary) | silent_payloads())[kind]
    for container, data in containers(content).items():
        readers.all_refuse(f"{kind} in {container}", data)
    assert not canary.exists()


def test_scripts_are_not_run(readers: Readers, canary: Path) -> None:
    content = torchscript_with_code(canary)
    readers.all_refuse("torchscript", content)
    assert not canary.exists()
    torch.jit.load(readers.written("a.pt", content))
    assert canary.is_file()  # the payload works when it is executed


@pytest.mark.parametrize("kind", list(bad_safetensors()))
def test_invalid_safetensors_headers_are_rejected(kind: str, readers: Readers) -> None:
    readers.all_refuse(kind, bad_safetensors()[kind])


MEASURE = """
import sys
from pathlib import Path
from zoo.errors import CheckpointError
from zoo.weights.lightning_checkpoint import read_checkpoint
from zoo.weights.files import read_tensors
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
for name in sys.argv[1:]:
    for read in (read_tensors, read_checkpoint):
        before = peak()
        try:
            read(Path(name))
            outcome = "read"
        except CheckpointError as error:
            outcome = "refused" if name in str(error) else str(error)
        print(Path(name).stem, read.__name__, outcome, (peak() - before) // 1024, sep="|", flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_small_files_take_little_memory(tmp_path: Path) -> None:
    """Runs in another process, because a failure would end it."""
    files = []
    for name, content in (bombs() | {"object array": object_array()}).items():
        assert len(content) < LARGE / 500
        files.append(tmp_path / f"{name}.pth")
        files[-1].write_bytes(content)
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, files)], capture_output=True, text=True)
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert len(lines) == 2 * len(files), (done.returncode, lines, done.stderr[-500:])
    assert not [line for line in lines if line[2] != "refused" or int(line[3]) > LARGE / 4e6]


# values that are not weights -----------------------------------------------------------------------------------------


ODD: dict[str, Callable[[], Any]] = {
    "meta": lambda: torch.empty(4, 64, device="meta"),
    "sparse": lambda: torch.eye(4, 64).to_sparse(),
    "sparse rows": lambda: torch.eye(4, 64).to_sparse_csr(),
    "complex": lambda: torch.zeros(4, 64, dtype=torch.complex64),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(4, 64), 0.1, 0, torch.quint8),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)]),
    "repeated": lambda: torch.zeros(1).expand(1 << 20, 1 << 20),
    "number": lambda: 3,
    "list": lambda: [1.0],
    "nothing": lambda: None,
    "text": lambda: "x",
}


@pytest.mark.parametrize("kind", list(ODD))
def test_values_other_than_plain_tensors_are_rejected(kind: str, tmp_path: Path) -> None:
    network, value = small("tanet_r18", labels=list(FOUR)), ODD[kind]()
    tensors = network.state_dict() | {"fc.weight": value}
    path = tmp_path / "odd.ckpt"
    state = {f"network.{key}": value for key, value in tensors.items()}
    content = {"state_dict": state, "tempozoo_config": network.spec.to_config()}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"odd\.ckpt.*fc\.weight"):
        zoo.load(path)
    path = tmp_path / "odd.pth"
    torch.save({"state_dict": {"fc.weight": value}}, path)
    with pytest.raises(CheckpointError, match=r"odd\.pth"):
        zoo.load(NAME, weights=path)


def test_numpy_values_are_ignored(tmp_path: Path) -> None:
    """Old checkpoints contain them. They are allowed, but not rebuilt."""
    path = tmp_path / "old.pth"
    extras = {"best": np.float64(0.7), "curve": np.arange(3.0), "flags": np.array([True]), "epoch": np.int64(3)}
    for legacy in (False, True):
        torch.save({"state_dict": {"w": torch.ones(2)}, **extras}, path, _use_new_zipfile_serialization=not legacy)
        assert list(read_tensors(path)) == ["w"]


JUNK: tuple[Any, ...] = (None, 3, -1, 1.5, "x", [], [1], {}, {"a": 1}, True, 10**30, [["a"]])
HUGE_NUMBER = 10**12  # exceeds any memory
HUGE = {
    "width": HUGE_NUMBER,
    "num_classes": HUGE_NUMBER,
    "num_frames": HUGE_NUMBER,
    "in_channels": HUGE_NUMBER,
    "op_options": {"hidden": HUGE_NUMBER},
}


@pytest.mark.parametrize("part", ["", "options", "protocol"])
def test_invalid_config_values_are_rejected(part: str, saved: Path) -> None:
    """Valid values may load; all others raise a ZooError before anything large is built."""
    file = saved / "config.json"
    config = json.loads(file.read_text())
    config.pop("sha256", None)
    inner = config[part] if part else config
    changes = [{key: value} for key in inner for value in JUNK]
    changes += [{key: value} for key, value in HUGE.items()] if part == "options" else []
    wrong = []
    for change in changes:
        file.write_text(json.dumps(config | ({part: inner | change} if part else change)))
        try:
            zoo.load(saved)
        except ZooError:
            pass
        except Exception as error:
            wrong.append(f"{change}: {type(error).__name__}: {str(error)[:80]}")
    assert not wrong, "\n".join(wrong)


# the command line ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reduce", "build"])
def test_commands_reject_hostile_files(
    kind: str, readers: Readers, canary: Path, capsys: Any, motion_folder: Path
) -> None:
    for container in ("plain", "zip", "legacy", "torchscript"):
        content = containers(payloads(canary)[kind])[container]
        checkpoint, file = readers.written("a.ckpt", content), readers.written("a.pth", content)
        folder = readers.folder("model.safetensors", content)
        data = ["--data", "VideoFolder", "--data.root", str(motion_folder), "--out", str(readers.root / "out")]
        commands = [["convert", str(file), NAME, "--out", str(readers.saved)]]
        commands += [["export-checkpoint", str(checkpoint), str(readers.saved)]]
        commands += [["test", "--from", str(path), *data] for path in (checkpoint, folder)]
        before = readers.state()
        for command in commands:
            assert cli.main(command) == 1, command
            assert "hostile/" in capsys.readouterr().err.splitlines()[-1], command
        assert readers.state() == before
    assert not canary.exists()


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_resuming_rejects_hostile_files(
    verb: str, saved: Path, readers: Readers, canary: Path, capsys: Any, motion_folder: Path
) -> None:
    """Lightning reads ``--ckpt_path``: it would unpickle a file from a URL and import modules that a file names."""
    module = "this"  # prints when it is imported
    config, nested = zoo.load(saved).spec.to_config(), {"x": {"class_path": f"{module}.Model"}}
    own = {"_class_path": "lit_modules.VideoClassifier", "name": str(saved), "options": nested}
    for number, named in enumerate(({"_class_path": f"{module}.Model"}, {"class_path": f"{module}.Model"}, own)):
        content = {"state_dict": {}, "hyper_parameters": named, "tempozoo_config": config}
        torch.save(content, readers.root / f"hostile{number}.ckpt")
    paths = [str(readers.written("a.ckpt", containers(payloads(canary)["reduce"])["zip"])), "http://127.0.0.1:9/a.ckpt"]
    data = ["--data", "VideoFolder", "--data.root", str(motion_folder)] if verb != "predict" else [str(motion_folder)]
    sys.modules.pop(module, None)
    hostile = [str(path) for path in sorted(readers.root.glob("hostile*"))]
    for path in (*paths, "last", "best", *(hostile if verb == "fit" else [])):
        assert (
            cli.main([verb, "--from", str(saved), *data, "--out", str(readers.root / "out"), "--ckpt_path", path]) == 1
        )
        assert path in capsys.readouterr().err
    assert module not in sys.modules
    assert not canary.exists()
