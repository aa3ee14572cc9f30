"""File names with special characters or invalid UTF-8, on the command line and in configuration files."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest
import yaml
from runs import QUIET, flags, model

from cli import main
from lit_modules.option_values import dump_text, load_text
from lit_modules.trainer_arguments import expand_data
from lit_modules.trainer_parsing import parse
from zoo.errors import ConfigError

NOT_UTF8 = os.fsdecode(b"by\xfftes")
NAMES = ["émoji😀", NOT_UTF8, "a: b", "[a]", "{a: b}", "#a", "&x", "*", "?", "-dash", "q'uo\"te", "a,b", "new\nline",
         "1e3", "null", "true", "\x1b[31mred", "{epoch}", "a=b", " space ", "%s", "\\d"]  # fmt: skip
NETWORK = "tanet_r18.motionclips8"


@pytest.fixture
def clip(motion_folder: Path) -> Path:
    return next((motion_folder / "test" / "meets").iterdir())


def test_predict_accepts_files_and_folders_of_any_name(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Path(name).mkdir()
        shutil.copy(clip, f"{name}.mp4")
        shutil.copy(clip, Path(name) / f"in {name}.mp4")
    names = [*NAMES, *(f"{name}.mp4" for name in NAMES)]
    out = tmp_path / "predictions of all"
    arguments = ["predict", "--from", NETWORK, *flags("data", num_workers=0), *QUIET, "--out", str(out)]
    assert main([*arguments, "--", *names]) == 0
    with (out / "predictions.csv").open(newline="", errors="surrogateescape") as file:
        paths = {row["path"] for row in csv.DictReader(file)}
    assert paths == {text for name in NAMES for text in (f"{name}.mp4", f"{name}/in {name}.mp4")}


@pytest.mark.parametrize("name", [NOT_UTF8, "[a]"])
def test_run_folder_and_config_may_have_any_name(
    name: str, motion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).symlink_to(motion_folder)
    data = ["--data", "VideoFolder", f"--data.root={name}", *flags("data", num_workers=0)]
    arguments = ["fit", *model("TANet", "tanet_r18"), *flags("trainer", max_epochs=1), *QUIET, *data]
    assert main([*arguments, "--out", f"run {name}"]) == 0
    config = Path(f"run {name}", "config.yaml")
    assert load_text(config.read_text())["data"]["init_args"]["root"] == name
    config.rename(f"{name}.yaml")
    Path(f"run {name}", "checkpoints", "last.ckpt").rename(f"{name}.ckpt")
    assert main(["export-checkpoint", f"{name}.ckpt", f"{name} saved"]) == 0
    arguments = ["test", "--config", f"{name}.yaml", "--from", f"{name} saved", *flags("data", clips=1)]
    assert main([*arguments, "--out", f"test {name}"]) == 0
    assert Path(f"test {name}", "test.json").is_file()


def test_arguments_after_two_dashes_are_file_names() -> None:
    arguments = parse(["--from", "-x", "--data.root=-y", "--trainer.devices", "-1", "a", "--", "--out", "-c"])
    assert arguments.network == "-x"
    assert list(arguments.options) == ["--data.root=-y", "--trainer.devices=-1"]
    assert list(arguments.files) == ["a", "--out", "-c"]


@pytest.mark.parametrize(
    "value", [NOT_UTF8, "1e3", "1.5e3", "null", "true", "12:30:45", "2020-01-01", "#a", "a: b", "\x1b", "😀"]
)
def test_config_values_are_read_as_they_were_written(value: str) -> None:
    text = dump_text({"name": value, "number": 1e-5})
    assert text.encode()  # valid UTF-8, so that it can be written to a file
    assert load_text(text) == {"name": value, "number": 1e-5}


def test_value_that_names_a_file_is_not_parsed_as_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_text("[a]") == ["a"] and load_text("a: b") == {"a": "b"}
    Path("[a]").touch()
    Path("a: b").touch()
    assert load_text("[a]") == "[a]" and load_text("a: b") == "a: b"
    assert load_text("null") is None and load_text("#a") == "#a"
    with pytest.raises(yaml.YAMLError):
        load_text("[a")


def test_patterns_and_home_folders_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("b.mp4", "a.mp4", "other.txt"):
        Path(name).touch()

    def files(*words: str) -> list[str]:
        return list(expand_data("predict", parse(words), {}).files)

    assert files("*.mp4") == ["a.mp4", "b.mp4"]
    assert files("~/a.mp4") == [str(tmp_path / "a.mp4")]
    assert files("https://x.org/*.tar") == ["https://x.org/*.tar"]
    Path("*.mp4").touch()
    assert files("*.mp4") == ["*.mp4"]  # a file has this name
    with pytest.raises(ConfigError, match=r"No file matches '\*\.avi'"):
        files("*.avi")
    assert parse(["--out=~/runs", "--data.root", "~/x", "--from=~/y"]) == parse(
        ["--out", f"{tmp_path}/runs", f"--data.root={tmp_path}/x", "--from", f"{tmp_path}/y"]
    )


@pytest.mark.parametrize("option", ["--out", "--ckpt_path"])
@pytest.mark.parametrize("value", ["a::b", "s3://bucket/run"])
def test_output_path_that_is_a_url_is_refused(option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} {value} contains"):
        parse([option, value])


def test_errors_show_control_characters_as_escapes(capsys: pytest.CaptureFixture) -> None:
    assert main(["info", "\x1b]0;title\n\udcff"]) == 1
    assert "'\\x1b]0;title\\n\\udcff'" in capsys.readouterr().err
    assert main(["export-checkpoint", "\x1b\udcff.ckpt", "folder"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "\\x1b\\udcff.ckpt" in line
