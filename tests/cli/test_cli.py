"""The command line in process: a user's whole way, and the errors on it."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import FOUR

import zoo
from cli import main
from lit_modules import TAda2D, TANet, VideoClassifier
from lit_modules.checkpoints import update_average
from lit_modules.network import match_classes
from lit_modules.optim import lr_factor, parameter_groups
from lit_modules.recipe_options import OptimizerOptions, ScheduleOptions
from lit_modules.scores import accuracies
from zoo.errors import ConfigError

TINY = ["--model.options", '{"width": 8, "dropout": 0.0}', "--model.num_frames", "4", "--model.image_size", "32"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def data_options(root: Path, workers: int = 0) -> list[str]:
    return [
        "--data",
        "VideoFolder",
        "--data.root",
        str(root),
        "--data.batch_size",
        "8",
        "--data.num_workers",
        str(workers),
    ]


@pytest.fixture(scope="module")
def run(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of a tiny TANet, with everything a run has."""
    out = tmp_path_factory.mktemp("runs") / "fit"
    arguments = ["fit", "--model", "TANet", "--model.name", "tanet_r18", *TINY, "--model.ema_decay", "0.9"]
    arguments += [*data_options(motion_folder, 2), "--trainer.max_epochs", "2", *QUIET, "--out", str(out)]
    assert main(arguments) == 0
    assert not multiprocessing.active_children()  # whom nobody would wait for patiently
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_checkpoints_metrics_and_its_config(run: Path) -> None:
    assert {"best.ckpt", "last.ckpt"} <= {p.name for p in (run / "checkpoints").iterdir()}
    assert (run / "config.yaml").is_file()
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 1  # the last one, whether or not it was the best
    rows = rows_of(run / "metrics.csv")
    for column in ("train_loss_epoch", "train_top1", "val_top1", "val_majority_class", "val_mean_class", "val_loss"):
        values = [float(row[column]) for row in rows if row[column]]
        assert len(values) == 2, column
        assert all(map(math.isfinite, values))


def test_test_reports_every_video(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    views = ["--data.clips", "2", "--data.crops", "3"]
    assert (
        main(["test", "--from", str(best), *data_options(motion_folder), *views, *QUIET, "--out", str(tmp_path)]) == 0
    )
    printed = capsys.readouterr().out
    assert "12 of 12 videos" in printed
    assert "top-1" in printed
    assert "2 clips x 3 crops" in printed
    assert "chance" in printed
    summary = json.loads((tmp_path / "test.json").read_text())
    rows = rows_of(tmp_path / "predictions.csv")
    assert len(rows) == summary["videos"] == 12
    correct = np.mean([row["label"] == row["prediction1"] for row in rows])
    assert summary["metrics"]["test_top1"] == pytest.approx(correct)
    assert "test_top5" not in summary["metrics"]  # of four classes
    assert all(sum(float(row[f"score{k}"]) for k in range(1, 5)) == pytest.approx(1, abs=1e-4) for row in rows)
    matrix = np.array([[int(x) for x in list(row.values())[1:]] for row in rows_of(tmp_path / "confusion.csv")])
    assert matrix.sum() == 12
    assert np.trace(matrix) == round(12 * correct)
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_predict_names_files_and_folders(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = str(run / "checkpoints" / "best.ckpt")
    one = tmp_path / "a clip.mp4"
    shutil.copy(next((motion_folder / "test" / "meets").iterdir()), one)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no")
    arguments = ["predict", "--from", best, str(one), str(motion_folder / "val" / "parts"), str(broken), *QUIET]
    assert main([*arguments, "--data.num_workers", "0", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "a clip.mp4" in printed
    assert len(re.findall(rf"\d+\.\d\d % ({'|'.join(FOUR)})", printed)) == 4 * 3
    assert f"Unreadable: {broken}" in printed
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert len(rows) == 4
    assert rows[0]["path"] == str(one)


def test_exported_checkpoints_predict_what_the_run_did(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    assert main(["export-checkpoint", str(best), str(tmp_path / "zoo")]) == 0
    assert "Wrote" in capsys.readouterr().out
    exported = zoo.load(tmp_path / "zoo")
    assert exported.labels == tuple(sorted(FOUR))
    assert exported.spec.provenance["fine_tuned_from"] == "tanet_r18"
    clip = torch.randn(2, 3, 4, 32, 32)
    direct = VideoClassifier.load_from_checkpoint(best, weights_only=True).eval()
    assert torch.equal(exported(clip), direct(clip))
    assert torch.equal(exported(clip), zoo.load(best)(clip))


def test_fine_tuning_starts_from_a_checkpoint_with_other_classes(
    run: Path, tmp_path: Path, motion_folder: Path
) -> None:
    for split in ("train", "val"):
        for name in ("appears", "meets"):
            shutil.copytree(motion_folder / split / name, tmp_path / "data" / split / f"my {name}")
    best = run / "checkpoints" / "best.ckpt"
    out = tmp_path / "run"
    arguments = ["fit", "--from", str(best), "--model", "TAda2D", *data_options(tmp_path / "data"), "--out", str(out)]
    assert main([*arguments, "--model.freeze_backbone", "true", "--trainer.max_epochs", "1"]) == 0
    assert "class_path: lit_modules.TAda2D" in (out / "config.yaml").read_text()
    before, after = zoo.load(best), zoo.load(out / "checkpoints" / "last.ckpt")
    assert after.labels == ("my appears", "my meets")
    old, new = before.state_dict(), after.state_dict()
    changed = {k for k in new if new[k].shape != old[k].shape or not torch.equal(new[k], old[k])}
    assert changed == {"fc.weight", "fc.bias"}  # the frozen backbone kept its weights and statistics
    assert main(arguments) == 1  # the folder holds a run


def test_resume_goes_on_where_the_run_stopped(run: Path, motion_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    arguments = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(last), "--trainer.max_epochs", "3"]
    assert main([*arguments, "--out", str(tmp_path / "more")]) == 0
    content = torch.load(tmp_path / "more" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["epoch"] == 2


def test_a_run_s_config_brings_its_data_to_a_test(run: Path, tmp_path: Path) -> None:
    before = (run / "metrics.csv").read_text()
    arguments = ["--from", str(run / "checkpoints" / "best.ckpt"), "--config", str(run / "config.yaml")]
    assert main(["test", *arguments, "--data.clips", "2", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "test.json").read_text())["protocol"]["clips"] == 2
    assert (run / "metrics.csv").read_text() == before


def test_unreadable_videos_are_named_beside_the_accuracy(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(motion_folder, tmp_path / "m")
    (tmp_path / "m" / "test" / "parts" / "parts_0001.mp4").write_bytes(b"")
    best = str(run / "checkpoints" / "best.ckpt")
    assert main(["test", "--from", best, *data_options(tmp_path / "m"), *QUIET, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "11 of 12 videos" in printed
    assert "Unreadable: " in printed
    assert "parts_0001.mp4 is empty" in " ".join(printed.split())
    assert len(json.loads((tmp_path / "out" / "test.json").read_text())["skipped"]) == 1


# errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dance"], "There is no command 'dance'"),
        (["list", "nothing*"], "No network matches"),
        (["info", "tanet_r50.k400_9f"], "Did you mean 'tanet_r50.k400_8f'"),
        (["convert", "none.pth", "tanet_r50.k400_8f"], "There is no weight file none.pth"),
        (["export-checkpoint", "none.ckpt", "x"], "There is no file none.ckpt"),
        (["test", "--data", "VideoFolder", "--data.root", "x"], "test needs a network: tempozoo test --from NETWORK"),
        (["test", "--from", "tanet_r50.ssv2_8f"], "test needs data: tempozoo test --from tanet_r50.ssv2_8f --data"),
        (["predict", "--from", "tanet_r50.ssv2_8f"], "predict needs files or folders"),
        (["predict", "--from", "tanet_r50.ssv2_8f", "none.mp4"], "There is no file or folder none.mp4"),
        (["fit", "stray"], "takes no plain argument 'stray'"),
        (["test", "--from"], "--from needs a value"),
    ],
)
def test_errors_are_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("tempozoo: ")
    assert says in error
    assert error.count("\n") == 1


def test_missing_weights_and_data_end_in_one_line(
    tmp_path: Path, motion_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["fit", "--from", "tanet_r50.k400_8f", *data_options(motion_folder), "--out", str(tmp_path / "r")]) == 1
    assert "drive.google.com" in capsys.readouterr().err
    assert (
        main(["fit", "--from", "tanet_r50.k400_8f", *data_options(tmp_path / "none"), "--out", str(tmp_path / "r")])
        == 1
    )
    assert "There is no folder" in capsys.readouterr().err
    for name, count in (("many", 3), ("lonely", 1)):  # found out when the Trainer is there already
        (tmp_path / "few" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "few" / name / f"{i}.mp4").touch()
    few = data_options(tmp_path / "few")
    assert main(["fit", "--from", "tanet_r18.motionclips8", *few, *QUIET, "--out", str(tmp_path / "r")]) == 1
    assert "'lonely'" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_list_info_and_help(capsys: pytest.CaptureFixture) -> None:
    assert main(["list", "tada2d*", "--dataset", "ssv2"]) == 0
    printed = capsys.readouterr().out
    assert "tada2d_r50.ssv2_8f" in printed
    assert "tanet" not in printed
    assert main(["info", "tanet_r50.mma_k400_8f"]) == 0
    printed = capsys.readouterr().out
    for text in ("a34346bc", "top-1 76.25", "10 clips x 3 crops", "abseiling", "Apache-2.0", "arxiv.org"):
        assert text in printed
    assert main([]) == 0
    assert main(["fit", "--help"]) == 0
    assert "--model" in capsys.readouterr().out
    assert main(["fit", "--model.help", "TANet"]) == 0
    assert "head_lr_scale" in capsys.readouterr().out


# the module ------------------------------------------------------------------------------------------------------


def tiny(**options: Any) -> VideoClassifier:
    return VideoClassifier("tanet_r18", options={"width": 8, "dropout": 0.0}, num_frames=4, num_classes=5, **options)


def test_recipes_are_the_published_ones() -> None:
    """TAda2D: released YAML (lr .24 at batch 128, Nesterov, cosine, 8 epochs of warm-up, decay 1e-4). TANet: README."""
    options = {"options": {"width": 8}, "num_classes": 5}
    recipe = TAda2D("tada2d_r18", **options).recipe
    tada = recipe.optimizer
    assert (tada.name, tada.lr, tada.lr_batch_size, tada.nesterov, tada.weight_decay) == ("sgd", 0.24, 128, True, 1e-4)
    assert (recipe.schedule.name, recipe.schedule.warmup_epochs) == ("cosine", 8)
    recipe = TANet("tanet_r18", **options).recipe
    tanet = recipe.optimizer
    assert (tanet.name, tanet.lr, tanet.lr_batch_size, tanet.weight_decay) == ("sgd", 0.01, 64, 1e-4)
    assert (tanet.head_lr_scale, tanet.bias_lr_scale, tanet.decay_bias) == (5, 2, False)
    assert (recipe.schedule.name, list(recipe.schedule.milestones)) == ("steps", [0.5, 0.75, 0.9])


def test_parameter_groups_hold_every_parameter_once() -> None:
    network = tiny().network
    options = OptimizerOptions(
        weight_decay=0.01, head_lr_scale=5, operator_lr_scale=3, bias_lr_scale=2, decay_bias=False
    )
    groups = parameter_groups(network, options)
    where = {id(p): group for group in groups for p in group["params"]}
    assert len(where) == sum(len(g["params"]) for g in groups) == len(list(network.parameters()))
    for name, scale, decay in (
        ("fc.weight", 5, 0.01),
        ("fc.bias", 10, 0),
        ("stem.conv.weight", 1, 0.01),
        ("stem.bn.weight", 1, 0),
        ("stem.bn.bias", 1, 0),
        ("layer1.0.temporal.L.0.weight", 3, 0.01),
        ("layer1.0.temporal.G.1.weight", 3, 0),
    ):
        group = where[id(network.get_parameter(name))]
        assert (group["lr"], group["weight_decay"]) == (pytest.approx(scale), decay), name


def test_schedules() -> None:
    cosine = lr_factor(ScheduleOptions("cosine", warmup_epochs=0.5, warmup_start=0.1), 100, 10)
    assert [round(cosine(s), 3) for s in (0, 5, 50, 100)] == [
        0.1,
        round(0.5 * (1 + math.cos(math.pi * 0.05)), 3),
        0.5,
        0,
    ]
    steps = lr_factor(ScheduleOptions("steps", milestones=(0.5, 0.75, 0.9)), 100, 10)
    assert [round(steps(s), 6) for s in (0, 49, 50, 75, 90, 99)] == [1, 1, 0.1, 0.01, 0.001, 0.001]
    assert lr_factor(ScheduleOptions("constant"), 10, 1)(9) == 1
    long_warmup = ScheduleOptions("cosine", warmup_epochs=99, warmup_start=0.0)
    assert lr_factor(long_warmup, 100, 10)(10) > 0.97  # cut to a tenth of the run


@pytest.mark.parametrize("average", ["prob", "logit"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_views_are_averaged_as_the_protocol_says(average: str, chunk: int) -> None:
    from dataclasses import replace

    module = tiny(view_chunk=chunk).eval()
    module.network.protocol = replace(module.network.protocol, average=average)
    views = torch.randn(2, 3, 3, 4, 32, 32)
    with torch.no_grad():
        scores = module.score_views(views)
        each = torch.stack([module(views[:, v]) for v in range(3)], 1)
    wanted = each.softmax(-1).mean(1) if average == "prob" else each.mean(1).softmax(-1)
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-5)


def test_accuracies_stay_apart_when_a_first_batch_scores_alike() -> None:
    metrics = accuracies(6, "")
    metrics.update(torch.eye(6)[:4], torch.tensor([0, 1, 2, 3]))  # all right: top-1 and top-5 are the same
    metrics.update(torch.eye(6)[[1, 1, 1, 5]] * 9 - torch.arange(6.0), torch.tensor([0, 5, 4, 5]))
    found = {key: value.item() for key, value in metrics.compute().items()}
    assert found == pytest.approx({"top1": 5 / 8, "top5": 7 / 8, "mean_class": (1 / 2 + 1 + 1 + 1 + 0 + 1 / 2) / 6})


def test_classifier_follows_the_names_of_the_data() -> None:
    names = ["b", "c", "a"]
    network: Any = zoo.create("c2d_r18", width=8, num_classes=3, num_frames=2, labels=["a", "b", "c"])
    clip = torch.randn(1, 3, 2, 32, 32)
    before = network(clip)
    assert match_classes(network, ["a", "b", "c"]) is None
    assert match_classes(network, names).startswith("reordered")
    torch.testing.assert_close(network(clip), before[:, [1, 2, 0]])
    weight = network.fc.weight.clone()
    assert match_classes(network, ["x", "y", "z"]).startswith("re-initialized")  # as many classes, but other ones
    assert not torch.equal(network.fc.weight, weight)
    assert network.spec.labels == ("x", "y", "z")


def test_mirrored_classes_follow_the_classifier() -> None:
    """Index pairs of the published classes: moved with a new order, gone with new classes, kept otherwise."""
    labels = list(zoo.info("tada2d_r50.ssv2_8f").class_names())

    def network() -> Any:
        return zoo.load("tada2d_r50.ssv2_8f", pretrained=False)

    kept, moved, gone = network(), network(), network()
    match_classes(kept, labels)
    assert kept.protocol.flip_pairs == ((86, 87), (93, 94), (166, 167))
    match_classes(moved, labels[::-1])
    assert moved.protocol.flip_pairs == ((87, 86), (80, 79), (7, 6))
    assert moved.spec.protocol.to_dict() == moved.protocol.to_dict()
    match_classes(gone, [f"mine {i}" for i in range(174)])
    assert gone.protocol.flip_pairs == ()
    assert zoo.load("tada2d_r50.ssv2_8f", pretrained=False, num_classes=200).protocol.flip_pairs == ()


def test_other_classes_of_the_same_number_are_in_the_report(tmp_path: Path) -> None:
    network: Any = zoo.load(zoo.save(zoo.create("c2d_r18", width=8, num_classes=2, labels=["a", "b"]), tmp_path / "m"))
    assert network.report.as_trained
    match_classes(network, ["x", "y"])
    assert network.report.initialized == ("fc.weight", "fc.bias")


def test_classes_without_names_take_those_of_the_data_and_say_so(tmp_path: Path) -> None:
    network: Any = zoo.create("c2d_r18", width=8, num_classes=3, num_frames=2)
    network.fc.bias.data += 0.1  # changed, so that it counts as trained
    folder = zoo.save(network, tmp_path / "nameless")
    network = zoo.load(folder)
    assert match_classes(zoo.load(folder, num_classes=4), list("abcd")) is None  # that one is new anyway
    weight = network.fc.weight.clone()
    assert "because its own classes have no names" in match_classes(network, ["x", "y", "z"])
    assert torch.equal(network.fc.weight, weight)


def test_head_warm_up_then_everything(motion_folder: Path, tmp_path: Path) -> None:
    import lightning as L

    from datamodules import VideoFolder

    module = VideoClassifier(
        "tada2d_r18", options={"width": 8}, num_frames=4, image_size=32, class_names=sorted(FOUR), head_warmup_epochs=1
    )
    start = {k: v.clone() for k, v in module.network.state_dict().items()}
    moved: list[set[str]] = []

    class Watch(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            state = pl_module.network.state_dict()
            moved.append({k for k, v in start.items() if not torch.equal(v, state[k])})

    trainer = L.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, callbacks=[Watch()], enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, datamodule=VideoFolder(motion_folder, batch_size=8, num_workers=0))
    assert moved[0] == {"fc.weight", "fc.bias"}
    assert len(moved[1]) > len(start) - 40


def test_bad_settings_are_named() -> None:
    for options, says in (
        ({"optimizer": {"name": "adam"}}, "optimizer.name is 'adam'; choose from sgd, adamw"),
        ({"schedule": {"name": "flat"}}, "schedule.name is 'flat'"),
        ({"view_chunk": 0}, "view_chunk is 0"),
        ({"class_names": ["a", "b"]}, "num_classes is 5, but the data has 2 classes"),
        ({"weights": "x.pth"}, "tanet_r18 is an architecture"),
    ):
        with pytest.raises(ConfigError, match=says):
            tiny(**options)
    with pytest.raises(ConfigError, match="options= needs the name of an architecture"):
        VideoClassifier("tanet_r50.k400_8f", options={"width": 8})


def test_moving_averages_begin_with_a_lower_decay() -> None:
    """By the tenth part of a short run, the first weights are forgotten."""
    average = torch.tensor(1.0)
    for updates in range(1, 21):
        average = update_average(average, torch.tensor(0.0), updates, decay=0.999)
    assert average < 1e-3
    assert update_average(torch.tensor(1.0), torch.tensor(0.0), 10**6, decay=0.999) == pytest.approx(0.999)
