"""The recipe files of ``configs/``: names for ``--config``, and the ``tempozoo recipes`` command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from zoo.command_line import suggest
from zoo.errors import UnknownNameError
from zoo.text import printable

SUFFIX = ".yaml"
GROUPS = {  # folder of configs/ -> heading
    "finetune": "Fine-tuning on your own videos",
    "localize": "Actions in untrimmed videos",
    "k400": "Published results on Kinetics-400",
    "ssv1": "Published results on Something-Something V1",
    "ssv2": "Published results on Something-Something V2",
    "mosi": "Pretraining without labels",
    "": "MotionClips, the generated example data",
}


def recipes_folder() -> Path:
    """Return the folder of the recipes: inside the package in an installed wheel, otherwise in the repository."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def recipe_names() -> list[str]:
    """Return the names of all recipes, such as "finetune/folder", sorted."""
    folder = recipes_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(f"*{SUFFIX}"))


def recipe_path(name: str, kind: str = "recipe") -> Path:
    """Return the file of a recipe.

    Args:
        name: such as "finetune/folder", with or without ".yaml".
        kind: noun of the error message.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    names, stem = recipe_names(), name.removesuffix(SUFFIX)
    if stem not in names:
        suggestion = _suggest_recipe(stem, names)
        message = f"{kind.capitalize()} {name!r} does not exist{suggestion}; `tempozoo recipes` lists the recipes."
        raise UnknownNameError(message)
    return recipes_folder() / f"{stem}{SUFFIX}"


def resolve_config(value: str) -> str:
    """Replace the name of a recipe by its path, as the value of ``--config``.

    Files and YAML text are returned unchanged. A file comes before a recipe of the same name.

    Raises:
        UnknownNameError: the value is neither a file, nor a recipe, nor YAML text.
    """
    is_file = os.path.exists(value) and not os.path.isdir(value)
    is_text = "\n" in value or ": " in value or value.lstrip().startswith("{")
    return value if is_file or is_text else str(recipe_path(value, "file or recipe"))


def _suggest_recipe(name: str, names: Sequence[str]) -> str:
    """Return a suggestion for a misspelled name, which may lack its folder or begin with "configs/"."""
    same_file = [other for other in names if other.rpartition("/")[2] == name.rpartition("/")[2]]
    return f" (did you mean {same_file[0]}?)" if same_file else suggest(name, names)


def recipe_purpose(name: str) -> str:
    """Return the first comment line of a recipe."""
    first = recipe_path(name).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def recipes_command(arguments: Sequence[str]) -> None:
    """``tempozoo recipes [NAME]``: list the recipes, or print one.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    parser = argparse.ArgumentParser(
        "tempozoo recipes",
        description="List the training recipes that `tempozoo fit --config NAME` accepts, or print one.",
    )
    parser.add_argument("name", nargs="?", help='recipe to print, such as "finetune/folder"')
    name = parser.parse_args(arguments).name
    if name is not None:
        print(recipe_path(name).read_text(encoding="utf-8"), end="")
        return
    names = recipe_names()
    width = max(map(len, names))
    for folder, heading in GROUPS.items():
        print(f"{heading}:")
        for each in names:
            if each.rpartition("/")[0] == folder:
                print(printable(f"  {each:{width}}  {recipe_purpose(each)}"))
        print()
    print("Use a recipe: tempozoo fit --config NAME. Print it: tempozoo recipes NAME.")
