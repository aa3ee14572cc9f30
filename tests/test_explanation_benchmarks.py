"""The benchmark of explanations: order of patches, areas, augmentation of the training clips, and the table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from small_models import small_trained

import zoo
from benchmarks import explanations, motion_transformer
from benchmarks.explanations import GRID, Orders, area, main, rank_patches, shuffle_weights
from datamodules.motion_render import object_mask


def test_patches_are_ranked_by_their_mean_relevance() -> None:
    values = torch.zeros(2, 32, 32)
    values[1, 4:6, 8:10] = 2  # one patch of a 16 x 16 grid
    values[0, 0, 0] = 4  # a quarter of a patch, with half the mean
    ranks = rank_patches(values, torch.Generator().manual_seed(0))
    count = 2 * GRID**2
    assert (ranks[1, 4:6, 8:10] == 0).all()
    assert ranks[0, :2, :2].flatten().tolist() == pytest.approx([1 / count] * 4)
    assert len(ranks.unique()) == count


def test_equal_patches_are_ranked_at_random() -> None:
    """Otherwise the patches without relevance would be removed frame by frame."""
    values = torch.zeros(8, 32, 32)
    values[0, 0, 0] = 1
    ranks = rank_patches(values, torch.Generator().manual_seed(0))
    assert ranks[0, 0, 0] == 0
    assert ranks.mean((1, 2)).tolist() == pytest.approx([0.5] * 8, abs=0.1)
    other = rank_patches(values, torch.Generator().manual_seed(1))
    assert not torch.equal(ranks, other) and other[0, 0, 0] == 0


def test_area_is_smaller_if_the_decisive_pixels_are_removed_first() -> None:
    class Bright(torch.nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            score = 20 * clips[:, :, :, :8, :8].mean((1, 2, 3, 4))
            return torch.stack([score, 10 - score], 1)

    clip, other = torch.ones(1, 3, 2, 32, 32), torch.zeros(1, 3, 2, 32, 32)
    corner = torch.zeros(2, 32, 32)
    corner[:, :8, :8] = 1
    network: zoo.models.VideoNetwork = Bright()  # type: ignore[assignment]
    areas = [area(network, clip, other, rank_patches(values, torch.Generator()), 0, 16) for values in (corner, -corner)]
    assert areas[0] < 0.1 and areas[1] > 0.9


def test_shuffled_weights_have_the_same_values_in_other_positions() -> None:
    network = small_trained("tanet_r18")
    shuffled = shuffle_weights(network, seed=0)
    for before, after in zip(network.parameters(), shuffled.parameters(), strict=True):
        assert torch.equal(before.flatten().sort()[0], after.flatten().sort()[0])
    assert not torch.equal(network.stem.conv.weight, shuffled.stem.conv.weight)


def test_every_method_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanations, "CONTROLS", 1)
    for arch in ("tanet_r18", "tadaformer_b16"):
        network = small_trained(arch).eval().requires_grad_(False)
        maps = Orders(network, with_alternatives=True)(torch.randn(1, 3, 4, 32, 32), 1, 0)
        assert len(maps) >= 5 + 2 * 2
        assert all(values.shape == (4, 32, 32) and values.isfinite().all() for values in maps.values())
        relevance = maps.pop("relevance")
        assert not any(torch.allclose(relevance, values) for values in maps.values())


def test_the_table_has_gains_over_other_orders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanations, "CONTROLS", 1)
    monkeypatch.setattr(explanations, "SEEDS", {"test": 0})
    path = tmp_path / "table.csv"
    main(["--motion_clips", "2", "--steps", "2", "--csv", str(path)])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    cells = {(row["measure"], row["order"]): row for row in rows}
    own, chance = (cells["object share", order] for order in ("relevance", "chance"))
    assert float(chance["gain of relevance"]) == pytest.approx(float(own["mean"]) - float(chance["mean"]), abs=2e-3)
    assert "object share" in capsys.readouterr().out


@pytest.mark.parametrize("label", ["moves_left", "moves_right", "moves_up", "moves_down"])
@pytest.mark.parametrize("number", range(4))
def test_augmented_clips_have_the_label_of_their_motion(number: int, label: str) -> None:
    transform, swaps = motion_transformer.AUGMENTATIONS[number]
    mask = transform(torch.from_numpy(object_mask(label, 0).copy())[None, None].float())[0, 0]
    positions = torch.arange(64.0)
    down, right = (
        float(((mask[-1] / mask[-1].sum() - mask[0] / mask[0].sum()).sum(axis) * positions).sum()) for axis in (1, 0)
    )
    if abs(right) > abs(down):
        direction = "moves_right" if right > 0 else "moves_left"
    else:
        direction = "moves_down" if down > 0 else "moves_up"
    swapped = dict([*swaps, *((second, first) for first, second in swaps)])
    assert direction == swapped.get(label, label)
