"""push(): a network with its config, model card and test results -> a repository on the Hub. load() is its inverse."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.card import METRICS, entry_of, model_card, public_config
from zoo.errors import CheckpointError, ConfigError
from zoo.hub.folders import write_model
from zoo.hub.hf import push_folder
from zoo.index import load_index
from zoo.loading import config_now, load
from zoo.published import find_weights, obtain

CARD_FILE, PLOT_FILE, RESULTS_FILE = "README.md", "confusion.png", "test.json"
PUBLISHED = ("file", "sha256", "size", "package")  # what provenance says of an entry's file
COUNTS = ("frames", "size", "videos", "left_out")


def push(
    model: nn.Module | str | os.PathLike[str],
    repo: str,
    *,
    results: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    licence: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    card: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> str:
    """Push a network to the Hub in one commit: weights, config.json, a model card; but no path of this machine.

    Args:
        model: a network of ``zoo.load`` or ``zoo.create``, a module with such a ``.network`` (a VideoClassifier), or
            anything ``zoo.load`` takes: a ``.ckpt``, a folder, a name.
        repo: "user/repo". It is made if there is none.
        results: of a test of these weights: the folder that ``tempozoo test`` wrote, or its test.json; or a dictionary
            with "dataset" and, in percent, "top1", "top5", "mean_class"; optionally "views" ("2x3": clips x crops),
            "frames", "size", "videos", "left_out".
        licence: of the weights, best as the Hub calls it ("apache-2.0").
        private: make a private repository. None: as its owner's default is.
        revision: branch to push to, made if there is none.
        create_pr: open a pull request, also on a repository one may not write to.
        message: of the commit.
        card: text or file to use as model card instead of the generated one.
        progress: show progress bars.

    Returns:
        Address of the commit, or of the pull request.

    Raises:
        ConfigError: not a network of this package, or results of other weights.
        HubError: no token, no right to write, no network, ...; nothing was pushed.
    """
    network = _network(model, progress)
    tensors, config = network.state_dict(), public_config(config_now(network))
    if network.report.name in load_index().entries and network.report.source is not None:
        made = config["provenance"]  # an entry's own training is not that of these weights, if they were changed since
        config["provenance"] = {"entry": network.report.name, "sha256": network.report.sha256}
        config["provenance"] |= {key: made[key] for key in made if key in PUBLISHED}
    found, plots = read_results(results, tensors) if results is not None else (None, [])
    if card is None:
        same = _unchanged(tensors, config["provenance"])
        names = [plot.name for plot in plots]
        text = model_card(config, repo, results=found, licence=licence, plots=names, unchanged=same)
    else:
        text = _own_card(card)
    with tempfile.TemporaryDirectory() as place:
        folder = write_model(Path(place), tensors, config)
        (folder / CARD_FILE).write_text(text, encoding="utf-8")
        for plot in plots:
            shutil.copyfile(plot, folder / plot.name)
        return push_folder(
            folder,
            repo,
            private=private,
            revision=revision,
            create_pr=create_pr,
            message=message or f"Upload {config['arch']}",
            progress=progress,
        )


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """One sha256 for all tensors by name, type, shape and content, wherever they are and however they are saved."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_results(
    results: Mapping[str, Any] | str | os.PathLike[str], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], list[Path]]:
    """What a test measured, in percent, and its plots; see ``push`` for what ``results`` may be.

    "tested" says that it was measured by this package, on these weights.

    Args:
        tensors: of the network; the results of other weights are refused.

    Raises:
        ConfigError: no results, of other weights, or with values that cannot be.
    """
    if isinstance(results, Mapping):
        return _checked(dict(results)), []
    path = Path(results)
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        metrics, protocol, weights = said["metrics"], said["protocol"], said.get("weights")
        found = {key: 100 * metrics[f"test_{key}"] for key in METRICS if f"test_{key}" in metrics}
        found |= {"dataset": f"test videos ({said.get('data') or 'of the author'})"}
        found |= {"views": f"{protocol['clips']}x{protocol['crops']}"}
        found |= {"frames": protocol["num_frames"], "size": protocol["crop"], "videos": said["videos"]}
        found |= {"left_out": said["listed"] - said["videos"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a {RESULTS_FILE} of `tempozoo test`: {error!r}.") from error
    if weights is None:
        raise ConfigError(f"{path} does not say which weights were tested; run `tempozoo test` again.")
    if weights != fingerprint(tensors):
        raise ConfigError(
            f"{path} is a test of other weights than those to be pushed (or in another precision); test these ones."
        )
    plot = path.with_name(PLOT_FILE)
    return _checked(found) | {"tested": True}, [plot] if plot.is_file() else []


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(found.get("dataset"), str) or not found["dataset"].strip():
        raise ConfigError("results need a name of the data under 'dataset'.")
    unknown = sorted(set(found) - {"dataset", "views", *METRICS, *COUNTS})
    if unknown:
        raise ConfigError(
            f"results: unknown {', '.join(unknown)}; there are {', '.join((*METRICS, *COUNTS, 'views'))}."
        )
    if not any(key in found for key in METRICS):
        raise ConfigError(f"results hold none of {', '.join(METRICS)}.")
    for key in METRICS:
        value = found.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
            raise ConfigError(f"results: {key} is {value!r}; it must be a percentage.")
    for key in COUNTS:
        if not isinstance(found.get(key, 0), int):
            raise ConfigError(f"results: {key} is {found[key]!r}; it must be a whole number.")
    if not re.fullmatch(r"\d+x\d+", str(found.get("views", "1x1"))):
        raise ConfigError(f"results: views is {found['views']!r}; write clips x crops, such as '2x3'.")
    return {key: round(value, 2) if key in METRICS else value for key, value in found.items()}


def _network(model: Any, progress: bool) -> Any:
    if isinstance(model, (str, os.PathLike)):
        network: Any = load(model, progress=progress)
        if network.report.initialised:
            raise ConfigError(
                f"{os.fspath(model)} is a start for fine-tuning: {len(network.report.initialised)} of its tensors were "
                "never trained. Train it first; converted starts are published with `tempozoo mirror`."
            )
        return network
    network = model if hasattr(model, "config") else getattr(model, "network", None)
    if not isinstance(getattr(network, "config", None), Mapping) or "arch" not in network.config:
        raise ConfigError(
            f"push() takes networks of zoo.load or zoo.create, and what zoo.load takes; this "
            f"{type(model).__name__} has no config."
        )
    return network


def _unchanged(tensors: Mapping[str, Tensor], made: Mapping[str, Any]) -> bool:
    """Whether these are, bit for bit, the weights of the index entry that they are said to come from."""
    entry = entry_of(made)
    if entry is None or entry.init or find_weights(entry) is None:
        return False
    with contextlib.suppress(CheckpointError):
        return fingerprint(obtain(entry, progress=False).tensors) == fingerprint(tensors)
    return False


def _own_card(card: str | os.PathLike[str]) -> str:
    if isinstance(card, str) and "\n" in card:
        return card
    try:
        return Path(card).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The card {os.fspath(card)} cannot be read: {error}") from error
