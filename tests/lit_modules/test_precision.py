"""``precision: auto``, in configuration files and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from color_videos import save_trained, write_color_videos
from runs import (
    NO_SANITY_CHECK,
    ON_CPU,
    QUIET,
    assert_same_last_weights,
    fit_arguments,
    flags,
    read_checkpoint,
    resume,
    video_folder,
)

from cli import main
from lit_modules import precision, tuning
from lit_modules.precision import auto_precision, resolve_precision
from zoo.weights.lightning_checkpoint import CONFIG_KEY

SHORT = flags("trainer", limit_train_batches=1, limit_val_batches=1)


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of videos, 4 + 2 + 2 of each."""
    return write_color_videos(tmp_path_factory.mktemp("colors"), {"train": 4, "val": 2, "test": 2})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_trained(tmp_path_factory.mktemp("start") / "c2d")


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that computes in bfloat16."""
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: True)


def write_config(folder: Path, name: str = "auto", **trainer: object) -> list[str]:
    """Write a configuration file with options of the Trainer; return the arguments that use it."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"trainer": trainer}))
    return ["--config", str(path)]


def saved_precision(run: Path) -> str:
    return str(yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"])


def precision_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("Precision:")]


# devices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "expected"), [((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed"), ((7, 5), "32-true")]
)
def test_precision_of_gpus(capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    for accelerator in ("auto", "gpu", "cuda"):
        assert auto_precision(accelerator)[0] == expected


@pytest.mark.parametrize(
    ("features", "expected"),
    [({"avx512_bf16": True}, "bf16-mixed"), ({"amx_bf16": True}, "bf16-mixed"), ({"avx512_f": True}, "32-true")],
)
def test_precision_of_cpus(features: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert auto_precision("cpu")[0] == expected


@pytest.mark.usefixtures("bfloat16")
def test_precision_is_that_of_the_run_to_resume() -> None:
    def config(value: Any) -> dict[str, Any]:
        return {"provenance": {"recipe": {"precision": value}}}

    assert resolve_precision("cpu", config("32-true")) == "32-true"
    for unusable in (config("7-true"), config(["32-true"]), {"provenance": {"recipe": 3}}, {"provenance": None}):
        assert resolve_precision("cpu", unusable) == "bf16-mixed"


# fit ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bfloat16")
def test_run_saves_the_resolved_precision_of_a_config_file(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, precision="auto")
    assert main(fit_arguments(motion_folder, tmp_path / "run", *config, *SHORT, epochs=1)) == 0
    assert precision_lines(capsys) == ["Precision: bf16-mixed (the CPU computes in bfloat16)"]
    assert saved_precision(tmp_path / "run") == "bf16-mixed"
    recipe = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")[CONFIG_KEY]["provenance"]["recipe"]
    assert recipe["precision"] == "bf16-mixed"


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize(
    ("files", "options", "expected"),
    [
        (["auto", "32-true"], {}, "32-true"),
        (["32-true", "auto"], {}, "bf16-mixed"),
        (["auto"], {"precision": "32-true"}, "32-true"),
        (["32-true"], {"precision": "auto"}, "bf16-mixed"),
    ],
)
def test_later_files_and_the_command_line_override_earlier_files(
    files: list[str], options: dict[str, str], expected: str, motion_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    configs = [word for name in files for word in write_config(tmp_path, name, precision=name)]
    command = [*configs, *flags("trainer", **options), *SHORT]
    assert main(fit_arguments(motion_folder, tmp_path / "run", *command, epochs=1)) == 0
    assert saved_precision(tmp_path / "run") == expected
    assert len(precision_lines(capsys)) == (expected == "bf16-mixed")


@pytest.mark.parametrize(
    ("configured", "given", "expected"), [("cpu", None, "cpu"), (None, "cpu", "cpu"), ("gpu", "cpu", "cpu")]
)
def test_accelerator_of_a_config_file_or_the_command_line(
    configured: str | None, given: str | None, expected: str, colors: Path, start: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    accelerators = []

    def record(accelerator: str) -> tuple[str, str]:
        accelerators.append(accelerator)
        return "32-true", "test"

    monkeypatch.setattr(precision, "auto_precision", record)
    config = write_config(tmp_path, precision="auto", **({"accelerator": configured} if configured else {}))
    option = flags("trainer", accelerator=given) if given else []
    arguments = ["--from", str(start), "--allow_untrained", *video_folder(colors), *QUIET, *option]
    assert main(["validate", *config, *arguments, "--out", str(tmp_path / "out")]) == 0
    assert accelerators == [expected]


def test_resumed_run_keeps_its_precision_on_another_machine(
    motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second machine computes in bfloat16, the first does not."""
    config = write_config(tmp_path, precision="auto")
    first, by_command, by_config = tmp_path / "first", tmp_path / "command", tmp_path / "config"
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: False)
    assert main(fit_arguments(motion_folder, first, *config, epochs=1, watch=False)) == 0
    assert saved_precision(first) == "32-true"

    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: True)
    options = [*resume(first / "checkpoints" / "last.ckpt"), *flags("trainer", max_epochs=2)]
    capsys.readouterr()
    assert main(fit_arguments(motion_folder, by_command, *config, *options, watch=False)) == 0
    assert precision_lines(capsys) == ["Precision: 32-true (of the run to resume)"]
    assert main(["fit", "--config", str(first / "config.yaml"), *options, "--out", str(by_config)]) == 0
    assert not precision_lines(capsys)
    assert saved_precision(by_command) == saved_precision(by_config) == "32-true"
    assert_same_last_weights(by_command, by_config)


def test_unknown_precision_names_auto_among_the_choices(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, precision="fast")
    assert main(fit_arguments(motion_folder, tmp_path / "run", *config)) == 1
    message = capsys.readouterr().err
    assert "--trainer.precision is fast; choose from" in message
    assert "auto" in message


# other commands ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("command", ["test", "validate", "probe"])
def test_other_commands_read_the_same_file(
    command: str, colors: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--from", str(start), "--allow_untrained", *video_folder(colors), *QUIET, *ON_CPU]
    assert main([command, "--config", "finetune/folder", *arguments, "--out", str(tmp_path / "out")]) == 0
    assert precision_lines(capsys) == ["Precision: bf16-mixed (the CPU computes in bfloat16)"]


@pytest.mark.usefixtures("bfloat16")
def test_folds_and_learning_rate_search_use_the_precision(
    colors: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "STEPS", 8)
    monkeypatch.setattr(tuning, "SKIPPED", 2)
    used = []
    train_copy = tuning._train_copy

    def record(module: Any, data: Any, options: Any, *arguments: Any) -> int:
        used.append(options["precision"])
        return train_copy(module, data, options, *arguments)

    monkeypatch.setattr(tuning, "_train_copy", record)
    out = tmp_path / "folds"
    arguments = ["--from", str(start), *video_folder(colors, batch_size=2), *QUIET, *ON_CPU, *NO_SANITY_CHECK]
    arguments += [*flags("trainer", max_epochs=1), "--probe", "false", "--folds", "2", "--find_lr"]
    assert main(["fit", "--config", "finetune/folder", *arguments, "--out", str(out)]) == 0
    assert used == ["bf16-mixed"] * 2
    assert [saved_precision(out / f"fold{fold}") for fold in (1, 2)] == ["bf16-mixed"] * 2
