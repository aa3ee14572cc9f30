"""The Boundary-Matching Network against the dense published computation; windows, decoding, files and conversion."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import plain_bmn
import pytest
import torch
from torch import Tensor

from cli import main
from zoo.errors import CheckpointError, ConfigError
from zoo.localization import convert, load, save
from zoo.localization.boundary_conversion import RULES
from zoo.localization.boundary_matching import BoundaryLocalizer, BoundaryOutput, cut_windows
from zoo.localization.boundary_options import BoundaryOptions
from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.localizer_files import build_localizer
from zoo.localization.localizer_spec import FeatureSource, LocalizerSpec
from zoo.localization.point_model import PointLocalizer
from zoo.localization.proposal_decoding import VideoMaps, boundary_candidates, decode_proposals
from zoo.localization.proposal_sampling import ProposalLayer, sampling_matrix, sampling_weights
from zoo.weights.converters import apply_rules

OPTIONS = BoundaryOptions(length=12, durations=5, samples=4, width=8, proposal_width=6, map_width=4)
SOURCE = FeatureSource("net", "0" * 64, 1.0, 0.25, 8)
SPEC = LocalizerSpec(SOURCE, ("a", "b", "c"), OPTIONS)
SIZES = (SOURCE.dim, *dataclasses.astuple(OPTIONS))


def plain_network() -> plain_bmn.PlainBMN:
    torch.manual_seed(0)
    return plain_bmn.PlainBMN(*SIZES)


def published_file(path: Path, **changes: Tensor | None) -> Path:
    """Write a file of the publisher's format; a change of None removes a tensor."""
    state = {**plain_network().state_dict(), **{key.replace("__", "."): value for key, value in changes.items()}}
    state = {key: value for key, value in state.items() if value is not None}
    torch.save({"epoch": 9, "model_state": state, "cfg": "TASK_TYPE: localization"}, path)
    return path


# sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "durations", "samples"), [(12, 5, 4), (14, 13, 32), (9, 9, 1)])
def test_sparse_weights_equal_the_dense_matrix(length: int, durations: int, samples: int) -> None:
    dense = plain_bmn.dense_mask(length, durations, samples)
    sparse = sampling_weights(length, durations, samples).to_dense().unflatten(0, (durations, length))
    ordered = sparse.unflatten(2, (samples, length)).permute(3, 2, 0, 1)
    torch.testing.assert_close(ordered, dense, rtol=0, atol=1e-14)


def test_segments_of_the_published_size_have_the_published_weights() -> None:
    weights = sampling_weights(200, 100, 32)
    assert weights.shape == (100 * 200, 32 * 200)
    for start, index in ((0, 0), (0, 99), (1, 1), (57, 38), (100, 99), (199, 0), (150, 49)):
        row = torch.zeros(32, 200, dtype=torch.float64)
        for sample, cell, weight in plain_bmn.reads(start, index, 200, 32):
            row[sample, cell] += weight
        ours = weights.index_select(0, torch.tensor([index * 200 + start])).to_dense().view(32, 200)
        torch.testing.assert_close(ours, row, rtol=0, atol=1e-14)
    after_the_window = weights.index_select(0, torch.tensor([99 * 200 + 101]))
    assert after_the_window.coalesce().values().numel() == 0


def test_samples_of_a_segment_by_hand() -> None:
    """Cells 2 and 3 of 8, 1 sample: three positions 1, 2.5 and 4, from a cell before to a cell after the segment."""
    row = sampling_weights(8, 2, 1).to_dense()[1 * 8 + 2]
    assert row.tolist() == pytest.approx([0, 1 / 3, 1 / 6, 1 / 6, 1 / 3, 0, 0, 0])


def test_proposal_layer_equals_the_dense_product_and_its_gradients() -> None:
    torch.manual_seed(0)
    layer = ProposalLayer(3, 4, 5, 6).double()
    x = torch.randn(2, 3, 11, dtype=torch.float64, requires_grad=True)
    mask = plain_bmn.dense_mask(11, 5, 6)
    expected = torch.einsum("bct,tnds,ocn->bods", x, mask, layer.weight) + layer.bias[:, None, None]
    output = layer(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    noise = torch.randn_like(expected)
    inputs = (x, layer.weight, layer.bias)
    ours, theirs = (torch.autograd.grad((value * noise).sum(), inputs) for value in (output, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_sampling_matrix_of_inference_is_used_in_training() -> None:
    sampling_matrix.cache_clear()
    layer, x = ProposalLayer(2, 2, 3, 2), torch.randn(1, 2, 7)
    with torch.inference_mode():
        expected = layer(x)
    output = layer(x)
    output.sum().backward()
    assert torch.equal(output, expected) and layer.weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.02, atol=0.02)


# network and conversion ------------------------------------------------------------------------------------------


def test_converted_network_has_the_publishers_outputs(tmp_path: Path) -> None:
    theirs = plain_network().double()
    theirs.head.sample_mask.data = plain_bmn.dense_mask(OPTIONS.length, OPTIONS.durations, OPTIONS.samples).flatten(1)
    ours = convert(published_file(tmp_path / "bmn.pyth")).double()
    assert isinstance(ours, BoundaryLocalizer) and ours.options == OPTIONS
    assert (ours.spec.labels, ours.spec.features.dim) == (("action",), 8)
    windows = torch.randn(3, 8, 12, dtype=torch.float64)
    output = ours(windows)
    assert output.classes is None
    for logits, expected in zip(output[:3], theirs(windows), strict=True):
        assert expected.std() > 1e-3
        torch.testing.assert_close(logits.sigmoid(), expected, rtol=1e-9, atol=1e-9)


def test_published_keys_and_shapes_belong_to_the_network() -> None:
    """EPIC-KITCHENS-100: 6912 features, windows of 200 cells and segments of up to 100; formula of the shapes."""
    dim, width, proposals, maps, samples = 6912, 256, 512, 128, 32
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.conv_layer.0": (width, dim // 4, 3),
        "backbone.conv_layer.2": (width, width // 4, 3),
        "head.x_1d_p.0": (width, width, 3),
        "head.x_3d_p.0": (proposals, width, samples, 1, 1),
        "head.x_2d_p.0": (maps, proposals, 1, 1),
        "head.x_2d_p.2": (maps, maps, 3, 3),
        "head.x_2d_p.4": (maps, maps, 3, 3),
        "head.x_2d_p.6": (2, maps, 1, 1),
    }
    for head in ("head.x_1d_s", "head.x_1d_e"):
        shapes |= {f"{head}.0": (width, width // 4, 3), f"{head}.2": (1, width, 1)}
    with torch.device("meta"):
        published = {f"{key}.weight": torch.empty(shape) for key, shape in shapes.items()}
        published |= {f"{key}.bias": torch.empty(shape[0]) for key, shape in shapes.items()}
        published["head.sample_mask"] = torch.empty(200, 32 * 100 * 200)
        network = BoundaryLocalizer(LocalizerSpec(dataclasses.replace(SOURCE, dim=dim), ("action",), BoundaryOptions()))
    conversion = apply_rules(RULES, published)
    assert conversion.ignored == ["head.sample_mask"] and not conversion.unknown
    expected = {key: value.shape for key, value in network.state_dict().items()}
    assert {key: value.shape for key, value in conversion.tensors.items()} == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == 6_228_868


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head__x_2d_verb__0__weight": torch.zeros(1)}, r"unknown keys .*head\.x_2d_verb\.0\.weight"),
        ({"head__sample_mask": None}, r"it has no head\.sample_mask"),
        ({"head__x_3d_p__0__weight": None}, r"lacks the tensor of 'proposal_layer\.weight'"),
        ({"head__x_1d_e__2__bias": None}, r"lacks end_head\.2\.bias"),
        ({"head__sample_mask": torch.zeros(12, 241)}, "has 241 columns; expected a multiple of 48"),
        ({"head__sample_mask": torch.zeros(12, 240)}, "has other interpolation weights"),
    ],
)
def test_files_of_other_networks_are_refused(tmp_path: Path, changes: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(published_file(tmp_path / "bmn.pyth", **changes))


def test_converted_network_is_saved_and_loaded(tmp_path: Path) -> None:
    model = convert(published_file(tmp_path / "bmn.pyth"), features=SOURCE)
    loaded = load(save(model, tmp_path / "model"))
    assert isinstance(loaded, BoundaryLocalizer)
    assert (loaded.spec.features, loaded.options) == (SOURCE, OPTIONS)
    assert "sha256" in loaded.spec.provenance
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    with pytest.raises(CheckpointError, match=r"backbone\.0\.weight is torch\.float32 \(8, 2, 3\)"):
        convert(tmp_path / "bmn.pyth", features=dataclasses.replace(SOURCE, dim=16))


def test_convert_command_writes_a_localizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = published_file(tmp_path / "bmn.pyth")
    assert main(["convert", str(file), "bmn"]) == 1
    assert "give the folder to write to with --out" in capsys.readouterr().err
    assert main(["convert", str(file), "bmn", "--out", str(tmp_path / "model")]) == 0
    assert isinstance(load(tmp_path / "model"), BoundaryLocalizer)


def test_invalid_options_are_reported() -> None:
    def build(dim: int = 8, **changes: int) -> BoundaryLocalizer:
        options = dataclasses.replace(OPTIONS, **changes)
        return BoundaryLocalizer(LocalizerSpec(dataclasses.replace(SOURCE, dim=dim), ("a",), options))

    with pytest.raises(ConfigError, match="durations is 12; it must be less than length, 12"):
        build(durations=12)
    with pytest.raises(ConfigError, match="width is 10; it must be a multiple of 4"):
        build(width=10)
    with pytest.raises(ConfigError, match=r"features\.dim is 6; .* needs a multiple of 4"):
        build(dim=6)
    with pytest.raises(ConfigError, match="BoundaryLocalizer needs BoundaryOptions"):
        BoundaryLocalizer(LocalizerSpec(SOURCE, ("a",)))
    with pytest.raises(ConfigError, match="PointLocalizer needs PointOptions"):
        PointLocalizer(SPEC)
    config = SPEC.to_config()
    with pytest.raises(ConfigError, match="network is 'cubic'; choose from point, boundary_matching"):
        build_localizer({**config, "network": "cubic"}, {}, "model")


# videos ----------------------------------------------------------------------------------------------------------


def test_windows_cover_a_video_and_are_padded_with_zeros() -> None:
    features = torch.arange(1.0, 10.0)[None]
    windows = cut_windows(features, length=6, stride=4)
    assert windows[:, 0].tolist() == [[1, 2, 3, 4, 5, 6], [5, 6, 7, 8, 9, 0], [9, 0, 0, 0, 0, 0]]
    assert cut_windows(features[:, :4], 6, 4)[:, 0].tolist() == [[1, 2, 3, 4, 0, 0]]


def test_overlapping_windows_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    options = dataclasses.replace(OPTIONS, length=6, durations=2)
    model = BoundaryLocalizer(LocalizerSpec(SOURCE, ("a",), options)).eval()

    def number_windows(windows: Tensor) -> BoundaryOutput:
        """Give every window the probability of its first feature."""
        value = windows[:, 0, 0].logit()
        flat = value[:, None].expand(-1, 6)
        return BoundaryOutput(flat, flat, value[:, None, None, None].expand(-1, 2, 2, 6), None)

    monkeypatch.setattr(model, "forward", number_windows)
    features = torch.zeros(8, 9)
    features[0, [0, 4, 8]] = torch.tensor([0.2, 0.4, 0.8])
    maps = model.video_maps(features)
    assert maps.start.tolist() == pytest.approx([0.2] * 4 + [0.3] * 2 + [0.4] * 2 + [0.6])
    one_cell, two_cells = maps.overlap.tolist()
    assert one_cell == pytest.approx([0.2] * 4 + [0.3] * 2 + [0.4] * 2 + [0.6])
    # the first window has no segment from cell 5 to 7, the second one none from 9 to 11
    assert two_cells == pytest.approx([0.2] * 4 + [0.3] + [0.4] * 3 + [0.6])


def test_padding_does_not_change_segments() -> None:
    torch.manual_seed(0)
    model = BoundaryLocalizer(SPEC).eval()
    features, mask = torch.randn(2, 8, 30), torch.ones(2, 30, dtype=torch.bool)
    mask[1, 17:] = False
    with torch.no_grad():
        both = model.localize(features, mask, [8.0, 4.75])
        (alone,) = model.localize(features[1:, :, :17], mask[1:, :17], [4.75])
    assert len(alone) == 15 and alone == both[1]  # 5 proposals, 3 labels
    assert all(0 <= one.start < one.end <= 4.75 and one.label in "abc" for one in alone)


def test_candidates_of_boundaries() -> None:
    scores = torch.tensor([0.1, 0.3, 0.2, 0.55, 0.6, 1.0, 0.9])
    assert boundary_candidates(scores).tolist() == [True, True, False, True, True, True, False]
    assert boundary_candidates(torch.tensor([0.5])).tolist() == [True]


def test_decoding_by_hand() -> None:
    """Six cells; starts 0 and 2, ends 3 and 5. Candidates are 0 to 3, 2 to 3 and 2 to 5; 0 to 5 is too long."""
    start = torch.tensor([0.1, 0.2, 0.9, 0.1, 0.1, 0.1])
    end = torch.tensor([0.1, 0.1, 0.2, 0.9, 0.3, 0.1])
    overlap, probability = torch.full((2, 3, 6), 0.5)
    overlap[2, 2], probability[2, 2] = 0.8, 0.9  # 2 to 5
    overlap[0, 2], probability[0, 2] = 0.7, 0.6  # 2 to 3
    overlap[2, 0], probability[2, 0] = 0.4, 0.7  # 0 to 3
    maps = VideoMaps(start, end, overlap, probability, None)
    segments = decode_proposals(maps, FeatureGrid(1.0, 0.5), 3.5, ["action"])
    scores = {(2, 5): 0.9**1.2 * 0.8, (2, 3): 0.6**1.2 * 0.7, (0, 3): 0.7**1.2 * 0.4}
    # IoU of (2, 5) and (2, 3) is 1 / 3, below the threshold .25 + .65 * 3 / 6; IoU of (2, 3) and (0, 3) is 1 / 3, below
    # that of the shorter segment, .25 + .65 / 6
    expected = [
        (cells[0] * 0.5 + 0.25, cells[1] * 0.5 + 0.25, "action", score)
        for cells, score in sorted(scores.items(), key=lambda item: -item[1])
    ]
    assert segments == [(*one[:3], pytest.approx(one[3])) for one in expected]


def test_decoding_lowers_overlapping_segments_and_adds_labels() -> None:
    """Segments 0 to 4 and 1 to 4 of 20 cells: IoU .75 is above .25 + .65 * 4 / 20 = .38."""
    start, end = torch.zeros(20), torch.zeros(20)
    start[1], end[4] = 1.0, 1.0
    overlap, probability = torch.zeros(2, 4, 20)
    overlap[[3, 2], [0, 1]], probability[[3, 2], [0, 1]] = torch.tensor([0.9, 0.8]), 1.0
    classes = torch.zeros(2, 4, 20)
    classes[:, 3, 0], classes[:, 2, 1] = torch.tensor([0.3, 0.7]), torch.tensor([1.0, 0.0])
    segments = decode_proposals(
        VideoMaps(start, end, overlap, probability, classes), FeatureGrid(1.0, 1.0), 20.0, ["a", "b"]
    )
    lowered = 0.8 * torch.tensor(-(0.75**2) / 0.4).exp().item()
    assert segments == [
        (0.0, 4.0, "b", pytest.approx(0.9 * 0.7)),
        (0.0, 4.0, "a", pytest.approx(0.9 * 0.3)),
        (1.0, 4.0, "a", pytest.approx(lowered)),
        (1.0, 4.0, "b", 0.0),
    ]
