"""The network of a localizer: attention against brute force, padding, decoding, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zoo.errors import CheckpointError, ConfigError
from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.localizer_files import build_localizer, load, save
from zoo.localization.localizer_spec import FeatureSource, LocalizerSpec, PointOptions
from zoo.localization.point_model import PointLocalizer, PointOutput, local_attention, make_points
from zoo.localization.segment_decoding import decode_segments

SPEC = LocalizerSpec(
    FeatureSource("net", "0" * 64, 1.0, 0.25, 6), ("a", "b"), PointOptions(width=16, heads=2, layers=1, levels=3)
)


@pytest.mark.parametrize(("length", "window"), [(1, 3), (31, 5), (70, 9), (70, 201)])
def test_local_attention_equals_full_attention_with_a_band(length: int, window: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, length, 4)
    mask = torch.rand(2, length) < 0.8
    distance = (torch.arange(length) - torch.arange(length)[:, None]).abs()
    allowed = (mask[:, None] & (distance <= window // 2)) | (distance == 0)
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~allowed[:, None], -torch.inf)
    torch.testing.assert_close(local_attention(q, k, v, mask, window), scores.softmax(-1) @ v)


def test_padding_does_not_change_predictions() -> None:
    torch.manual_seed(0)
    model = PointLocalizer(SPEC).eval()
    features, mask = torch.randn(2, 6, 41), torch.ones(2, 41, dtype=torch.bool)
    mask[1, 13:] = False
    batch, alone = model(features, mask), model(features[1:, :, :13], mask[1:, :13])
    for together, single in ((batch.logits, alone.logits), (batch.distances, alone.distances)):
        torch.testing.assert_close(together[1][batch.mask[1]], single[0][alone.mask[0]])


def test_input_dropout_removes_a_feature_from_all_cells() -> None:
    torch.manual_seed(0)
    options = replace(SPEC.options, input_dropout=0.5)
    model = PointLocalizer(replace(SPEC, options=options))
    inputs: list[torch.Tensor] = []
    model.embedding[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    features, mask = torch.randn(3, 6, 20), torch.ones(3, 20, dtype=torch.bool)
    model(features, mask)
    removed = (inputs[0] == 0)[:, :20]
    assert torch.equal(removed.any(1), removed.all(1)) and 0 < removed.float().mean() < 1
    model.eval()(features, mask)
    assert not (inputs[1] == 0)[:, :20].any()


def test_decoding_maps_cells_to_the_centers_of_windows() -> None:
    points = make_points([8], torch.device("cpu"))
    logits = torch.full((1, 8, 2), -20.0)
    logits[0, 4, 1], logits[0, 2, 0] = 3.0, 1.0
    distances = torch.tensor([[[2.0, 3.0]] * 8])
    output = PointOutput(logits, distances, torch.ones(1, 8, dtype=torch.bool), points)
    first, second = decode_segments(output, FeatureGrid(1.0, 0.25), [2.0], ["a", "b"])[0]
    assert (first.label, first.start, first.end) == ("b", 2 * 0.25 + 0.5, 2.0)  # 2.25 s is after the end of the video
    assert (second.label, second.start, second.end) == ("a", 0.5, 5 * 0.25 + 0.5)


def test_long_videos_have_more_segments() -> None:
    points = make_points([1200], torch.device("cpu"))
    logits, distances = torch.full((1, 1200, 1), 1.0), torch.full((1, 1200, 2), 0.4)
    output = PointOutput(logits, distances, torch.ones(1, 1200, dtype=torch.bool), points)
    for duration, options, count in ((100.0, {}, 200), (1200.0, {}, 1200), (1200.0, {"max_segments": 7}, 7)):
        grid = FeatureGrid(duration / 1200, duration / 1200)
        assert len(decode_segments(output, grid, [duration], ["a"], **options)[0]) == count


def test_saved_localizer_is_loaded_exactly(tmp_path: Path) -> None:
    model = PointLocalizer(SPEC)
    loaded = load(save(model, tmp_path / "model"))
    assert loaded.spec.labels == SPEC.labels and loaded.spec.features == SPEC.features
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_tensors_that_do_not_fit_the_config_are_refused() -> None:
    tensors = PointLocalizer(SPEC).state_dict()
    with pytest.raises(CheckpointError, match="lacks distance_scale"):
        build_localizer(SPEC.to_config(), {k: v for k, v in tensors.items() if k != "distance_scale"}, "model")
    config = SPEC.to_config()
    config["options"]["width"] = 10**9
    with pytest.raises(ConfigError, match="width is 1000000000"):
        build_localizer(config, tensors, "model")
