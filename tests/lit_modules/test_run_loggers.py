"""``fit --log``: TensorBoard and Weights & Biases by a short name, with the images of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import fit_arguments, last_metrics, read_rows, video_folder

from cli import main
from lit_modules import trainer_parts
from lit_modules.report import write_csv
from lit_modules.report_images import report_images


def test_tensorboard_has_the_metrics_and_the_images_of_the_report(motion_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(fit_arguments(motion_folder, tmp_path, "--log", "tensorboard", epochs=1, watch=False)) == 0
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"images": 0})
    events.Reload()
    metrics = last_metrics(tmp_path)
    for name in ("val_top1", "val_loss"):
        assert [event.value for event in events.Scalars(name)] == pytest.approx([metrics[name]])
    rows = read_rows(tmp_path / "validation" / "predictions.csv")
    wrong = sum(row["label"] != row["prediction1"] for row in rows)
    strips = [f"report/mistake {number}" for number in range(1, min(wrong, 6) + 1)]
    assert set(events.Tags()["images"]) == {"report/confusion", *strips}
    (image,) = events.Images("report/mistake 1")
    assert image.height == 96 and image.width == 8 * 96 and image.step == 4
    assert image.encoded_image_string.startswith(b"\x89PNG")


def test_images_of_two_heads_have_the_classes_of_their_head(tmp_path: Path) -> None:
    heads = [("verb", ["take", "put"], slice(0, 2)), ("noun", ["cup", "pan", "lid"], slice(2, 5))]
    folder = tmp_path / "validation"
    folder.mkdir()
    for name, names, _ in heads:
        rows = [[label, *[1] * len(names)] for label in names]
        write_csv(folder / f"confusion_{name}.csv", ["true / predicted", *names], rows)
    (folder / "predictions.csv").write_text("path,verb_label,verb_prediction1,verb_score1\n")
    (tmp_path / "run.json").write_text('{"validation": {"sources": {}}}')
    images = report_images(tmp_path, heads)
    assert list(images) == ["confusion_verb", "confusion_noun"]
    assert images["confusion_verb"][0].shape[1] < images["confusion_noun"][0].shape[1]  # grows with the classes


def test_wandb_logs_offline(motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(fit_arguments(motion_folder, tmp_path, "--log", "wandb", epochs=1, watch=False)) == 0
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/images/report/confusion_*.png"))


def test_csv_replaces_the_logger_of_a_configuration(motion_folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(fit_arguments(motion_folder, first, "--trainer.logger", "CSVLogger", epochs=1, watch=False)) == 0
    assert (first / "lightning_logs").is_dir()
    command = ["fit", "--config", str(first / "config.yaml"), "--log", "csv", "--out", str(second)]
    assert main(command) == 0
    assert (second / "metrics.csv").is_file() and not (second / "lightning_logs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--log", "mlflow"], "--log is mlflow; choose from csv, tensorboard, wandb."),
        (["test", "--log", "csv"], "--log is for fit; test does not train."),
        (
            ["fit", "--log", "csv", "--trainer.logger", "CSVLogger"],
            "--log and --trainer.logger both choose a logger; give one of them.",
        ),
        (
            ["fit", "--log", "csv", "--trainer.logger.name", "x"],
            "--log and --trainer.logger both choose a logger; give one of them.",
        ),
    ],
)
def test_wrong_values_are_refused(
    arguments: list[str], message: str, motion_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([*arguments, "--from", "tanet_r18.motionclips8", *video_folder(motion_folder)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_missing_package_is_reported_before_training(
    name: str, package: str, motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(trainer_parts, "find_spec", lambda name: None)
    command = ["fit", "--from", "tanet_r50.k400_8f", *video_folder(motion_folder), "--log", name]
    assert main([*command, "--out", str(tmp_path / "run")]) == 1
    assert f"needs {package}: pip install 'tempozoo[{package}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
