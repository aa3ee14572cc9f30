"""Push a network with its config, model card and test results to the Hub; ``zoo.load`` reads it back."""

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

from zoo.arguments import check_flag, check_path, check_text
from zoo.errors import CheckpointError, ConfigError, HubError, check_int, check_number
from zoo.hub.card import METRICS, model_card
from zoo.hub.pull import push_folder
from zoo.hub.space import check_space, push_space, requirements
from zoo.loading import export, load
from zoo.models import VideoNetwork
from zoo.provenance import COPY_OF, entry_of, fingerprint, hub_repository, public_config
from zoo.text import brief, listing, printable, read_json
from zoo.weights.locations import find_weights
from zoo.weights.model_folder import write_model
from zoo.weights.store import get_weights
from zoo.wrappers import non_finite, unwrap

CARD_FILE, PLOT_FILE, RESULTS_FILE = "README.md", "confusion.png", "test.json"
MIN_COUNTS = {"frames": 1, "size": 1, "videos": 1, "left_out": 0}
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
    space: str | None = None,
    progress: bool = True,
) -> str:
    """Push a network to the Hub in one commit: weights, config.json and a model card. Local paths are not published.

    Args:
        model: a network of ``zoo.load`` or ``zoo.create``, a module with such a ``.network`` (a VideoClassifier), or
            anything ``zoo.load`` accepts: a ``.ckpt`` file, a folder, a name.
        repo: "user/repo". It is created if it does not exist.
        results: test results of these weights: the folder or test.json of ``tempozoo test``, or a dictionary with
            "dataset" and, in percent, "top1", "top5", "mean_class"; optionally "views" ("2x3": clips x crops),
            "frames", "size", "videos", "left_out".
        dataset: name of the test data ("UCF101, ten classes"), which a test.json lacks.
        license: license of the weights, preferably an identifier of the Hub ("apache-2.0").
        private: create a private repository. None: the owner's default.
        revision: branch to push to, created if it does not exist.
        create_pr: open a pull request, which does not require write access.
        message: commit message.
        card: text or file of a complete model card that replaces the generated one.
        space: "user/space" of a Space that is created or updated afterwards: a web page that runs the network.
        progress: show progress bars.

    Returns:
        URL of the commit, or of the pull request.

    Raises:
        ConfigError: an argument has the wrong type or excludes another one; the network is not one of this package, or
            has NaN or infinite weights; or the results do not belong to these weights.
        HubError: there is no token, write access or connection; nothing was pushed.
    """
    _check_types(model, repo, dataset, license, private, revision, create_pr, message, space, progress)
    _check_combination(results, dataset, license, private, create_pr, card, space)
    card_text = None if card is None else _read_card(card)
    tensors, config = _export(model, repo, progress)
    plots: list[Path] = []
    if card_text is None:
        branch = None if create_pr else revision
        card_text, plots = _generate_card(tensors, config, repo, results, dataset, branch, license)
    message = message or f"Upload {config['arch']}"
    if space is not None:
        _check_space(space, config, private)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_model(Path(scratch), tensors, config)
        _add_card(folder, card_text, plots)
        url = push_folder(
            folder, repo, private=private, revision=revision, create_pr=create_pr, message=message, progress=progress
        )
    if space is not None:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                push_space(space, repo, Path(scratch), revision=revision, private=private, progress=progress)
            except HubError as error:
                raise HubError(f"{repo} was pushed ({url}), but the Space {space} was not: {error}") from error
    return url


def _check_space(space: str, config: Mapping[str, Any], private: bool | None) -> None:
    """Check everything that could prevent the Space, before the network is pushed."""
    if config["options"]["num_classes"] == 0:
        raise ConfigError("space= needs a network with a classifier, but num_classes is 0. Omit space=.")
    requirements()
    check_space(space, private=private)


def _add_card(folder: Path, card: str, plots: list[Path]) -> None:
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    for plot in plots:
        shutil.copyfile(plot, folder / plot.name)


def _check_types(
    model: Any, repo: Any, dataset: Any, license: Any, private: Any, revision: Any, create_pr: Any, message: Any,
    space: Any, progress: Any,
) -> None:  # fmt: skip
    if not isinstance(model, nn.Module):
        check_path("model", model)
    texts = {"dataset": dataset, "license": license, "revision": revision, "message": message, "space": space}
    for name, value in texts.items():
        check_text(name, value, optional=True)
    check_text("repo", repo)
    check_flag("private", private, optional=True)
    check_flag("create_pr", create_pr)
    check_flag("progress", progress)


def _check_combination(
    results: Any, dataset: str | None, license: str | None, private: bool | None, create_pr: bool, card: Any,
    space: str | None,
) -> None:  # fmt: skip
    """Raise a ConfigError for arguments of ``push`` that exclude one another."""
    card_facts = {"results": results, "dataset": dataset, "license": license}
    unused = [f"{name}=" for name, value in card_facts.items() if value is not None]
    if card is not None and unused:
        raise ConfigError(f"card= replaces the whole model card. Write {' and '.join(unused)} into it instead.")
    if dataset is not None and results is None:
        raise ConfigError("dataset= names the data of results=. Pass results= too.")
    if private is not None and create_pr:
        raise ConfigError("private= applies to a new repository, create_pr= to an existing one. Pass only one of them.")
    if space is not None and create_pr:
        raise ConfigError("space= runs a pushed network, which a pull request is not. Omit create_pr= or space=.")


def _export(
    model: nn.Module | str | os.PathLike[str], repo: str, progress: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors to push and their config without private facts."""
    model = unwrap(model) if isinstance(model, nn.Module) else model
    tensors, spec = export(_network(model, progress), "push")
    if invalid := non_finite(tensors):
        raise ConfigError(
            f"cannot push this network: {listing(invalid)} contain NaN or infinite values. Nothing was pushed."
        )
    if callable(provenance := getattr(model, "provenance", None)):  # a VideoClassifier describes its training
        spec = replace(spec, provenance=provenance())
    config = public_config(spec.to_config())
    if hub_repository(config["provenance"].get(COPY_OF)) == repo:  # a repository is not a copy of itself
        del config["provenance"][COPY_OF]
    return dict(tensors), config


def _generate_card(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    repo: str,
    results: Any,
    dataset: str | None,
    branch: str | None,
    license: str | None,
) -> tuple[str, list[Path]]:
    """Return a model card, and the paths of the plots in it."""
    if results is not None and config["options"]["num_classes"] == 0:
        raise ConfigError("results= requires a network with a classifier, but num_classes is 0. Omit results=.")
    metrics, plots = (None, []) if results is None else read_results(results, tensors, dataset)
    card = model_card(
        config,
        repo,
        revision=branch,
        results=metrics,
        license=license,
        plots=[plot.name for plot in plots],
        unchanged=_is_unchanged(tensors, config["provenance"]),
    )
    return card, plots


def read_results(
    results: Mapping[str, Any] | str | os.PathLike[str], tensors: Mapping[str, Tensor], dataset: str | None = None
) -> tuple[dict[str, Any], list[Path]]:
    """Read and check test results. Returns them, in percent, and the paths of their plots.

    The key "tested" is added to results that this package measured on these weights.

    Args:
        results: see ``push``.
        tensors: tensors of the network. Results of other weights are rejected.
        dataset: name of the data, if the results have none.

    Raises:
        ConfigError: the results are unreadable, are those of other weights, or have impossible values.
    """
    if isinstance(results, Mapping):
        return _check_results(({} if dataset is None else {"dataset": dataset}) | dict(results)), []
    if not isinstance(results, (str, os.PathLike)):
        raise ConfigError(f"results is {brief(results)}. Pass the folder of a test, its test.json, or a dictionary.")
    check_path("results", results)
    path = Path(results)
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        report = read_json(path)
        metrics, protocol, weights = report["metrics"], report["protocol"], report.get("weights")
        values = {key: 100 * metrics[f"test_{key}"] for key in METRICS if f"test_{key}" in metrics}
        values |= {"dataset": f"test videos ({report.get('data') or 'of the author'})" if dataset is None else dataset}
        values |= {"views": f"{protocol['clips']}x{protocol['crops']}"}
        values |= {"frames": protocol["num_frames"], "size": protocol["crop"], "videos": report["videos"]}
        values |= {"left_out": report["listed"] - report["videos"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"[:200]
        raise ConfigError(
            f"{printable(str(path))} is not a {RESULTS_FILE} of `tempozoo test`: {printable(problem)}."
        ) from error
    if weights is None:
        raise ConfigError(f"{path} lacks the fingerprint of the tested weights. Run `tempozoo test` again.")
    if weights != fingerprint(tensors):
        raise ConfigError(
            f"{path} belongs to other weights, or to the same weights in another precision. Test the weights to push."
        )
    plot = path.with_name(PLOT_FILE)
    return _check_results(values) | {"tested": True}, [plot] if plot.is_file() else []


def _check_results(values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(values.get("dataset"), str) or not values["dataset"].strip():
        raise ConfigError("results lack the name of the data. Add it under 'dataset'.")
    unknown = sorted(brief(key) for key in set(values) - {"dataset", "views", *METRICS, *MIN_COUNTS})
    if unknown:
        raise ConfigError(
            f"results: unknown {listing(unknown)}. The valid keys are "
            f"{', '.join(('dataset', *METRICS, 'views', *MIN_COUNTS))}."
        )
    if not any(key in values for key in METRICS):
        raise ConfigError(f"results have none of {', '.join(METRICS)}.")
    for key in METRICS:
        check_number(f"results: the percentage {key}", values.get(key, 0.0), 0, 100)
    if values.get("top5", 100) < values.get("top1", 0):
        raise ConfigError(f"results: top5 is {values['top5']} and top1 {values['top1']}; top5 must not be lower.")
    for key, minimum in MIN_COUNTS.items():
        check_int(f"results: {key}", values.get(key, minimum), minimum, MAX_COUNT)
    if not re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", str(values.get("views", "1x1"))):
        raise ConfigError(f"results: views is {brief(values['views'])}. Write clips x crops, such as '2x3'.")
    return {key: round(value, 2) if key in METRICS else value for key, value in values.items()}


def _network(model: Any, progress: bool) -> Any:
    """Return the network of a module, or load it; raise a ConfigError if a loaded network is not trained."""
    if isinstance(model, (str, os.PathLike)):
        network: Any = load(model, progress=progress)
        report = network.report
        if report.untrained or report.start_only:
            parts = f" (untrained: {', '.join(report.untrained_parts)})" if report.untrained else ""
            raise ConfigError(
                f"{os.fspath(model)} is not a trained video network{parts}. Fine-tune it before pushing it. "
                "`tempozoo mirror` publishes converted starting weights."
            )
        return network
    network = model if isinstance(unwrap(model), VideoNetwork) else getattr(model, "network", None)
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"push() accepts networks of zoo.load or zoo.create, and names and files that zoo.load accepts; this "
            f"{type(model).__name__} has no spec."
        )
    return network


def _is_unchanged(tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> bool:
    """Return whether the tensors equal, bit for bit, the weights of the index entry in their provenance."""
    entry = entry_of(provenance)
    if entry is None or entry.init or find_weights(entry) is None:
        return False
    with contextlib.suppress(CheckpointError):
        return fingerprint(get_weights(entry, progress=False).tensors) == fingerprint(tensors)
    return False


def _read_card(card: str | os.PathLike[str]) -> str:
    """Return the text of a user's model card, after checking its metadata."""
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
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:  # ModelCard does not validate types
        raise ConfigError(f"The card's metadata are invalid: {' '.join(str(error).split())}") from error
    return text
