"""Drop path: which branches of a block it leaves out, for which clips, and by what it scales the others."""

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
    """Give every parameter a random value, so that zero-initialized branches count."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def former_block(form: str, rate: float) -> TAdaFormerBlock:
    network = small("tadaformer_b16", drop_path_rate=rate, **FORMS[form])
    return randomize(network.blocks[-1]).train()


def tokens() -> Tensor:
    return torch.randn(CLIPS * FRAMES, 1 + GRID**2, VIT["width"])


def keep_draws(monkeypatch: pytest.MonkeyPatch, *kept: list[bool]) -> None:
    """Let the next draws of drop path keep these clips; draws after them keep none."""
    draws = [torch.tensor(clips).float() for clips in kept]
    monkeypatch.setattr(torch, "rand", lambda count, **_: draws.pop(0) if draws else torch.zeros(count))


@pytest.mark.parametrize("form", FORMS)
def test_tadaformer_block_without_its_paths_is_the_identity(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = former_block(form, 0.5), tokens()
    assert not torch.allclose(block(x, FRAMES, GRID), x, atol=0.1)
    keep_draws(monkeypatch)
    assert torch.equal(block(x, FRAMES, GRID), x)


@pytest.mark.parametrize("form", FORMS)
def test_tadaformer_drops_each_branch_by_a_draw_of_its_own(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one branch kept for two of three clips, it is added to those alone, scaled up to keep the mean."""
    rate = 0.25
    block, x = former_block(form, rate), tokens()
    kept = [True, False, True]
    scale = torch.tensor(kept).repeat_interleave(FRAMES)[:, None, None] / (1 - rate)

    def tada(part: nn.Module) -> Callable[[], Tensor]:
        return lambda: torch.cat([torch.zeros(len(x), 1, x.shape[2]), part(x[:, 1:], FRAMES, GRID)], dim=1)

    branches = [tada(block.tada), lambda: block.attn(block.norm1(x), x.shape[1])]
    if block.tada2 is not None:
        branches.append(tada(block.tada2))
    hidden = block.fc1(block.norm2(x))
    branches.append(lambda: block.fc2(hidden * torch.sigmoid(1.702 * hidden)))
    for number, branch in enumerate(branches):
        dropped = [[False] * CLIPS] * number
        keep_draws(monkeypatch, *dropped, kept)
        torch.testing.assert_close(block(x, FRAMES, GRID), x + scale * branch())


@pytest.mark.parametrize("form", FORMS)
def test_tadaformer_evaluates_all_paths(form: str) -> None:
    """Logits, which need only the last block's class tokens, equal those of all tokens; the rate has no influence."""
    clips = torch.randn(2, 3, 4, 32, 32)
    network = randomize(small("tadaformer_b16", drop_path_rate=0.9, **FORMS[form]))
    logits = network(clips)
    torch.testing.assert_close(logits, network.forward_head(network.forward_features(clips)))
    network.set_drop_path(0.0)
    assert torch.equal(network(clips), logits)


@pytest.mark.parametrize("arch", ["tadaconvnext_tiny", "tadaconvnextv2_tiny"])
def test_convnext_block_without_its_path_is_the_identity(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = randomize(small(arch, drop_path_rate=0.5).stages[-1][-1]).train()
    x = torch.randn(CLIPS * FRAMES, 8 * SMALL["width"], 4, 4)
    assert not torch.allclose(block(x, FRAMES), x, atol=0.1)
    keep_draws(monkeypatch)
    assert torch.equal(block(x, FRAMES), x)


def test_mvit_block_without_its_paths_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    network = PTVMViT(num_frames=4, image_size=32, width=8, num_classes=4, drop_path_rate=0.5)
    block = randomize(network.net.blocks[4]).train()  # neither widens nor pools its tokens
    x, shape = torch.randn(CLIPS, 1 + 2 * 4 * 4, block.dim), [2, 4, 4]
    assert not torch.allclose(block(x, shape)[0], x, atol=0.1)
    keep_draws(monkeypatch)
    assert torch.equal(block(x, shape)[0], x)


@pytest.mark.parametrize(
    ("arch", "options"),
    [("tadaformer_b16", {"depth": 5}), ("tadaconvnext_tiny", {}), ("tadaconvnextv2_tiny", {})],
)
def test_rates_grow_linearly_from_the_first_block_to_the_last(arch: str, options: dict[str, int]) -> None:
    network = small(arch, drop_path_rate=0.4, **options)
    rates = [module.rate for module in network.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx(torch.linspace(0, 0.4, len(rates)).tolist())
    assert len(rates) == (5 if options else 3 + 3 + 9 + 3)
