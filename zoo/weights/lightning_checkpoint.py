"""Read Lightning checkpoints that ``tempozoo fit`` wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import CheckpointError
from zoo.models.lora import merge_adapters
from zoo.weights.files import check_plain, load_pickle, load_tensors
from zoo.weights.pickles import SCALARS

CONFIG_KEY = "tempozoo_config"  # a VideoClassifier writes its network's config under this key
PREFIX = "network."  # of the network's keys in the state dict
# Keys without which a run cannot be resumed.
RUN_KEYS = {"loops", "optimizer_states", "lr_schedulers", "epoch", "global_step", "pytorch-lightning_version"}
MAX_CONFIG = 200_000  # values in a config; the largest, with 21,000 class names, has 22,000
MAX_DEPTH = 50  # of dictionaries and lists in a config


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the network's tensors and config from a ``.ckpt`` file. Nothing in it is executed.

    Low-rank adapters, which a run resumes with, are added to the weights.

    Raises:
        CheckpointError: the file is missing, damaged, or was not written by this package.
    """
    content = _content(path)
    state = {key: value for key, value in content["state_dict"].items() if key.startswith(PREFIX)}
    tensors = load_tensors(path, state)
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    return merge_adapters(tensors), content[CONFIG_KEY]


def read_run(path: Path) -> tuple[dict[str, Any], bool]:
    """Read the network's config from a ``.ckpt`` file, and check whether its run can be resumed from it.

    Raises:
        CheckpointError: as ``read_checkpoint``; also if a part of the run's state has the wrong type.
    """
    content = _content(path)
    for problem in _run_problems(content):
        raise CheckpointError(f"{path} is not an intact checkpoint: {problem}. Use another checkpoint of the run.")
    return content[CONFIG_KEY], set(content) >= RUN_KEYS


def _content(path: Path) -> dict[str, Any]:
    content = load_pickle(path)
    if not isinstance(content, dict) or CONFIG_KEY not in content or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(
            f"{path} is not a Lightning checkpoint of this package: it lacks {CONFIG_KEY!r} or 'state_dict'."
        )
    check_plain(path, content["state_dict"])
    try:
        config = _plain(content[CONFIG_KEY], iter(range(MAX_CONFIG)))
    except ValueError as error:
        raise CheckpointError(f"{path} has an invalid {CONFIG_KEY!r}: {error}.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} has an invalid {CONFIG_KEY!r}: it is a {type(config).__name__}, not a dict.")
    return {**content, CONFIG_KEY: config}


def _plain(value: Any, budget: Iterator[int], depth: int = 0) -> Any:
    """A copy of nested dictionaries, lists and scalars.

    A pickle can nest references to the same list, so that visiting all values takes exponential time. ``budget``
    limits their number.
    """
    if next(budget, None) is None or depth > MAX_DEPTH:
        raise ValueError(f"it has more than {MAX_CONFIG} values, or more than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {key: _plain(inner, budget, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_plain(inner, budget, depth + 1) for inner in value])
    if type(value) not in SCALARS:
        raise ValueError(f"it contains a {type(value).__name__}; only numbers and text are allowed")
    return value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_optimizer(value: Any) -> bool:
    if not _is_dict(value) or not isinstance(value.get("state"), dict) or type(value.get("param_groups")) is not list:
        return False
    groups = all(_is_dict(group) and _are(_is_count, group.get("params")) for group in value["param_groups"])
    return groups and all(_is_count(key) and _is_dict(state) for key, state in value["state"].items())


def _are(check: Callable[[Any], bool], values: Any) -> bool:
    return isinstance(values, list) and all(check(value) for value in values)


EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "epoch": ("an integer of at least 0", _is_count),
    "global_step": ("an integer of at least 0", _is_count),
    "pytorch-lightning_version": ("text", lambda value: isinstance(value, str)),
    "loops": ("a dict of dicts", lambda value: _is_dict(value) and all(_is_dict(loop) for loop in value.values())),
    "callbacks": ("a dict of dicts", lambda value: _is_dict(value) and all(_is_dict(one) for one in value.values())),
    "optimizer_states": (
        "a list of dicts with 'state' (a dict for each parameter's number) and 'param_groups' (with 'params')",
        lambda value: _are(_is_optimizer, value),
    ),
    "lr_schedulers": ("a list of dicts", lambda value: _are(_is_dict, value)),
    "hyper_parameters": ("a dict", _is_dict),
}


def _run_problems(content: dict[str, Any]) -> Iterator[str]:
    """Yield the problems of a run's state. Missing parts are not problems."""
    for key, (expected, check) in EXPECTED.items():
        if key in content and not check(content[key]):
            yield f"{key!r} is not {expected}"
    if not all(isinstance(key, str) for key in content):
        yield "one of its keys is not text"
