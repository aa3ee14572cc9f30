"""Training with balanced classes: by the sampler, and by the loss."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from runs import assert_same_last_weights, fit_arguments, read_checkpoint, resume
from watch import Watch

from cli import main
from zoo.weights.lightning_checkpoint import CONFIG_KEY


@pytest.fixture(scope="module")
def unbalanced_folder(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of ``motion_folder`` whose first class has all of its 8 training videos and the others have 2."""
    root = tmp_path_factory.mktemp("unbalanced") / "motion"
    shutil.copytree(motion_folder, root)
    for folder in sorted((root / "train").iterdir())[1:]:
        for video in sorted(folder.iterdir())[2:]:
            video.unlink()
    return root


def class_counts(run: Path, epoch: int) -> Counter[str]:
    """Number of training clips of each class in an epoch."""
    return Counter(
        Path(path).parent.name for step in Watch(str(run)).seen() if step["epoch"] == epoch for path in step["paths"]
    )


def test_balanced_sampler_resumes_mid_epoch_with_the_same_weights(unbalanced_folder: Path, tmp_path: Path) -> None:
    options = ("--data.balance", "sampler")
    full_run, first, second = (tmp_path / name for name in ("all", "first", "second"))
    assert main(fit_arguments(unbalanced_folder, full_run, *options, batch_size=2)) == 0
    with pytest.raises(RuntimeError, match="stopped"):
        main(fit_arguments(unbalanced_folder, first, *options, batch_size=2, stop=(1, 3)))
    checkpoint = first / "checkpoints" / "step.ckpt"
    assert read_checkpoint(checkpoint)["global_step"] % 7  # 14 videos in batches of 2
    assert main(fit_arguments(unbalanced_folder, second, *options, *resume(checkpoint), batch_size=2)) == 0
    assert_same_last_weights(second, full_run)
    for epoch in (0, 1):
        assert set(class_counts(full_run, epoch).values()) <= {3, 4}
    config = read_checkpoint(full_run / "checkpoints" / "last.ckpt")[CONFIG_KEY]
    assert config["provenance"]["recipe"]["balance"] == "sampler"


def test_loss_weights_change_the_loss_but_not_the_videos(unbalanced_folder: Path, tmp_path: Path) -> None:
    runs = {}
    for balance in ("none", "loss"):
        out = tmp_path / balance
        arguments = fit_arguments(unbalanced_folder, out, "--data.balance", balance, batch_size=2, epochs=1)
        assert main([*arguments, "--model.loss.name", "focal"]) == 0
        runs[balance] = Watch(str(out)).seen()
    assert [step["paths"] for step in runs["none"]] == [step["paths"] for step in runs["loss"]]
    first = sorted((unbalanced_folder / "train").iterdir())[0].name
    weights = {True: 14 / (4 * 8), False: 14 / (4 * 2)}
    classes = [Path(path).parent.name for path in runs["none"][0]["paths"]]
    ratio = runs["loss"][0]["loss"] / runs["none"][0]["loss"]
    low, high = sorted(weights[name == first] for name in classes)
    assert low - 1e-3 <= ratio <= high + 1e-3
    assert runs["none"][0]["loss"] != runs["loss"][0]["loss"]


def test_unknown_balance_is_an_error(capsys: pytest.CaptureFixture) -> None:
    assert (
        main(["fit", "--from", "tanet_r18", "--data", "VideoFolder", "--data.root", "x", "--data.balance", "yes"]) == 1
    )
    assert "balance is 'yes'; choose from none, sampler, loss" in capsys.readouterr().err
