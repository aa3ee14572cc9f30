"""Networks of all index entries: forward, backward, another head and frame count, saving and loading."""

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
MAX_ALLOCATED = 5e7  # parameters; larger networks stay on the meta device, where only shapes are computed
SIZE = {
    "ptv_x3d": 96,
    "ptv_mvit": 64,
    "tanet_inceptionv3": 96,
    "c2d_inceptionv3": 96,
}  # height and width of clips, if 64 pixels are too few or too many


def size_for(arch: str) -> int:
    """Return the height and width of a small clip for the architecture."""
    if arch.startswith("tadaformer"):
        return 56 if arch.endswith("l14") else 64
    return next((size for start, size in SIZE.items() if arch.startswith(start)), 64)


def frames_for(options: dict[str, Any]) -> int:
    """Return a small frame count that differs from the entry's."""
    return 8 if options["num_frames"] != 8 else 16


def on_meta(arch: str, options: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return build(arch, **options)


def variants(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the architecture, its options with a small image size, and these with another head and frame count."""
    entry = zoo.info(name)
    options = dict(entry.options)
    if has_option(entry.arch, "image_size"):
        options["image_size"] = size_for(entry.arch)
    return entry.arch, options, options | {"num_classes": 5, "num_frames": frames_for(options)}


def one_per_options() -> list[str]:
    """Return the first entry of each architecture and set of options."""
    names: dict[str, str] = {}
    for name in NAMES:
        entry = zoo.info(name)
        names.setdefault(f"{entry.arch} {dict(entry.options)}", name)
    return list(names.values())


@pytest.mark.parametrize("name", one_per_options())
def test_every_entry_runs_with_published_and_adapted_options(name: str) -> None:
    """Run forward and backward with the entry's options, then with another head and frame count."""
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
    """Return the first entry of each architecture and set of options that is small enough to allocate."""
    seen: dict[str, str] = {}
    for name in NAMES:
        entry = zoo.info(name)
        variant = {k: v for k, v in entry.options.items() if k not in ("num_classes", "num_frames")}
        if entry.params < MAX_ALLOCATED:
            seen.setdefault(f"{entry.arch} {variant}", name)
    return list(seen.values())


@pytest.mark.parametrize("name", one_per_network())
def test_every_network_saves_and_loads(name: str, tmp_path: Path) -> None:
    """Random weights are saved, loaded, and loaded with another head and frame count."""
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
    unchanged = set(state) - head - set(other.report.adapted or {})
    assert all(torch.equal(other.state_dict()[key], state[key]) for key in unchanged)


def test_download_and_conversion_hold_the_file_in_memory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare peak memory with that of the imports; the optimizer state in the file must not be read."""
    name = "tadaconvnextv2_tiny.in1k_k400_16f"
    listed = json.loads((GOLDEN / "tadaconvnextv2_tiny_k400_16f.json").read_text())
    tensors = {key: torch.rand(shape) for key, shape, _ in listed["state_dict"]}
    state = {number: {"exp_avg": t + 1, "exp_avg_sq": t + 2} for number, t in enumerate(tensors.values())}
    file = tmp_path / "file.pyth"
    torch.save({"model_state": tensors, "optimizer_state": {"state": state}, "epoch": 99}, file)
    code = (
        "import sys, gdown, rich.progress, zoo\n"
        "from zoo.weights.store import get_weights\n"
        "def peak():\n"  # getrusage would include the peak of the parent process
        "    return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if 'VmHWM' in line)\n"
        "entry = zoo.info(sys.argv[1])\n"  # reads the index
        "before = peak(); get_weights(entry, progress=False); print(peak() - before)"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TEMPOZOO_OFFLINE")
    with Loopback() as net:
        net.drive_file(zoo.info(name).sources[0].url.split("/")[5], "file.pyth", file.read_bytes(), mode="warning")
        for variable, value in net.environment().items():
            monkeypatch.setenv(variable, value)
        result = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
    size = sum(t.numel() * 4 for t in tensors.values())
    assert int(result.stdout) < 1.5 * size + 40e6
    converted: Any = zoo.load(name)
    assert converted.report.as_trained
    total = {float(value.double().sum()) for value in converted.state_dict().values()}
    assert total == {float(value.double().sum()) for value in tensors.values()}
