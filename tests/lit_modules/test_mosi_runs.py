"""Pretraining with MoSI on the command line, and fine-tuning from its run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import NO_SANITY_CHECK, ON_CPU, QUIET, TINY, flags, last_metrics, last_weights, video_folder
from small_models import small

from cli import main
from datamodules.mosi import MOTION_NAMES, MOTIONS, mask_static, move_crop
from lit_modules.recipes import axis_metrics
from lit_modules.report_images import report_images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two steps with the recipe ``mosi/folder`` and a tiny network."""
    root, out = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("runs") / "mosi"
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48)).save(root / f"{number}.jpg")
    arguments = [
        *("fit", "--config", "mosi/folder"),
        *flags("model", name="c2d_r18", protocol=None),
        *TINY,
        *flags("data", root=root, batch_size=18, num_workers=0),
        *flags("trainer", max_epochs=1, precision="32-true"),
        *QUIET, *ON_CPU, *NO_SANITY_CHECK,
        *("--out", str(out)),
    ]  # fmt: skip
    assert main(arguments) == 0
    return out


def test_run_logs_the_accuracies_of_both_axes_beside_chance(run: Path) -> None:
    metrics = last_metrics(run)
    assert metrics["val_majority_class"] == pytest.approx(1 / 9)
    assert metrics["val_x_majority_class"] == metrics["val_y_majority_class"] == pytest.approx(5 / 9)
    assert {"val_top1", "val_x_top1", "val_y_top1"} <= metrics.keys()
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["data"]["videos"]) == ("finished", {"train": 4, "val": 9})


def test_report_of_generated_clips_has_no_mistakes(run: Path) -> None:
    """The images would not show what the network saw."""
    assert json.loads((run / "run.json").read_text())["validation"]["sources"] is None
    report = (run / "report.html").read_text()
    assert "Learning rate" in report and "mistake" not in report.partition("<body>")[2]
    images = report_images(run, [("", list(MOTION_NAMES), slice(None))])
    assert list(images) == ["confusion"]


def test_fine_tuning_from_a_run_starts_with_its_features_and_a_new_classifier(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [
        *("fit", "--from", str(run), "--probe", "false"),
        *video_folder(motion_folder),
        *flags("model.optimizer", lr=1e-9),
        *flags("trainer", max_epochs=1, limit_train_batches=1),
        *QUIET, *ON_CPU, *NO_SANITY_CHECK,
        *("--out", str(tmp_path)),
    ]  # fmt: skip
    assert main(arguments) == 0
    weights, pretrained = last_weights(tmp_path), last_weights(run)
    (classifier,) = [key for key in weights if weights[key].ndim == 2]
    assert (len(pretrained[classifier]), len(weights[classifier])) == (9, 4)
    kernels = [key for key in weights if weights[key].ndim == 4]
    assert kernels and all(torch.allclose(weights[key], pretrained[key], atol=1e-6) for key in kernels)


def test_axis_accuracies_ignore_the_other_axis() -> None:
    def scores(*pairs: tuple[str, str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        rows = torch.eye(9)
        index = MOTION_NAMES.index
        return {str(n): (torch.tensor(index(a)), rows[index(b)]) for n, (a, b) in enumerate(pairs)}

    metrics = axis_metrics(scores(("x+2", "x+2"), ("x+2", "x+1"), ("y-1", "still"), ("still", "y-1")), MOTION_NAMES)
    assert metrics == {"x_top1": 0.75, "x_majority_class": 0.5, "y_top1": 0.5, "y_majority_class": 0.75}
    assert axis_metrics(scores(("x+2", "x+2")), ["a", "b"]) == {}
    assert axis_metrics({}, MOTION_NAMES) == {}


def test_small_network_learns_the_motions_of_a_few_clips() -> None:
    torch.manual_seed(0)
    network = small("r2d3d_r18", num_classes=9, width=8, num_frames=4)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(1, 3, 12, 12, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (92, 92), mode="bilinear")[0].byte()
    moving = [move_crop(image, motion, 4, 32, generator) for motion in MOTIONS for _ in "ab"]
    clips = torch.stack([mask_static(clip, generator) for clip in moving]).transpose(1, 2) / 127.5 - 1
    labels = torch.arange(9).repeat_interleave(2)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(network(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
