"""Incomplete or misspelled commands: their completion, or a message with the full command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import QUIET, flags, model

import zoo
from cli import COMMANDS, main
from datamodules import VideoFolder, VideoList
from lit_modules import (
    OptimizerOptions,
    RegularizationOptions,
    ScheduleOptions,
    TAda2D,
    TANet,
    VideoClassifier,
)
from lit_modules.command_help import short_help
from lit_modules.trainer_arguments import expand_data, expand_entry, lightning_arguments, offline_advice
from lit_modules.trainer_parsing import TrainerArguments, parse
from zoo.errors import CheckpointError, ConfigError
from zoo.network_names import resolve_network

BUNDLED = "tanet_r18.motionclips8"
CLASSES = {"VideoFolder": VideoFolder, "VideoList": VideoList}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder of a run with empty files for the best and the last checkpoint."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("best", "last"):
        (folder / "checkpoints" / f"{name}.ckpt").touch()
    return folder


# commands and options --------------------------------------------------------------------------------------------


def test_unknown_command_suggests_the_nearest_name(capsys: pytest.CaptureFixture) -> None:
    assert main(["lst"]) == 1
    assert "Unknown command 'lst' (did you mean list?); choose from fit, validate" in capsys.readouterr().err


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tempozoo {zoo.__version__}\n"
    assert zoo.__version__[0].isdigit()


@pytest.mark.parametrize(
    ("option", "suggestion"),
    [
        ("--trainer.max_epoch", "--trainer.max_epochs"),  # not accepted as an abbreviation
        ("--seed", "--seed_everything"),
        ("--ot", "--out"),
    ],
)
def test_unknown_option_suggests_the_nearest_name(option: str, suggestion: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["fit", "--from", BUNDLED, "--data", "VideoFolder", "--data.root", "x", option, "3"]) == 1
    assert f"Unknown option {option} (did you mean {suggestion}?)" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_is_short_and_starts_with_our_own_options(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 85
    usage = text.partition("\n\n")[0]
    assert "--from NETWORK" in usage and "--out FOLDER" in usage
    assert text.index("  --from NETWORK") < text.index("  --model CLASS")
    assert ("--views" in text) == (command in ("test", "predict"))
    assert ("--allow_untrained" in text) == (command != "fit")


def test_help_all_contains_our_own_options_and_those_of_lightning(capsys: pytest.CaptureFixture) -> None:
    assert main(["fit", "--help_all"]) == 0
    text = capsys.readouterr().out
    assert text.index("  --from NETWORK") < text.index("  --trainer.max_epochs")
    assert "--trainer.detect_anomaly" in text
    options = {word.strip(",;()") for word in short_help("fit").split() if word.startswith("--")} - {"--help_all"}
    assert [option for option in options if "." not in option and option not in text] == []


def test_short_help_names_options_that_exist() -> None:
    groups = {"optimizer": OptimizerOptions, "schedule": ScheduleOptions, "regularization": RegularizationOptions}
    nested = {f"{group}.{name}" for group, options in groups.items() for name in options.__annotations__}
    parameters = {
        "model": set(VideoClassifier.__init__.__annotations__) | nested | {"help"},
        "data": {"help"}.union(*(base.__init__.__annotations__ for base in VideoFolder.__mro__ if base is not object)),
    }
    options = {word.strip(",;") for word in short_help("fit").split() if word.startswith("--")}
    for group, names in parameters.items():
        options_of_group = {option for option in options if option.startswith(f"--{group}.")}
        assert options_of_group and {option.partition(".")[2] for option in options_of_group} <= names


def test_help_examples_are_commands_of_tempozoo() -> None:
    for command in COMMANDS.values():
        for example in command.help.values():
            assert example.split()[:1] == ["tempozoo"] and example.split()[1] in COMMANDS


# data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template", [["{path}"], ["--data", "{path}"], ["--data={path}"], ["--data", "VideoFolder", "{path}"]]
)
def test_folder_is_read_as_video_folder(template: list[str], tmp_path: Path) -> None:
    arguments = parse([argument.format(path=tmp_path) for argument in template])
    options = expand_data("fit", arguments, CLASSES).options
    assert list(options) == ["--data=VideoFolder", f"--data.root={tmp_path}"]


@pytest.mark.parametrize(("command", "option"), [("fit", "train"), ("validate", "val"), ("test", "test")])
def test_csv_file_is_read_as_video_list(
    command: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "a.csv").touch()
    options = expand_data(command, parse([str(tmp_path / "a.csv")]), CLASSES).options
    assert list(options) == ["--data=VideoList", f"--data.{option}={tmp_path / 'a.csv'}"]
    note = f"Reading the data as --data VideoList --data.{option} {tmp_path / 'a.csv'}\n"
    assert capsys.readouterr().out == note


def test_folder_with_entry_is_read_as_the_data_set_of_the_entry(tmp_path: Path) -> None:
    arguments = parse(["--entry", "tanet_r50.ssv2_8f", str(tmp_path)])
    expanded = expand_entry("test", arguments, CLASSES, lambda name: (VideoFolder, {}))
    assert list(expanded.options) == ["--data=VideoFolder", f"--data.root={tmp_path}"] and not expanded.files


def test_data_specified_twice_and_unknown_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"both name the data; give one"):
        expand_data("fit", parse(["--data.root", "x", str(tmp_path)]), CLASSES)
    with pytest.raises(ConfigError, match=r"takes no plain argument 'stray'"):
        expand_data("fit", parse(["stray"]), CLASSES)
    with pytest.raises(ConfigError, match=r"takes one folder or CSV file, not 2"):
        expand_data("fit", parse(["a", "b"]), CLASSES)


def test_message_completes_an_incomplete_command(tmp_path: Path) -> None:
    def message(command: str, *arguments: str) -> str:
        with pytest.raises(ConfigError) as error:
            lightning_arguments(command, expand_data(command, parse(arguments), CLASSES))
        return str(error.value)

    assert f"tempozoo fit --from NETWORK --data VideoFolder --data.root {tmp_path}" in message("fit", str(tmp_path))
    assert f"tempozoo fit --from {BUNDLED} --data VideoFolder --data.root FOLDER" in message("fit", "--from", BUNDLED)
    assert f"tempozoo predict --from {BUNDLED} VIDEOS" in message("predict", "--from", BUNDLED)


def test_commands_accept_a_data_folder_and_a_run_folder(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, quiet = tmp_path / "run", [*flags("data", num_workers=0), *QUIET]
    arguments = ["fit", *model("TANet", "tanet_r18"), *flags("trainer", max_epochs=1), *quiet]
    assert main([*arguments, "--out", str(out), str(motion_folder)]) == 0
    capsys.readouterr()
    assert main(["test", "--from", str(out), *quiet, str(motion_folder), "--out", str(tmp_path / "test")]) == 0
    assert f"{out} is the folder of a run; using {out / 'checkpoints' / 'best.ckpt'}" in capsys.readouterr().out
    assert main(["export-checkpoint", str(out), str(tmp_path / "exported")]) == 0
    assert zoo.load(tmp_path / "exported").spec.arch == "tanet_r18"


# networks --------------------------------------------------------------------------------------------------------


def test_run_folder_is_resolved_to_its_best_or_last_checkpoint(run: Path) -> None:
    best, last = run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt"
    assert resolve_network(str(run)) == resolve_network(str(run / "checkpoints")) == str(best)
    best.unlink()
    assert resolve_network(str(run)) == str(last)
    last.unlink()
    with pytest.raises(CheckpointError, match="contains neither best.ckpt nor last.ckpt"):
        resolve_network(str(run))


def test_other_network_names_are_not_changed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run.rename(tmp_path / BUNDLED)  # the index comes first, as in zoo.load
    for name in (BUNDLED, "hf-hub:user/repo", "none", str(zoo.save(zoo.load(BUNDLED), tmp_path / "saved"))):
        assert resolve_network(name) == name


def test_error_of_a_failed_download_suggests_commands_without_one(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "a b"
    assert main(["fit", "--from", "tada2d_r50.k400_8x8", "--out", str(out), str(motion_folder)]) == 1
    first, *advice = capsys.readouterr().err.splitlines()[-3:]
    assert first.startswith("tempozoo: The weights of tada2d_r50.k400_8x8 are not on this machine")
    assert advice == [
        f"  To use the bundled network, offline: tempozoo fit --from {BUNDLED} --out '{out}' {motion_folder}",
        "  To start from an ImageNet file on this machine: tempozoo fit --from tada2d_r50.in1k "
        f"--out '{out}' --model.weights resnet50-0676ba61.pth {motion_folder}",
    ]


def test_offline_advice_for_fit_and_predict() -> None:
    fit = offline_advice("fit", ["--config", "c.yaml", "--model.name", "tanet_resnext50.k400_8f"])
    assert list(fit.values()) == [
        f"tempozoo fit --from {BUNDLED} --config c.yaml",
        "tempozoo fit --from tanet_resnext50.in1k --config c.yaml --model.weights resnext50_32x4d-7cdf4587.pth",
    ]
    predict = offline_advice("predict", ["--from", "x", "a.mp4"])
    assert list(predict.values()) == [f"tempozoo predict --from {BUNDLED} a.mp4"]


def test_load_report_names_the_file_once(tmp_path: Path) -> None:
    folder = zoo.save(zoo.load(BUNDLED), tmp_path / "saved")
    assert str(zoo.load(folder).report) == f"weights of {folder / 'model.safetensors'}."
    assert str(zoo.load(folder / "model.safetensors").report) == f"weights of {folder / 'model.safetensors'}."
    assert str(zoo.load(BUNDLED).report).startswith(f"{BUNDLED}: weights from ")


def test_option_checks_accept_published_recipes() -> None:
    for recipe in (VideoClassifier, TANet, TAda2D):
        recipe("tanet_r18", options={"width": 8}, num_classes=4, num_frames=4)


def test_command_line_is_shown_as_the_user_types_it() -> None:
    arguments = TrainerArguments(network="x", options=["--data.root=a b", "--print_config"], files=["c d"])
    assert arguments.command_line("fit") == "tempozoo fit --from x --data.root 'a b' --print_config 'c d'"


def test_published_file_without_an_entry_suggests_its_entry(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "resnet 18.pth"
    torch.save(zoo.load(BUNDLED).state_dict(), file)
    assert main(["predict", "--from", str(file), str(tmp_path)]) == 1
    message = f"{file} is a published file of {BUNDLED}. Give both: --from {BUNDLED} --model.weights '{file}'"
    assert capsys.readouterr().err == f"tempozoo: {message}\n"
    torch.save({"x": torch.zeros(1)}, file)
    assert resolve_network(str(file)) == str(file)  # zoo.load reports what is wrong with it
    assert main(["predict", "--from", str(file), str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("tempozoo: ")
