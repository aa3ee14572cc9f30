"""Drop path: dropped branches and clips, and the scale of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import SMALL, VIT, small
from torch import Tensor, nn

from zoo.models.mvit import PTVMViT
from zoo.models.network import DropPath
from zoo.models.vit import TAdaFormerBlock

CLIPS, FRAMES, GRID = 3, 2, 4
FORMS = {"k400": {}, "ssv2": {"temporal_projection": True, "double_tada": True}}


def randomize(network: Any) -> Any:
    """Add noise to every parameter, so that zero-initialized branches contribute."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def tadaformer_block(form: str, rate: float) -> TAdaFormerBlock:
    network = small("tadaformer_b16", drop_path_rate=rate, **FORMS[form])
    return randomize(network.blocks[-1]).train()


def tokens() -> Tensor:
    return torch.randn(CLIPS * FRAMES, 1 + GRID**2, VIT["width"])


def set_draws(monkeypatch: pytest.MonkeyPatch, *keep: list[bool]) -> None:
    """Let the next draws of drop path keep these clips; all later draws drop all clips."""
    draws = [torch.tensor(clips).float() for clips in keep]
    monkeypatch.setattr(torch, "rand", lambda count, **_: draws.pop(0) if draws else torch.zeros(count))


@pytest.mark.parametrize("form", FORMS)
def test_tadaformer_block_with_all_branches_dropped_is_the_identity(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = tadaformer_block(form, 0.5), tokens()
    assert not torch.allclose(block(x, FRAMES, GRID), x, atol=0.1)
    set_draws(monkeypatch)
    assert torch.equal(block(x, FRAMES, GRID), x)


@pytest.mark.parametrize("form", FORMS)
def test_tadaformer_drops_branches_independently(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch kept for two of three clips is added to these two only, scaled to preserve the mean."""
    rate = 0.25
    block, x = tadaformer_block(form, rate), tokens()
    keep = [True, False, True]
    scale = torch.tensor(keep).repeat_interleave(FRAMES)[:, None, None] / (1 - rate)

    def tada(part: nn.Module) -> Callable[[], Tensor]:
        return lambda: torch.cat([torch.zeros(len(x), 1, x.shape[2]), part(x, FRAMES, GRID)], dim=1)

    branches = [tada(block.tada), lambda: block.attn(block.norm1(x), x.shape[1])]
    if block.tada2 is not None:
        branches.append(tada(block.tada2))
    hidden = block.fc1(block.norm2(x))
    branches.append(lambda: block.fc2(hidden * torch.sigmoid(1.702 * hidden)))
    for number, branch in enumerate(branches):
        dropped = [[False] * CLIPS] * number
        set_draws(monkeypatch, *dropped, keep)
        torch.testing.assert_close(block(x, FRAMES, GRID), x + scale * branch())


@pytest.mark.parametrize("form", FORMS)
def test_tadaformer_drops_nothing_in_eval_mode(form: str) -> None:
    """The logits do not depend on the rate, nor on skipping the patch tokens of the last block."""
    clips = torch.randn(2, 3, 4, 32, 32)
    network = randomize(small("tadaformer_b16", drop_path_rate=0.9, **FORMS[form]))
    logits = network(clips)
    torch.testing.assert_close(logits, network.forward_head(network.forward_features(clips)))
    network.set_drop_path(0.0)
    assert torch.equal(network(clips), logits)


@pytest.mark.parametrize("arch", ["tadaconvnext_tiny", "tadaconvnextv2_tiny"])
def test_convnext_block_with_its_branch_dropped_is_the_identity(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = randomize(small(arch, drop_path_rate=0.5).stages[-1][-1]).train()
    x = torch.randn(CLIPS * FRAMES, 8 * SMALL["width"], 4, 4)
    assert not torch.allclose(block(x, FRAMES), x, atol=0.1)
    set_draws(monkeypatch)
    assert torch.equal(block(x, FRAMES), x)


def test_mvit_block_with_all_branches_dropped_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    network = PTVMViT(num_frames=4, image_size=32, width=8, num_classes=4, drop_path_rate=0.5)
    block = randomize(network.net.blocks[4]).train()  # changes neither channels nor resolution
    x, shape = torch.randn(CLIPS, 1 + 2 * 4 * 4, block.dim), [2, 4, 4]
    assert not torch.allclose(block(x, shape)[0], x, atol=0.1)
    set_draws(monkeypatch)
    assert torch.equal(block(x, shape)[0], x)


@pytest.mark.parametrize(
    ("arch", "options"),
    [("tadaformer_b16", {"depth": 5}), ("tadaconvnext_tiny", {}), ("tadaconvnextv2_tiny", {})],
)
def test_rates_grow_linearly_over_the_blocks(arch: str, options: dict[str, int]) -> None:
    network = small(arch, drop_path_rate=0.4, **options)
    rates = [module.rate for module in network.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx(torch.linspace(0, 0.4, len(rates)).tolist())
    assert len(rates) == (5 if options else 3 + 3 + 9 + 3)
