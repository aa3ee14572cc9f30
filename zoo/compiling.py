"""``torch.compile`` for networks: one compilation for batches of different sizes, and the time that it takes."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.models.network import VideoNetwork


class CompileTimer:
    """Measures the time that this process spends in compilations, from the creation of the timer until ``close``.

    Attributes:
        seconds: the total.
    """

    def __init__(self) -> None:
        from torch._dynamo.callback import callback_handler  # here, because importing the compiler takes seconds

        self.seconds, self._start = 0.0, 0.0
        self._handler: Any = callback_handler
        self._handler.register_start_callback(self._begin)
        self._handler.register_end_callback(self._end)

    def _begin(self, *args: Any) -> None:  # older versions of PyTorch pass no arguments
        self._start = time.perf_counter()

    def _end(self, *args: Any) -> None:
        self.seconds += time.perf_counter() - self._start

    def close(self) -> str:
        """Stop measuring; return a line with the time."""
        self._handler.remove_start_callback(self._begin)
        self._handler.remove_end_callback(self._end)
        return f"torch.compile took {self.seconds:.1f} s"


def compile_network(network: VideoNetwork, device: torch.device) -> None:
    """Compile a network in place, when it is called for the first time. Keys and classes do not change.

    Raises:
        ConfigError: the CPU is the device, and no C++ compiler is installed.
    """
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise ConfigError(
                "torch.compile needs a C++ compiler on CPUs, and none was found: install g++, or set the environment "
                "variable CXX."
            ) from error
    network.compile()


def is_compiled(network: VideoNetwork) -> bool:
    """Whether the network was compiled in place."""
    return network._compiled_call_impl is not None


def mark_batch(network: VideoNetwork, clips: Tensor) -> None:
    """Let a compiled network accept other batch sizes than that of ``clips`` without another compilation.

    A batch of one clip is an exception, for which PyTorch always compiles separately.
    """
    if is_compiled(network):
        torch._dynamo.maybe_mark_dynamic(clips, 0)
