"""Diagnostic output: tracebacks of known errors, and the message about the seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import flags

from cli import main, take_debug, usage

MISSING = "tanet_r50.k400_9f"


@pytest.mark.parametrize("arguments", [["--debug", "info", MISSING], ["info", MISSING, "--debug"]])
def test_debug_prints_the_traceback_before_the_message(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert any(line.startswith("zoo.errors.UnknownNameError: ") for line in lines)
    assert lines[-1].startswith("tempozoo: ")


def test_debug_variable_prints_the_traceback(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOZOO_DEBUG", "1")
    assert main(["info", MISSING]) == 1
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):")


@pytest.mark.parametrize("value", [None, "", "0"])
def test_errors_have_no_traceback_by_default(
    value: str | None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEMPOZOO_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("TEMPOZOO_DEBUG", value)
    assert main(["info", MISSING]) == 1
    assert capsys.readouterr().err.startswith("tempozoo: ")


def test_debug_prints_the_traceback_of_an_error_that_the_parser_wraps(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [
        "fit",
        "--from",
        "tanet_r18.motionclips8",
        "--model.optimizer.lr",
        "-1",
        "--out",
        str(tmp_path / "run"),
    ]
    (tmp_path / "videos" / "train" / "a").mkdir(parents=True)
    assert main(["--debug", *arguments, str(tmp_path / "videos")]) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last):" in error
    assert error.splitlines()[-1].startswith("tempozoo: ")


def test_debug_after_two_dashes_is_a_file_name() -> None:
    assert take_debug(["predict", "--", "--debug"]) == (["predict", "--", "--debug"], False)
    assert take_debug(["predict", "--debug", "--", "--debug"]) == (["predict", "--", "--debug"], True)


def test_help_names_the_debug_option() -> None:
    assert "--debug" in usage() and "TEMPOZOO_DEBUG" in usage()


def test_default_seed_is_logged_by_fit_only(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    network = ["--from", "tanet_r18.motionclips8", *flags("data", num_workers=0)]
    predict = ["predict", *network, str(motion_folder / "val")]
    fit = ["fit", *network, *flags("trainer", fast_dev_run=True), str(motion_folder)]
    with caplog.at_level("INFO", "lightning.fabric"):
        for name, arguments, is_logged in (
            ("predict", predict, False),
            ("predict-with-seed", [*predict, "--seed_everything", "0"], True),
            ("fit", fit, True),
        ):
            caplog.clear()
            assert main([*arguments, "--out", str(tmp_path / name)]) == 0
            assert ("Seed set to 0" in caplog.text + capsys.readouterr().err) == is_logged, name
