"""``--compile`` of fit, test and predict. The compiler's backend is "eager", which needs no C++ compiler."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path

import pytest
import torch
from numbered_videos import numbered_video
from runs import ON_CPU, QUIET, fit_arguments, video_folder
from small_models import small_trained
from torch import nn

import zoo
from cli import main
from zoo import compiling
from zoo.errors import ConfigError
from zoo.inference.result_files import read_results


@pytest.fixture(autouse=True)
def _eager_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a small network."""
    model = small_trained(labels=["wave", "clap", "jump", "sit"])
    return str(zoo.save(model, tmp_path_factory.mktemp("networks") / "network"))


def test_compiled_predict_has_the_scores_of_eager_execution(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = numbered_video(tmp_path / "clip.mp4", frames=20)
    arguments = ["predict", "--from", network, str(video), "--csv"]
    assert main([*arguments, str(tmp_path / "eager.csv")]) == 0
    assert "torch.compile" not in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "compiled.csv"), "--compile"]) == 0
    assert capsys.readouterr().out.count("torch.compile took ") == 1
    eager, compiled = (read_results(tmp_path / f"{name}.csv")[0]["predictions"] for name in ("eager", "compiled"))
    assert [item["label"] for item in compiled] == [item["label"] for item in eager]
    assert [item["score"] for item in compiled] == pytest.approx([item["score"] for item in eager], abs=1e-5)


@pytest.mark.slow
def test_compiled_training_saves_the_keys_of_the_network(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(fit_arguments(motion_folder, out, "--compile", network="tada2d_r18", epochs=1, watch=False)) == 0
    assert capsys.readouterr().out.count("torch.compile took ") == 1
    checkpoint = next((out / "checkpoints").glob("last*.ckpt"))
    content = torch.load(checkpoint, weights_only=True)
    assert not [key for key in content["state_dict"] if "_orig_mod" in key]
    command = ["test", "--from", str(checkpoint), *video_folder(motion_folder), *QUIET, *ON_CPU]
    assert main([*command, "--out", str(tmp_path / "test"), "--compile"]) == 0
    assert capsys.readouterr().out.count("torch.compile took ") == 1


def test_probe_has_no_compile_option(network: str, motion_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--from", network, str(motion_folder), "--compile"]) == 1
    assert "--compile is for fit, validate, test and predict" in capsys.readouterr().err


def test_missing_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def fail() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", fail)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on CPUs.*install g\+\+"):
        compiling.compile_network(small_trained(), torch.device("cpu"))
