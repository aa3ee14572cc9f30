"""zoo.predict and zoo.read_clip: the scores of a test, from every kind of input."""

from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_videos import numbered_video
from small_models import small

import zoo
from datamodules.dataset import VideoDataset
from datamodules.records import VideoRecords
from lit_modules.base import VideoClassifier
from zoo.errors import ConfigError, DataError
from zoo.inference.predictor import Predictor
from zoo.models import VideoNetwork
from zoo.video.decoding import open_video
from zoo.video.sampling import sample


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered_video(tmp_path_factory.mktemp("videos") / "clip.mp4", frames=40)


@pytest.fixture
def server(video: Path) -> Iterator[str]:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(video.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def network(clips: int = 2, crops: int = 3) -> VideoNetwork:
    """A small network with a test protocol of several views."""
    from dataclasses import replace

    model = small("tanet_r18")
    model.protocol = replace(model.protocol.with_size(32), clips=clips, crops=crops)
    return model


def scores_of_test(model: VideoNetwork, video: Path) -> torch.Tensor:
    """Scores as `tempozoo test` computes them: the dataset's views, the classifier's averaging."""
    records = VideoRecords.of([str(video)], [0])
    dataset = VideoDataset(records, model.protocol, "test", flip=False)
    views = dataset[0]["video"][0]
    from zoo.video.transforms import normalize

    classifier = VideoClassifier("tanet_r18", pretrained=False, num_classes=4, options={"width": 8})
    classifier.network = model
    classifier.eval()
    with torch.no_grad():
        clips = normalize(views[None], model.protocol.mean, model.protocol.std)
        return classifier.score_views(clips)[0]


def test_predict_with_published_views_equals_a_test(video: Path) -> None:
    model = network()
    prediction = zoo.predict(model, video, views="published")
    expected = scores_of_test(model, video)
    torch.testing.assert_close(prediction.probabilities, expected, atol=1e-6, rtol=0)
    assert prediction.labels[0] == str(int(expected.argmax()))
    assert prediction.scores == tuple(sorted(prediction.scores, reverse=True))
    assert sum(prediction.scores) == pytest.approx(1, abs=1e-5)


def test_all_kinds_of_input_give_the_same_scores(video: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPOZOO_OFFLINE")
    model = network()
    with open_video(video) as reader:
        frames, fps = reader.frames(range(len(reader))).permute(0, 2, 3, 1), reader.fps
    expected = zoo.predict(model, str(video), views="published").probabilities
    inputs = [video, video.read_bytes(), io.BytesIO(video.read_bytes()), f"{server}/clip.mp4"]
    for given in inputs:
        assert torch.equal(zoo.predict(model, given, views="published").probabilities, expected)
    for given in (frames, frames.numpy()):
        assert torch.equal(zoo.predict(model, given, fps=fps, views="published").probabilities, expected)


def test_a_folder_of_frames_is_a_video(tmp_path: Path) -> None:
    from PIL import Image

    frames = np.random.default_rng(0).integers(0, 255, (6, 40, 48, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number:04}.png")
    model = network()
    assert torch.equal(zoo.predict(model, tmp_path).probabilities, zoo.predict(model, frames).probabilities)


def test_unreadable_videos_of_a_list_are_reported(video: Path, tmp_path: Path) -> None:
    model = network()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:500])
    videos = [video, broken, tmp_path / "missing.mp4", video]
    first, second, third, fourth = zoo.predict(model, videos, batch_size=5)
    assert first.error is None and first.labels == fourth.labels
    torch.testing.assert_close(first.probabilities, fourth.probabilities)
    assert second.error is not None and "broken.mp4" in second.error and second.labels == ()
    assert third.error is not None and "missing.mp4" in str(third)
    with pytest.raises(DataError, match=r"missing\.mp4"):
        zoo.predict(model, tmp_path / "missing.mp4")


def test_read_clip_is_the_input_of_the_network(video: Path) -> None:
    model = network()
    clips = zoo.read_clip(video, model.protocol)
    assert clips.shape == (6, 3, 4, 32, 32) and clips.dtype == torch.float32
    with torch.no_grad():
        expected = model(clips).softmax(1).mean(0)
    torch.testing.assert_close(zoo.predict(model, video, views="published").probabilities, expected)
    assert zoo.read_clip(video, model.protocol, views="1x1").shape == (1, 3, 4, 32, 32)


def test_transform_gives_the_pixels_of_a_test(video: Path) -> None:
    protocol = network(clips=1, crops=3).protocol
    with open_video(video) as reader:
        numbers = sample(protocol, len(reader), reader.fps, (0, 1))
        frames = reader.frames(numbers)
    expected = zoo.read_clip(video, protocol)
    assert torch.equal(protocol.transform(crops=3)(frames), expected)
    assert torch.equal(protocol.transform()(frames), expected[1])
    with pytest.raises(DataError, match=r"give uint8 \(T, 3, H, W\)"):
        protocol.transform()(frames.permute(0, 2, 3, 1))
    with pytest.raises(ConfigError, match="crops is 2; choose from 1, 3, 10"):
        protocol.transform(crops=2)


@pytest.mark.parametrize(
    "arch", ["tada2d_r18", "stam_r18", "tadaconvnextv2_tiny", "tadaformer_b16", "tanet_mobilenetv2", "ptv_x3d_xs"]
)
def test_every_family_predicts_and_embeds(arch: str, video: Path) -> None:
    fixed_width = arch.startswith(("ptv", "tanet_mobilenet"))
    model = zoo.create(arch, num_classes=4, num_frames=4) if fixed_width else small(arch)
    model.protocol = model.protocol.with_size(96 if fixed_width else 32)
    with Predictor(model) as predictor:
        prediction = predictor.predict(video)
    features = zoo.features(model, video)
    assert len(prediction.labels) == model.spec.num_classes
    assert features.shape == (1, model.num_features)
    with torch.no_grad():
        logits = model.get_classifier()(features)
    torch.testing.assert_close(logits.softmax(1)[0], prediction.probabilities, atol=1e-5, rtol=1e-4)
    maps = zoo.features(model, video, stage=-1)
    assert maps.ndim == 5 and maps.shape[:2] == (1, model.feature_info[-1].num_chs)
    assert torch.equal(zoo.predict(model, video).probabilities, prediction.probabilities)  # unchanged
    count = len(model.feature_info)
    with pytest.raises(ConfigError, match=f"stage is {count}; the network has stages 0 to {count - 1}"):
        zoo.features(model, video, stage=count)


def test_the_network_of_the_caller_is_not_changed(video: Path) -> None:
    model = network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    zoo.predict(model, video)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_predictor_shares_the_parameters_that_are_not_folded() -> None:
    model = network().eval()
    with Predictor(model) as predictor:
        assert predictor.model.fused and not model.fused
        assert predictor.model.fc.weight.data_ptr() == model.fc.weight.data_ptr()
        assert predictor.model.stem.conv.weight.data_ptr() != model.stem.conv.weight.data_ptr()


def test_predictor_uses_weights_that_were_changed_in_place(video: Path) -> None:
    model = network().eval()
    with Predictor(model) as predictor:
        before = predictor.predict(video)
        with torch.no_grad():
            model.stem.bn.weight.mul_(2)  # a folded parameter
            model.fc.weight.mul_(2)  # a shared one
        after = predictor.predict(video)
    assert not torch.equal(after.probabilities, before.probabilities)
    assert torch.equal(after.probabilities, zoo.predict(model, video).probabilities)


def test_predictor_compiles_once_for_all_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partialmethod

    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=counter))
    model = network().eval()
    views = torch.randint(0, 255, (5, 4, 3, 32, 32), dtype=torch.uint8)
    with Predictor(model, compile=True) as predictor, Predictor(model) as eager:
        for count in (5, 4, 3):
            torch.testing.assert_close(predictor.logits(views[:count]), eager.logits(views[:count]))
        assert counter.frame_count <= 2  # PyTorch chooses other kernels for fewer than 16 frames on one thread


def test_several_heads_are_separate_predictions(video: Path) -> None:
    from dataclasses import replace

    model = network()
    model.protocol = replace(model.protocol, heads=(("verb", 3), ("noun", 1)))
    prediction = zoo.predict(model, video)
    assert set(prediction.heads) == {"verb", "noun"}
    assert sum(prediction.heads["verb"].scores) == pytest.approx(1, abs=1e-5)
    assert prediction.heads["noun"].scores == (1.0,)
    assert prediction.labels == prediction.heads["verb"].labels


def test_a_predictor_is_used_by_several_threads(video: Path) -> None:
    with Predictor(network(), workers=2) as predictor, ThreadPoolExecutor(4) as pool:
        results = list(pool.map(predictor.predict, [video] * 12))
    assert all(torch.equal(result.probabilities, results[0].probabilities) for result in results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": "4"}, "views is '4'; give 'published', or CLIPSxCROPS"),
        ({"precision": "8"}, "precision is '8'; choose from 32, bf16, 16"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"decoder": "x"}, "decoder is 'x'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str, video: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        zoo.predict(network(), video, **options)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((4, 8, 8), np.uint8), "give uint8 RGB of shape"),
        (np.zeros((4, 8, 8, 3), np.float32), "give uint8 RGB of shape"),
        (3.5, "A video is 3.5; give a path"),
        (io.StringIO("text"), "opened in text mode"),
        (b"no video", "<bytes> cannot be opened as a video"),
        ("http://127.0.0.1:9/clip.mp4", "must be downloaded, but TEMPOZOO_OFFLINE"),
    ],
)
def test_inputs_that_are_not_videos_are_rejected(video: object, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        zoo.predict(network(), video)


def test_downloads_have_a_size_limit(video: Path, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from zoo.inference.inputs import download_video

    monkeypatch.delenv("TEMPOZOO_OFFLINE")
    with pytest.raises(DataError, match="has more than 1000 bytes"):
        download_video(f"{server}/clip.mp4", tmp_path / "video", max_bytes=1000)
    with pytest.raises(DataError, match="does not exist") as caught:
        download_video(f"{server}/missing.mp4", tmp_path / "video")
    assert caught.value.reason == "missing"
