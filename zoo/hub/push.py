"""push(): a network with its config, model card and test results -> a repository on the Hub. load() is its inverse."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.adapt import listing
from zoo.arguments import check_flag, check_path, check_text
from zoo.errors import CheckpointError, ConfigError, check_int, check_number
from zoo.hub.card import METRICS, model_card
from zoo.hub.pull import push_folder
from zoo.loading import export, load
from zoo.models import VideoNetwork
from zoo.provenance import COPY_OF, entry_of, fingerprint, hub_repository, public_config
from zoo.text import brief, printable, read_json
from zoo.weights.model_folder import write_model
from zoo.weights.store import find_weights, obtain
from zoo.wrappers import non_finite, unwrap

CARD_FILE, PLOT_FILE, RESULTS_FILE = "README.md", "confusion.png", "test.json"
COUNTS = {"frames": 1, "size": 1, "videos": 1, "left_out": 0}  # with the least that each can be
MAX_COUNT = 10**9


def push(
    model: nn.Module | str | os.PathLike[str],
    repo: str,
    *,
    results: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    license: str | None = None,
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
        dataset: what to call the data of these results ("UCF101, ten classes"), which a test.json does not know.
        license: of the weights, best as the Hub calls it ("apache-2.0").
        private: make a private repository. None: as its owner's default is.
        revision: branch to push to, made if there is none.
        create_pr: open a pull request, also on a repository one may not write to.
        message: of the commit.
        card: text or file to use as model card instead of the generated one, as it stands.
        progress: show progress bars.

    Returns:
        Address of the commit, or of the pull request.

    Raises:
        ConfigError: an argument of the wrong type.
        ConfigError: not a network of this package, one that ``load`` could not build, or with NaN or infinite weights;
            results of other weights; or options that exclude one another.
        HubError: no token, no right to write, no network, ...; nothing was pushed.
    """
    if not isinstance(model, nn.Module):
        check_path("model", model)
    for name, value in {"dataset": dataset, "license": license, "revision": revision, "message": message}.items():
        check_text(name, value, optional=True)
    check_text("repo", repo)
    check_flag("private", private, optional=True)
    check_flag("create_pr", create_pr)
    check_flag("progress", progress)
    given = {"results": results, "dataset": dataset, "license": license}
    told = [f"{name}=" for name, value in given.items() if value is not None]
    if card is not None and told:
        raise ConfigError(f"card= is used as it stands; put what {' and '.join(told)} would tell into it.")
    if dataset is not None and results is None:
        raise ConfigError("dataset= names the data of results=; give these as well.")
    if private is not None and create_pr:
        raise ConfigError("private= is for a repository that push() makes; create_pr= is for one that exists.")
    text = None if card is None else _own_card(card)
    model = unwrap(model) if isinstance(model, nn.Module) else model
    tensors, spec = export(_network(model, progress), "push")
    if bad := non_finite(tensors):
        raise ConfigError(f"cannot push this network: {listing(bad)} hold NaN or infinite values. Nothing was pushed.")
    if callable(of_run := getattr(model, "provenance", None)):  # a VideoClassifier knows its training
        spec = replace(spec, provenance=of_run())
    config = public_config(spec.to_config())
    made = config["provenance"]
    if hub_repository(made.get(COPY_OF)) == repo:
        del made[COPY_OF]
    plots: list[Path] = []
    if text is None:
        found, plots = read_results(results, tensors, dataset) if results is not None else (None, [])
        same, names = _unchanged(tensors, made), [plot.name for plot in plots]
        branch = None if create_pr else revision
        text = model_card(config, repo, revision=branch, results=found, license=license, plots=names, unchanged=same)
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


def read_results(
    results: Mapping[str, Any] | str | os.PathLike[str], tensors: Mapping[str, Tensor], dataset: str | None = None
) -> tuple[dict[str, Any], list[Path]]:
    """What a test measured, in percent, and its plots; see ``push`` for what ``results`` may be.

    "tested" says that it was measured by this package, on these weights.

    Args:
        tensors: of the network; the results of other weights are refused.
        dataset: name of the data, of results that have none.

    Raises:
        ConfigError: no results, of other weights, or with values that cannot be.
    """
    if isinstance(results, Mapping):
        return _checked(({} if dataset is None else {"dataset": dataset}) | dict(results)), []
    if not isinstance(results, (str, os.PathLike)):
        raise ConfigError(f"results is {brief(results)}; give the folder of a test, its test.json, or a dictionary.")
    check_path("results", results)
    path = Path(results)
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        said = read_json(path)
        metrics, protocol, weights = said["metrics"], said["protocol"], said.get("weights")
        found = {key: 100 * metrics[f"test_{key}"] for key in METRICS if f"test_{key}" in metrics}
        found |= {"dataset": f"test videos ({said.get('data') or 'of the author'})" if dataset is None else dataset}
        found |= {"views": f"{protocol['clips']}x{protocol['crops']}"}
        found |= {"frames": protocol["num_frames"], "size": protocol["crop"], "videos": said["videos"]}
        found |= {"left_out": said["listed"] - said["videos"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"[:200]
        raise ConfigError(
            f"{printable(str(path))} is not a {RESULTS_FILE} of `tempozoo test`: {printable(problem)}."
        ) from error
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
    unknown = sorted(brief(key) for key in set(found) - {"dataset", "views", *METRICS, *COUNTS})
    if unknown:
        raise ConfigError(
            f"results: unknown {listing(unknown)}; there are {', '.join(('dataset', *METRICS, 'views', *COUNTS))}."
        )
    if not any(key in found for key in METRICS):
        raise ConfigError(f"results hold none of {', '.join(METRICS)}.")
    for key in METRICS:
        check_number(f"results: the percentage {key}", found.get(key, 0.0), 0, 100)
    if found.get("top5", 100) < found.get("top1", 0):
        raise ConfigError(f"results: top5 is {found['top5']} and top1 {found['top1']}; it cannot be less.")
    for key, least in COUNTS.items():
        check_int(f"results: {key}", found.get(key, least), least, MAX_COUNT)
    if not re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", str(found.get("views", "1x1"))):
        raise ConfigError(f"results: views is {brief(found['views'])}; write clips x crops, such as '2x3'.")
    return {key: round(value, 2) if key in METRICS else value for key, value in found.items()}


def _network(model: Any, progress: bool) -> Any:
    if isinstance(model, (str, os.PathLike)):
        network: Any = load(model, progress=progress)
        report = network.report
        if report.untrained or report.start_only:
            parts = f" (untrained: {', '.join(report.untrained_parts)})" if report.untrained else ""
            raise ConfigError(
                f"{os.fspath(model)} is not a trained video network{parts}. Fine-tune it before pushing it; "
                "`tempozoo mirror` publishes converted weights to start from."
            )
        return network
    network = model if isinstance(unwrap(model), VideoNetwork) else getattr(model, "network", None)
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"push() takes networks of zoo.load or zoo.create, and what zoo.load takes; this "
            f"{type(model).__name__} has no spec."
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
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        if isinstance(card, str) and "\n" in card:
            text = card
        else:
            check_path("card", card)
            text = Path(card).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The card {printable(os.fspath(card))} cannot be read: {error}") from error
    try:
        ModelCard(text)
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:  # its reader checks little
        raise ConfigError(f"The card's metadata are not as the Hub's: {' '.join(str(error).split())}") from error
    return text
