"""Mutated weight files are read, or refused with a ZooError, in little memory and without running code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from paths import PYTHONPATH

KINDS = ("zip", "legacy", "torchscript", "ckpt", "safetensors")

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")


def fuzz(kind: str, seconds: float, first_seed: int) -> None:
    path = f"import sys; sys.path[:0] = {PYTHONPATH.split(':')!r}"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (24 << 30, -1))"  # torch maps several GB
    code = f"{limit}\n{path}\nimport fuzz_files\nfuzz_files.main({kind!r}, {seconds}, {first_seed})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds + 300)
    replay = f"Read the file of a seed again: python tests/support/fuzz_files.py {kind} 0 SEED"
    assert done.returncode == 0, f"the process ended with {done.returncode}; {replay}\n{done.stderr[-2000:]}"
    assert "VIOLATION" not in done.stdout, f"{replay}\n{done.stdout[:4000]}"
    assert f"{kind}: seeds {first_seed} to" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_are_read_or_rejected(kind: str) -> None:
    fuzz(kind, 4, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_changed_files_are_read_or_rejected(kind: str) -> None:
    fuzz(kind, 120, 1_000_000)
