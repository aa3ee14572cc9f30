"""Error messages of the parser (jsonargparse) in one line."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lit_modules.recipe_options import GROUPS
from zoo.command_line import suggest

OPTION_KINDS = {"data": "data set", "model": "training recipe"}
TYPE_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "list": "a list"}
TYPE_NAMES |= {"collections.abc.Sequence": "a list", "dict": "a dictionary", "pathlib.Path": "a path"}


def format_parser_error(
    message: str, classes: Mapping[str, Mapping[str, Any]], option_names: Iterable[str] = ()
) -> str:
    """Rewrite a message of the parser, which has about 25 lines, as one line in terms of the command line.

    Args:
        message: of the parser.
        classes: "data" and "model" -> name -> class that the option accepts.
        option_names: options of the command, for suggestions.
    """
    keys = re.findall(r'Parser key "([\w.+]+)"', message)
    option = "--" + ".".join(keys)
    class_path = re.search(r"given class_path '([\w.]+)'", message)
    class_name = class_path[1].split(".")[-1] if class_path else ""
    given = re.search(r"Got value: (.*)|Given value: (.*)", message)
    value = next(filter(None, given.groups()), "") if given else ""
    more = f"`{option}.help {class_name}` lists its options."
    if missing := re.search(r"arguments are required: (\w+)", message):
        return f"{option}.{missing[1]} is missing: {class_name} needs it. {more}"
    if unknown := re.search(r"Group '(\w+)' does not accept option '([\w.]+)'", message):
        group, word = unknown.groups()
        model = classes.get("model", {}).get(class_name, object)
        suggestion = _suggest_option(word, model, group, "--model.")
        return f"{class_name} has no option --model.{group}.{word}{suggestion}; {more}"
    if unknown := re.search(r"Option '([\w.]+)' is not accepted", message):
        top, _, rest = option[2:].partition(".")
        suggestion = _suggest_option(unknown[1], classes.get(top, {}).get(class_name, object), rest, f"--{top}.")
        more = f"`--{top}.help {class_name}` lists its options."
        return f"{class_name} has no option {option}.{unknown[1]}{suggestion}; {more}"
    if unknown := re.search(r"Expected a dot import path string: (.*)", message):
        return _unknown_class(option, unknown[1], classes.get(option[2:], {}))
    if choices := re.findall(r"Expected a typing\.Literal\[(.*?)\](?:$|\. Got)", message, re.MULTILINE):
        values = dict.fromkeys(choice.strip("' ") for part in choices for choice in part.split(","))
        return f"{option} is {value}; choose from {', '.join(values)}."
    if types := [kind for kind in re.findall(r"Expected a <class '([\w.]+)'>", message) if kind != "NoneType"]:
        types = [kind for kind in types if kind != "int" or "float" not in types]
        names = list(dict.fromkeys(TYPE_NAMES.get(kind, kind) for kind in types))
        return f"{option} is {value}; it must be {' or '.join(names)}."
    if missing := re.search(r"File does not exist: '?(.*?)'?$", message, re.MULTILINE):
        return f"{option}: file {missing[1]} does not exist."
    if unknown := re.search(r"unrecognized arguments: (.*)", message, re.DOTALL):
        name = unknown[1].partition("=")[0]
        group, _, word = name.removeprefix("--").partition(".")
        if group in GROUPS:  # an unknown option of a group of --model
            model = next(iter(classes.get("model", {}).values()), object)
            suggestion = _suggest_option(word, model, group, "--model.")
            return f"Unknown option --model.{group}.{word}{suggestion}; --model.help CLASS lists all options."
        return f"Unknown option {name}{suggest(name, option_names)}; --help_all lists all options."
    if missing := re.search(r"argument (\S+): expected one argument", message):
        return f"{missing[1].split('/')[-1]} needs a value."
    return " ".join(message.split())


def _suggest_option(word: str, class_: type, group: str, prefix: str) -> str:
    """Suggest an option of a class, or of an option group that is an argument of it, by its last component."""
    paths: dict[str, str] = {}
    for base in inspect.getmro(class_):
        signature = inspect.signature(base.__init__)  # type: ignore[misc]
        for name, parameter in signature.parameters.items():
            paths[name] = name
            if dataclasses.is_dataclass(parameter.default):
                paths |= {field.name: f"{name}.{field.name}" for field in dataclasses.fields(parameter.default)}
    in_group = {name: path for name, path in paths.items() if group and path.startswith(f"{group}.")}
    suggestion = suggest(word.rpartition(".")[2], in_group or paths)
    return re.sub(r"mean ([\w]+)\?", lambda match: f"mean {prefix}{paths[match[1]]}?", suggestion)


def _unknown_class(option: str, value: str, classes: Mapping[str, Any]) -> str:
    """Return the message for a value of ``--data`` or ``--model`` that is not a class."""
    text = f"{option} is {value}, which is not a {OPTION_KINDS.get(option[2:], 'class')}{suggest(value, classes)}"
    if "/" in value:
        text += " and not an existing folder"
    return f"{text}; choose from {', '.join(classes)}." if classes else f"{text}."
