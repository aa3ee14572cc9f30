"""Mutated config.json files result in a working network or in a ZooError that names the file."""

from __future__ import annotations

import copy
import json
import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FOUR, small

import zoo
from zoo.errors import ZooError

CLIP = torch.zeros(1, 3, 4, 32, 32)
SECONDS = 10.0  # time limit for one file, generous for busy machines
# values that a mutation inserts
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 4, 8, 16, 255, 65536, 10**6, 10**9, 2**63, 10**200, 0.0, -0.0, 0.5, 1e-30, 1e300,
    float("nan"), float("inf"), float("-inf"), "", "x", "4", "prob", "\x1b[31m", "\u202eabc", "\ud800", "名前",
    "a" * 5000, "../../etc/passwd", [], [1], [[]], [[0, 1]], [0.0, 0.0, 0.0], [1.0, 1.0], ["a", "b", "c", "d"],
    ["a"] * 4, list(range(1000)), {}, {"a": 1}, {"hidden": 10**9}, {"blocks": [[0], [0], [0], [0]]}, {"kernel_size": 5},
]  # fmt: skip
KEYS = [
    "arch",
    "num_classes",
    "num_frames",
    "width",
    "op_options",
    "non_local",
    "heads",
    "sha256",
    "",
    "\x1b",
    "std",
    "x",
]
# texts that JSON parsers interpret differently
RAW = ["", "null", "[]", "{", '{"a": 1, "a": 2}', "9" * 5000, "[" * 100_000, "NaN", '{"tempozoo": 1e400}', "\ufeff{}"]


def containers(value: Any) -> list[Any]:
    """Return all dictionaries and non-empty lists inside a value, including itself."""
    result, left = [], [value]
    while left:
        item = left.pop()
        if isinstance(item, dict) or (isinstance(item, list) and item):
            result.append(item)
            left.extend(item.values() if isinstance(item, dict) else item[:100])
    return result


def nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = {"a": [value]}
    return value


def mutate(config: Any, draw: random.Random) -> None:
    """Change, remove, add, repeat or nest one value somewhere in a config."""
    target = draw.choice(containers(config))
    places = list(target) if isinstance(target, dict) else list(range(len(target)))
    kind = draw.choice(["set", "set", "set", "remove", "add", "nest", "repeat"])
    if kind == "add" or not places:
        if isinstance(target, dict):
            target[draw.choice(KEYS)] = copy.deepcopy(draw.choice(VALUES))
        else:
            target.append(copy.deepcopy(draw.choice(VALUES)))
        return
    place = draw.choice(places)
    if kind == "set":
        target[place] = copy.deepcopy(draw.choice(VALUES))
    elif kind == "remove":
        del target[place]
    elif kind == "nest":
        target[place] = nested(target[place], draw.choice([1, 3, 60]))
    else:
        target[place] = [target[place]] * (3 if isinstance(target[place], (dict, list)) else 20_000)


def outcome(folder: Path, text: str) -> str | None:
    """Load a network with this config.json; return a description of the failure, or None."""
    (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    start, problem = time.monotonic(), None
    try:
        model = zoo.load(folder)
        with torch.no_grad():
            logits = model(CLIP)
        if not logits.isfinite().all() or logits.shape != (1, 4):
            problem = f"logits {tuple(logits.shape)}"
        str(model.report), str(model.protocol)  # type: ignore[union-attr]
    except ZooError as error:
        message = str(error)
        if str(folder) not in message or "\n" in message or "\x1b" in message or len(message) > 2000:
            problem = f"message {message[:300]!r}"
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error)[:300]}"
    if time.monotonic() - start > SECONDS:
        problem = f"{time.monotonic() - start:.0f} seconds"
    return problem


def check(arch: str, seed: int, count: int, tmp_path: Path, **options: Any) -> None:
    folder = zoo.save(small(arch, labels=list(FOUR), **options), tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]
    draw, problems = random.Random(seed), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        changed = json.loads(json.dumps(config))
        for _ in range(draw.choice([1, 1, 1, 2, 5])):
            mutate(changed, draw)
        text = json.dumps(changed, ensure_ascii=draw.random() < 0.5)
        if problem := outcome(folder, text):
            problems.append(f"{problem} of {text[:2000]}")
    assert not problems, f"{len(problems)} of {count}: {problems[0]}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000, f"{grown // 1000} MB"  # kilobytes on Linux


@pytest.mark.parametrize(("arch", "seed"), [("tanet_r18", 1), ("tadaformer_b16", 2)])
def test_load_handles_mutated_configs(arch: str, seed: int, tmp_path: Path) -> None:
    check(arch, seed, 300, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 6))
@pytest.mark.parametrize("arch", ["tanet_r18", "nonlocal_r18", "stam_r18", "tadaconvnextv2_tiny", "tadaformer_b16"])
def test_load_handles_many_mutated_configs(arch: str, seed: int, tmp_path: Path) -> None:
    check(arch, seed, 1000, tmp_path)


def test_load_handles_unusual_json(tmp_path: Path) -> None:
    folder = zoo.save(small("tanet_r18"), tmp_path / "saved")
    problems = {text[:20]: problem for text in RAW if (problem := outcome(folder, text))}
    assert not problems
