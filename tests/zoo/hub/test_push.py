"""Push with the real client to a Hub on 127.0.0.1, load again, and every reason for a refused push."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants
from loopback_hub import LoopbackHub, User
from small_models import small

import zoo
from zoo.errors import CheckpointError, ConfigError, HubError, UnknownNameError
from zoo.hub.pull import check_access, download_hub_folder, push_folder
from zoo.hub.push import push
from zoo.models import ARCHITECTURES

CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
FAMILIES = [name for name in ARCHITECTURES if name.endswith("_r18")]
FAMILIES += ["tadaconvnext_tiny", "tadaconvnextv2_tiny", "tadaformer_b16"]


@pytest.fixture
def net() -> Any:
    return small("tanet_r18", labels=["a", "b", "c", "d"])


def quiet(model: Any, repo: str, **options: Any) -> str:
    return push(model, repo, progress=False, **options)


def cut_in_half(handler: Any) -> None:
    """Read half of an upload, then close the connection."""
    handler.rfile.read(int(handler.headers["Content-Length"]) // 2)
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


# round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", FAMILIES)
def test_pushed_networks_can_be_loaded(arch: str, hub: LoopbackHub, tmp_path: Path) -> None:
    model = small(arch, labels=["no", "a|b", "1e3", "<x>"])
    with torch.no_grad():
        for value in model.parameters():  # many operators are initialized as the identity
            value += 0.05 * torch.randn_like(value)
    assert model(CLIP).isfinite().all()
    address = quiet(model, "alice/net")
    assert address.startswith(f"{hub.address}/alice/net/commit/")
    again = zoo.load("hf-hub:alice/net", cache_dir=tmp_path / "fresh", progress=False)
    assert torch.equal(again(CLIP), model(CLIP))
    assert again.spec.to_config() == model.spec.to_config()
    assert again.report.as_trained
    files = hub.repositories["alice/net"].files
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    assert arch in ModelCard(files["README.md"].decode()).data.tags
    assert hub.repositories["alice/net"].history() == [f"Upload {arch}"]


def test_pushed_network_loads_in_a_process_without_lightning(hub: LoopbackHub, net: Any, tmp_path: Path) -> None:
    quiet(net, "alice/net", private=False)
    code = (
        "import sys, torch, zoo; torch.save(zoo.load('hf-hub:alice/net')(torch.load(sys.argv[1])), sys.argv[2]); "
        "assert 'lightning' not in sys.modules"
    )
    torch.save(CLIP, tmp_path / "clip.pt")
    environment = {**os.environ, **hub.environment(tmp_path / "other", token=None)}
    environment.pop("HF_TOKEN")
    command = [sys.executable, "-c", code, str(tmp_path / "clip.pt"), str(tmp_path / "logits.pt")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), net(CLIP))
    # the cached copy needs no connection
    (tmp_path / "logits.pt").unlink()
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), net(CLIP))


def test_card_is_valid_for_the_hub(hub: LoopbackHub, net: Any) -> None:
    quiet(net, "alice/net", results={"dataset": "mine", "top1": 75.0, "views": "2x3"}, license="cc-by-4.0")
    card = ModelCard.load("alice/net")
    card.validate()
    assert card.data.license == "cc-by-4.0"
    assert card.data.eval_results[0].metric_value == 75.0
    quiet(net, "alice/net", card="---\nlicense: mit\n---\nMy own words.\n")
    assert hub.repositories["alice/net"].files["README.md"].decode().endswith("My own words.\n")
    with pytest.raises(HubError, match="license"):
        quiet(net, "alice/net", card="---\nlicense: nonsense\n---\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"card": "nowhere.md"}, "nowhere.md cannot be read"),
        ({"card": "---\nlicense: [\n---\n"}, "The card's metadata are invalid: while parsing"),
        ({"card": "---\nmodel-index: 3\n---\n"}, "The card's metadata are invalid"),
        ({"card": "x\n", "license": "mit"}, "card= replaces the whole model card. Write license= into it"),
        ({"card": "x\n", "results": {}, "dataset": "x"}, "Write results= and dataset= into it"),
        ({"dataset": "x"}, "dataset= names the data of results="),
        ({"private": True, "create_pr": True}, "private= applies to a new repository"),
    ],
)
def test_contradictory_options_are_rejected(options: Any, message: str, hub: LoopbackHub, net: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        quiet(net, "alice/net", **options)
    assert hub.requests == []


def test_results_of_a_network_without_a_classifier_are_rejected(hub: LoopbackHub) -> None:
    with pytest.raises(ConfigError, match="requires a network with a classifier, but num_classes is 0. Omit results="):
        quiet(small("tanet_r18", num_classes=0), "alice/net", results={"dataset": "mine", "top1": 75.0})
    assert not hub.repositories.get("alice/net")
    quiet(small("tanet_r18", num_classes=0), "alice/net")
    assert "no classifier" in hub.repositories["alice/net"].files["README.md"].decode()


# targets ---------------------------------------------------------------------------------------------------------


def test_private_repositories(hub: LoopbackHub, net: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quiet(net, "alice/net", private=True)
    assert hub.repositories["alice/net"].private
    assert torch.equal(zoo.load("hf-hub:alice/net", progress=False)(CLIP), net(CLIP))
    for token in ("hf_bob", None):
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UnknownNameError, match="or it is private. If it is private, log in"):
            zoo.load("hf-hub:alice/net", cache_dir=tmp_path / "fresh", progress=False)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    quiet(net, "alice/open")
    with pytest.raises(HubError, match="exists already and is public"):
        quiet(net, "alice/open", private=True)
    assert not (tmp_path / "fresh" / "models--alice--net" / "snapshots").exists()


def test_branch_is_created_and_main_is_unchanged(hub: LoopbackHub, net: Any) -> None:
    other = small("tanet_r18")
    quiet(net, "alice/net")
    for _ in range(2):
        quiet(other, "alice/net", revision="v2")
    for name, model in (("hf-hub:alice/net", net), ("hf-hub:alice/net@v2", other)):
        assert torch.equal(zoo.load(name, progress=False)(CLIP), model(CLIP))
    repository = hub.repositories["alice/net"]
    commit = repository.refs["v2"]
    assert 'load("hf-hub:alice/net@v2")' in repository.commits[commit].files["README.md"].decode()
    assert torch.equal(zoo.load(f"hf-hub:alice/net@{commit}", progress=False)(CLIP), other(CLIP))
    with pytest.raises(UnknownNameError, match="no revision 'v3'"):
        zoo.load("hf-hub:alice/net@v3", progress=False)


def test_pull_request_to_repository_of_another_user(
    hub: LoopbackHub, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(small("tanet_r18"), "alice/net")
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    hub.requests.clear()
    with pytest.raises(HubError, match=r"may not write to alice/net \(Forbidden.*create_pr"):
        quiet(net, "alice/net")
    hub.requests.clear()
    assert quiet(net, "alice/net", create_pr=True) == f"{hub.address}/alice/net/discussions/1"
    proposed = hub.repositories["alice/net"].commits[hub.repositories["alice/net"].refs["refs/pr/1"]]
    assert 'load("hf-hub:alice/net")' in proposed.files["README.md"].decode()
    assert hub.asked("POST /api/repos/create") == 0
    assert len(hub.repositories["alice/net"].history()) == 1
    assert torch.equal(zoo.load("hf-hub:alice/net@refs/pr/1", progress=False)(CLIP), net(CLIP))
    with pytest.raises(HubError, match="The Hub has no repository alice/none"):
        quiet(net, "alice/none", create_pr=True)


def test_second_push_uploads_only_changes(hub: LoopbackHub, net: Any) -> None:
    first = quiet(net, "alice/net")
    hub.put("alice/net", {"notes.txt": b"mine"})
    uploads = hub.asked("PUT")
    quiet(net, "alice/net")
    repository = hub.repositories["alice/net"]
    assert len(repository.history()) == 2 and hub.asked("PUT") == uploads  # nothing new
    with torch.no_grad():
        net.fc.bias += 1
    assert quiet(net, "alice/net", message="better") != first
    assert repository.history()[0] == "better"
    assert repository.files["notes.txt"] == b"mine"
    assert torch.equal(zoo.load("hf-hub:alice/net", progress=False)(CLIP), net(CLIP))


def test_subfolders_of_a_repository(hub: LoopbackHub, net: Any, tmp_path: Path) -> None:
    folder = zoo.save(net, tmp_path / "net")
    for name in ("one", "deep/er"):
        push_folder(folder, "lab/zoo", subfolder=name, private=True, message=name, progress=False)
        copy = download_hub_folder("hf-hub:lab/zoo", progress=False, folder=name)
        assert torch.equal(zoo.load(copy)(CLIP), net(CLIP))
    assert len(hub.repositories["lab/zoo"].files) == 4
    with pytest.raises(CheckpointError, match="has no two/model.safetensors and no two/config.json"):
        download_hub_folder("hf-hub:lab/zoo", progress=False, folder="two")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HubError, match="empty has no files"):
        push_folder(tmp_path / "empty", "lab/zoo", progress=False)
    (tmp_path / "empty" / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(HubError, match="Invalid metadata: while parsing"):
        push_folder(tmp_path / "empty", "lab/zoo", progress=False)


def test_repository_of_another_library_is_rejected(hub: LoopbackHub, net: Any) -> None:
    hub.put("alice/bert", {"README.md": b"---\nlibrary_name: transformers\n---\n", "config.json": b"{}"})
    with pytest.raises(HubError, match="has a model of transformers"):
        quiet(net, "alice/bert")


# refused pushes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (None, "alice/net", "needs a token: log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong", "alice/net", "refused the token"),
        ("hf_älice", "alice/net", "HF_TOKEN has an invalid character: 'ä'"),
        ("hf_reader", "alice/net", "(is read-only|may not write)"),
        ("hf_bob", "alice/net", "may not write to alice/net"),
        ("hf_alice", "club/net", "may not write to club/net"),
        ("hf_alice", "nobody/net", "may not write to nobody/net"),
        ("hf_alice", "net", "'net' is not a repository name"),
        ("hf_alice", "a/b/c", "'a/b/c' is not a repository name"),
        ("hf_alice", "alice/--", "'alice/--' is not a repository name"),
    ],
)
def test_rejected_pushes_name_the_reason(
    token: str | None, repo: str, message: str, hub: LoopbackHub, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    for attempt in (check_access, lambda repo: quiet(net, repo)):
        with pytest.raises(HubError, match=message):
            attempt(repo)
    assert hub.repositories == {}


def test_unknown_permissions_pass_the_check(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for repo in ("alice/new", "lab/new"):
        check_access(repo)
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    check_access("alice/net", create_pr=True)
    hub.tokens["hf_bob"] = User("bob", role="fineGrained")
    check_access("alice/net")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TEMPOZOO_OFFLINE"])
def test_offline_push_makes_no_request(
    variable: str, hub: LoopbackHub, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    for attempt in (check_access, lambda repo: quiet(net, repo)):
        with pytest.raises(HubError, match=f"needs the network, but .*{variable}"):
            attempt("alice/net")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("pattern", "status", "message"),
    [
        ("POST /api/repos/create", 500, "The Hub failed .500"),
        ("POST .*/commit/", 503, "The Hub failed .503"),
        ("POST .*/commit/", 429, "limits the rate"),
        ("POST .*/commit/", 413, "has no storage left"),
        ("POST .*/commit/", 418, "refused the push to alice/net .418"),
        ("PUT", 403, "may not write to alice/net"),
    ],
)
def test_errors_of_the_hub_are_reported(pattern: str, status: int, message: str, hub: LoopbackHub, net: Any) -> None:
    hub.fail[pattern, status] = 1
    with pytest.raises(HubError, match=message):
        quiet(net, "alice/net")
    assert "alice/net" not in hub.repositories or hub.repositories["alice/net"].history() == []
    quiet(net, "alice/net")
    assert len(hub.repositories["alice/net"].history()) == 1


def test_unreachable_host_is_reported(hub: LoopbackHub, net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for attempt in (check_access, lambda repo: quiet(net, repo)):
        with pytest.raises(HubError, match="The Hub could not be reached"):
            attempt("alice/net")


def test_interrupted_upload_is_retried(hub: LoopbackHub, net: Any) -> None:
    hub.fail["PUT /lfs", cut_in_half] = 1
    quiet(net, "alice/net")
    assert len(hub.repositories["alice/net"].history()) == 1
    assert torch.equal(zoo.load("hf-hub:alice/net", progress=False)(CLIP), net(CLIP))


@pytest.mark.parametrize("pattern", ["POST /api/repos/create", "PUT /lfs", "POST .*/commit/"])
def test_killed_push_leaves_no_new_commit(pattern: str, hub: LoopbackHub, net: Any, tmp_path: Path) -> None:
    quiet(small("tanet_r18"), "alice/net")
    torch.nn.init.ones_(net.fc.bias)  # untrained networks cannot be pushed from a folder
    folder = zoo.save(net, tmp_path / "net")
    code = "import sys; from zoo.hub.push import push; push(sys.argv[1], 'alice/net')"
    environment = {**os.environ, **hub.environment(tmp_path / "other")}
    started: list[int] = []

    def kill(handler: Any) -> None:
        cut_in_half(handler)
        os.kill(started[0], signal.SIGKILL)

    hub.fail[pattern, kill] = 1
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment, stderr=subprocess.DEVNULL)
    started.append(process.pid)
    assert process.wait(60) == -signal.SIGKILL
    assert len(hub.repositories["alice/net"].history()) == 1
    quiet(net, "alice/net")
    assert torch.equal(zoo.load("hf-hub:alice/net", progress=False)(CLIP), net(CLIP))
