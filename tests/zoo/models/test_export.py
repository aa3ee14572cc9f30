"""Networks exported by ``torch.export`` accept any number of clips; see also test_networks.py."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, build, clips_for

QUICK = ("i3d", "tsm", "teinet", "tanet global first", "ptv_x3d", "slowfast_tam", "r2plus1d_tada", "host tam")


@pytest.mark.parametrize(
    "family", [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
)
def test_exported_network_equals_eager_at_another_batch_size(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(family, monkeypatch).eval()
    dynamic = ({0: torch.export.Dim("clips", max=64)},)
    program = torch.export.export(network, (clips_for(family, 3),), dynamic_shapes=dynamic)
    clips = clips_for(family, 5)
    torch.testing.assert_close(program.module()(clips), network(clips), rtol=1e-4, atol=1e-5)
