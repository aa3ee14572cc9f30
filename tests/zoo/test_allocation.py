"""Memory of freed tensors, in a new process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource
import torch
from zoo.allocation import reuse_freed_memory

if {reuse}:
    reuse_freed_memory()
for _ in range(30):  # small blocks split the first ones, until one of sufficient size remains
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library")
def test_freed_memory_is_used_again() -> None:
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", PAGE_FAULTS.format(reuse=reuse)], capture_output=True, check=True
            ).stdout
        )
        for reuse in (True, False)
    ]
    assert faults[0] < 8 < faults[1]  # 64 MiB are 32 pages of 2 MiB or 16384 of 4 KiB
