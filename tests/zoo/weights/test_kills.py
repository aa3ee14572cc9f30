"""kill -9 at any moment of a download, conversion or save: partial files are never used, and the next load succeeds."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import Loopback
from paths import PYTHONPATH
from tiny_zoo import CLIP, DRIVE_ID, NAMES, WEB, network, published, write_index

import zoo
from zoo.weights import download

FILE = published(momentum=torch.rand(900_000))
TASKS = ("web", "drive", "convert", "save")

# Forks a child process for each line of its input. Each child performs the task once, unless it is killed.
FORKER = """
import os, sys, pathlib, gdown, rich.progress, torch, zoo
from tiny_zoo import network
task, name, folder = sys.argv[1:]
torch.set_num_threads(1)
zoo.info(name)
for _ in sys.stdin:
    child = os.fork()
    if not child:
        print(os.getpid(), flush=True)
        if task == "save":
            zoo.save(network(2), folder)
        elif task == "convert":
            zoo.convert(pathlib.Path(folder) / "published.pth", name)
        else:
            zoo.load(name, progress=False)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_and_kill(forker: subprocess.Popen[str], delay: float) -> tuple[bool, float]:
    """Run one child for at most ``delay`` seconds. Returns whether it was killed, and how long it ran."""
    assert forker.stdin and forker.stdout
    print(file=forker.stdin, flush=True)
    child, start = int(forker.stdout.readline()), time.monotonic()
    while time.monotonic() - start < delay and Path(f"/proc/{child}").exists():
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    ran, status = time.monotonic() - start, int(forker.stdout.readline())
    assert status in (0, -signal.SIGKILL)
    return status != 0, ran


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("task", "kills"),
    [*((task, 5) for task in TASKS), *(pytest.param(task, 50, marks=pytest.mark.slow) for task in TASKS)],
)
def test_killed_processes_leave_no_partial_result(
    task: str, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random.seed(task)
    cache, saved = Path(os.environ["TEMPOZOO_CACHE"]), tmp_path / "saved"
    monkeypatch.setenv("TEMPOZOO_INDEX", str(write_index(tmp_path / "index.yaml")))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    monkeypatch.delenv("TEMPOZOO_OFFLINE")
    (tmp_path / "published.pth").write_bytes(FILE)
    name = NAMES.get(task, NAMES["web"])
    logits = {seed: network(seed)(CLIP) for seed in (1, 2)}
    zoo.save(network(1), saved)
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(Loopback())
        net.put(WEB, FILE, throttle=10 * len(FILE))
        net.drive_file(DRIVE_ID, "x.pth", FILE, mode="warning", throttle=10 * len(FILE))
        for key, value in net.environment().items():
            monkeypatch.setenv(key, value)
        command = [sys.executable, "-c", FORKER, task, name, str(saved if task == "save" else tmp_path)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        forker = stack.enter_context(subprocess.Popen(command, text=True, **pipes))
        duration, interrupted = run_and_kill(forker, 60)[1], 0
        while interrupted < kills:
            shutil.rmtree(cache / name, ignore_errors=True)
            if task == "save":
                zoo.save(network(1), saved)
            interrupted += run_and_kill(forker, random.uniform(0, duration))[0]
            if task == "save":
                again: Any = zoo.load(saved)
                assert any(torch.equal(again(CLIP), expected) for expected in logits.values())
                continue
            visible = cache / name / "model.safetensors"
            if visible.exists():  # a file with its final name is complete, even without config.json
                assert torch.equal(zoo.load(visible)(CLIP), logits[1])
            if task == "convert":
                zoo.convert(tmp_path / "published.pth", name)
            again = zoo.load(name, progress=False)
            assert torch.equal(again(CLIP), logits[1]) and again.report.as_trained
            assert sorted(path.name for path in (cache / name).iterdir()) == ["config.json", "model.safetensors"]
        if task in ("web", "drive") and kills > 10:
            assert any(request.range for request in net.requests)  # some downloads were resumed
        if task in ("web", "drive"):
            # the last process may have been killed after the conversion, before it removed the download
            shutil.rmtree(cache / name)
            zoo.load(name, progress=False)
            left = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
            assert sorted(path.name for path in left) == ["config.json", "model.safetensors"]
        assert forker.stdin
        forker.stdin.close()
