"""Reading and writing of option values and configuration files by the parser (jsonargparse)."""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any

import yaml
from jsonargparse import get_loader, set_dumper, set_loader

from lit_modules.recipe_options import nest_config

PARSER_MODE = "tempozoo"
FIT_ARGUMENTS = ("ckpt_path", "weights_only")
NULLS = ("", "~", "null", "Null", "NULL")


def load_text(text: str) -> Any:
    """Load JSON or YAML. File names that YAML reads as a list, a dictionary or a comment stay text.

    Model options of a configuration file may have their names of earlier versions.

    Raises:
        yaml.YAMLError: the text is neither JSON nor YAML.
    """
    value = _load(text)
    if value is None:
        return None if text.strip() in NULLS else text
    if isinstance(value, (dict, list)) and os.path.lexists(text):
        return text
    return _drop_unset(nest_config(value)) if isinstance(value, dict) else value


def _drop_unset(config: dict[str, Any]) -> dict[str, Any]:
    """Remove null arguments of ``fit``, so that commands without them read ``config.yaml`` of a run."""
    return {key: value for key, value in config.items() if value is not None or key not in FIT_ARGUMENTS}


def _load(text: str) -> Any:
    if text.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)  # before YAML, which refuses names that are not UTF-8
    try:
        return get_loader("yaml")(text)
    except (yaml.YAMLError, UnicodeError, TypeError):  # jsonargparse raises a TypeError for "?"
        return yaml.safe_load(text)  # unlike libyaml, reads escapes of such names


class Dumper(yaml.SafeDumper):
    """YAML dumper that quotes text such as "1e3", which jsonargparse, unlike PyYAML, reads as a number."""


EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def dump_text(value: Any) -> str:
    """Return YAML that ``load_text`` reads."""
    return yaml.dump(value, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


set_loader(PARSER_MODE, load_text, exceptions=(yaml.YAMLError, UnicodeError))
set_dumper(PARSER_MODE, dump_text)
