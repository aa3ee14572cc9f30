"""Whether a command line of ``fit``, ``validate`` or ``test`` is for a localizer. Does not import torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lit_modules.recipe_files import resolve_config
from lit_modules.trainer_parsing import TrainerArguments, parse

MODEL, DATA = "ActionLocalizer", "LocalizationData"
RUN_CONFIG = "config.yaml"  # of a run


def names_localizer(arguments: Sequence[str]) -> bool:
    """Whether the options, their YAML files or the run of ``--from`` select ``ActionLocalizer`` or its data.

    ``--model.help`` and ``--data.help`` select them as well.
    """
    parsed = parse(arguments)
    names = ("--model", "--data", "--model.class_path", "--data.class_path", "--model.help", "--data.help")
    values = [parsed.value_of(name) for name in names]
    values += _configured(parsed)
    if not any(values) and parsed.network is not None:
        values += _classes_in(os.path.join(parsed.network, RUN_CONFIG))
    return any(_class_name(value) in (MODEL, DATA) for value in values)


def _class_name(value: Any) -> str:
    return value.rpartition(".")[2] if isinstance(value, str) else ""


def _configured(parsed: TrainerArguments) -> list[Any]:
    """Return the classes in the YAML files of a command line."""
    classes = []
    for option in parsed.options:
        name, _, value = option.partition("=")
        if name != "--config" or not value:
            continue
        if "\n" in value or ": " in value or value.lstrip().startswith("{"):
            classes += _classes(value)
        else:
            classes += _classes_in(resolve_config(value))
    return classes


def _classes_in(path: str) -> list[Any]:
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        return _classes(file.read())


def _classes(text: str) -> list[Any]:
    """Return the classes of the model and the data in YAML."""
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return []  # the parser of the command reports it
    groups = [content.get(key) if isinstance(content, dict) else None for key in ("model", "data")]
    return [group.get("class_path") if isinstance(group, dict) else group for group in groups]
