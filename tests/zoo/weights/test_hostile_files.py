"""Files that would run code or take all memory: refused, by an error that names them, on every path that reads one."""

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
    """A network's folder."""
    return zoo.save(small("tanet_r18", labels=list(FOUR)), tmp_path / "saved")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


class Ways:
    """Every call that reads a file it is given, and what it must leave alone."""

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
        """A copy of the saved folder with one file replaced, and no digest that would give it away."""
        folder = self.root / "hostile" / "folder"
        shutil.copytree(self.saved, folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text())
        config.pop("sha256", None)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / name).write_bytes(content)
        return folder

    def state(self) -> dict[str, bytes]:
        """All files but the hostile ones."""
        files = [p for p in self.root.rglob("*") if "hostile" not in p.parts[len(self.root.parts) :]]
        return {str(p): p.read_bytes() if p.is_file() else b"" for p in files}

    def all_refuse(self, what: str, content: bytes) -> None:
        """Each way ends in an error of the package that names the file, with nothing else written."""
        before = self.state()
        for way, call in self.calls.items():
            outcome: Exception | None = None
            try:
                call(content)
            except Exception as error:
                outcome = error
            assert isinstance(outcome, ZooError), (what, way, repr(outcome))
            assert "hostile/a." in str(outcome) or "hostile/folder" in str(outcome), (what, way, outcome)
            assert self.state() == before, (what, way)


@pytest.fixture
def ways(tmp_path: Path, saved: Path) -> Ways:
    return Ways(tmp_path, saved)


@pytest.mark.parametrize("kind", PAYLOADS)
def test_the_canary_is_real(kind: str, canary: Path) -> None:
    pickle.loads(payloads(canary)[kind])
    assert canary.is_dir()


@pytest.mark.parametrize("kind", [*PAYLOADS, *SILENT])
def test_pickles_are_refused_in_every_container(kind: str, ways: Ways, canary: Path) -> None:
    content = (payloads(canary) | silent_payloads())[kind]
    for container, data in containers(content).items():
        ways.all_refuse(f"{kind} in {container}", data)
    assert not canary.exists()


def test_scripts_are_not_run(ways: Ways, canary: Path) -> None:
    content = torchscript_with_code(canary)
    ways.all_refuse("torchscript", content)
    assert not canary.exists()
    torch.jit.load(ways.written("a.pt", content))
    assert canary.is_file()  # it would have


@pytest.mark.parametrize("kind", list(bad_safetensors()))
def test_headers_that_lie_are_refused(kind: str, ways: Ways) -> None:
    ways.all_refuse(kind, bad_safetensors()[kind])


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
def test_small_files_stay_small(tmp_path: Path) -> None:
    """In a process of their own: one of them would end it."""
    files = []
    for name, content in (bombs() | {"object array": object_array()}).items():
        assert len(content) < LARGE / 500
        files.append(tmp_path / f"{name}.pth")
        files[-1].write_bytes(content)
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, files)], capture_output=True, text=True)
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert len(lines) == 2 * len(files), (done.returncode, lines, done.stderr[-500:])
    assert not [line for line in lines if line[2] != "refused" or int(line[3]) > LARGE / 4e6]


# values that are no weights ------------------------------------------------------------------------------------------


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
def test_values_that_are_no_plain_tensors_are_refused(kind: str, tmp_path: Path) -> None:
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


def test_numbers_of_numpy_are_left_behind(tmp_path: Path) -> None:
    """Old checkpoints carry them: they may be there, and nothing of them is rebuilt."""
    path = tmp_path / "old.pth"
    extras = {"best": np.float64(0.7), "curve": np.arange(3.0), "flags": np.array([True]), "epoch": np.int64(3)}
    for legacy in (False, True):
        torch.save({"state_dict": {"w": torch.ones(2)}, **extras}, path, _use_new_zipfile_serialization=not legacy)
        assert list(read_tensors(path)) == ["w"]


JUNK: tuple[Any, ...] = (None, 3, -1, 1.5, "x", [], [1], {}, {"a": 1}, True, 10**30, [["a"]])
LOTS = 10**12  # more than any machine has
HUGE = {"width": LOTS, "num_classes": LOTS, "num_frames": LOTS, "in_channels": LOTS, "op_options": {"hidden": LOTS}}


@pytest.mark.parametrize("part", ["", "options", "protocol"])
def test_configs_of_nonsense_are_refused(part: str, saved: Path) -> None:
    """What still makes sense may load; anything else is an error of the package, and nothing large is built first."""
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
def test_commands_refuse_them(kind: str, ways: Ways, canary: Path, capsys: Any, motion_folder: Path) -> None:
    for container in ("plain", "zip", "legacy", "torchscript"):
        content = containers(payloads(canary)[kind])[container]
        checkpoint, file = ways.written("a.ckpt", content), ways.written("a.pth", content)
        folder = ways.folder("model.safetensors", content)
        data = ["--data", "VideoFolder", "--data.root", str(motion_folder), "--out", str(ways.root / "out")]
        commands = [["convert", str(file), NAME, "--out", str(ways.saved)]]
        commands += [["export-checkpoint", str(checkpoint), str(ways.saved)]]
        commands += [["test", "--from", str(place), *data] for place in (checkpoint, folder)]
        before = ways.state()
        for command in commands:
            assert cli.main(command) == 1, command
            assert "hostile/" in capsys.readouterr().err.splitlines()[-1], command
        assert ways.state() == before
    assert not canary.exists()


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_resuming_refuses_them(
    verb: str, saved: Path, ways: Ways, canary: Path, capsys: Any, motion_folder: Path
) -> None:
    """``--ckpt_path`` is read by Lightning, which trusts a file from the network and imports what a file names."""
    module = "this"  # prints when it is imported
    config, nested = zoo.load(saved).spec.to_config(), {"x": {"class_path": f"{module}.Model"}}
    own = {"_class_path": "lit_modules.VideoClassifier", "name": str(saved), "options": nested}
    for number, named in enumerate(({"_class_path": f"{module}.Model"}, {"class_path": f"{module}.Model"}, own)):
        content = {"state_dict": {}, "hyper_parameters": named, "tempozoo_config": config}
        torch.save(content, ways.root / f"hostile{number}.ckpt")
    paths = [str(ways.written("a.ckpt", containers(payloads(canary)["reduce"])["zip"])), "http://127.0.0.1:9/a.ckpt"]
    data = ["--data", "VideoFolder", "--data.root", str(motion_folder)] if verb != "predict" else [str(motion_folder)]
    sys.modules.pop(module, None)
    hostile = [str(path) for path in sorted(ways.root.glob("hostile*"))]
    for path in (*paths, "last", "best", *(hostile if verb == "fit" else [])):
        assert cli.main([verb, "--from", str(saved), *data, "--out", str(ways.root / "out"), "--ckpt_path", path]) == 1
        assert path in capsys.readouterr().err
    assert module not in sys.modules
    assert not canary.exists()
