"""Every entry of the index builds, runs forward and backward, takes another head and frame count, saves and loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import Loopback
from paths import GOLDEN

import zoo
from zoo.models import build, has_option

NAMES = zoo.list_models()
REAL = 5e7  # parameters: above, a network stays on the meta device, where only shapes are computed
SIZE = {
    "ptv_x3d": 96,
    "ptv_mvit": 64,
    "tanet_inceptionv3": 96,
    "c2d_inceptionv3": 96,
}  # least sensible pixels, where 64 is not enough


def size_for(arch: str) -> int:
    """Pixels of a small clip the architecture can take."""
    if arch.startswith("tadaformer"):
        return 56 if arch.endswith("l14") else 64
    return next((size for start, size in SIZE.items() if arch.startswith(start)), 64)


def frames_for(options: dict[str, Any]) -> int:
    """Another frame count than the entry's, and a small one."""
    return 8 if options["num_frames"] != 8 else 16


def on_meta(arch: str, options: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return build(arch, **options)


def variants(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Architecture, options as published but for the image size, and the same with another head and frame count."""
    entry = zoo.info(name)
    options = dict(entry.options)
    if has_option(entry.arch, "image_size"):
        options["image_size"] = size_for(entry.arch)
    return entry.arch, options, options | {"num_classes": 5, "num_frames": frames_for(options)}


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_runs_and_adapts(name: str) -> None:
    """Forward and backward at the entry's frame count, then with another head and frame count."""
    arch, published, adapted = variants(name)
    for options in (published, adapted):
        network = on_meta(arch, options).train()
        size = size_for(arch)
        clips = torch.empty(2, 3, options["num_frames"], size, size, device="meta")
        logits = network(clips)
        assert logits.shape == (2, options["num_classes"])
        logits.sum().backward()
        assert all(p.grad is not None for p in network.parameters())


def one_per_network() -> list[str]:
    """The first entry of each architecture and form that is small enough to be real."""
    seen: dict[str, str] = {}
    for name in NAMES:
        entry = zoo.info(name)
        form = {k: v for k, v in entry.options.items() if k not in ("num_classes", "num_frames")}
        if entry.params < REAL:
            seen.setdefault(f"{entry.arch} {form}", name)
    return list(seen.values())


@pytest.mark.parametrize("name", one_per_network())
def test_every_network_saves_and_loads(name: str, tmp_path: Path) -> None:
    """On real tensors: random weights of the entry, saved, loaded, and loaded with another head and frame count."""
    arch, options, adapted = variants(name)
    size = options.get("image_size")
    model = zoo.load(name, pretrained=False, image_size=size)
    folder = zoo.save(model, tmp_path / "saved")
    again: Any = zoo.load(folder)
    assert again.report.as_trained
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    other: Any = zoo.load(folder, num_classes=5, num_frames=adapted["num_frames"])
    pixels = size_for(arch)
    with torch.no_grad():
        assert other(torch.randn(1, 3, adapted["num_frames"], pixels, pixels)).isfinite().all()
    head = {key for key in other.state_dict() if key.startswith(other.head_prefix)}
    assert set(other.report.initialized) == head
    kept = set(state) - head - set(other.report.adapted or {})
    assert all(torch.equal(other.state_dict()[key], state[key]) for key in kept)


def test_a_download_and_its_conversion_need_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory, beyond the imports; an optimizer in the file, twice the network's size, costs nothing."""
    name = "tadaconvnextv2_tiny.in1k_k400_16f"
    listed = json.loads((GOLDEN / "tadaconvnextv2_tiny_k400_16f.json").read_text())
    tensors = {key: torch.rand(shape) for key, shape, _ in listed["state_dict"]}
    state = {number: {"exp_avg": t + 1, "exp_avg_sq": t + 2} for number, t in enumerate(tensors.values())}
    file = tmp_path / "file.pyth"
    torch.save({"model_state": tensors, "optimizer_state": {"state": state}, "epoch": 99}, file)
    code = (
        "import sys, gdown, rich.progress, zoo\n"
        "from zoo.weights.store import obtain\n"
        "def peak():\n"  # not getrusage's, which begins at that of the parent
        "    return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if 'VmHWM' in line)\n"
        "before = peak(); obtain(zoo.info(sys.argv[1]), progress=False); print(peak() - before)"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TEMPOZOO_OFFLINE")
    with Loopback() as net:
        net.drive_file(zoo.info(name).sources[0].url.split("/")[5], "file.pyth", file.read_bytes(), mode="warning")
        for variable, value in net.environment().items():
            monkeypatch.setenv(variable, value)
        done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
    size = sum(t.numel() * 4 for t in tensors.values())
    assert int(done.stdout) < 1.5 * size + 40e6
    converted: Any = zoo.load(name)
    assert converted.report.as_trained
    total = {float(value.double().sum()) for value in converted.state_dict().values()}
    assert total == {float(value.double().sum()) for value in tensors.values()}
