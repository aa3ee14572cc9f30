"""Windows, targets and losses of the Boundary-Matching Network by hand, and training of a small one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cli import main
from datamodules.untrimmed_motion import write_untrimmed
from lit_modules import ActionLocalizer
from lit_modules.localization.boundary_matching_loss import (
    MAX_WINDOWS,
    BoundaryTargets,
    Window,
    balanced_loss,
    boundary_loss,
    boundary_targets,
    overlap_weights,
    training_windows,
)
from lit_modules.localization.metrics import THRESHOLDS, detection_map
from zoo.localization import load
from zoo.localization.boundary_matching import BoundaryLocalizer, BoundaryOutput
from zoo.localization.boundary_options import BoundaryOptions
from zoo.localization.feature_grid import FeatureGrid

OPTIONS = BoundaryOptions(length=8, durations=4, samples=2, width=4, proposal_width=4, map_width=4)


def window(*segments: tuple[float, float, int]) -> Window:
    bounds = torch.tensor([segment[:2] for segment in segments]).reshape(-1, 2)
    labels = torch.tensor([segment[2] for segment in segments], dtype=torch.long)
    return Window(torch.zeros(2, OPTIONS.length), bounds, labels)


def batch_of(count: int, *segments: tuple[float, float, int]) -> dict[str, Any]:
    """Return a batch with one video of ``count`` cells; segments are in whole cells."""
    item = window(*segments)
    features = torch.arange(1.0, count + 1).expand(1, 2, -1)
    mask = torch.ones(1, count, dtype=torch.bool)
    return {"features": features, "mask": mask, "segments": [item.segments - 0.5], "labels": [item.labels]}


def test_windows_have_the_segments_that_they_contain() -> None:
    windows = training_windows(batch_of(14, (1.0, 3.0, 0), (5.0, 7.5, 1), (7.0, 9.0, 2), (11.0, 16.0, 3)), OPTIONS)
    contents = [(item.features[0, 0].item(), item.segments.tolist(), item.labels.tolist()) for item in windows]
    assert contents == [
        (1.0, [[1.0, 3.0], [5.0, 7.5]], [0, 1]),
        (5.0, [[1.0, 3.5], [3.0, 5.0]], [1, 2]),
        (9.0, [[3.0, 6.0]], [3]),  # of cell 8 on, cut at the end of the video
    ]


def test_a_batch_without_segments_has_one_window() -> None:
    (item,) = training_windows(batch_of(20), OPTIONS)
    targets = boundary_targets([item], OPTIONS)
    assert not any(target.any() for target in targets)
    logits = torch.zeros(1, 8, requires_grad=True)
    loss = boundary_loss(BoundaryOutput(logits, logits, torch.zeros(1, 2, 4, 8), None), targets).total()
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5) and logits.grad is not None


def test_long_videos_are_trained_in_a_random_part_of_their_windows() -> None:
    segments = [(4.0 * number, 4.0 * number + 2, 0) for number in range(30)]
    assert len(training_windows(batch_of(120, *segments), OPTIONS)) == MAX_WINDOWS


def test_targets_by_hand() -> None:
    targets = boundary_targets([window((2.0, 4.0, 1), (5.0, 6.0, 0))], OPTIONS)
    # cell t has the region t - .5 to t + 1.5; starts cover .5 to 3.5 and 3.5 to 6.5, ends 2.5 to 5.5 and 4.5 to 7.5
    assert targets.start[0].tolist() == [0.5, 1, 1, 0.5, 1, 1, 0.5, 0]
    assert targets.end[0].tolist() == [0, 0, 0.5, 1, 1, 1, 1, 0.5]
    overlap = targets.overlap[0]
    assert overlap[1, 2] == 1 and overlap[0, 5] == 1
    assert overlap[0, 2] == 0.5  # 2 to 3 of 2 to 4
    assert overlap[3, 2] == 0.5  # 2 to 6 has two of its four cells in the first segment
    assert overlap[0, 0] == 0 and overlap[1, 0] == 0
    assert targets.classes[0, 1, 2] == 1 and targets.classes[0, 0, 5] == 0


def test_balanced_loss_by_hand() -> None:
    probability = torch.tensor([0.5, 0.25, 0.75, 0.5])
    positive = torch.tensor([1.0, 0.0, 0.0, 0.0])
    # 4 elements, 1 positive: ratio 4, weights .5 * 4 / 3 and .5 * 4 of the mean
    negatives = math.log(0.75) + math.log(0.25) + math.log(0.5)
    expected = -(2 * math.log(0.5) + 2 / 3 * negatives) / 4
    assert balanced_loss(probability, positive, 1 - positive).item() == pytest.approx(expected, abs=1e-5)


def test_equal_numbers_of_high_medium_and_low_overlaps_are_selected() -> None:
    overlap = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.3, 0.4, 0.7, 0.8])
    noise = torch.tensor([0.9, 0.74, 0.76, 0.9, 0.1, 0.49, 0.51, 0.0])
    # 1 high; 2 medium, selected above 1 / 2; 4 low, selected above 3 / 4
    assert overlap_weights(overlap, noise).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    only_high = torch.tensor([0.8, 0.9, 0.5, 0.0])
    assert overlap_weights(only_high, torch.rand(4)).tolist() == [1, 1, 1, 0]


def test_losses_by_hand() -> None:
    """Two cells, segments of one cell and of two; the one from cell 1 to 3 ends after the window."""
    overlap = torch.tensor([[[0.2, 1.0], [0.5, 1.0]]])
    targets = BoundaryTargets(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), overlap, torch.tensor([[[0, 1], [0, 0]]])
    )
    probability = torch.tensor([[0.8, 0.4]])
    confidence = torch.tensor([[[[0.3, 0.9], [0.1, 0.0]], [[0.1, 0.6], [0.2, 0.7]]]])
    classes = torch.zeros(1, 2, 2, 2)
    classes[0, 1, 0, 1] = math.log(3)
    output = BoundaryOutput(probability.logit(), probability.logit(), confidence.logit(eps=1e-7), classes)
    loss = boundary_loss(output, targets, noise=torch.full((1, 2, 2), 0.5))
    starts, ends = -(math.log(0.8) + math.log(0.6)) / 2, -(math.log(0.4) + math.log(0.2)) / 2
    assert loss.boundaries.item() == pytest.approx(starts + ends, abs=1e-4)
    squares = (0.3 - 0.2) ** 2 + (0.9 - 1) ** 2 + (0.1 - 0.5) ** 2
    assert loss.overlap.item() == pytest.approx(0.5 * squares / 3, abs=1e-5)
    actions = -0.5 * (math.log(0.6) + (math.log(0.9) + math.log(0.8)) / 2)
    assert loss.actions.item() == pytest.approx(actions, abs=1e-4)
    assert loss.classes.item() == pytest.approx(-math.log(0.75), abs=1e-5)
    total = loss.boundaries + 10 * loss.overlap + loss.actions + loss.classes
    assert torch.equal(loss.total(), total)
    without = targets._replace(overlap=overlap * 0.8)
    assert boundary_loss(output, without).actions == 0  # no overlap above .9


def test_boundary_network_learns_two_videos() -> None:
    torch.manual_seed(0)
    source = {"network": "n", "weights": "0", "window": 1.0, "stride": 0.5, "dim": 8, "views": "1x1", "stage": None}
    options = BoundaryOptions(length=40, durations=16, samples=8, width=32, proposal_width=32, map_width=16)
    module = ActionLocalizer(class_names=["a", "b"], features=source, boundary=options)
    grid = FeatureGrid(1.0, 0.5)
    truth = {"x": [(2.25, 5.25, "a"), (9.25, 15.25, "b")], "y": [(4.25, 8.25, "b")]}
    batch = {
        "features": torch.randn(2, 8, 40), "mask": torch.ones(2, 40, dtype=torch.bool), "duration": [20.5, 20.5],
        "segments": [grid.to_cells(torch.tensor([one[:2] for one in rows])) for rows in truth.values()],
        "labels": [torch.tensor([0, 1]), torch.tensor([1])],
    }  # fmt: skip
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[method-assign, assignment]
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    for _ in range(50):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    with torch.no_grad():
        decoded = dict(zip(truth, module.localize(batch), strict=True))
    metrics = detection_map(truth, decoded, THRESHOLDS["thumos14"])
    assert metrics.average > 0.95
    assert set(module.logged_metrics(True)) >= {"train_loss_boundaries", "train_loss_overlap", "train_loss_actions"}


def test_commands_train_and_use_a_boundary_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"train": 1, "val": 1, "test": 1}
    classes = ("moves_left", "moves_right")
    table = write_untrimmed(tmp_path / "videos", classes=classes, videos=counts, seconds=6, progress=False, size=32)
    features, run = tmp_path / "features", tmp_path / "run"
    source = ["--window", "1", "--stride", "0.5", "--out", str(features)]
    assert main(["features", str(tmp_path / "videos"), "--from", "tanet_r18.motionclips8", *source]) == 0
    options = [
        *("--data.annotations", str(table), "--data.features", str(features), "--trainer.max_epochs", "1"),
        *("--model.boundary.length", "12", "--model.boundary.durations", "6", "--model.boundary.samples", "4"),
        *("--model.boundary.width", "8", "--model.boundary.proposal_width", "8", "--model.boundary.map_width", "8"),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
        *("--trainer.num_sanity_val_steps", "0", "--out", str(run)),
    ]
    assert main(["fit", "--config", "localize/bmn", *options]) == 0
    model = load(run)
    assert isinstance(model, BoundaryLocalizer) and (model.options.length, model.options.samples) == (12, 4)
    video = str(tmp_path / "videos" / "test" / "0000.mp4")
    assert main(["localize", video, "--from", str(run), "--threshold", "0"]) == 0
    assert "moves_" in capsys.readouterr().out
