"""`tempozoo export`: the file equals the network at other batch sizes; its example script runs without the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import small_trained

import zoo
from cli import main
from zoo.errors import ConfigError
from zoo.inference import exporting
from zoo.inference.exporting import export_network
from zoo.models import VideoNetwork


def network(arch: str = "tanet_r18") -> VideoNetwork:
    model: VideoNetwork = small_trained(arch, labels=["wave", "clap", "jump", "sit"])
    return model


def run_example(example: Path, model: VideoNetwork, tmp_path: Path) -> None:
    """Run the script and compare the scores that it prints."""
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    command = [sys.executable, "-I", str(example), str(tmp_path / "frames.npy")]  # -I: without this repository
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    clip = model.protocol.transform()(torch.from_numpy(frames).permute(0, 3, 1, 2))
    with torch.no_grad():
        scores = model(clip[None]).softmax(1)[0]
    assert model.labels is not None
    expected = {model.labels[number]: float(score) for number, score in enumerate(scores)}
    printed = {line.split()[1]: float(line.split()[0]) for line in run.stdout.splitlines()}
    assert printed == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("format", ["pt2", "onnx", "openvino"])
def test_export_equals_the_network(format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in exporting.EXTRAS[format]:
        pytest.importorskip(package)
    model = network()
    folder = zoo.save(model, tmp_path / "model")
    path = tmp_path / f"file{exporting.FORMATS[format]}"
    assert main(["export", str(folder), "--to", format, "--out", str(path)]) == 0
    assert "of eager execution" in capsys.readouterr().out
    assert not list(tmp_path.glob(".*"))  # no temporary files
    run_example(tmp_path / f"file_{format}_example.py", model, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["pt2", "onnx", "openvino"])
@pytest.mark.parametrize(
    "arch",
    ["tada2d_r18", "stam_r18", "tadaconvnextv2_tiny", "tadaconvnext_tiny", "tadaformer_b16", "c2d_r18", "i3d_r18"],
)
def test_export_of_every_family(arch: str, format: str, tmp_path: Path) -> None:
    for package in exporting.EXTRAS[format]:
        pytest.importorskip(package)
    report = export_network(network(arch), tmp_path / f"file{exporting.FORMATS[format]}", format)
    assert report.difference < 1e-4


@pytest.mark.parametrize("exported", [False, True])
def test_logits_that_are_not_finite_are_refused(
    exported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    if exported:
        run = lambda batch: np.full((len(batch), 4), np.nan, np.float32)  # noqa: E731
        monkeypatch.setitem(exporting._EXPORTERS, "pt2", lambda *arguments: run)
    else:
        torch.nn.init.constant_(model.get_classifier().weight, torch.inf)
    with pytest.raises(ConfigError, match="differs from tanet_r18 by inf" if exported else "are not finite for noise"):
        export_network(model, tmp_path / "file.pt2", "pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_different_network_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(ConfigError, match="The exported network differs from tanet_r18 by"):
        export_network(network(), tmp_path / "file.pt2", "pt2")
    assert list(tmp_path.iterdir()) == []


def test_the_file_has_labels_and_protocol(tmp_path: Path) -> None:
    model = network()
    report = export_network(model, tmp_path / "file.pt2", "pt2")
    extra = {"tempozoo": ""}
    torch.export.load(report.path, extra_files=extra)
    content = json.loads(extra["tempozoo"])
    assert tuple(content["labels"]) == model.labels
    assert zoo.protocol.Protocol.from_dict(content["protocol"]) == model.protocol


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [("file.onnx", "pt2", r"must end in \.pt2"), ("file.xyz", "tflite", "The format is 'tflite'; choose from onnx")],
)
def test_wrong_formats_are_named(name: str, format: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        export_network(network(), tmp_path / name, format)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exporting.EXTRAS, "onnx", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError, match=r"needs .*no_such_package: pip install 'tempozoo\[onnx\]'"):
        export_network(network(), tmp_path / "file.onnx", "onnx")
