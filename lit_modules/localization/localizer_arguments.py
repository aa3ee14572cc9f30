"""Whether a command line of ``fit``, ``validate`` or ``test`` is for a localizer. Does not import torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lit_modules.recipe_files import resolve_config
from lit_modules.trainer_parsing import TrainerArguments, parse

MODEL, DATA = "ActionLocalizer", "LocalizationData"


def names_localizer(arguments: Sequence[str]) -> bool:
    """Whether the options or their YAML files select ``ActionLocalizer`` or ``LocalizationData``."""
    parsed = parse(arguments)
    values = [parsed.value_of(name) for name in ("--model", "--data", "--model.class_path", "--data.class_path")]
    return any(_class_name(value) in (MODEL, DATA) for value in [*values, *_configured(parsed)])


def _class_name(value: Any) -> str:
    return value.rpartition(".")[2] if isinstance(value, str) else ""


def _configured(parsed: TrainerArguments) -> list[Any]:
    """Return the classes in the YAML files of a command line."""
    import yaml

    classes = []
    for option in parsed.options:
        name, _, value = option.partition("=")
        if name != "--config" or not value:
            continue
        text = value
        if not ("\n" in value or ": " in value or value.lstrip().startswith("{")):
            path = resolve_config(value)
            if not os.path.isfile(path):
                continue
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError:
            continue  # the parser of the command reports it
        for key in ("model", "data"):
            group = content.get(key) if isinstance(content, dict) else None
            classes.append(group.get("class_path") if isinstance(group, dict) else group)
    return classes
