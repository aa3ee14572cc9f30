"""What a push tells of a network: results of its own test, its run, and nothing that is not so."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from small_models import small

import zoo
from cli import main
from lit_modules import VideoClassifier
from zoo.errors import ConfigError, UnknownNameError
from zoo.hub.push import fingerprint, push, read_results

CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> Any:
    return small("tanet_r18", labels=["a", "b", "c", "d"])


def quiet(model: Any, repo: str, **options: Any) -> str:
    return push(model, repo, progress=False, **options)


def test_published_accuracy_only_of_published_weights(hub: LoopbackHub) -> None:
    name = "tanet_r18.motionclips8"
    reported = f"top-1 {zoo.info(name).reported.top1} %"

    def card() -> str:
        return hub.repositories["alice/net"].files["README.md"].decode()

    model: Any = zoo.load(name)
    for given in (name, model):
        quiet(given, "alice/net")
        assert reported in card() and f"`{name}`" in card()
        assert ModelCard(card()).data.license == "apache-2.0"
    with torch.no_grad():
        model.fc.bias[0] += 1e-4
    quiet(model, "alice/net")
    assert reported not in card() and f"Started from `{name}`" in card()
    quiet(zoo.load(name, pretrained=False), "alice/net")
    assert name not in card()


def test_starts_are_not_pushed_as_if_they_were_trained(hub: LoopbackHub, tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "resnet50.pth")
    folder = zoo.convert(tmp_path / "resnet50.pth", "tanet_r50.in1k", tmp_path / "start")
    with pytest.raises(ConfigError, match=r"is not a trained video network \(untrained: 16 TAM modules\)"):
        quiet(folder, "alice/net")
    assert hub.requests == []


def test_a_lightning_module_is_pushed_as_its_network(hub: LoopbackHub) -> None:
    options = {"width": 8, "dropout": 0.0}
    module = VideoClassifier("tanet_r18", options=options, num_classes=4, num_frames=4, image_size=32).eval()
    quiet(module, "alice/net")
    assert torch.equal(zoo.load("hf-hub:alice/net", progress=False)(CLIP), module(CLIP))


def test_only_networks_are_pushed(hub: LoopbackHub) -> None:
    with pytest.raises(ConfigError, match="this Linear has no spec"):
        quiet(torch.nn.Linear(2, 2), "alice/net")
    with pytest.raises(ConfigError, match="model is 3; it must be a str or a pathlib.Path"):
        quiet(3, "alice/net")
    with pytest.raises(UnknownNameError):
        quiet("tanet_r18.nothing", "alice/net")
    assert hub.requests == []


def test_a_fingerprint_is_of_the_tensors_and_nothing_else(net: Any, tmp_path: Path) -> None:
    state = net.state_dict()
    one = fingerprint(state)
    assert fingerprint(dict(reversed(state.items()))) == one
    assert fingerprint(zoo.load(zoo.save(net, tmp_path / "net")).state_dict()) == one
    assert fingerprint({**state, "fc.weight": state["fc.weight"].T.contiguous().T}) == one
    changed = {
        "renamed": {f"x.{key}": value for key, value in state.items()},
        "halved": {key: value.half() for key, value in state.items()},
        "reshaped": {**state, "fc.bias": state["fc.bias"][None]},
        "less": {key: state[key] for key in list(state)[1:]},
        "one bit": {**state, "fc.bias": state["fc.bias"] + torch.tensor([0, 0, 0, 1e-7])},
    }
    assert len({one, *map(fingerprint, changed.values())}) == 1 + len(changed)
    fingerprint({"empty": torch.empty(0, 3), "scalar": torch.tensor(1), "low": torch.ones(2, dtype=torch.bfloat16)})


@pytest.mark.parametrize(
    ("results", "says"),
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
def test_results_that_cannot_be_are_refused(results: Any, says: str, net: Any) -> None:
    with pytest.raises(ConfigError, match=says):
        read_results(results, net.state_dict())


def test_results_without_a_name_of_their_data_take_the_one_given(net: Any) -> None:
    assert read_results({"top1": 5}, net.state_dict(), "UCF101")[0]["dataset"] == "UCF101"


# from a run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit(motion_folder: Path) -> list[str]:
    """Arguments of one epoch of a tiny TANet."""
    return [
        "fit", "--model", "TANet", "--model.name", "tanet_r18", "--model.options", '{"width": 8, "dropout": 0.0}',
        "--model.num_frames", "4", "--model.image_size", "32", "--data", "VideoFolder", "--data.root",
        str(motion_folder), "--data.batch_size", "8", "--data.num_workers", "0", "--trainer.max_epochs", "1",
        "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
    ]  # fmt: skip


PUSH = ["--trainer.callbacks+=lit_modules.PushToHub", "--trainer.callbacks.repo=alice/net"]


def told(hub: LoopbackHub, repo: str = "alice/net") -> str:
    """All text that a push has sent: the bodies of its requests, the files, the weight file's header."""
    return b"\n".join(hub.repositories[repo].files.values()).decode(errors="ignore") + str(hub.requests)


def test_a_run_pushes_its_best_checkpoint_with_its_test_and_no_path(
    fit: list[str], hub: LoopbackHub, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "secret_run"
    assert main([*fit, *PUSH, "--out", str(out)]) == 0
    assert f"{hub.address}/alice/net/commit/" in capsys.readouterr().out
    assert hub.repositories["alice/net"].history() == ["Upload tanet_r18"]
    best = out / "checkpoints" / "best.ckpt"
    local, model = zoo.load(best), zoo.load("hf-hub:alice/net", cache_dir=tmp_path / "fresh", progress=False)
    assert torch.equal(local(CLIP), model(CLIP))
    made: Any = model.spec.provenance
    assert made["recipe"]["class"] == "TANet" and made["recipe"]["batch_size"] == 8
    assert made["data"] == {"class": "VideoFolder", "videos": {"train": 32, "val": 12}}
    assert made["fine_tuned_from"] == "tanet_r18" and 0 <= made["metrics"]["val_top1"] <= 1 and made["epochs"] == 1

    # a further run from it, whose start has a path, with its test's results
    assert main([*fit[:1], "--from", str(best), *fit[11:], "--out", str(out / "more")]) == 0
    more = out / "more" / "checkpoints" / "best.ckpt"
    data = fit[11:17]
    test = ["test", "--from", str(more), *data, "--data.num_workers", "0", "--data.clips", "2", "--data.crops", "3"]
    assert main([*test, *fit[-4:], "--out", str(out / "test")]) == 0
    with pytest.raises(ConfigError, match="belongs to other weights"):
        quiet(best, "alice/net", results=out / "test")
    quiet(more, "alice/net", results=out / "test", dataset="four motions", message="with a test")
    assert "with a test" in str(hub.requests)  # so what a commit says is looked at as well
    files = hub.repositories["alice/net"].files
    assert set(files) == {"README.md", "config.json", "model.safetensors", "confusion.png"}
    data_card = ModelCard(files["README.md"].decode())
    metrics = json.loads((out / "test" / "test.json").read_text())["metrics"]
    found = {r.metric_name: r.metric_value for r in data_card.data.eval_results}
    assert found["top-1"] == pytest.approx(100 * metrics["test_top1"], abs=0.01)
    assert (data_card.data.eval_results[0].dataset_name, "top-5" in found) == ("four motions", False)
    assert data_card.data.eval_results[0].dataset_args["views"] == "2x3"
    for text in ("![confusion.png](confusion.png)", "12", "2x3", "25.00 %", "a local checkpoint", "tempozoo test"):
        assert text in data_card.text
    assert json.loads(files["config.json"])["provenance"]["fine_tuned_from"] == "a local checkpoint"
    for secret in ("secret_run", str(motion_folder), str(tmp_path), ".ckpt"):
        assert secret not in told(hub)
    # a test that does not say what it tested
    # a part of a test is called that
    assert main([*test, *fit[-4:], "--trainer.limit_test_batches", "7", "--out", str(out / "part")]) == 0
    quiet(more, "alice/net", results=out / "part")
    card = hub.repositories["alice/net"].files["README.md"].decode()
    assert "| videos | 7 |" in card and "| videos not scored | 5 |" in card
    summary = json.loads((out / "test" / "test.json").read_text())
    del summary["weights"]
    (out / "test" / "test.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match="lacks the fingerprint of the tested weights"):
        quiet(more, "alice/net", results=out / "test" / "test.json")


def test_a_missing_token_is_said_before_training(
    fit: list[str], hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main([*fit, *PUSH, "--out", str(tmp_path / "run")]) == 1
    assert "needs a token: log in with `hf auth login`" in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert hub.requests == []


def test_a_run_pushes_none_but_its_own_checkpoint(
    fit: list[str], hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*fit, "--out", str(tmp_path / "one")]) == 0
    resumed = ["--ckpt_path", str(tmp_path / "one" / "checkpoints" / "best.ckpt"), "--out", str(tmp_path / "two")]
    assert main([*fit, *PUSH, *resumed]) == 0  # with nothing left to do
    assert "the run has saved no checkpoint" in caplog.text and "alice/net" not in hub.repositories


def test_a_push_that_fails_after_training_loses_nothing(
    fit: list[str], hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail["POST /api/repos/create", 500] = 1
    out = tmp_path / "a run"
    with caplog.at_level(logging.ERROR):
        assert main([*fit, *PUSH, "--trainer.callbacks.create_pr=false", "--out", str(out)]) == 0
    (message,) = [message for message in caplog.messages if "was not pushed" in message]
    command = f"tempozoo push '{out / 'checkpoints' / 'best.ckpt'}' alice/net"
    assert "The Hub failed (500" in message and message.endswith(command)
    assert hub.repositories == {}
    quiet(out / "checkpoints" / "best.ckpt", "alice/net")
    assert torch.equal(
        zoo.load("hf-hub:alice/net", progress=False)(CLIP), zoo.load(out / "checkpoints" / "best.ckpt")(CLIP)
    )
