"""Run ``tempozoo`` in two processes, started by torchrun. As a script, it adds strategies for FSDP on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys

from paths import PYTHONPATH

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH}


def two_processes(arguments: list[str], strategy: str = "ddp") -> subprocess.CompletedProcess[str]:
    """Run a command; ``strategy`` is "ddp", "fsdp_cpu" or "fsdp_cpu_blocks" (each block is an FSDP unit)."""
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
           "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", __file__, *arguments,
           "--trainer.devices", "2", "--trainer.strategy", strategy,
           "--trainer.enable_progress_bar", "true"]  # fmt: skip  # shown by one process only
    return subprocess.run(run, capture_output=True, text=True, env=os.environ | ENVIRONMENT, timeout=240)


def register() -> None:
    """Register FSDP strategies for the CPU; Lightning's own FSDP strategy refuses to run without a GPU."""
    import torch
    from lightning.pytorch.strategies import FSDPStrategy, StrategyRegistry
    from torch.distributed.fsdp import FullyShardedDataParallel

    from zoo.models.convnext import ConvNeXtBlock

    class OnProcessors(FSDPStrategy):
        def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:
            return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **self.kwargs)

    StrategyRegistry.register("fsdp_cpu", OnProcessors)
    StrategyRegistry.register("fsdp_cpu_blocks", OnProcessors, auto_wrap_policy={ConvNeXtBlock})


if __name__ == "__main__":
    from cli import main

    register()
    sys.exit(main())
