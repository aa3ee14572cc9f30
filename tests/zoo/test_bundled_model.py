"""The network whose weights are shipped with the package."""

from __future__ import annotations

from typing import Any

import torch

import zoo
from zoo.index import BUNDLED

NAMES = zoo.list_models()


def test_bundled_network_loads_offline_and_matches_its_entry() -> None:
    (name,) = [n for n in NAMES if zoo.info(n).sources[0].kind == "bundled"]
    entry = zoo.info(name)
    model: Any = zoo.load(name)
    assert model.report.as_trained
    assert model.report.sha256 == entry.sha256
    assert (model.spec.arch, model.protocol) == (entry.arch, entry.protocol)
    assert model.spec.options == dict(entry.options)
    assert len(model.labels) == 8
    assert (BUNDLED / name / "model.safetensors").stat().st_size < 4e6


def test_bundled_network_recognizes_motions_and_their_direction() -> None:
    """Rendered clips are classified correctly, and reversed clips as the opposite motion."""
    from datamodules.motion_render import MOTION_PAIRS, render_clip
    from zoo.video.sampling import sample
    from zoo.video.transforms import normalize

    model: Any = zoo.load("tanet_r18.motionclips8")
    partner = {a: b for pair in MOTION_PAIRS for a, b in (pair, pair[::-1])}
    correct, opposite = [], []
    for label in model.labels:
        for seed in range(5):
            frames = render_clip(label, 10**6 + seed)
            frames = frames[sample(model.protocol, len(frames), 12, (0, 1))]
            clip = normalize(
                torch.from_numpy(frames).permute(0, 3, 1, 2)[None], model.protocol.mean, model.protocol.std
            )
            with torch.no_grad():
                predictions = model(torch.cat([clip, clip.flip(2)])).argmax(1).tolist()
            correct.append(model.labels[predictions[0]] == label)
            opposite.append(model.labels[predictions[1]] == partner[label])
    assert sum(correct) >= 0.85 * len(correct)
    assert sum(opposite) >= 0.85 * len(opposite)
