"""kill -9 at any moment of a download, conversion or save: no half file is ever used, and the next load succeeds."""

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
WAYS = ("web", "drive", "convert", "save")

# A process that forks one for each line it reads, which does the one thing over and over is killed for.
FORKER = """
import os, sys, pathlib, gdown, rich.progress, torch, zoo
from tiny_zoo import network
what, name, folder = sys.argv[1:]
torch.set_num_threads(1)
zoo.info(name)
for _ in sys.stdin:
    child = os.fork()
    if not child:
        print(os.getpid(), flush=True)
        if what == "save":
            zoo.save(network(2), folder)
        elif what == "convert":
            zoo.convert(pathlib.Path(folder) / "published.pth", name)
        else:
            zoo.load(name, progress=False)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def killed(forker: subprocess.Popen[str], delay: float) -> tuple[bool, float]:
    """Let it be done once more, for ``delay`` seconds at most; whether it was killed, and how long it ran."""
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


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("what", "kills"), [*((way, 5) for way in WAYS), *(pytest.param(way, 50, marks=pytest.mark.slow) for way in WAYS)]
)
def test_kills(what: str, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(what)
    cache, mine = Path(os.environ["TEMPOZOO_CACHE"]), tmp_path / "mine"
    monkeypatch.setenv("TEMPOZOO_INDEX", str(write_index(tmp_path / "index.yaml")))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    monkeypatch.delenv("TEMPOZOO_OFFLINE")
    (tmp_path / "published.pth").write_bytes(FILE)
    name = NAMES.get(what, NAMES["web"])
    logits = {seed: network(seed)(CLIP) for seed in (1, 2)}
    zoo.save(network(1), mine)
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(Loopback())
        net.put(WEB, FILE, throttle=10 * len(FILE))
        net.drive_file(DRIVE_ID, "x.pth", FILE, mode="warning", throttle=10 * len(FILE))
        for key, value in net.environment().items():
            monkeypatch.setenv(key, value)
        command = [sys.executable, "-c", FORKER, what, name, str(mine if what == "save" else tmp_path)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        forker = stack.enter_context(subprocess.Popen(command, text=True, **pipes))
        whole, interrupted = killed(forker, 60)[1], 0
        while interrupted < kills:
            shutil.rmtree(cache / name, ignore_errors=True)
            if what == "save":
                zoo.save(network(1), mine)
            interrupted += killed(forker, random.uniform(0, whole))[0]
            if what == "save":
                again: Any = zoo.load(mine)
                assert any(torch.equal(again(CLIP), expected) for expected in logits.values())
                continue
            visible = cache / name / "model.safetensors"
            if visible.exists():  # what has its final name is whole, even without the config beside it
                assert torch.equal(zoo.load(visible)(CLIP), logits[1])
            if what == "convert":
                zoo.convert(tmp_path / "published.pth", name)
            again = zoo.load(name, progress=False)
            assert torch.equal(again(CLIP), logits[1]) and again.report.as_trained
            assert sorted(path.name for path in (cache / name).iterdir()) == ["config.json", "model.safetensors"]
        if what in ("web", "drive") and kills > 10:
            assert any(request.range for request in net.requests)  # some of them were gone on with
        if what in ("web", "drive"):
            left = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
            assert sorted(path.name for path in left) == ["config.json", "model.safetensors"]
        assert forker.stdin
        forker.stdin.close()
