"""Peak memory of a step in a new process, and memory of the tensors that a forward pass saves for backward."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MIB = 2**20
ITSELF = "(itself)"
STATUS = Path("/proc/self/status")


def peak_memory(prepare: Callable[..., Callable[[], object]], *args: Any, threads: int) -> float | None:
    """Return the peak memory of a step in MiB, above the memory used before the step.

    ``prepare(*args)`` runs in a new process and returns the step. The step runs twice; the second run is measured, so
    the state before includes the network, the input, the optimizer's state and the libraries. On a CPU, this is the
    resident set of the process. On a GPU, it is the memory allocated by PyTorch.

    Args:
        prepare: function of a module, which a new process can import.

    Returns:
        None on systems without ``/proc``.
    """
    if not STATUS.is_file():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.cases"])  # so that a process starts within milliseconds
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        return pool.submit(_measure, prepare, args, threads).result()


def _measure(prepare: Callable[..., Callable[[], object]], args: tuple[Any, ...], threads: int) -> float:
    torch.set_num_threads(threads)
    step = prepare(*args)
    step()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # returns freed memory to the system
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    step()
    return (status("VmHWM") - before) / MIB


def status(key: str) -> int:
    """Return a value of ``/proc/self/status`` in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


class SavedTensors:
    """Count the bytes that the forward pass of a network saves for backward, by submodule.

    A storage counts once, for the first submodule that saves it. Parameters, buffers and ``inputs`` do not count.

    Args:
        network: the network; use this object as a context manager around its forward pass.
        depth: levels of submodules, such as 2 for "stages.0". Convolutions and batch norms count for their parent.
        inputs: the tensors passed to the network.

    Attributes:
        by_module: name -> bytes, in the order of the forward pass.
    """

    def __init__(self, network: nn.Module, depth: int, *inputs: Tensor) -> None:
        self.network, self.by_module = network, dict[str, int]()
        modules = {module: name for name, module in network.named_modules() if name and name.count(".") < depth}
        # functions with manual gradients do not replace convolutions and norms with hooks
        self.modules = {m: name for m, name in modules.items() if not isinstance(m, (nn.Conv2d, nn.BatchNorm2d))}
        own = (*network.parameters(), *network.buffers(), *inputs)
        self.seen = {tensor.untyped_storage().data_ptr() for tensor in own}
        self.active: list[str] = []
        self.handles: list[Any] = []

    def __enter__(self) -> SavedTensors:
        for module, name in self.modules.items():
            self.handles.append(module.register_forward_pre_hook(lambda *_, name=name: self.active.append(name)))
            self.handles.append(module.register_forward_hook(lambda *_: self.active.pop() and None))
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)
        for handle in self.handles:
            handle.remove()

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            name = self.active[-1] if self.active else ITSELF
            self.by_module[name] = self.by_module.get(name, 0) + storage.nbytes()
        return tensor
