"""Videos with several labels: lists, losses, metrics, training, testing and predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from annotation_files import touch_files, write_csv
from runs import NO_SANITY_CHECK, ON_CPU, QUIET, TINY, flags, last_metrics, read_rows
from torchmetrics.classification import MultilabelAveragePrecision

import zoo
from cli import main
from datamodules import VideoList
from lit_modules import VideoClassifier
from lit_modules.losses import multi_label_loss
from lit_modules.recipe_options import LossOptions
from lit_modules.scores import Scores, compute_metrics
from zoo.errors import ConfigError, DataError

SHORT = [*QUIET, *ON_CPU, *NO_SANITY_CHECK, "--data.num_workers", "0"]


@pytest.fixture(scope="module")
def lists(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Lists of the motion clips. The labels are the class and its first letter; each class also has unlabeled clips."""
    folder = tmp_path_factory.mktemp("lists")
    files = {}
    for split in ("train", "val", "test"):
        rows = []
        for number, path in enumerate(sorted((motion_folder / split).rglob("*.mp4"))):
            name = path.parent.name
            rows.append((path.relative_to(motion_folder), f"{name}|letter {name[0]}" if number % 8 else ""))
        files[split] = write_csv(folder / f"{split}.csv", [("path", "label"), *rows])
    return files


@pytest.fixture(scope="module")
def run(lists: dict[str, Path], motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a short training with mixing, balanced sampling and the asymmetric loss."""
    out = tmp_path_factory.mktemp("multi") / "run"
    data = flags("data", train=lists["train"], val=lists["val"], root=motion_folder, label_separator="|", batch_size=8)
    options = [*flags("model.regularization", mixup=0.2, cutmix=0.2), *flags("model.loss", name="asymmetric")]
    command = ["fit", "--from", "tadaconvnextv2_tiny", *TINY, *options, "--data", "VideoList", *data, *SHORT]
    assert main([*command, "--data.balance", "sampler", *flags("trainer", max_epochs=2), "--out", str(out)]) == 0
    return out


# lists -----------------------------------------------------------------------------------------------------------


def test_list_has_a_row_of_zeros_and_ones_for_each_video(tmp_path: Path) -> None:
    touch_files(tmp_path, *(f"{number}.mp4" for number in range(4)))
    rows = [("0.mp4", "run; jump"), ("1.mp4", "jump"), ("2.mp4", ""), ("3.mp4", "swim;run;jump")]
    file = write_csv(tmp_path / "list.csv", [("path", "label"), *rows])
    data = VideoList(test=file, label_separator=";")
    assert data.class_names == ["jump", "run", "swim"]
    assert data.split_records("test").labels.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]]
    with pytest.raises(DataError, match="line 4: label is empty"):
        _ = VideoList(test=file).class_names


def test_automatic_split_has_the_share_of_each_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((200, 4)) < [0.5, 0.3, 0.1, 0.05]
    touch_files(tmp_path, *(f"{number}.mp4" for number in range(200)))
    rows = [
        (f"{n}.mp4", "|".join(name for name, on in zip("abcd", row, strict=True) if on)) for n, row in enumerate(labels)
    ]
    data = VideoList(
        write_csv(tmp_path / "list.csv", [("path", "label"), *rows]), label_separator="|", val_fraction=0.2
    )
    parts = {part: data.split_records(part).labels for part in ("train", "val")}
    shares = parts["val"].sum(0) / labels.sum(0)
    assert np.abs(shares - 0.2).max() < 0.06
    assert len(parts["train"]) + len(parts["val"]) == 200


# losses and metrics ----------------------------------------------------------------------------------------------


def test_losses_equal_their_definitions() -> None:
    logits, targets = torch.randn(8, 5).double() * 2, torch.randint(2, (8, 5)).double()
    plain = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(multi_label_loss(logits, targets), plain)
    torch.testing.assert_close(multi_label_loss(logits, targets, LossOptions("focal", gamma=0)), plain)
    smooth = F.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1)
    torch.testing.assert_close(multi_label_loss(logits, targets, label_smoothing=0.2), smooth)
    p = logits.sigmoid()
    true = torch.where(targets > 0, p, 1 - p)
    torch.testing.assert_close(
        multi_label_loss(logits, targets, LossOptions("focal")), -((1 - true) ** 2 * true.log()).mean()
    )
    shifted = (p - 0.05).clamp_min(0)
    asymmetric = -torch.where(targets > 0, (1 - p) * p.log(), shifted**4 * (1 - shifted).log()).mean()
    torch.testing.assert_close(multi_label_loss(logits, targets, LossOptions("asymmetric")), asymmetric)
    weights = torch.rand(5).double()
    terms = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * weights
    torch.testing.assert_close(multi_label_loss(logits, targets, class_weights=weights), terms.mean())


@pytest.mark.parametrize("name", ["focal", "asymmetric"])
def test_losses_have_finite_gradients_for_certain_predictions(name: Any) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    for targets in ([[1.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]):
        multi_label_loss(logits, torch.tensor(targets), LossOptions(name, 0.5, 0.5)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_map_equals_torchmetrics() -> None:
    labels, values = torch.randint(2, (40, 5)), torch.rand(40, 5)
    labels[:, 3] = 0  # a class without videos does not count
    scores: Scores = {str(n): pair for n, pair in enumerate(zip(labels, values, strict=True))}
    metrics = compute_metrics(scores, multi_label=True)
    others = [0, 1, 2, 4]
    assert metrics["map"] == pytest.approx(float(MultilabelAveragePrecision(4)(values[:, others], labels[:, others])))
    assert metrics["map_chance"] == pytest.approx(float(labels[:, others].double().mean()))
    assert metrics["loss"] == pytest.approx(float(F.binary_cross_entropy(values, labels.float())))


# runs ------------------------------------------------------------------------------------------------------------


def test_run_is_monitored_by_map(run: Path) -> None:
    metrics = last_metrics(run)
    assert 0 < metrics["val_map"] <= 1
    assert "val_top1" not in metrics
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    (best,) = [state for key, state in checkpoint["callbacks"].items() if key.startswith("Best")]
    assert best["monitor"] == "val_map"


def test_test_reports_map_and_all_labels(
    run: Path, lists: dict[str, Path], motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["test", "--from", str(run), "--data", "VideoList", "--data.test", str(lists["test"])]
    command += ["--data.root", str(motion_folder), *SHORT, "--out", str(tmp_path / "test")]
    assert main([*command, "--data.label_separator", "|"]) == 0
    assert "mAP" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "test" / "test.json").read_text())["metrics"]
    assert set(metrics) == {"test_map", "test_map_chance", "test_macro_f1", "test_loss"}
    rows = read_rows(tmp_path / "test" / "predictions.csv")
    with lists["test"].open(newline="") as file:
        expected = {str(motion_folder / row["path"]): row["label"] for row in csv.DictReader(file)}
    assert {row["path"]: set(row["label"].split("|")) for row in rows} == {
        path: set(labels.split("|")) for path, labels in expected.items()
    }
    classes = read_rows(tmp_path / "test" / "classes.csv")
    precisions = [float(row["average_precision"]) for row in classes if row["average_precision"]]
    assert metrics["test_map"] == pytest.approx(np.mean(precisions))
    assert main([*command[:-1], str(tmp_path / "other")]) == 1  # the lists without the separator


def test_saved_network_predicts_sigmoid_scores(run: Path, motion_folder: Path, tmp_path: Path) -> None:
    video = sorted((motion_folder / "test").rglob("*.mp4"))[0]
    network = zoo.load(str(run / "checkpoints" / "best.ckpt"))
    assert network.protocol.multi_label
    prediction = zoo.predict(network, video)
    logits = zoo.load(str(run / "checkpoints" / "best.ckpt")).eval()(zoo.read_clip(video, network.protocol))
    torch.testing.assert_close(prediction.probabilities, logits.sigmoid().mean(0), atol=1e-4, rtol=1e-3)
    zoo.save(network, tmp_path / "saved")
    assert zoo.load(str(tmp_path / "saved")).protocol.multi_label
    assert main(["predict", "--from", str(run), "--out", str(tmp_path / "out"), *SHORT[:-2], str(video)]) == 0
    (row,) = read_rows(tmp_path / "out" / "predictions.csv")
    assert float(row["score1"]) == pytest.approx(float(prediction.probabilities.max()), abs=1e-4)


def test_single_label_networks_keep_softmax_and_their_files(motion_folder: Path) -> None:
    network = zoo.create("tanet_r18", num_classes=3)
    assert "multi_label" not in network.protocol.to_dict()
    assert type(network.protocol).from_dict({**network.protocol.to_dict(), "multi_label": True}).multi_label
    with pytest.raises(ConfigError, match="multi_label is 1; it must be true or false"):
        type(network.protocol).from_dict({**network.protocol.to_dict(), "multi_label": 1})


def test_asymmetric_loss_of_single_labels_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"loss\.name asymmetric is for videos with several labels"):
        VideoClassifier("tanet_r18", options={"width": 8}, num_classes=4, num_frames=4, loss={"name": "asymmetric"})
