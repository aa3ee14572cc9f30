"""Where weights come from: what networks, checkpoints and cards say of it, and what they no longer may."""

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
from zoo.errors import ConfigError
from zoo.hub.push import push
from zoo.loading import current_spec
from zoo.weights.files import sha256_of
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
    """One epoch of a tiny TANet, four batches."""
    folder = tmp_path_factory.mktemp("run")
    run = trainer(folder, max_epochs=1)
    run.fit(VideoClassifier("tanet_r18", num_classes=4, lr=0.25, **TINY), datamodule=data(motion_folder))
    run.save_checkpoint(folder / "best.ckpt")
    return folder / "best.ckpt"


def pushed(hub: LoopbackHub, model: Any, repo: str = "alice/net", **options: Any) -> tuple[str, dict[str, Any]]:
    """The card of a push, and the provenance in its config.json."""
    push(model, repo, progress=False, **options)
    files = hub.repositories[repo].files
    return files["README.md"].decode(), json.loads(files["config.json"])["provenance"]


def test_a_training_is_told_of_the_weights_it_made_and_of_no_others(
    checkpoint: Path, hub: LoopbackHub, tmp_path: Path
) -> None:
    card, made = pushed(hub, zoo.load(checkpoint))
    assert made["recipe"]["lr"] == 0.25 and "## Training" in card and "random weights (`tanet_r18`)" in card

    changed: Any = zoo.load(checkpoint)
    changed.fc.bias.data[0] += 1
    copy = shutil.copy(checkpoint, tmp_path / "copy.ckpt")
    overwritten = zoo.load(copy)
    torch.save(torch.load(checkpoint, weights_only=True) | {"epoch": 7}, copy)
    models = {
        "changed": changed, "of another file": overwritten, "new classes": zoo.load(checkpoint, num_classes=7),
        "more frames": zoo.load(checkpoint, num_frames=8), "saved": zoo.save(changed, tmp_path / "saved"),
    }  # fmt: skip
    for what, model in models.items():
        card, made = pushed(hub, model)
        assert set(made) == {"package", "fine_tuned_from"} | ({"initialized"} if what == "new classes" else set())
        assert "## Training" not in card and "Started from a local checkpoint." in card, what
        assert ("Untrained: classifier." in card) == (what == "new classes")
    assert pushed(hub, zoo.load(checkpoint, pretrained=False))[1].keys() == {"package", "initialized"}


def test_a_module_tells_of_its_own_run(checkpoint: Path, motion_folder: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    module = VideoClassifier(str(checkpoint), lr=5.0, optimizer="adamw", schedule="constant", decay_bias=False)
    assert pushed(hub, module)[1]["recipe"]["lr"] == 0.25  # those of the checkpoint, as yet

    # a run without a step is no run
    run = trainer(tmp_path)
    run.test(module, data(motion_folder), verbose=False)
    run.save_checkpoint(tmp_path / "tested.ckpt")
    tested, before = (read_checkpoint(path)[1]["provenance"] for path in (tmp_path / "tested.ckpt", checkpoint))
    assert tested == before and before["epochs"] == 1

    run = trainer(tmp_path, max_steps=2)
    run.fit(module, datamodule=data(motion_folder))
    card, made = pushed(hub, module)
    assert made["fine_tuned_from"] == "a local checkpoint" and made["epochs"] == 0.5
    recipe = made["recipe"]
    assert (recipe["lr"], recipe["optimizer"], recipe["decay_bias"]) == (5.0, "adamw", False)
    idle = {"momentum", "nesterov", "warmup_start", "min_lr_scale", "milestones", "gamma"}
    assert not idle & set(recipe) and r"| decay\_bias | False |" in card
    # of what another trainer's test brings along, nothing is known
    trainer(tmp_path).test(module, data(motion_folder), verbose=False)
    assert "recipe" not in pushed(hub, module)[1]


def test_copies_name_what_they_are_copied_from(checkpoint: Path, hub: LoopbackHub) -> None:
    pushed(hub, checkpoint, "alice/x")
    name = "hf-hub:alice/x"
    card, made = pushed(hub, name, "alice/copy")
    assert made["copy_of"] == name and made["recipe"]["lr"] == 0.25
    assert f"The weights of `{name}`, unchanged. Started from" in card and "base_model: alice/x\n" in card
    card, made = pushed(hub, name, "alice/x")
    assert "copy_of" not in made and "base_model" not in card
    changed: Any = zoo.load(name)
    changed.fc.bias.data[0] += 1
    card, made = pushed(hub, changed, "alice/further")
    assert made["fine_tuned_from"] == name and f"Started from `{name}`." in card and "base_model: alice/x\n" in card


def test_only_the_published_file_is_said_to_be_published(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = NAMES["web"]
    theirs, bobs = tmp_path / "theirs.pth", tmp_path / "bobs_retrained.pth"
    theirs.write_bytes(published())
    bobs.write_bytes(published(2))
    for known in ({}, {"sha256": sha256_of(theirs)}):  # by the index, or only once it was seen
        monkeypatch.setenv("TEMPOZOO_INDEX", str(write_index(tmp_path / f"index{len(known)}.yaml", **known)))
        if not known:
            assert "published at" not in pushed(hub, zoo.load(name, weights=theirs))[0]
        zoo.convert(theirs, name)
        own = zoo.convert(bobs, name, tmp_path / f"own{len(known)}")
        for model in (name, zoo.load(name), zoo.load(name, weights=theirs)):
            card, _ = pushed(hub, model)
            assert f"published at <{WEB}>" in card and f"The weights of `{name}` of tempozoo's index, unchanged" in card
        for model in (own, zoo.load(name, weights=bobs)):
            card, made = pushed(hub, model)
            assert f"a local file in the format of `{name}`" in card and made["sha256"] == sha256_of(bobs)
            for lie in (WEB, "published at", "bobs", "trained on", zoo.info(name).license.weights):
                assert lie not in card, lie


def test_labels_and_protocol_are_those_that_a_network_has_now(tmp_path: Path) -> None:
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

class Said(PushToHub):
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
L.Trainer(callbacks=[Said("alice/net")], max_steps=1, limit_val_batches=0, **two, **quiet).fit(module, data())
"""


def test_two_ranks_count_every_video_once_and_share_what_keeps_them_from_pushing(
    motion_folder: Path, tmp_path: Path
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(motion_folder, root)
    files = sorted((root / "test").rglob("*.mp4"))
    files[0].unlink()  # an odd number, so that one of them is read by both
    for file in (files[4], files[9]):
        file.write_bytes(b"")
    out.mkdir()
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    without = ("HF_TOKEN", "HF_HUB_OFFLINE", "TEMPOZOO_OFFLINE")
    environment = {key: value for key, value in os.environ.items() if key not in without}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-c", TWO_RANKS, str(root), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "test.json").read_text())
    assert (summary["videos"], summary["listed"], len(summary["skipped"])) == (9, 11, 2)
    rows = [line.split(",") for line in (out / "predictions.csv").read_text().splitlines()[1:]]
    right = [row[1] == row[2] for row in rows]
    assert len(right) == 9 and 0 < sum(right) < 9 and summary["metrics"]["test_top1"] == pytest.approx(sum(right) / 9)
    said = {file.read_text() for file in out.glob("rank*")}
    assert len(list(out.glob("rank*"))) == 2 and len(said) == 1 and "needs a token" in said.pop()
