"""Recipes by name: ``--config NAME``, and ``tempozoo recipes``."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cli import main
from lit_modules.recipe_files import GROUPS, recipe_names, recipe_path, recipe_purpose, resolve_config
from zoo.errors import UnknownNameError


@pytest.mark.parametrize("name", ["finetune/folder", "finetune/folder.yaml"])
def test_fit_accepts_the_name_of_a_recipe_in_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", name, "--data.root", "videos", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["optimizer"]["lr"] == 1e-4
    assert printed["data"]["init_args"]["root"] == "videos"


def test_existing_file_has_priority_over_a_recipe_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "finetune" / "folder").mkdir(parents=True)
    assert resolve_config("finetune/folder") == str(recipe_path("finetune/folder"))
    Path("finetune/folder.yaml").write_text("model: null")
    assert resolve_config("finetune/folder.yaml") == "finetune/folder.yaml"
    assert resolve_config("{trainer: {max_epochs: 3}}") == "{trainer: {max_epochs: 3}}"


@pytest.mark.parametrize("name", ["finetune/foldr", "folder", "configs/finetune/folder.yml", "finetune/Folder.yaml"])
def test_unknown_recipe_is_an_error_with_a_suggestion(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["fit", "--config", name, "--data.root", "x"], ["recipes", name]):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert name in error and "(did you mean finetune/folder?)" in error and "`tempozoo recipes`" in error


@pytest.mark.parametrize("name", ["../zoo/secret", "/etc/passwd", ""])
def test_recipes_are_found_in_their_folder_only(name: str) -> None:
    with pytest.raises(UnknownNameError):
        recipe_path(name)


def test_recipes_command_lists_all_recipes_with_their_purpose(capsys: pytest.CaptureFixture) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in recipe_names():
        assert name.rpartition("/")[0] in GROUPS
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.endswith(recipe_purpose(name)) and recipe_purpose(name).endswith(".")
    assert [line.removesuffix(":") for line in lines if line.endswith(":")] == list(GROUPS.values())


def test_recipes_command_prints_a_recipe(capsys: pytest.CaptureFixture) -> None:
    assert main(["recipes", "finetune/folder"]) == 0
    assert capsys.readouterr().out == recipe_path("finetune/folder").read_text()
