"""The temperature of the scores: how `tempozoo calibrate` fits it, and the commands that use it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from color_videos import COLORS, save_trained, write_color_videos
from runs import NO_SANITY_CHECK, ON_CPU, QUIET, flags, read_checkpoint, video_folder
from small_models import small_trained

import zoo
from cli import main
from lit_modules import VideoClassifier
from lit_modules.calibrate_command import fit_temperature, negative_log_likelihood
from lit_modules.class_results import detailed_metrics
from zoo.errors import ConfigError
from zoo.inference.exporting import export_network
from zoo.inference.predictor import Predictor
from zoo.inference.scores import average_views
from zoo.protocol import DEFAULT_PROTOCOL, Protocol
from zoo.provenance import public_config
from zoo.weights.lightning_checkpoint import CONFIG_KEY

SHIFTED = 3  # videos of each class, of nine, that are in the folder of the next class


# the fit -----------------------------------------------------------------------------------------------------------


def draw_labels(probabilities: torch.Tensor) -> torch.Tensor:
    """Draw a label for each row of probabilities, which are then calibrated."""
    return torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(1))[:, 0]


def random_logits(videos: int = 2000, views: int = 1, classes: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    video = 2 * torch.randn(videos, 1, classes, generator=generator)
    return video + 0.5 * torch.randn(videos, views, classes, generator=generator)


def calibration_error(logits: torch.Tensor, labels: torch.Tensor, protocol: Protocol) -> float:
    scores = average_views(logits, protocol)
    pairs = zip(labels, scores, strict=True)
    return detailed_metrics({str(number): pair for number, pair in enumerate(pairs)})["calibration_error"]


@pytest.mark.parametrize("average", ["prob", "logit"])
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("factor", [0.25, 1.0, 5.0])
def test_temperature_of_scaled_logits_is_the_factor(factor: float, views: int, average: str) -> None:
    """At a factor of 1, the logits are calibrated already."""
    protocol = replace(DEFAULT_PROTOCOL, average=average)
    logits = random_logits(views=views)
    labels = draw_labels(average_views(logits, protocol))
    temperature = fit_temperature(factor * logits, labels, protocol)
    assert temperature == pytest.approx(factor, rel=0.06)


def test_calibration_error_of_overconfident_logits_is_lower() -> None:
    logits = random_logits(views=3)
    labels = draw_labels(average_views(logits, DEFAULT_PROTOCOL))
    protocol = replace(DEFAULT_PROTOCOL, temperature=fit_temperature(4 * logits, labels, DEFAULT_PROTOCOL))
    assert calibration_error(4 * logits, labels, DEFAULT_PROTOCOL) > 0.15
    assert calibration_error(4 * logits, labels, protocol) < 0.03


def test_temperature_has_the_lowest_loss() -> None:
    """Few videos, whose best temperature is not that of their distribution."""
    logits = 3 * random_logits(40, views=2)
    labels = draw_labels(average_views(logits / 3, DEFAULT_PROTOCOL))
    temperature = fit_temperature(logits, labels, DEFAULT_PROTOCOL)

    def loss(value: float) -> float:
        scores = average_views(logits, replace(DEFAULT_PROTOCOL, temperature=value))
        return negative_log_likelihood(scores, labels, DEFAULT_PROTOCOL)

    assert all(loss(temperature) < loss(factor * temperature) for factor in (0.1, 0.5, 0.9, 1.1, 2, 10))


def test_temperature_of_several_classifiers() -> None:
    logits = random_logits()
    protocol = replace(DEFAULT_PROTOCOL, heads=(("verb", 4), ("noun", 2)))
    verbs, nouns = average_views(logits, protocol).split([4, 2], dim=-1)
    labels = torch.stack([draw_labels(verbs), draw_labels(nouns)], dim=1)
    assert fit_temperature(3 * logits, labels, protocol) == pytest.approx(3, rel=0.06)


def test_temperature_of_videos_with_several_labels() -> None:
    logits = random_logits()
    protocol = replace(DEFAULT_PROTOCOL, multi_label=True)
    labels = torch.bernoulli(average_views(logits, protocol), generator=torch.Generator().manual_seed(1)).long()
    assert fit_temperature(3 * logits, labels, protocol) == pytest.approx(3, rel=0.06)


def test_videos_without_a_best_temperature_are_refused() -> None:
    logits = random_logits(20)
    with pytest.raises(ConfigError, match=r"below 0.01, because the 20 validation videos have no or hardly any wrong"):
        fit_temperature(logits, logits[:, 0].argmax(1), DEFAULT_PROTOCOL)
    with pytest.raises(ConfigError, match=r"above 100, because .* scores no better than chance"):
        fit_temperature(logits, logits[:, 0].argmin(1), DEFAULT_PROTOCOL)


# the protocol ------------------------------------------------------------------------------------------------------


def test_protocol_without_temperature_has_the_fields_of_earlier_versions() -> None:
    assert "temperature" not in DEFAULT_PROTOCOL.to_dict()
    protocol = replace(DEFAULT_PROTOCOL, temperature=1.7)
    assert Protocol.from_dict(protocol.to_dict()) == protocol
    assert str(protocol).endswith("softmax scores averaged, temperature 1.7")


@pytest.mark.parametrize("value", [0, -1, 0.001, 1e9, math.nan, True, "2", None, [2]])
def test_invalid_temperature_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"temperature is .*; it must be a number from 0.01 to 100"):
        Protocol.from_dict(DEFAULT_PROTOCOL.to_dict() | {"temperature": value})


def test_new_classifier_has_no_temperature() -> None:
    protocol = replace(DEFAULT_PROTOCOL, temperature=1.7)
    assert protocol.with_classes([2, 0]).temperature == 1.7
    assert protocol.with_classes([]).temperature == 1
    for classes in (4, 5):
        network = small_trained()
        network.protocol = replace(network.protocol, temperature=1.7)
        network.reset_classifier(classes)
        assert network.protocol.temperature == 1


# the command -------------------------------------------------------------------------------------------------------


def shift_videos(split: Path) -> None:
    """Move the first videos of each class to the folder of the next class."""
    names = list(COLORS)
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        for number in range(SHIFTED):
            path = split / name / f"{name}{number}.mp4"
            path.rename(split / other / path.name)


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of videos; a third of the validation and test videos has the label of another color."""
    root = write_color_videos(tmp_path_factory.mktemp("colors"), {"train": 4, "val": 9, "test": 9})
    for split in ("val", "test"):
        shift_videos(root / split)
    return root


@pytest.fixture(scope="module")
def start(colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that predicts the color with a score of almost 1."""
    folder = tmp_path_factory.mktemp("start")
    untrained = save_trained(folder / "c2d")
    probe = ["probe", "--from", str(untrained), *video_folder(colors), *ON_CPU, "--out", str(folder / "probe")]
    assert main(probe) == 0
    network = zoo.load(folder / "probe")
    with torch.no_grad():
        for parameter in network.get_classifier().parameters():
            parameter.mul_(5)
    return zoo.save(network, folder / "start")


def arguments(command: str, network: Path, data: Path, out: Path, *extra: str) -> list[str]:
    return [command, "--from", str(network), *video_folder(data), *QUIET, *ON_CPU, "--out", str(out), *extra]


@pytest.fixture(scope="module")
def calibrated(colors: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "network"
    assert main(arguments("calibrate", start, colors, out)) == 0
    return out


def temperature_of(folder: Path) -> float:
    return zoo.load(folder).protocol.temperature


def metrics_of(run: Path) -> dict[str, float]:
    return dict(json.loads((run / "test.json").read_text())["metrics"])


def test_calibrated_network_has_a_lower_calibration_error(
    colors: Path, start: Path, calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("test", start, colors, tmp_path / "before")) == 0
    assert "ECE without the temperature" not in capsys.readouterr().out
    assert main(arguments("test", calibrated, colors, tmp_path / "after")) == 0
    assert "ECE without the temperature" in capsys.readouterr().out
    before, after = metrics_of(tmp_path / "before"), metrics_of(tmp_path / "after")
    assert after["test_top1"] == before["test_top1"] == pytest.approx(2 / 3)
    assert before["test_calibration_error"] == pytest.approx(1 / 3, abs=0.03)
    assert after["test_calibration_error_uncalibrated"] == pytest.approx(before["test_calibration_error"])
    assert after["test_calibration_error"] < 0.5 * before["test_calibration_error"]
    assert after["test_loss"] < before["test_loss"]
    assert "test_calibration_error_uncalibrated" not in before


def test_command_prints_and_records_the_calibration(
    colors: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "network"
    assert main(arguments("calibrate", start, colors, out, "--views", "2x3")) == 0
    printed = capsys.readouterr().out
    config = json.loads((out / "config.json").read_text())
    temperature = config["protocol"]["temperature"]
    assert temperature > 1
    assert f"Temperature {temperature:.4g}, fitted to 27 validation videos (2x3 views):" in printed
    record = config["provenance"]["calibration"]
    assert record["data"] == {"class": "VideoFolder", "videos": {"val": 27}}
    assert record["views"] == "2x3"
    assert record["after"]["loss"] < record["before"]["loss"]
    assert public_config(config)["protocol"]["temperature"] == temperature


def test_predictions_use_the_temperature(colors: Path, start: Path, calibrated: Path) -> None:
    video = str(colors / "test/red/red5.mp4")
    with Predictor(str(start), views="2x3") as predictor:
        logits = predictor.logits(predictor.read(video).frames)
        before = predictor.predict(video).probabilities
    with Predictor(str(calibrated), views="2x3") as predictor:
        scores = predictor.predict(video).probabilities
    torch.testing.assert_close(scores, (logits / temperature_of(calibrated)).softmax(-1).mean(0))
    assert scores.max() < before.max() - 0.1


def test_saved_network_and_checkpoint_keep_the_temperature(calibrated: Path, tmp_path: Path) -> None:
    temperature = temperature_of(calibrated)
    assert temperature_of(zoo.save(zoo.load(calibrated), tmp_path / "copy")) == temperature
    trainer: Any = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    trainer.strategy.connect(VideoClassifier(str(calibrated)))
    trainer.save_checkpoint(tmp_path / "copy.ckpt")
    assert temperature_of(tmp_path / "copy.ckpt") == temperature


def test_fine_tuned_network_is_calibrated_again(colors: Path, calibrated: Path, tmp_path: Path) -> None:
    """The temperature is that of the former weights. The second command reads the options of the run."""
    run = tmp_path / "run"
    extra = [*NO_SANITY_CHECK, *flags("trainer", max_epochs=1), *flags("model.optimizer", lr=1e-9), "--probe", "false"]
    assert main(arguments("fit", calibrated, colors, run, *extra)) == 0
    config = read_checkpoint(run / "checkpoints" / "last.ckpt")[CONFIG_KEY]
    assert "temperature" not in config["protocol"]
    assert "calibration" not in config["provenance"]
    out = tmp_path / "network"
    assert main(["calibrate", "--config", str(run / "config.yaml"), "--from", str(run), "--out", str(out)]) == 0
    assert temperature_of(out) == pytest.approx(temperature_of(calibrated), rel=0.2)


def test_exported_logits_are_divided_by_the_temperature(calibrated: Path, tmp_path: Path) -> None:
    network = zoo.load(calibrated)
    path = tmp_path / "network.pt2"
    export_network(network, path, "pt2")
    extra = {"tempozoo": ""}
    program: Any = torch.export.load(path, extra_files=extra)
    assert "temperature" not in json.loads(extra["tempozoo"])["protocol"]
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(clips), network(clips) / network.protocol.temperature)
    assert network.protocol.temperature > 1


def test_data_without_test_videos_is_refused(
    colors: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (tmp_path / "data" / split).symlink_to(colors / split)
    command = arguments("calibrate", start, tmp_path / "data", tmp_path / "out")
    assert main(command) == 1
    assert "This VideoFolder has no test videos of its own" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, *flags("data", allow_overlap=True)]) == 0


def test_validation_videos_that_are_also_test_videos_are_refused(
    colors: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for split, source in {"train": "train", "val": "val", "test": "val"}.items():
        (tmp_path / "data" / split).symlink_to(colors / source)
    assert main(arguments("calibrate", start, tmp_path / "data", tmp_path / "out")) == 1
    assert "also validation videos" in capsys.readouterr().err


def test_untrained_network_is_refused(colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = zoo.save(zoo.create("c2d_r18", width=8, num_classes=3, num_frames=4, image_size=32), tmp_path / "random")
    assert main(arguments("calibrate", network, colors, tmp_path / "out")) == 1
    assert "--allow_untrained" in capsys.readouterr().err
