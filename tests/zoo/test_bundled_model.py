"""The network whose weights are shipped with the package."""

from __future__ import annotations

from typing import Any

import torch

import zoo
from zoo.index import BUNDLED

NAMES = zoo.list_models()


def test_the_bundled_network_loads_offline_and_is_as_described() -> None:
    (name,) = [n for n in NAMES if zoo.info(n).sources[0].kind == "bundled"]
    entry = zoo.info(name)
    model: Any = zoo.load(name)
    assert model.report.as_trained
    assert model.report.sha256 == entry.sha256
    assert (model.spec.arch, model.protocol) == (entry.arch, entry.protocol)
    assert model.spec.options == dict(entry.options)
    assert len(model.labels) == 8
    assert (BUNDLED / name / "model.safetensors").stat().st_size < 4e6


def test_the_bundled_network_knows_its_motions() -> None:
    """On clips drawn for this test: nearly all right, and played backwards the opposite is seen."""
    from datamodules.motion_render import MOTION_PAIRS, render_clip
    from zoo.video.sampling import sample
    from zoo.video.transforms import normalize

    model: Any = zoo.load("tanet_r18.motionclips8")
    partner = {a: b for pair in MOTION_PAIRS for a, b in (pair, pair[::-1])}
    right, opposite = [], []
    for label in model.labels:
        for seed in range(5):
            frames = render_clip(label, 10**6 + seed)
            frames = frames[sample(model.protocol, len(frames), 12, (0, 1))]
            clip = normalize(
                torch.from_numpy(frames).permute(0, 3, 1, 2)[None], model.protocol.mean, model.protocol.std
            )
            with torch.no_grad():
                guesses = model(torch.cat([clip, clip.flip(2)])).argmax(1).tolist()
            right.append(model.labels[guesses[0]] == label)
            opposite.append(model.labels[guesses[1]] == partner[label])
    assert sum(right) >= 0.85 * len(right)
    assert sum(opposite) >= 0.85 * len(opposite)
