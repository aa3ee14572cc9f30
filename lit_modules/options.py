"""Options of the commands that Lightning runs: what they are for, and what is wrong with one, in one line."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

KINDS = {"data": "data set", "model": "recipe"}
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}

NETWORK = "X is an index name, a folder, a .ckpt or hf-hub:user/repo. --out FOLDER says where to write."
UNTRAINED = "--allow_untrained runs networks with untrained parts, which are refused otherwise."
HELP = {  # of the commands that Lightning runs: what stands behind them, and what they do
    "fit": (
        "--config RECIPE [options], or --model CLASS --data CLASS [options]",
        f"Train; --from X starts from other weights than the recipe's. {NETWORK}",
    ),
    "validate": ("--from X --data CLASS [options]", f"Score the validation videos. {NETWORK} {UNTRAINED}"),
    "test": (
        "--from X --data CLASS [options], or --entry NAME --data FOLDER [options]",
        f"Score the test videos, with the views of the network's protocol. {NETWORK} With --entry and an index name, "
        "--data is the folder of its data set. --views CLIPSxCROPS, such as 4x3, chooses other views. "
        f"{UNTRAINED}",
    ),
    "predict": (
        "--from X [options] FILES",
        f"Classify FILES: videos, folders of videos, or addresses of shards. {NETWORK} "
        "--views CLIPSxCROPS, such as 4x3, or --views published chooses the views of a video; the default is 1x1. "
        f"{UNTRAINED}",
    ),
}


def format_parser_error(message: str, classes: Mapping[str, Mapping[str, Any]]) -> str:
    """A message of the parser (jsonargparse), which has some 25 lines, in the words of the one who typed.

    Args:
        message: as the parser gives it, over many lines.
        classes: name -> class that ``--data`` and ``--model`` may be.
    """
    option = "--" + ".".join(re.findall(r'Parser key "([\w.+]+)"', message))
    found = re.search(r"given class_path '([\w.]+)'", message)
    chosen = found[1].split(".")[-1] if found else ""
    given = re.search(r"Got value: (.*)|Given value: (.*)", message)
    value = next(filter(None, given.groups()), "") if given else ""
    help_ = f"`{option}.help {chosen}` lists its options."
    if missing := re.search(r"arguments are required: (\w+)", message):
        return f"{option}.{missing[1]} is missing: {chosen} needs it. {help_}"
    if unknown := re.search(r"Option '([\w.]+)' is not accepted", message):
        every = inspect.getmro(classes.get(option[2:], {}).get(chosen, object))
        known = [name for one in every for name in inspect.signature(one.__init__).parameters]
        return f"{option}.{unknown[1]} is no option of {chosen}{_meant(unknown[1], known, f'{option}.')}; {help_}"
    if unknown := re.search(r"Expected a dot import path string: (.*)", message):
        known = classes.get(option[2:], {})
        names = f"; choose from {', '.join(known)}" if known else ""
        return f"{option} {unknown[1]} is no {KINDS.get(option[2:], 'class')}{_meant(unknown[1], known)}{names}."
    if choices := re.findall(r"Expected a typing\.Literal\[(.*?)\]$", message, re.MULTILINE):
        every = dict.fromkeys(choice.strip("' ") for part in choices for choice in part.split(","))
        return f"{option} is {value}; choose from {', '.join(every)}."
    if types := [kind for kind in re.findall(r"Expected a <class '([\w.]+)'>", message) if kind != "NoneType"]:
        return f"{option} is {value}; it must be {' or '.join(dict.fromkeys(TYPES.get(kind, kind) for kind in types))}."
    if missing := re.search(r"File does not exist: '?(.*?)'?$", message, re.MULTILINE):
        return f"{option}: there is no file {missing[1]}."
    if unknown := re.search(r"unrecognized arguments: (.*)", message):
        return f"{unknown[1]} is no option; --help lists them."
    if missing := re.search(r"argument (\S+): expected one argument", message):
        return f"{missing[1]} needs a value."
    return " ".join(message.split())


def _meant(word: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word.lower(), {name.lower(): name for name in known}, 1, 0.5)
    names = [name for name in known if close and name.lower() == close[0]]
    return f" (did you mean {prefix}{names[0]}?)" if names else ""
