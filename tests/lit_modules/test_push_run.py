"""Model cards of pushed networks: test results and provenance of the pushed weights, without local paths."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from runs import QUIET, callback, flags, model, resume, video_folder
from small_models import small

import zoo
from cli import main
from lit_modules import VideoClassifier
from zoo.errors import ConfigError, UnknownNameError
from zoo.hub.push import fingerprint, push, read_results

CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> Any:
    return small("tanet_r18", labels=["a", "b", "c", "d"])


def push_quietly(network: Any, repo: str, **options: Any) -> str:
    return push(network, repo, progress=False, **options)


def card_of(hub: LoopbackHub) -> str:
    """Return the text of the model card of alice/net."""
    return hub.repositories["alice/net"].files["README.md"].decode()


def test_card_has_the_published_accuracy_only_of_published_weights(hub: LoopbackHub) -> None:
    name = "tanet_r18.motionclips8"
    reported = f"top-1 {zoo.info(name).reported.top1} %"
    network: Any = zoo.load(name)
    for published in (name, network):
        push_quietly(published, "alice/net")
        card = card_of(hub)
        assert reported in card and f"`{name}`" in card
        assert ModelCard(card).data.license == "apache-2.0"

    with torch.no_grad():
        network.fc.bias[0] += 1e-4
    push_quietly(network, "alice/net")
    assert reported not in card_of(hub) and f"Started from `{name}`" in card_of(hub)

    push_quietly(zoo.load(name, pretrained=False), "alice/net")
    assert name not in card_of(hub)


def test_push_refuses_image_weights_that_were_not_trained_on_videos(hub: LoopbackHub, tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "resnet50.pth")
    folder = zoo.convert(tmp_path / "resnet50.pth", "tanet_r50.in1k", tmp_path / "start")
    with pytest.raises(ConfigError, match=r"is not a trained video network \(untrained: 16 TAM modules\)"):
        push_quietly(folder, "alice/net")
    assert hub.requests == []


def test_lightning_module_is_pushed_as_its_network(hub: LoopbackHub) -> None:
    options = {"width": 8, "drop_rate": 0.0}
    module = VideoClassifier("tanet_r18", options=options, num_classes=4, num_frames=4, image_size=32).eval()
    push_quietly(module, "alice/net")
    assert torch.equal(zoo.load("hf-hub:alice/net", progress=False)(CLIP), module(CLIP))


def test_push_refuses_anything_but_networks(hub: LoopbackHub) -> None:
    with pytest.raises(ConfigError, match="this Linear has no spec"):
        push_quietly(torch.nn.Linear(2, 2), "alice/net")
    with pytest.raises(ConfigError, match="model is 3; it must be a str or a pathlib.Path"):
        push_quietly(3, "alice/net")
    with pytest.raises(UnknownNameError):
        push_quietly("tanet_r18.nothing", "alice/net")
    assert hub.requests == []


def test_fingerprint_depends_on_names_and_tensors_only(network: Any, tmp_path: Path) -> None:
    state = network.state_dict()
    original = fingerprint(state)
    assert fingerprint(dict(reversed(state.items()))) == original
    assert fingerprint(zoo.load(zoo.save(network, tmp_path / "net")).state_dict()) == original
    assert fingerprint({**state, "fc.weight": state["fc.weight"].T.contiguous().T}) == original
    changed = {
        "renamed": {f"x.{key}": value for key, value in state.items()},
        "halved": {key: value.half() for key, value in state.items()},
        "reshaped": {**state, "fc.bias": state["fc.bias"][None]},
        "without fc.bias": {key: value for key, value in state.items() if key != "fc.bias"},
        "slightly different": {**state, "fc.bias": state["fc.bias"] + torch.tensor([0, 0, 0, 1e-7])},
    }
    assert len({original, *map(fingerprint, changed.values())}) == 1 + len(changed)
    fingerprint({"empty": torch.empty(0, 3), "scalar": torch.tensor(1), "low": torch.ones(2, dtype=torch.bfloat16)})


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"top1": 50.0}, "lack the name of the data"),
        ({"dataset": "x"}, "have none of top1, top5, mean_class"),
        ({"dataset": "x", "top1": 101}, "the percentage top1 is 101; it must be a number from 0 to 100"),
        ({"dataset": "x", "top1": "90"}, "top1 is '90'"),
        ({"dataset": "x", "top1": float("nan")}, "top1 is nan"),
        ({"dataset": "x", "top1": 5.0, "accuracy": 3}, "unknown 'accuracy'. The valid keys are dataset, top1"),
        ({"dataset": "x", "top1": 5.0, "top5": 4.0}, "top5 is 4.0 and top1 5.0"),
        ({"dataset": "x", "top1": 5.0, "videos": -3}, "videos is -3"),
        ({"dataset": "x", "top1": 5.0, "frames": True}, "frames is True"),
        ({"dataset": "x", "top1": 5.0, "views": "0x0"}, "views is '0x0'"),
        ([1], r"results is \[1\]. Pass the folder"),
        (5, "results is 5. Pass the folder"),
        ({"dataset": "x", "top1": 5.0, "views": 6}, "views is 6. Write clips x crops"),
        ({"dataset": "x", "top1": 5.0, "videos": "many"}, "videos is 'many'"),
        ("nowhere", "nowhere is not a test.json"),
    ],
)
def test_invalid_results_are_refused(results: Any, message: str, network: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        read_results(results, network.state_dict())


def test_dataset_argument_names_the_data_of_the_results(network: Any) -> None:
    assert read_results({"top1": 5}, network.state_dict(), "UCF101")[0]["dataset"] == "UCF101"


# runs ------------------------------------------------------------------------------------------------------------

PUSH = callback("lit_modules.PushToHub", repo="alice/net")


@pytest.fixture(scope="module")
def fit(motion_folder: Path) -> list[str]:
    """Arguments of one epoch of a tiny TANet."""
    data = video_folder(motion_folder)
    return ["fit", *model("TANet", "tanet_r18"), *data, *flags("trainer", max_epochs=1), *QUIET]


def sent_text(hub: LoopbackHub, repo: str = "alice/net") -> str:
    """Return all text that pushes have sent: bodies of requests, files, headers of weight files."""
    return b"\n".join(hub.repositories[repo].files.values()).decode(errors="ignore") + str(hub.requests)


def assert_no_local_paths(text: str, motion_folder: Path, tmp_path: Path) -> None:
    for secret in ("secret_run", str(motion_folder), str(tmp_path), ".ckpt"):
        assert secret not in text


def test_fit_pushes_its_best_checkpoint(
    fit: list[str], hub: LoopbackHub, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "secret_run"
    assert main([*fit, *PUSH, "--out", str(out)]) == 0
    assert f"{hub.address}/alice/net/commit/" in capsys.readouterr().out
    assert hub.repositories["alice/net"].history() == ["Upload tanet_r18"]
    assert_no_local_paths(sent_text(hub), motion_folder, tmp_path)

    local = zoo.load(out / "checkpoints" / "best.ckpt")
    pushed = zoo.load("hf-hub:alice/net", cache_dir=tmp_path / "other-cache", progress=False)
    assert torch.equal(local(CLIP), pushed(CLIP))
    provenance: Any = pushed.spec.provenance
    assert provenance["recipe"]["class"] == "TANet" and provenance["recipe"]["batch_size"] == 8
    assert provenance["data"] == {"class": "VideoFolder", "videos": {"train": 32, "val": 12}}
    assert provenance["fine_tuned_from"] == "tanet_r18" and provenance["epochs"] == 1
    assert 0 <= provenance["metrics"]["val_top1"] <= 1


def test_push_of_a_fine_tuned_checkpoint_has_its_test_results_and_no_local_path(
    fit: list[str], hub: LoopbackHub, motion_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "secret_run"
    assert main([*fit, "--out", str(out)]) == 0
    start = out / "checkpoints" / "best.ckpt"
    fine_tune = ["fit", "--from", str(start), *video_folder(motion_folder), *flags("trainer", max_epochs=1), *QUIET]
    assert main([*fine_tune, "--out", str(out / "fine-tuned")]) == 0
    best = out / "fine-tuned" / "checkpoints" / "best.ckpt"
    test = ["test", "--from", str(best), *video_folder(motion_folder, clips=2, crops=3), *QUIET]
    assert main([*test, "--out", str(out / "test")]) == 0

    with pytest.raises(ConfigError, match="belongs to other weights"):
        push_quietly(start, "alice/net", results=out / "test")

    push_quietly(best, "alice/net", results=out / "test", dataset="four motions", message="with a test")
    files = hub.repositories["alice/net"].files
    assert set(files) == {"README.md", "config.json", "model.safetensors", "confusion.png"}
    assert json.loads(files["config.json"])["provenance"]["fine_tuned_from"] == "a local checkpoint"
    card = ModelCard(card_of(hub))
    metrics = json.loads((out / "test" / "test.json").read_text())["metrics"]
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results["top-1"] == pytest.approx(100 * metrics["test_top1"], abs=0.01)
    assert "top-5" not in results
    assert card.data.eval_results[0].dataset_name == "four motions"
    assert card.data.eval_results[0].dataset_args["views"] == "2x3"
    for text in ("![confusion.png](confusion.png)", "12", "2x3", "25.00 %", "a local checkpoint", "tempozoo test"):
        assert text in card.text

    assert "with a test" in sent_text(hub)  # the commit message is part of the text
    assert_no_local_paths(sent_text(hub), motion_folder, tmp_path)

    # an incomplete test
    assert main([*test, *flags("trainer", limit_test_batches=7), "--out", str(out / "incomplete")]) == 0
    push_quietly(best, "alice/net", results=out / "incomplete")
    assert "| videos | 7 |" in card_of(hub) and "| videos not scored | 5 |" in card_of(hub)

    # a test.json that does not identify the tested weights
    summary = json.loads((out / "test" / "test.json").read_text())
    del summary["weights"]
    (out / "test" / "test.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match="lacks the fingerprint of the tested weights"):
        push_quietly(best, "alice/net", results=out / "test" / "test.json")


def test_missing_token_is_reported_before_training(
    fit: list[str], hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main([*fit, *PUSH, "--out", str(tmp_path / "run")]) == 1
    assert "needs a token: log in with `hf auth login`" in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert hub.requests == []


def test_run_that_saves_no_checkpoint_pushes_nothing(
    fit: list[str], hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*fit, "--out", str(tmp_path / "first")]) == 0
    resumed = [*resume(tmp_path / "first" / "checkpoints" / "best.ckpt"), "--out", str(tmp_path / "second")]
    assert main([*fit, *PUSH, *resumed]) == 0  # the checkpoint has all epochs already
    assert "the run has saved no checkpoint" in caplog.text and "alice/net" not in hub.repositories


def test_failed_push_after_training_prints_the_command_that_repeats_it(
    fit: list[str], hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail["POST /api/repos/create", 500] = 1
    out = tmp_path / "a run"
    with caplog.at_level(logging.ERROR):
        assert main([*fit, *PUSH, *flags("trainer.callbacks", create_pr=False), "--out", str(out)]) == 0
    best = out / "checkpoints" / "best.ckpt"
    (message,) = [message for message in caplog.messages if "was not pushed" in message]
    assert "The Hub failed (500" in message and message.endswith(f"tempozoo push '{best}' alice/net")
    assert hub.repositories == {}

    push_quietly(best, "alice/net")
    assert torch.equal(zoo.load("hf-hub:alice/net", progress=False)(CLIP), zoo.load(best)(CLIP))
