"""Push a network with its Space to a Hub on 127.0.0.1, and run the pushed app."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import RepoCard
from loopback_hub import LoopbackHub, Repository
from numbered_videos import numbered_video
from paths import ROOT
from ports import free_port
from small_models import small, small_trained

import zoo
from cli import main
from zoo.errors import ConfigError, HubError
from zoo.hub import space as space_module
from zoo.hub.space import GRADIO, TRAINING, requirements, space_name

SPACE = "spaces/alice/net"
RUN_APP = """
import runpy, sys
sys.modules.update(dict.fromkeys({blocked}))
import zoo
print(zoo.__file__, zoo.__version__, flush=True)
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.fixture
def net() -> Any:
    return small_trained(labels=["a", "b", "c", "d"])


def push(model: Any, repo: str = "alice/net", space: str = "alice/net", **options: Any) -> str:
    return zoo.push(model, repo, space=space, progress=False, **options)


def commit_space(hub: LoopbackHub, name: str, files: dict[str, bytes], sdk: str | None) -> None:
    hub.put(name, files)
    hub.repositories[name].sdk = sdk


def test_command_publishes_network_and_space(
    hub: LoopbackHub, net: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = zoo.save(net, tmp_path / "net")
    assert main(["push", str(folder), "alice/net", "--space"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Space: {hub.address}/spaces/alice/net"
    assert set(hub.repositories) == {"alice/net", SPACE}
    space = hub.repositories[SPACE]
    assert (space.sdk, space.history()) == ("gradio", ["Web page of alice/net"])
    files = space.files
    assert {"README.md", "app.py", "requirements.txt", "zoo/inference/app.py", "zoo/checkpoints_index.yaml"} <= set(
        files
    )
    assert not [name for name in files if "__pycache__" in name or name.startswith("/")]
    card = RepoCard(files["README.md"].decode()).data.to_dict()
    assert card["sdk"] == "gradio"
    assert card["sdk_version"] == GRADIO
    assert card["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert card["app_file"] == "app.py"
    assert card["models"] == ["alice/net"]
    assert b"hf-hub:alice/net" in files["app.py"]
    assert str(ROOT).encode() not in b"".join(files.values())


def test_space_runs_with_the_pushed_files(hub: LoopbackHub, net: Any, tmp_path: Path) -> None:
    gradio_client = pytest.importorskip("gradio_client", reason="needs the extra app")
    pytest.importorskip("gradio", reason="needs the extra app")
    push(net)
    for name, content in hub.repositories[SPACE].files.items():
        path = tmp_path / "space" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    port = free_port()
    environment = {**os.environ, **hub.environment(tmp_path / "cache"), "GRADIO_SERVER_PORT": str(port)}
    environment = {key: value for key, value in environment.items() if key not in ("PYTHONPATH", "TEMPOZOO_OFFLINE")}
    # lightning etc. are not in the requirements of a Space
    code = RUN_APP.format(blocked=(*TRAINING, "sklearn"))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path / "space", env=environment, stdout=subprocess.PIPE, text=True
    )
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline().split() == [str(tmp_path / "space/zoo/__init__.py"), zoo.__version__]
        assert process.stdout.readline().startswith("Open http://0.0.0.0:")
        options: Any = {"verbose": False, "httpx_kwargs": {"timeout": 60}}
        client = gradio_client.Client(f"http://127.0.0.1:{port}", download_files=str(tmp_path / "files"), **options)
        video = gradio_client.handle_file(str(numbered_video(tmp_path / "clip.mp4", 12)))
        labels = client.predict(video, "hf-hub:alice/net", api_name="/classify")[0]
        expected = zoo.predict(net, str(tmp_path / "clip.mp4"))
        assert labels["label"] == expected.labels[0]
        assert labels["confidences"][0]["confidence"] == pytest.approx(expected.scores[0], abs=1e-4)
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_space_is_updated_in_one_commit(hub: LoopbackHub, net: Any) -> None:
    push(net)
    hub.put(SPACE, {"zoo/removed.py": b"", "notes.txt": b"mine"})
    push(net, revision="v2")
    files = hub.repositories[SPACE].files
    assert "zoo/removed.py" not in files
    assert files["notes.txt"] == b"mine"
    assert b'"hf-hub:alice/net@v2"' in files["app.py"]
    assert hub.repositories[SPACE].history() == ["Web page of alice/net", "put", "Web page of alice/net"]


@pytest.mark.parametrize(
    ("files", "sdk", "private", "message"),
    [
        ({"Dockerfile": b""}, "docker", None, "The Space alice/net exists already and uses docker, not Gradio"),
        ({"app.py": b"pass"}, "gradio", None, "has another app.py"),
        ({}, "gradio", True, "exists already and is public"),
    ],
)
def test_other_spaces_are_not_overwritten(
    files: dict[str, bytes], sdk: str, private: bool | None, message: str, hub: LoopbackHub, net: Any
) -> None:
    commit_space(hub, SPACE, files, sdk)
    before = dict(hub.repositories[SPACE].refs)
    with pytest.raises(HubError, match=message):
        push(net, private=private)
    assert hub.repositories[SPACE].refs == before
    assert "alice/net" not in hub.repositories


def test_empty_space_is_used(hub: LoopbackHub, net: Any) -> None:
    commit_space(hub, SPACE, {"README.md": b"---\nsdk: gradio\n---\n"}, "gradio")
    push(net)
    assert "app.py" in hub.repositories[SPACE].files


@pytest.mark.parametrize(
    ("token", "space", "message"),
    [
        (None, "alice/net", "needs a token"),
        ("hf_reader", "alice/net", "read-only"),
        ("hf_alice", "bob/net", "may not write to bob/net"),
        ("hf_alice", "a/b/c", "is not a repository name"),
        ("hf_alice", "club/net", "may not write to club/net"),
    ],
)
def test_nothing_is_pushed_without_access(
    token: str | None, space: str, message: str, hub: LoopbackHub, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=message):
        push(net, space=space)
    assert hub.repositories == {}


def test_network_without_classifier_and_pull_requests_are_rejected(hub: LoopbackHub, net: Any) -> None:
    with pytest.raises(ConfigError, match="needs a network with a classifier"):
        push(small("tanet_r18", num_classes=0))
    with pytest.raises(ConfigError, match="Omit create_pr= or space="):
        push(net, create_pr=True)
    assert hub.repositories == {}


def test_failed_commit_names_the_pushed_network_and_can_be_repeated(hub: LoopbackHub, net: Any) -> None:
    hub.fail[r"POST /api/spaces/.*/commit/", 500] = 9
    with pytest.raises(HubError, match=r"alice/net was pushed \(.*\), but the Space alice/net was not: The Hub failed"):
        push(net)
    assert hub.repositories[SPACE].files == {}
    hub.fail.clear()
    push(net)
    assert "app.py" in hub.repositories[SPACE].files


def test_private_space(hub: LoopbackHub, net: Any) -> None:
    push(net, private=True)
    assert [repository.private for repository in hub.repositories.values()] == [True, True]


def test_requirements_pin_packages_that_affect_scores() -> None:
    lines = requirements()
    names = {line.split("=")[0].split(">")[0].split("[")[0]: line for line in lines}
    assert names["numpy"].startswith("numpy==")
    assert names["pillow"] == "pillow>=10"
    assert "+" not in names["torch"]
    assert not set(names) & {*TRAINING, "gradio", "pytest"}


def test_missing_metadata_is_an_error(net: Any, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "PACKAGE", "not-installed")
    with pytest.raises(ConfigError, match="is not installed, so its dependencies are unknown"):
        push(net)
    assert hub.repositories == {}


def test_gradio_version_is_the_tested_one() -> None:
    assert f"gradio=={GRADIO}" in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.mark.parametrize(("space", "expected"), [("", "you/doors"), ("demo", "you/demo"), ("lab/demo", "lab/demo")])
def test_names_of_spaces(space: str, expected: str) -> None:
    assert space_name(space, "you/doors") == expected


def test_repository_names_of_models_and_spaces_are_separate(hub: LoopbackHub, net: Any) -> None:
    hub.repositories["alice/net"] = Repository(sdk=None)
    hub.put("alice/net", {})
    push(net)
    assert hub.repositories["alice/net"].sdk is None
    assert "model.safetensors" not in hub.repositories[SPACE].files
