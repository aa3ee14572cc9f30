"""An index of tiny networks with every kind of source, and their published files, for tests on the loopback network."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from small_models import SMALL

import zoo

WEB = "https://files.test/models/tanet.pth"
WEB_TOO = "https://other.test/tanet.pth"
DRIVE_ID, FOLDER_ID = "1" * 28, "2" * 28
DRIVE = f"https://drive.google.com/file/d/{DRIVE_ID}/view"
FOLDER = f"https://drive.google.com/drive/folders/{FOLDER_ID}"
NAMES = {kind: f"tanet_r18.{kind}" for kind in ("web", "two", "drive", "folder", "hub")}
CLIP = torch.linspace(-1, 1, 2 * 3 * 4 * 32 * 32).reshape(2, 3, 4, 32, 32)


def network(seed: int = 1) -> Any:
    """Create the network of all entries."""
    torch.manual_seed(seed)
    return zoo.create("tanet_r18", **SMALL)


def published(seed: int = 1, **more: Any) -> bytes:
    """Return a publisher's checkpoint of the network, with DataParallel's prefix."""
    buffer = io.BytesIO()
    state = {f"module.{key}": value for key, value in network(seed).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, **more}, buffer)
    return buffer.getvalue()


def write_index(path: Path, **changes: Any) -> Path:
    """Write an index with the five entries; ``changes`` apply to each of them."""
    content = yaml.safe_load(Path(zoo.__file__).parent.parent.joinpath("checkpoints_index.yaml").read_text())
    block = content["models"]["tanet_r18.motionclips8"]
    block |= {"options": dict(SMALL), "sha256": None, "params": 1, "notes": None, "data_options": {}}
    block["protocol"] |= {"num_frames": SMALL["num_frames"]}
    sources = {
        "web": [{"kind": "https", "url": WEB}],
        "two": [{"kind": "https", "url": WEB_TOO}, {"kind": "https", "url": WEB.replace("tanet", "again")}],
        "drive": [{"kind": "gdrive_file", "url": DRIVE}],
        "folder": [{"kind": "gdrive_folder", "url": FOLDER, "file": "ckpt.best.pth.tar"}],
        "hub": [{"kind": "hf", "url": "hf-hub:alice/raw", "file": "old/tanet.pth"}],
    }
    models = {NAMES[kind]: block | {"sources": listed} | changes for kind, listed in sources.items()}
    path.write_text(yaml.safe_dump({"schema": 1, "papers": content["papers"], "models": models}))
    return path


def cached(name: str = NAMES["web"]) -> Path:
    return Path(os.environ["TEMPOZOO_CACHE"]) / name


def files_of(folder: Path) -> list[str]:
    """List the files below a folder, except locks."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return sorted(str(p.relative_to(folder)) for p in files)


def same(model: Any, seed: int = 1) -> bool:
    return torch.equal(model(CLIP), network(seed)(CLIP))


LOAD = "import sys, zoo; print(zoo.load(sys.argv[1], progress=False).report.sha256)"


def start(name: str = NAMES["web"]) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", LOAD, name], **pipes)  # type: ignore[call-overload, no-any-return]


FILE = published(momentum=torch.rand(900_000))  # gdown writes pieces of half a MB
OTHER = published(2, momentum=torch.rand(900_000))
