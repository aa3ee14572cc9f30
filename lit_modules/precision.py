"""``precision: auto``: bfloat16 where the accelerator computes in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from lightning.fabric.connector import _PRECISION_INPUT, _PRECISION_INPUT_STR

from zoo.command_line import note

AUTO = "auto"
Precision = _PRECISION_INPUT | Literal["auto"]
MIXED, FULL = "bf16-mixed", "32-true"
CPU_FEATURES = ("avx512_bf16", "amx_bf16")
MIN_CAPABILITY = (8, 0)  # of CUDA devices that compute in bfloat16: Ampere and later


def resolve_precision(accelerator: Any, checkpoint: Mapping[str, Any] | None = None) -> str:
    """Return the precision for ``auto``, and print it.

    Args:
        accelerator: option of Lightning's Trainer.
        checkpoint: config of the checkpoint to resume, whose run determines the precision on any machine.
    """
    precision = None if checkpoint is None else _precision_of_run(checkpoint)
    if precision is not None:
        note(f"Precision: {precision} (of the run to resume)")
        return precision
    precision, reason = auto_precision(accelerator)
    note(f"Precision: {precision} ({reason})")
    return precision


def _precision_of_run(checkpoint: Mapping[str, Any]) -> str | None:
    """Return the precision in the provenance of a checkpoint, or None if it has none."""
    recipe = (checkpoint.get("provenance") or {}).get("recipe")
    precision = recipe.get("precision") if isinstance(recipe, Mapping) else None
    return precision if precision in get_args(_PRECISION_INPUT_STR) else None


def auto_precision(accelerator: Any) -> tuple[str, str]:
    """Return the precision for an accelerator of Lightning, and the reason."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        native = capability >= MIN_CAPABILITY
        device = f"the GPU, with CUDA capability {capability[0]}.{capability[1]},"
    elif accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available()):
        native, device = _cpu_has_bfloat16(), "the CPU"
    else:
        return FULL, "only CUDA GPUs and CPUs are checked for bfloat16"
    return (MIXED, f"{device} computes in bfloat16") if native else (FULL, f"{device} does not compute in bfloat16")


def _cpu_has_bfloat16() -> bool:
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # not in all supported versions of PyTorch
    return get_capabilities is not None and any(get_capabilities().get(name) for name in CPU_FEATURES)
