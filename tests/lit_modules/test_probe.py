"""`tempozoo probe`, the baseline that `fit` measures, and head_init=probe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from color_videos import COLORS, save_trained, write_color_videos
from runs import (
    NO_SANITY_CHECK,
    ON_CPU,
    QUIET,
    assert_same_last_weights,
    callback,
    flags,
    last_weights,
    read_rows,
    resume,
    video_folder,
)
from sklearn.linear_model import LogisticRegression
from two_processes import two_processes

import zoo
from cli import main
from lit_modules import probe_command
from lit_modules.frozen_features import print_progress
from zoo.inference.feature_files import FeatureFolder
from zoo.inference.predictor import Predictor

TINY_C2D = flags("model", options={"width": 8, "drop_rate": 0.0}, num_frames=4, image_size=32)


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of videos, 6 + 3 + 3 of each."""
    return write_color_videos(tmp_path_factory.mktemp("colors"), {"train": 6, "val": 3, "test": 3})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_trained(tmp_path_factory.mktemp("start") / "c2d")


def probe_arguments(start: Path, data: Path, out: Path, *extra: str) -> list[str]:
    return ["probe", "--from", str(start), *video_folder(data), *ON_CPU, "--out", str(out), *extra]


def fit_arguments(start: Path, data: Path, out: Path, *extra: str, epochs: int = 1) -> list[str]:
    trainer = [*QUIET, *ON_CPU, *NO_SANITY_CHECK, *flags("trainer", max_epochs=epochs)]
    return ["fit", "--from", str(start), *video_folder(data), *trainer, "--out", str(out), *extra]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def center_features(network: Any, paths: list[Path]) -> np.ndarray:
    """Features of the center clip and crop, without the data modules."""
    with Predictor(network, views="1x1") as predictor:
        return np.concatenate([predictor.compute_features(predictor.read(str(path)).frames) for path in paths])


# the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probed(start: Path, colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("probed") / "out"
    assert main(probe_arguments(start, colors, out, *flags("data", clips=2), "--views", "2x1")) == 0
    return out


def test_probe_reports_both_classifiers_with_baselines(
    start: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(probe_arguments(start, colors, tmp_path)) == 0
    printed = capsys.readouterr().out
    assert re.search(r"Logistic regression \(C [\d.e-]+, chosen in 5 folds\)", printed)
    assert re.search(r"Nearest neighbors \(k \d+, cosine distance\)", printed)
    assert len(re.findall(r"top-1 +│ 100.00 % │ .* │ +33.33 % │", printed)) == 2
    assert len(re.findall(r"chance +│ +33.33 % │", printed)) == 2
    result = read_json(tmp_path / "probe.json")
    assert result["logistic_regression"]["top1"] == result["nearest_neighbors"]["top1"] == 1
    assert result["majority_class"] == result["chance"] == pytest.approx(1 / 3)
    assert (result["split"], result["videos"], result["views"]) == ("test", 9, "1x1")
    for folder in (tmp_path, tmp_path / "nearest_neighbors"):
        rows = read_rows(folder / "predictions.csv")
        assert len(rows) == 9 and all(row["label"] == row["prediction1"] for row in rows)
        assert (folder / "confusion.csv").is_file() and (folder / "confusion.png").is_file()
    assert read_json(tmp_path / "test.json")["metrics"]["test_top1"] == 1


def test_test_of_the_written_network_has_the_accuracy_of_the_probe(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """On classes that the network confuses, with several views: the labels of the videos are shuffled."""
    data = write_color_videos(tmp_path / "data", {"train": 6, "val": 2, "test": 6})
    for split in ("train", "test"):
        for number in (1, 3, 4):  # videos of another class
            blue, red = (data / split / name / f"{name}{number}.mp4" for name in ("blue", "red"))
            blue.rename(data / "x.mp4")
            red.rename(blue)
            (data / "x.mp4").rename(red)
    out = tmp_path / "out"
    views = flags("data", clips=3)
    assert main(probe_arguments(start, data, out, *views)) == 0
    capsys.readouterr()
    test = ["test", "--from", str(out), *video_folder(data), *views, *QUIET, *ON_CPU, "--out", str(tmp_path / "test")]
    assert main(test) == 0
    assert re.search(r"Baselines on the 18 test videos, 3x1 views: logistic regression", capsys.readouterr().out)
    measured, probed = read_json(tmp_path / "test/test.json"), read_json(out / "test.json")
    assert probed["metrics"]["test_top1"] < 1
    assert measured["metrics"] == pytest.approx(probed["metrics"], abs=1e-5)
    assert measured["metrics"]["test_top1"] == probed["metrics"]["test_top1"]
    assert measured["weights"] == probed["weights"] and measured["protocol"] == probed["protocol"]
    labels = [[row["path"], row["prediction1"]] for row in read_rows(out / "predictions.csv")]
    assert labels == [[row["path"], row["prediction1"]] for row in read_rows(tmp_path / "test/predictions.csv")]


def test_written_network_loads_with_labels_and_provenance(probed: Path, start: Path) -> None:
    network = zoo.load(str(probed))
    assert network.labels == tuple(sorted(COLORS))
    assert network.report.untrained == () and not network.report.start_only
    before, after = zoo.load(str(start)).state_dict(), network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items() if not key.startswith("fc."))
    provenance = network.spec.provenance
    assert provenance["fine_tuned_from"] == str(start)
    assert provenance["recipe"]["class"] == "LogisticRegression" and provenance["recipe"]["train_views"] == "2x1"
    assert provenance["data"] == {"class": "VideoFolder", "videos": {"train": 18, "test": 9}}
    assert provenance["metrics"]["test_top1"] == 1


def test_fit_starts_from_the_written_network(probed: Path, colors: Path, tmp_path: Path) -> None:
    frozen = [*flags("model", freeze_backbone=True), *flags("model.optimizer", lr=1e-12), "--probe", "false"]
    assert main(fit_arguments(probed, colors, tmp_path, *frozen)) == 0
    rows = [row for row in read_rows(tmp_path / "metrics.csv") if row["val_top1"]]
    assert float(rows[0]["val_top1"]) > 0.9
    assert not (tmp_path / "probe.json").exists()


def test_untrained_operator_stays_declared_untrained(
    colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The start has trained convolutions and an untrained TAM, as ImageNet weights do."""
    network: Any = zoo.load(str(save_trained(tmp_path / "c2d", "tanet_r18")))
    operator = sorted(network.operator_keys())
    network.report = network.report.with_initialized(network, operator)
    zoo.save(network, tmp_path / "start")
    assert main(probe_arguments(tmp_path / "start", colors, tmp_path / "out")) == 0
    assert "untrained: 8 TAM modules. `test` and `predict` need --allow_untrained" in capsys.readouterr().out
    report = zoo.load(str(tmp_path / "out")).report
    assert set(report.untrained) == set(operator)


def test_random_network_is_refused(colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    network = zoo.create("c2d_r18", width=8, num_classes=4, num_frames=4, image_size=32)
    zoo.save(network, tmp_path / "random")
    arguments = probe_arguments(tmp_path / "random", colors, tmp_path / "out")
    assert main(arguments) == 1
    assert "has random weights" in capsys.readouterr().err
    assert main([*arguments, "--allow_untrained"]) == 0


def test_repeated_command_computes_missing_features_only(
    start: Path, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main(probe_arguments(start, colors, out)) == 0
    first = read_json(out / "probe.json")
    files = sorted((out / "features" / "train").glob("*.safetensors"))
    assert len(files) == 18
    for path in files[5:8]:
        path.unlink()
    (out / "model.safetensors").unlink()
    written: list[str] = []
    write = FeatureFolder.write
    monkeypatch.setattr(FeatureFolder, "write", lambda self, item: (written.append(item.video), write(self, item)))
    assert main(probe_arguments(start, colors, out)) == 0
    assert len(written) == 3
    second = read_json(out / "probe.json")
    assert second["logistic_regression"] == pytest.approx(first["logistic_regression"], abs=1e-4)


def test_features_of_another_network_or_other_views_are_refused(
    start: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert main(probe_arguments(start, colors, out)) == 0
    other = save_trained(tmp_path / "other", seed=1)
    assert main(probe_arguments(other, colors, out)) == 1
    assert "has features with another weights; choose another folder with --out" in capsys.readouterr().err
    assert main(probe_arguments(start, colors, out, "--views", "2x1")) == 1
    assert "has features with another views" in capsys.readouterr().err


def test_unreadable_videos_are_reported(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write_color_videos(tmp_path / "data", {"train": 6, "val": 1, "test": 6})
    for split in ("train", "test"):
        (data / split / "red" / "red0.mp4").write_bytes(f"no {split} video".encode())
    assert main(probe_arguments(start, data, tmp_path / "out")) == 0
    summary = read_json(tmp_path / "out/test.json")
    assert (summary["videos"], summary["listed"], len(summary["skipped"])) == (17, 18, 1)
    assert "17 of 18 videos" in capsys.readouterr().out
    (data / "train" / "red" / "red1.mp4").write_bytes(b"no video")
    assert main(probe_arguments(start, data, tmp_path / "other")) == 1
    assert "2 of 18 train videos cannot be read" in capsys.readouterr().err


def test_folder_of_a_run_is_refused(start: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert main(probe_arguments(start, colors, tmp_path)) == 1
    assert "contains a training run; choose another --out" in capsys.readouterr().err


def test_groups_of_the_videos_reach_the_cross_validation(
    start: Path, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[Any] = []
    fit = probe_command.fit_logistic_regression
    monkeypatch.setattr(
        probe_command,
        "fit_logistic_regression",
        lambda samples, count: (received.append(samples), fit(samples, count))[1],
    )
    group = r"(\d)\.mp4$"  # a digit for each recording: the videos of a split have the same in all classes
    assert main(probe_arguments(start, colors, tmp_path / "grouped", "--data.group", group)) == 0
    (samples,) = received
    assert samples.groups == [Path(name).stem[-1] for name in samples.names] and len(set(samples.groups)) == 6


# fit ---------------------------------------------------------------------------------------------------------------


def test_fit_measures_the_baseline_and_test_shows_it_for_the_same_videos(
    start: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "val"):  # without test videos, the validation videos are tested
        (data / split).symlink_to(colors / split)
    assert main(fit_arguments(start, data, tmp_path / "run")) == 0
    line = (
        r"Baselines on the 9 validation videos, 1x1 views: logistic regression of frozen features 100.00 % top-1, "
        r"majority class 33.33 %, chance 33.33 %"
    )
    printed = capsys.readouterr().out
    assert printed.index("Baselines: features of 27 videos") < printed.index("Baselines on the 9 validation videos")
    assert len(re.findall(line, printed)) == 2
    result = read_json(tmp_path / "run/probe.json")
    assert result["split"] == "val" and result["logistic_regression"]["top1"] == 1
    test = ["test", "--from", str(tmp_path / "run"), *QUIET, *ON_CPU]
    assert main([*test, *video_folder(data), "--out", str(tmp_path / "same")]) == 0
    assert re.search(line, capsys.readouterr().out)
    assert read_json(tmp_path / "same/test.json")["probe"] == result
    assert main([*test, *video_folder(colors), "--out", str(tmp_path / "other")]) == 0
    assert "Baselines" not in capsys.readouterr().out
    assert read_json(tmp_path / "other/test.json")["probe"] is None


def test_long_computations_of_features_print_their_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    batches = [{"path": ["a", "b"]}, {"path": ["c"]}]
    monkeypatch.setattr("lit_modules.frozen_features.PROGRESS_SECONDS", 3600.0)
    assert list(print_progress(batches, 3)) == batches
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("lit_modules.frozen_features.PROGRESS_SECONDS", 0.0)
    assert list(print_progress(batches, 3)) == batches
    assert capsys.readouterr().out == "  features of 2 of 3 videos, about 0 s left\n"


def test_baseline_does_not_change_the_training(start: Path, colors: Path, tmp_path: Path) -> None:
    for name, probe in (("with", "true"), ("without", "false")):
        assert main(fit_arguments(start, colors, tmp_path / name, "--probe", probe)) == 0
    assert_same_last_weights(tmp_path / "with", tmp_path / "without")


def test_random_network_has_no_baseline_unless_requested(
    colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    random = flags("model", pretrained=False)
    assert main(fit_arguments(Path("c2d_r18"), colors, tmp_path / "a", *TINY_C2D, *random)) == 0
    assert "Baselines" not in capsys.readouterr().out and not (tmp_path / "a/probe.json").exists()
    assert main(fit_arguments(Path("c2d_r18"), colors, tmp_path / "b", *TINY_C2D, *random, "--probe", "true")) == 1
    assert "--probe true is not possible: the weights of the network are random" in capsys.readouterr().err


def test_probe_option_is_checked(colors: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(fit_arguments(start, colors, tmp_path, "--probe", "maybe")) == 1
    assert "--probe is maybe; it must be true or false" in capsys.readouterr().err
    assert main(["test", "--from", str(start), *video_folder(colors), "--probe", "true"]) == 1
    assert "--probe is for fit" in capsys.readouterr().err


def test_head_init_sets_the_classifier_to_the_regression_of_the_training_videos(
    start: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    no_steps = [*flags("model", head_init="probe"), *flags("model.optimizer", lr=1e-12, weight_decay=0.0)]
    assert main(fit_arguments(start, colors, tmp_path, *no_steps)) == 0
    strength = read_json(tmp_path / "probe.json")["logistic_regression"]["C"]
    assert f"Classifier: logistic regression of 18 training videos, C {strength:g}" in capsys.readouterr().out
    weights = last_weights(tmp_path)

    paths = sorted((colors / "train").glob("*/*.mp4"))
    labels = [sorted(COLORS).index(path.parent.name) for path in paths]
    features = center_features(zoo.load(str(start)), paths)
    features = features.astype(np.float64)
    scale = np.maximum(features.std(0), 1e-3 * features.std(0).max())
    rows = (features - features.mean(0)) / scale
    model = LogisticRegression(C=strength, max_iter=1000, tol=1e-6).fit(rows, labels)
    expected = model.coef_ / scale
    classifier = {key: value.numpy() for key, value in weights.items() if ".fc." in key}
    difference = classifier["network.fc.weight"] - expected
    assert np.abs(difference).max() < 0.02 * np.abs(expected).max()
    scores = features @ classifier["network.fc.weight"].T + classifier["network.fc.bias"]
    probabilities = torch.from_numpy(scores).softmax(-1).numpy()
    assert probabilities == pytest.approx(model.predict_proba(rows), abs=0.01)


def test_head_init_is_skipped_for_random_weights(colors: Path, tmp_path: Path, caplog: Any) -> None:
    arguments = fit_arguments(Path("c2d_r18"), colors, tmp_path, *TINY_C2D, *flags("model", head_init="probe"))
    assert main(arguments) == 0
    assert "head_init=probe is skipped: the weights of the network are random" in caplog.text


def test_unknown_head_init_is_refused(start: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(fit_arguments(start, colors, tmp_path, *flags("model", head_init="zero"))) == 1
    assert "head_init is 'zero'; choose from default, probe" in capsys.readouterr().err


def test_resumed_run_keeps_baseline_and_weights(
    start: Path, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    probe = flags("model", head_init="probe")
    assert main(fit_arguments(start, colors, tmp_path / "full", *probe, epochs=2)) == 0
    stop = callback("watch.Watch", folder=tmp_path, stop="1 0")
    with pytest.raises(RuntimeError, match="stopped"):
        main(fit_arguments(start, colors, tmp_path / "part", *probe, *stop, epochs=2))
    result = read_json(tmp_path / "part/probe.json")

    def fail(*args: Any, **options: Any) -> None:
        raise AssertionError("features are computed again")

    for module in ("fit_probe", "head_init"):
        monkeypatch.setattr(f"lit_modules.{module}.compute_samples", fail)
    capsys.readouterr()
    last = tmp_path / "part/checkpoints/last.ckpt"
    assert main(fit_arguments(start, colors, tmp_path / "part", *probe, *resume(last), epochs=2)) == 0
    assert_same_last_weights(tmp_path / "part", tmp_path / "full")
    assert read_json(tmp_path / "part/probe.json") == result
    assert len(re.findall("Baselines on the 9 validation videos", capsys.readouterr().out)) == 1


def test_two_processes_have_the_baseline_and_classifier_of_one(start: Path, colors: Path, tmp_path: Path) -> None:
    frozen = [*flags("model", head_init="probe"), *flags("model.optimizer", lr=1e-12, weight_decay=0.0)]
    assert main(fit_arguments(start, colors, tmp_path / "one", *frozen)) == 0
    completed = two_processes(fit_arguments(start, colors, tmp_path / "two", *frozen))
    assert completed.returncode == 0, completed.stderr[-3000:]
    one, two = (read_json(tmp_path / name / "probe.json") for name in ("one", "two"))
    assert two["logistic_regression"] == pytest.approx(one["logistic_regression"], abs=1e-3)
    weights, expected = last_weights(tmp_path / "two"), last_weights(tmp_path / "one")
    torch.testing.assert_close(weights["network.fc.weight"], expected["network.fc.weight"], rtol=1e-2, atol=1e-3)
