"""Provenance: facts about the weights in networks, checkpoints and cards, and their removal once outdated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from loopback_hub import LoopbackHub
from paths import ROOT
from small_models import small
from tiny_zoo import NAMES, WEB, published, write_index

import zoo
from datamodules import VideoFolder
from lit_modules import VideoClassifier
from lit_modules.recipe_options import OptimizerOptions, ScheduleOptions
from zoo.errors import ConfigError
from zoo.hub.push import push
from zoo.loading import current_spec
from zoo.weights.disk import sha256_of
from zoo.weights.lightning_checkpoint import read_checkpoint

TINY: dict[str, Any] = {"options": {"width": 8, "drop_rate": 0.0}, "num_frames": 4, "image_size": 32}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.point(monkeypatch, tmp_path / "home")
        yield hub


def trainer(folder: Path, **options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return L.Trainer(default_root_dir=folder, accelerator="cpu", logger=False, **quiet, **options)


def data(root: Path) -> VideoFolder:
    return VideoFolder(root, batch_size=8, num_workers=0)


@pytest.fixture(scope="module")
def checkpoint(motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tiny TANet for one epoch of four batches; return its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    run = trainer(folder, max_epochs=1)
    run.fit(VideoClassifier("tanet_r18", num_classes=4, optimizer={"lr": 0.25}, **TINY), datamodule=data(motion_folder))
    run.save_checkpoint(folder / "best.ckpt")
    return folder / "best.ckpt"


def push_and_read(hub: LoopbackHub, model: Any, repo: str = "alice/net", **options: Any) -> tuple[str, dict[str, Any]]:
    """Push a network; return the card, and the provenance in config.json."""
    push(model, repo, progress=False, **options)
    files = hub.repositories[repo].files
    return files["README.md"].decode(), json.loads(files["config.json"])["provenance"]


def test_training_is_described_only_for_the_resulting_weights(
    checkpoint: Path, hub: LoopbackHub, tmp_path: Path
) -> None:
    card, provenance = push_and_read(hub, zoo.load(checkpoint))
    assert provenance["recipe"]["lr"] == 0.25 and "## Training" in card and "random weights (`tanet_r18`)" in card

    changed: Any = zoo.load(checkpoint)
    changed.fc.bias.data[0] += 1
    copy = shutil.copy(checkpoint, tmp_path / "copy.ckpt")
    overwritten = zoo.load(copy)
    torch.save(torch.load(checkpoint, weights_only=True) | {"epoch": 7}, copy)
    models = {
        "changed": changed, "of another file": overwritten, "new classes": zoo.load(checkpoint, num_classes=7),
        "more frames": zoo.load(checkpoint, num_frames=8), "saved": zoo.save(changed, tmp_path / "saved"),
    }  # fmt: skip
    for case, model in models.items():
        card, provenance = push_and_read(hub, model)
        assert set(provenance) == {"package", "fine_tuned_from"} | ({"initialized"} if case == "new classes" else set())
        assert "## Training" not in card and "Started from a local checkpoint." in card, case
        assert ("Untrained: classifier." in card) == (case == "new classes")
    assert push_and_read(hub, zoo.load(checkpoint, pretrained=False))[1].keys() == {"package", "initialized"}


def test_module_describes_its_own_run(checkpoint: Path, motion_folder: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    optimizer = OptimizerOptions("adamw", lr=5.0, decay_bias=False)
    module = VideoClassifier(str(checkpoint), optimizer=optimizer, schedule=ScheduleOptions("constant"))
    assert push_and_read(hub, module)[1]["recipe"]["lr"] == 0.25  # not trained yet: that of the checkpoint

    # testing does not change the provenance
    run = trainer(tmp_path)
    run.test(module, data(motion_folder), verbose=False)
    run.save_checkpoint(tmp_path / "tested.ckpt")
    tested, before = (read_checkpoint(path)[1]["provenance"] for path in (tmp_path / "tested.ckpt", checkpoint))
    assert tested == before and before["epochs"] == 1

    run = trainer(tmp_path, max_steps=2)
    run.fit(module, datamodule=data(motion_folder))
    card, provenance = push_and_read(hub, module)
    assert provenance["fine_tuned_from"] == "a local checkpoint" and provenance["epochs"] == 0.5
    recipe = provenance["recipe"]
    assert (recipe["lr"], recipe["optimizer"], recipe["decay_bias"]) == (5.0, "adamw", False)
    idle = {"momentum", "nesterov", "warmup_start", "min_lr_scale", "milestones", "gamma"}
    assert not idle & set(recipe) and r"| decay\_bias | False |" in card
    # another trainer may have replaced the weights, so the recipe is omitted
    trainer(tmp_path).test(module, data(motion_folder), verbose=False)
    assert "recipe" not in push_and_read(hub, module)[1]


def test_copies_name_their_source(checkpoint: Path, hub: LoopbackHub) -> None:
    push_and_read(hub, checkpoint, "alice/x")
    name = "hf-hub:alice/x"
    card, provenance = push_and_read(hub, name, "alice/copy")
    assert provenance["copy_of"] == name and provenance["recipe"]["lr"] == 0.25
    assert f"The weights of `{name}`, unchanged. Started from" in card and "base_model: alice/x\n" in card
    card, provenance = push_and_read(hub, name, "alice/x")
    assert "copy_of" not in provenance and "base_model" not in card
    changed: Any = zoo.load(name)
    changed.fc.bias.data[0] += 1
    card, provenance = push_and_read(hub, changed, "alice/further")
    assert (
        provenance["fine_tuned_from"] == name and f"Started from `{name}`." in card and "base_model: alice/x\n" in card
    )


def test_only_verified_files_are_described_as_published(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = NAMES["web"]
    theirs, bobs = tmp_path / "theirs.pth", tmp_path / "bobs_retrained.pth"
    theirs.write_bytes(published())
    bobs.write_bytes(published(2))
    for digest in ({}, {"sha256": sha256_of(theirs)}):  # without and with a digest in the index
        monkeypatch.setenv("TEMPOZOO_INDEX", str(write_index(tmp_path / f"index{len(digest)}.yaml", **digest)))
        if not digest:
            assert "published at" not in push_and_read(hub, zoo.load(name, weights=theirs))[0]
        zoo.convert(theirs, name)
        own = zoo.convert(bobs, name, tmp_path / f"own{len(digest)}")
        for model in (name, zoo.load(name), zoo.load(name, weights=theirs)):
            card, _ = push_and_read(hub, model)
            assert f"published at <{WEB}>" in card and f"The weights of `{name}` of tempozoo's index, unchanged" in card
        for model in (own, zoo.load(name, weights=bobs)):
            card, provenance = push_and_read(hub, model)
            assert f"a local file in the format of `{name}`" in card and provenance["sha256"] == sha256_of(bobs)
            for fact in (WEB, "published at", "bobs", "trained on", zoo.info(name).license.weights):
                assert fact not in card, fact


def test_changed_labels_and_protocol_are_saved(tmp_path: Path) -> None:
    model = small("tanet_r18", labels=["a", "b", "c", "d"])
    model.labels, model.protocol = ("w", "x", "y", "z"), replace(model.protocol, clips=3, flip_pairs=((0, 1),))
    again: Any = zoo.load(zoo.save(model, tmp_path / "one"))
    assert (again.labels, again.protocol) == (model.labels, model.protocol)
    again.reset_classifier(3)
    assert current_spec(again).labels is None and current_spec(again).protocol.flip_pairs == ()
    again.labels, again.protocol = ["k", "l", "m"], replace(again.protocol, flip_pairs=((1, 2),))
    last: Any = zoo.load(zoo.save(again, tmp_path / "two"))
    assert last.labels == ("k", "l", "m") and last.protocol.flip_pairs == ((1, 2),)
    for wrong in (("k", "l"), "klm", (1, 2, 3), 3):
        with pytest.raises(ConfigError, match="labels"):
            last.labels = wrong


TWO_RANKS = """
import json, sys
from pathlib import Path
import lightning as L, torch
from datamodules import VideoFolder
from lit_modules import PushToHub, TestReport, VideoClassifier
from zoo.errors import HubError

class RecordingPush(PushToHub):
    def on_fit_start(self, trainer, pl_module):
        try:
            super().on_fit_start(trainer, pl_module)
        except HubError as error:
            (out / f"rank{trainer.global_rank}").write_text(str(error))

root, out = map(Path, sys.argv[1:])
torch.manual_seed(0)
options = {"width": 8, "drop_rate": 0.0}
module = VideoClassifier("tanet_r18", options=options, num_classes=4, num_frames=4, image_size=32)
module.allow_untrained = True
quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
two = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_fork"}
data = lambda: VideoFolder(root, batch_size=1, num_workers=0, max_bad_fraction=0.5)
L.Trainer(callbacks=[TestReport(out)], **two, **quiet).test(module, data(), verbose=False)
L.Trainer(callbacks=[RecordingPush("alice/net")], max_steps=1, limit_val_batches=0, **two, **quiet).fit(module, data())
"""


def test_two_ranks_count_every_video_once_and_share_push_errors(motion_folder: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(motion_folder, root)
    files = sorted((root / "test").rglob("*.mp4"))
    files[0].unlink()  # an odd number, so that both ranks read one of them
    for file in (files[4], files[9]):
        file.write_bytes(b"")
    out.mkdir()
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    without = ("HF_TOKEN", "HF_HUB_OFFLINE", "TEMPOZOO_OFFLINE")
    environment = {key: value for key, value in os.environ.items() if key not in without}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-c", TWO_RANKS, str(root), str(out)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    summary = json.loads((out / "test.json").read_text())
    assert (summary["videos"], summary["listed"], len(summary["skipped"])) == (9, 11, 2)
    rows = [line.split(",") for line in (out / "predictions.csv").read_text().splitlines()[1:]]
    correct = [row[1] == row[2] for row in rows]
    assert (
        len(correct) == 9
        and 0 < sum(correct) < 9
        and summary["metrics"]["test_top1"] == pytest.approx(sum(correct) / 9)
    )
    messages = {file.read_text() for file in out.glob("rank*")}
    assert len(list(out.glob("rank*"))) == 2 and len(messages) == 1 and "needs a token" in messages.pop()
