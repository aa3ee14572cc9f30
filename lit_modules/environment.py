"""Versions and hardware of a run, for its files."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import lightning as L
import torch

import zoo
from zoo.cores import available_cores
from zoo.text import pluralize


def describe_environment(trainer: L.Trainer) -> dict[str, str]:
    """Return versions, device, processor and working folder of a Trainer's process: name -> text."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    processes = trainer.world_size
    return {
        "tempozoo": zoo.__version__,
        "Python": platform.python_version(),
        "PyTorch": str(torch.__version__),
        "Lightning": L.__version__,
        "device": name if processes == 1 else f"{processes} x {name}",
        "precision": str(trainer.precision),
        "CPU": f"{processor_name()}, {pluralize(available_cores(), 'core')}",
        "threads": str(torch.get_num_threads()),
        "system": platform.platform(),
        "working folder": os.getcwd(),  # reports written in another folder find videos and weights by relative paths
    }


def processor_name() -> str:
    """Return the model name of the CPU, or its architecture if the system does not list the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names[0] if names else "") or platform.processor() or platform.machine()
