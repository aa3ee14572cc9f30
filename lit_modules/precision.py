"""``--trainer.precision auto``: bfloat16 where the accelerator computes in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoo.command_line import note

AUTO = "--trainer.precision=auto"
MIXED, FULL = "bf16-mixed", "32-true"
CPU_FEATURES = ("avx512_bf16", "amx_bf16")
MIN_CAPABILITY = (8, 0)  # of CUDA devices that compute in bfloat16: Ampere and later


def resolve_precision(options: Sequence[str]) -> list[str]:
    """Replace ``--trainer.precision=auto`` in arguments of LightningCLI; print the precision that is used."""
    if AUTO not in options:
        return list(options)
    accelerators = [option.partition("=")[2] for option in options if option.startswith("--trainer.accelerator=")]
    precision, reason = auto_precision(accelerators[-1] if accelerators else "auto")
    note(f"Precision: {precision} ({reason})")
    return [f"--trainer.precision={precision}" if option == AUTO else option for option in options]


def auto_precision(accelerator: str) -> tuple[str, str]:
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
