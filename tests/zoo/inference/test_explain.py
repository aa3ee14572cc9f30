"""zoo.explain: relevance is aligned with frames and pixels, follows the network, and is drawn and saved."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from families import FAMILIES, build, clips_for
from numbered_videos import frame_numbers, numbered_frames, numbered_video
from PIL import Image
from small_models import small, small_trained
from torch import Tensor, nn

import zoo
from cli import main
from datamodules.motion_render import MOTION_CLASSES, object_mask, render_clip
from zoo.errors import ConfigError, DataError, UnknownNameError
from zoo.inference import relevance
from zoo.inference.explanations import Explanation
from zoo.inference.operator_views import record_operators
from zoo.inference.predictor import Predictor
from zoo.inference.relevance import choose_stages, hirescam, rollout, to_pixels, trace
from zoo.models.network import Feature, VideoNetwork, linear_classifier
from zoo.models.registry import ARCHITECTURES
from zoo.video.sampling import sample

BUNDLED = "tanet_r18.motionclips8"
FPS = 10.0


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_video(tmp_path_factory.mktemp("videos") / "clip.mp4", frames=30)


@functools.cache
def network(arch: str = "tanet_r18", **options: Any) -> Any:
    """A small network for clips of 4 frames of 32 x 32."""
    model = small_trained(arch, **options)
    model.protocol = model.protocol.with_frames(4).with_size(32)
    model.labels = ("runs", "jumps", "falls", "sits")
    return model.eval()


def noise(frames: int = 12, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (frames, size, size, 3), dtype=np.uint8)


# the explanation ---------------------------------------------------------------------------------------------------


def test_frames_times_and_scores_are_those_of_a_prediction() -> None:
    model, frames = network(), noise()
    explanation = zoo.explain(model, frames, fps=FPS)
    rows = sample(model.protocol, len(frames), FPS, (0, 1))
    assert np.array_equal(explanation.frames, frames[rows])
    assert explanation.times == pytest.approx(rows / FPS)
    assert explanation.relevance.shape == (4, 32, 32) and explanation.relevance.dtype == np.float32
    assert explanation.relevance.min() >= 0 and explanation.relevance.max() == 1
    assert explanation.frame_relevance.sum() == pytest.approx(1, abs=1e-5)
    prediction = zoo.predict(model, frames, fps=FPS)
    assert (explanation.label, explanation.top[0][0]) == (prediction.labels[0], prediction.labels[0])
    assert explanation.score == pytest.approx(prediction.scores[0], abs=1e-5)
    assert [score for _, score in explanation.top] == pytest.approx(list(prediction.scores), abs=1e-5)


@pytest.mark.parametrize("given", ["falls", 2, "2"])
def test_the_class_is_given_by_name_or_index(given: str | int) -> None:
    model, frames = network(), noise()
    explanation = zoo.explain(model, frames, label=given)
    assert explanation.label == "falls"
    assert explanation.score == pytest.approx(float(zoo.predict(model, frames).probabilities[2]), abs=1e-5)
    assert not np.array_equal(explanation.relevance, zoo.explain(model, frames, label="runs").relevance)


def test_a_span_selects_the_frames(video: Path) -> None:
    explanation = zoo.explain(network(), video, span=(0.4, 0.8))
    assert explanation.times.min() >= 0.4 and explanation.times.max() < 0.8
    numbers = frame_numbers(torch.from_numpy(explanation.frames).permute(0, 3, 1, 2))
    assert numbers == pytest.approx((25 * explanation.times).round().tolist(), abs=1)


def test_names_predictors_bytes_and_folders_are_accepted(video: Path, tmp_path: Path) -> None:
    model = network()
    expected = zoo.explain(model, video)
    assert np.array_equal(zoo.explain(model, video.read_bytes()).relevance, expected.relevance)
    with Predictor(model) as predictor:  # a fused copy
        fused = zoo.explain(predictor, video)
    np.testing.assert_allclose(fused.relevance, expected.relevance, atol=1e-2)
    assert fused.label == expected.label
    numbered_frames(tmp_path / "frames", range(20))
    explanation = zoo.explain(BUNDLED, tmp_path / "frames", fps=FPS)
    assert explanation.times == pytest.approx(sample(zoo.info(BUNDLED).protocol, 20, FPS, (0, 1)) / FPS)


def test_the_network_does_not_change() -> None:
    model = small_trained("tada2d_r18")
    model.protocol = model.protocol.with_size(32)
    model.train().set_grad_checkpointing()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    zoo.explain(model, noise())
    assert model.training and all(
        parameter.requires_grad and parameter.grad is None for parameter in model.parameters()
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_precision_and_gradient_modes_of_the_caller_do_not_matter() -> None:
    model, frames = network(), noise()
    expected = zoo.explain(model, frames).relevance
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(zoo.explain(model, frames).relevance, expected)
    half: Any = zoo.create("tanet_r18", width=8, num_classes=4, num_frames=4).to(torch.bfloat16)
    half.protocol = model.protocol
    assert zoo.explain(half, frames).relevance.dtype == np.float32
    assert next(half.parameters()).dtype == torch.bfloat16


# relevance ---------------------------------------------------------------------------------------------------------


class TinyNet(VideoNetwork):
    """One convolution per frame, ReLU, global average, linear classifier."""

    head_prefix = "fc."

    def __init__(self, num_classes: int = 3, num_frames: int = 4, in_channels: int = 3) -> None:
        super().__init__()
        self.num_frames, self.in_channels, self.num_features = num_frames, in_channels, 6
        self.conv = nn.Conv3d(in_channels, 6, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.relu = nn.ReLU(inplace=True)
        self.feature_info = [Feature("conv", 6, 2)]
        self.dropout = nn.Dropout(0.0)
        self.fc = linear_classifier(6, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = features.relu().mean((2, 3, 4))
        return pooled if pre_logits else self.fc(pooled)


def test_contributions_of_positions_add_up_to_the_logit_without_bias() -> None:
    model = TinyNet()
    clip = torch.randn(1, 3, 4, 8, 8)
    features = model.conv(clip).detach().requires_grad_()
    logit = model.forward_head(features)[0, 1]
    (cells,) = hirescam([features], logit)
    assert cells.shape == (4, 4, 4)
    assert float(cells.sum()) == pytest.approx(float(logit.detach() - model.fc.bias[1].detach()), abs=1e-5)
    weighted = torch.einsum("c,cthw->thw", model.fc.weight[1], features[0].relu()) / 64
    torch.testing.assert_close(cells, weighted)


def test_relevance_is_where_the_class_is() -> None:
    """A network whose class 0 responds to red pixels, on one red square in one frame."""
    model = TinyNet().eval().requires_grad_(False)
    model.conv.weight.zero_()
    model.conv.bias.zero_()
    model.conv.weight[0, 0] = 1
    model.fc.weight.zero_()
    model.fc.weight[0, 0] = 1
    clip = torch.zeros(1, 3, 4, 32, 32)
    clip[0, 0, 2, 16:24, 4:12] = 1
    result = trace(model, clip, choose_stages(model, 32)).compute(0)
    assert result[2, 16:24, 4:12].sum() > 0.7 * result.sum()
    assert result[2].sum() > 0.99 * result.sum()


def test_relevance_follows_the_object() -> None:
    model = zoo.load(BUNDLED)
    shares, areas = [], []
    for label in ("moves_left", "turns_clockwise"):
        clip = render_clip(label, 10**6)
        explanation = zoo.explain(model, clip, label=label, fps=12)
        mask = object_mask(label, 10**6)[sample(model.protocol, len(clip), 12, (0, 1))]
        shares.append(float((explanation.relevance * mask).sum() / explanation.relevance.sum()))
        areas.append(float(mask.mean()))
        assert explanation.label == label == explanation.top[0][0]
    assert min(shares) > 3 * max(areas)


def test_rollout_equals_the_product_of_full_attention_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_trained("tadaformer_b16").eval().requires_grad_(False)
    clip = torch.randn(1, 3, 4, 32, 32)
    recorded: list[Any] = []

    def record(layers: Any, logit: Tensor) -> Tensor:
        recorded.append((layers, logit))
        return rollout(layers, logit)

    monkeypatch.setattr(relevance, "rollout", record)
    result = trace(model, clip, choose_stages(model, 32))
    torch.testing.assert_close(result.logits, model(clip)[0], atol=1e-5, rtol=1e-4)
    assert result.compute(1).shape == (4, 32, 32)
    layers, logit = recorded[0]
    weights = [layer.weights[0] for layer in layers]
    gradients = torch.autograd.grad(logit, weights, retain_graph=True)
    first, last = ((w * g).relu().mean(1) for w, g in zip(weights, gradients, strict=True))
    assert first.shape == (2, 17, 17) and last.shape == (2, 1, 17)  # the last layer computes only class tokens
    identity = torch.eye(17)
    product = (identity[:1] + last) @ (identity + first)
    torch.testing.assert_close(rollout(layers, logit), product[:, 0, 1:].unflatten(1, (4, 4)))


def small_mvit() -> Any:
    return zoo.create("ptv_mvit_b_16x4", num_frames=4, image_size=32, width=8, num_classes=4)


KINDS = (
    "c2d", "i3d", "tsm", "teinet", "tanet", "tada2d", "tada2dv2", "stam", "nonlocal", "tadaconvnext", "tadaconvnextv2",
    "tadaformer", "tadaformer ssv2", "ptv_slow", "ptv_i3d", "ptv_slowfast", "ptv_r2plus1d", "ptv_csn", "ptv_x3d",
    "slowfast_tam", "r3d_tada", "host tadaconv", "host stam",
)  # fmt: skip


@pytest.mark.parametrize("family", [*KINDS, "mvit"])
def test_every_family_is_explained(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = small_mvit() if family == "mvit" else build(family, monkeypatch)
    clip = torch.randn(1, 3, 4, 32, 32) if family == "mvit" else clips_for(family, 1)
    model.eval().requires_grad_(False)
    stages = choose_stages(model, min(clip.shape[3:]))
    with record_operators(model) as operators:
        result = trace(model, clip, stages)
    torch.testing.assert_close(result.logits, model(clip)[0], atol=1e-4, rtol=1e-3)
    maps = [result.compute(index) for index in range(2)]
    for values in maps:
        assert values.shape == clip.shape[2:]
        assert values.isfinite().all() and values.min() >= 0 and values.max() > 0
    assert not torch.equal(maps[0] / maps[0].max(), maps[1] / maps[1].max())
    adaptive = any(name in family for name in ("tam", "tada", "stam", "tanet"))
    assert bool(operators.views()) == adaptive


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("tadaconvnext", "stem"),
        ("tadaconvnextv2", "stem"),
        ("tadaformer", "stem"),
        ("mvit", "net.patch_embed"),
        ("ptv_i3d", "net.blocks.2"),  # pools pairs of frames
        ("ptv_r2plus1d", "net.blocks.3.res_blocks.0"),
        ("ptv_csn", "net.blocks.2.res_blocks.0"),
    ],
)
def test_steps_of_feature_maps_are_aligned_with_frames(family: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of a step depend on frames around its center."""
    model: Any = small_mvit() if family == "mvit" else FAMILIES[family][0](monkeypatch)
    model.eval()
    model.num_frames = frames = 4 if family == "mvit" else 32
    outputs: list[Tensor] = []
    model.get_submodule(name).register_forward_hook(lambda _module, _args, y: outputs.append(y))
    clip = torch.randn(1, 3, frames, 32, 32, requires_grad=True)
    model(clip)
    y = outputs[0]
    if family == "mvit":
        y = y.unflatten(1, (2, -1)).permute(0, 2, 1, 3)  # (B, positions, T', C)
    elif y.ndim == 4:  # folded frames
        y = y[None].transpose(1, 2)
    count = y.shape[2]
    assert count < frames
    middles = {}
    for step in range(1, count):
        (gradient,) = torch.autograd.grad(y[:, :, step].square().sum(), clip, retain_graph=True)
        frames_read = gradient.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist()
        if family == "mvit" or (frames_read[0] > 0 and frames_read[-1] < frames - 1):  # not cut by the ends of the clip
            middles[step] = (frames_read[0] + frames_read[-1]) / 2
    centers = model.frame_centers(count, frames)
    assert middles
    assert middles == {step: centers[step] for step in middles}


def test_pathways_have_the_first_and_the_last_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("ptv_slowfast", monkeypatch)
    assert isinstance(model, VideoNetwork)
    assert model.frame_centers(2, 8) == [0, 7]
    assert model.frame_centers(8, 8) == list(range(8))


def test_interpolation_preserves_position_and_sum() -> None:
    model = network()
    cells = torch.zeros(2, 4, 4)
    cells[1, 3, 0] = 1
    pixels = to_pixels(model, cells, (8, 32, 32))
    assert float(pixels.sum()) == pytest.approx(1, abs=0.25)
    assert math.isclose(float(pixels.max()), float(pixels[6:, 24:, :8].max()))
    assert pixels[:2].sum() == 0
    assert pixels.sum((1, 2)).diff().min() >= 0


# operators ---------------------------------------------------------------------------------------------------------


def test_views_have_the_values_of_the_operators() -> None:
    views = zoo.explain(network("tanet_r18"), noise()).operators
    gates, kernels = views
    assert gates.title == "TAM: local gate, mean over channels" and gates.values.shape == (8, 4)
    assert kernels.axes == ("layer", "frame offset of the tap") and kernels.values.shape == (8, 3)
    assert kernels.values.sum(1) == pytest.approx(np.ones(8), abs=1e-5)
    fresh = small("tada2d_r18")
    fresh.protocol = fresh.protocol.with_size(32)
    (view,) = zoo.explain(fresh, noise()).operators
    assert view.values.shape == (16, 4) and not view.values.any()  # alpha is initially one
    changed = small_trained("tada2d_r18")
    changed.protocol = fresh.protocol
    (view,) = zoo.explain(changed, noise()).operators
    assert (view.values > 0).all()
    weights = zoo.explain(network("stam_r18"), noise()).operators[0]
    assert weights.title.startswith("STAM: weight") and weights.values.sum(1) == pytest.approx(np.ones(16), abs=1e-5)


# pictures ----------------------------------------------------------------------------------------------------------


def example(frames: int = 5) -> Explanation:
    values = np.zeros((frames, 32, 32), np.float32)
    values[3, 2:8, 20:30] = 1
    times = np.arange(frames) / 5
    return Explanation(
        np.full((frames, 32, 32, 3), 90, np.uint8), times, values, "runs", 0.75, "method", [("runs", 0.75)]
    )


def test_the_strip_shows_the_relevance_in_its_frame() -> None:
    strip = example().strip()
    assert strip.dtype == np.uint8 and strip.shape == (128 + 30, 5 * 128 + 4 * 4, 3)
    left = 3 * (128 + 4)
    assert strip[20, left + 100].max() > 200  # the hot region of the fourth frame
    assert np.ptp(strip[20, 100]) <= 2  # gray in the first frame
    assert strip[128 + 5, left + 100].tolist() == [70, 130, 220]  # its bar
    assert strip[128 + 5, 100].tolist() == [225, 225, 225]
    assert example().strip(frames=2).shape[1] == 2 * 128 + 4
    with pytest.raises(ConfigError, match="frames is 0"):
        example().strip(0)


def test_the_summary_names_time_and_region() -> None:
    assert example().summary() == "Most relevant: 0.6 s (100 % of the relevance); upper right of the frame (80 %)"
    empty = Explanation(
        *[getattr(example(), name) for name in ("frames", "times")],
        np.zeros((5, 32, 32), np.float32),
        "runs",
        0.1,
        "m",
        [],
    )
    assert empty.summary() == "No position of this clip raises the score of runs."
    assert empty.strip().shape == example().strip().shape


def decoded(path: Path) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def test_pictures_and_videos_are_written(tmp_path: Path) -> None:
    explanation = zoo.explain(network(), noise(), fps=FPS)
    for name in ("a.png", "a.mp4", "a.gif"):
        explanation.save(tmp_path / name)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000 and picture.height > 600
    frames = list(decoded(tmp_path / "a.mp4"))
    assert len(frames) == 4 and frames[0].shape[0] > 256 and frames[0].shape[1] == 256
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 4  # type: ignore[attr-defined]
        assert gif.info["duration"] == pytest.approx(1000 * float(np.diff(explanation.times).min()), rel=0.35)
    with pytest.raises(ConfigError, match=r"a\.jpg: explanations are written as PNG, MP4 or GIF"):
        explanation.save(tmp_path / "a.jpg")


# the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.png", "out.mp4"])
def test_the_command_prints_a_summary_and_writes_a_file(
    name: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    assert main(["explain", str(video), "--from", BUNDLED, "--label", "appears", "--save", str(path)]) == 0
    label, summary, written = capsys.readouterr().out.splitlines()
    assert label.startswith("appears ") and "%" in label
    assert summary.startswith(("Most relevant: ", "No position"))
    assert written == f"Written to {path}"
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "apears"], "Unknown class 'apears'. Did you mean 'appears'"),
        (["--label", "8"], "label is 8; it must be a whole number from 0 to 7."),
        (["--save", "out.pdf"], "explanations are written as PNG, MP4 or GIF"),
        (["--span", "9", "10"], "has no frames from 9 to 10 s; its last frame is at 1.16 s."),
        (["--span", "2", "1"], "its end must be later than its start"),
    ],
)
def test_errors_of_the_command(
    options: list[str], message: str, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(video), "--from", BUNDLED, *options]) == 1
    assert message in capsys.readouterr().err


# errors ------------------------------------------------------------------------------------------------------------


def test_unusable_sources_and_networks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    with pytest.raises(DataError, match="frames"):
        zoo.explain(model, np.zeros((0, 32, 32, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        zoo.explain(model, tmp_path / "empty")
    with pytest.raises(UnknownNameError, match="Unknown class 'run'. Did you mean 'runs'"):
        zoo.explain(model, noise(), label="run")
    with pytest.raises(ConfigError, match=r"span is 3; give \(start, end\) in seconds"):
        zoo.explain(model, noise(), span=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="model is a Linear"):
        zoo.explain(nn.Linear(2, 2), noise())  # type: ignore[arg-type]
    headless = small("tanet_r18", num_classes=0)
    with pytest.raises(ConfigError, match="tanet_r18 has no classifier"):
        zoo.explain(headless, noise())
    monkeypatch.setitem(ARCHITECTURES, "tiny", TinyNet)
    tiny = zoo.create("tiny", num_classes=3, num_frames=4)
    tiny.protocol = model.protocol
    assert zoo.explain(tiny, noise()).relevance.shape == (4, 32, 32)
    tiny.feature_info = []
    with pytest.raises(ConfigError, match="tiny cannot be explained: it has no feature map with 2 x 2 positions"):
        zoo.explain(tiny, noise())


def test_rendered_masks_cover_the_objects() -> None:
    for label in MOTION_CLASSES:
        clip, mask = render_clip(label, 3).astype(float), object_mask(label, 3)
        assert mask.shape == clip.shape[:3] and 0.01 < mask.mean() < 0.3
        assert not np.array_equal(mask[0], mask[-1]) or label in ("appears", "vanishes")
        contrast = [clip[mask].std(), clip[~mask].std()]
        assert contrast[0] > contrast[1]  # labeled objects have light and dark parts
    assert np.array_equal(object_mask("moves_left", 3), object_mask("moves_right", 3)[::-1])
