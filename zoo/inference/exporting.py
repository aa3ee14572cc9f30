"""Networks as files of other runtimes: ONNX, PyTorch's exported programs (.pt2) and OpenVINO.

A fused copy of the network is exported (``VideoNetwork.fuse``). It takes normalized clips ``(B, C, T, H, W)`` with any
B, and returns logits, divided by the temperature of a calibrated network. Class names and protocol are stored in the
file. Every export is compared with eager execution of the network, which is not fused, at batch sizes that were not
traced.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.errors import ConfigError
from zoo.inference.fused import fused_copy
from zoo.inference.parsers import FORMATS
from zoo.models.network import VideoNetwork
from zoo.weights.disk import atomic_path, disk_errors

EXTRAS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": (), "openvino": ("onnx", "onnxscript", "openvino")}
TRACED_BATCH, CHECKED_BATCHES = 2, (1, 3)
TOLERANCE = 1e-4  # of logits, absolute and relative to the largest one
METADATA = "tempozoo"  # key of class names and protocol, as JSON, in the file
OPSET = 20
ROUNDS = 5

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    path: the file.
    example: a script beside it that runs it.
    difference: largest absolute difference from eager logits.
    speed: eager seconds per clip divided by those of the exported network, on this machine's CPU.
    """

    path: Path
    example: Path
    difference: float
    speed: float

    def __str__(self) -> str:
        return f"{self.path}: logits within {self.difference:.1e} of eager execution, {self.speed:.2f} times its speed"


def export_network(network: VideoNetwork, path: Path, format: str) -> ExportReport:
    """Export a network to a file, and compare the file with the network.

    Args:
        network: in evaluation mode, on the CPU.
        path: the file; its extension must be the one of the format.
        format: "onnx", "pt2" or "openvino" (two files, .xml and .bin).

    Raises:
        ConfigError: an unknown format, another extension, a missing package, or a network that the format cannot
            represent; also if the exported network differs from the network. Nothing is written then.
        StorageError: the file cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"The format is {format!r}; choose from {', '.join(FORMATS)}.")
    if path.suffix != FORMATS[format]:
        raise ConfigError(f"{path}: a file of format {format} must end in {FORMATS[format]}.")
    _check_packages(format)
    network = divide_by_temperature(network)
    protocol = network.protocol
    shape = (network.in_channels, protocol.num_frames, protocol.crop, protocol.crop)
    clips = torch.randn(TRACED_BATCH, *shape, generator=torch.Generator().manual_seed(0))
    labels = None if network.labels is None else list(network.labels)
    metadata = json.dumps({"arch": network.spec.arch, "labels": labels, "protocol": protocol.to_dict()})
    with disk_errors(path.parent), contextlib.ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = stack.enter_context(atomic_path(path))
        weights = path.with_suffix(".bin")
        temporary_weights = stack.enter_context(atomic_path(weights)) if format == "openvino" else None
        with _quiet():
            run = _EXPORTERS[format](fused_copy(network), clips, temporary, temporary_weights, metadata)
        difference, speed = _compare(network, run, shape)
    example = path.with_name(f"{path.stem}_{format}_example.py")
    with disk_errors(path.parent), atomic_path(example) as temporary:
        temporary.write_text(EXAMPLES[format].format(file=path.name), encoding="utf-8")
    return ExportReport(path, example, difference, speed)


def divide_by_temperature(network: VideoNetwork) -> VideoNetwork:
    """Return a copy whose classifier divides the logits by the temperature; the network itself if it has none.

    Raises:
        ConfigError: the classifier is not a linear layer.
    """
    temperature = network.protocol.temperature
    if temperature == 1:
        return network
    network = copy.deepcopy(network)
    classifier = network.get_classifier()
    if not isinstance(classifier, torch.nn.Linear):
        raise ConfigError(
            f"The temperature of {network.spec.arch} cannot be exported: its classifier is not a linear layer. Set "
            "the temperature of model.protocol to 1."
        )
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.div_(temperature)
    network.protocol = replace(network.protocol, temperature=1.0)
    return network


def _check_packages(format: str) -> None:
    import importlib.util

    missing = [name for name in EXTRAS[format] if importlib.util.find_spec(name) is None]
    if missing:
        extra = "onnx" if format == "onnx" else "openvino"
        raise ConfigError(f"The format {format} needs {', '.join(missing)}: pip install 'tempozoo[{extra}]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress messages of torch.onnx."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _program(network: VideoNetwork, clips: torch.Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", max=1 << 16)
    try:
        with torch.no_grad():
            return torch.export.export(network, (clips,), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch.export raises many types
        raise ConfigError(f"{network.spec.arch} cannot be exported ({type(error).__name__}: {error}).") from error


def _to_pt2(network: VideoNetwork, clips: torch.Tensor, path: Path, weights: Path | None, metadata: str) -> Run:
    program = _program(network, clips)
    with path.open("wb") as file:  # torch checks the extension of paths
        torch.export.save(program, file, extra_files={METADATA: metadata})
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda batch: np.asarray(module(torch.from_numpy(batch)).detach())


def _to_onnx(network: VideoNetwork, clips: torch.Tensor, path: Path, weights: Path | None, metadata: str) -> Run:
    import onnxruntime

    _write_onnx(network, clips, path, metadata)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda batch: np.asarray(session.run(None, {"clips": batch})[0])


def _write_onnx(network: VideoNetwork, clips: torch.Tensor, path: Path, metadata: str) -> None:
    program = torch.onnx.export(
        _program(network, clips),
        dynamo=True,
        opset_version=OPSET,
        input_names=["clips"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[METADATA] = metadata
    program.save(str(path), external_data=False)


def _to_openvino(network: VideoNetwork, clips: torch.Tensor, path: Path, weights: Path | None, metadata: str) -> Run:
    import openvino

    assert weights is not None
    onnx_file = path.with_name(f"{path.name}.onnx")
    try:
        _write_onnx(network, clips, onnx_file, metadata)
        model = openvino.convert_model(str(onnx_file))
    finally:
        onnx_file.unlink(missing_ok=True)
    model.set_rt_info(metadata, [METADATA])
    openvino.serialize(model, str(path), str(weights))
    # float32 also on CPUs with bfloat16 units, where half precision is the default
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: np.asarray(compiled(batch)[0])


_EXPORTERS: dict[str, Callable[[VideoNetwork, torch.Tensor, Path, Path | None, str], Run]] = {
    "onnx": _to_onnx,
    "pt2": _to_pt2,
    "openvino": _to_openvino,
}


def _compare(network: VideoNetwork, run: Run, shape: tuple[int, ...]) -> tuple[float, float]:
    """The largest difference of logits, and the ratio of eager time to exported time.

    Raises:
        ConfigError: the difference is above ``TOLERANCE``, or logits are not finite.
    """
    difference = 0.0
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for count in CHECKED_BATCHES:
            clips = torch.randn(count, *shape, generator=generator)
            expected, actual = network(clips).numpy(), run(clips.numpy())
            if not np.isfinite(expected).all():
                raise ConfigError(
                    f"The logits of {network.spec.arch} are not finite for noise, so its export cannot be checked; "
                    "nothing was written. Are these weights trained?"
                )
            if not np.isfinite(actual).all():
                actual = np.full_like(expected, np.inf)
            difference = max(difference, float(np.abs(expected - actual).max()))
            limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
            if expected.shape != actual.shape or not difference <= limit:
                raise ConfigError(
                    f"The exported network differs from {network.spec.arch} by {difference:.1e} for {count} clips; "
                    "nothing was written. Please report this with the versions of the packages."
                )
        clips = clips[:1]
        eager = _seconds(lambda: network(clips))
    exported = _seconds(lambda: run(clips.numpy()))
    return difference, eager / exported


def _seconds(function: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


_PREPARE = """
info = json.loads({metadata})
protocol = info["protocol"]
frames = np.load(sys.argv[1])  # uint8 RGB (T, S, S, 3): T frames, resized and cropped to S = protocol["crop"]
clip = (frames / 255 - protocol["mean"]) / protocol["std"]
clip = clip.transpose(3, 0, 1, 2)[None].astype(np.float32)  # (1, 3, T, S, S)
"""
_PRINT = """
scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
for number in scores.argsort()[::-1][:5]:
    print(f"{{scores[number]:.4f}}", info["labels"][number] if info["labels"] else number)
"""
EXAMPLES = {
    "onnx": '''"""Classify frames: python THIS_FILE frames.npy (needs numpy and onnxruntime)."""
import json, pathlib, sys

import numpy as np, onnxruntime

session = onnxruntime.InferenceSession(pathlib.Path(__file__).with_name("{file}"))'''
    + _PREPARE.replace("{metadata}", 'session.get_modelmeta().custom_metadata_map["tempozoo"]')
    + 'logits = session.run(None, {{"clips": clip}})[0][0]'
    + _PRINT,
    "pt2": '''"""Classify frames: python THIS_FILE frames.npy (needs numpy and torch)."""
import json, pathlib, sys

import numpy as np, torch

extra = {{"tempozoo": ""}}
program = torch.export.load(pathlib.Path(__file__).with_name("{file}"), extra_files=extra)'''
    + _PREPARE.replace("{metadata}", 'extra["tempozoo"]')
    + "logits = program.module()(torch.from_numpy(clip)).detach().numpy()[0]"
    + _PRINT,
    "openvino": '''"""Classify frames: python THIS_FILE frames.npy (needs numpy and openvino)."""
import json, pathlib, sys

import numpy as np, openvino

model = openvino.Core().read_model(pathlib.Path(__file__).with_name("{file}"))
# float32, as in the comparison with the original; CPUs with bfloat16 units would use bfloat16
network = openvino.compile_model(model, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})'''
    + _PREPARE.replace("{metadata}", 'model.get_rt_info(["tempozoo"]).astype(str)')
    + "logits = network(clip)[0][0]"
    + _PRINT,
}
