"""Validation of model cards by the Hub on 127.0.0.1: huggingface_hub's parser and the real Hub's rules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id

from zoo.hub.card import LICENSES


class _Yaml12(yaml.SafeLoader):
    """A YAML 1.2 loader, as on the Hub: unlike in PyYAML, 1e3 and 0o17 are numbers."""


_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"(?:[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+|0o[0-7]+)$"), list("-+0123456789")
)
_Yaml12.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value.replace("0o", "0")))


def metadata_of(text: str) -> dict[str, Any]:
    """Return the YAML metadata of a card; {} if it has none."""
    match = REGEX_YAML_BLOCK.search(text)
    return (yaml.load(match.group(2), _Yaml12) or {}) if match else {}


def card_problems(text: str) -> list[str]:
    """List the problems of a card. A card without metadata is valid."""
    try:
        ModelCard(text)  # raises where model-index is no list of results
        metadata = metadata_of(text)
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        return [f"Invalid metadata: {error}"]
    return list(_problems(metadata))


def _problems(metadata: dict[str, Any]) -> Iterator[str]:
    if metadata.get("license", "mit") not in LICENSES.split():
        yield f'"license" must be one of [...], not {metadata["license"]!r}'
    for key in ("library_name", "pipeline_tag", "license_name", "license_link"):
        if not isinstance(metadata.get(key, ""), str):
            yield f'"{key}" must be a string'
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(metadata.get("license_name", "x"))):
        yield '"license_name" must be lower case, without spaces'
    for key in ("tags", "datasets", "metrics"):
        if not isinstance(metadata.get(key, []), list) or not all(
            isinstance(x, str) and x for x in metadata.get(key, [])
        ):
            yield f'"{key}" must be an array of strings'
    base = metadata.get("base_model", [])
    for name in [base] if isinstance(base, str) else base:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            yield f'"base_model" is no model id: {error}'
    for number, model in enumerate(metadata.get("model-index", [])):
        where = f'"model-index[{number}]'
        texts = {f'{where}.name"': model["name"]}
        for result in model["results"]:
            texts |= {f'{where}.task.type"': result["task"]["type"]}
            texts |= {f'{where}.dataset.{key}"': result["dataset"][key] for key in ("name", "type")}
            for metric in result["metrics"]:
                texts |= {f'{where}.metric.type"': metric["type"]}
                value = metric["value"]
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    yield f'{where}.metric.value" must be a number, not {value!r}'
        for key, value in texts.items():
            if not isinstance(value, str) or not value.strip():
                yield f"{key} must be a string, not {value!r}"
