"""Publish a network's web page as a Space of the Hugging Face Hub.

A Space contains the source of ``zoo``: tempozoo is not on PyPI, and Spaces install requirements before their own files
are available, so a wheel in the Space could not be installed.
"""

from __future__ import annotations

import re
import shutil
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from sys import version_info
from typing import Any

import zoo
from zoo.errors import ConfigError, HubError
from zoo.hub.client import LIBRARY, client, progress_bars, push_errors
from zoo.hub.pull import check_access
from zoo.index import packaged_index
from zoo.weights.locations import HUB_PREFIX

PACKAGE = "tempozoo"  # distribution
GRADIO = "6.31.0"  # version that Spaces install; the tested one
TRAINING = ("lightning", "torchmetrics", "jsonargparse", "scikit-learn", "scipy")  # dependencies that zoo does not use
EXACT = ("torch", "torchvision", "numpy", "av", "safetensors")  # other versions may change scores
README = """---
title: "{title}"
emoji: 🎬
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
models:
- {repo}
tags:
- {library}
license: apache-2.0
---

Classifies videos with [{repo}](https://huggingface.co/{repo}). Written by {package} {version}; `zoo/` is its source.

If the network is private, add a token that may read it as the secret `HF_TOKEN` in the settings of this Space.
"""
APP = '''"""Web page of the network {name}."""

import os

from zoo.inference.app import run_app

if __name__ == "__main__":
    run_app(["{name}"], host="0.0.0.0", port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
'''


def space_name(space: str, repo: str) -> str:
    """Return "user/space" of a Space: "" stands for the name of the repository, "space" has its owner."""
    if not space:
        return repo
    return space if "/" in space else f"{repo.split('/')[0]}/{space}"


def space_url(space: str) -> str:
    """Return the URL of a Space."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/spaces/{space}"


def check_space(space: str, *, private: bool | None = None) -> None:
    """Check that ``push_space`` may create or update a Space, as far as the Hub allows without a push.

    Raises:
        HubError: no token or write access; or the Space exists and has another SDK, other files or visibility.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    check_access(space)
    with push_errors(space):
        try:
            info = client(space).space_info(space)
        except RepositoryNotFoundError:
            return
        if info.sdk not in (None, "gradio"):
            raise HubError(f"The Space {space} exists already and uses {info.sdk}, not Gradio. Choose another name.")
        if LIBRARY not in (info.tags or ()) and any(file.rfilename == "app.py" for file in info.siblings or ()):
            raise HubError(f"The Space {space} exists already and has another app.py. Choose another name.")
        if private is not None and bool(info.private) != private:
            raise HubError(
                f"The Space {space} exists already and is {'private' if info.private else 'public'}. Change that in "
                "its settings on the Hub, or choose another name."
            )


def push_space(
    space: str, repo: str, folder: Path, *, revision: str | None = None, private: bool | None = None,
    progress: bool = True,
) -> None:  # fmt: skip
    """Create or update a Space in one commit, which also removes files of ``zoo`` that no longer exist.

    Args:
        space: "user/space".
        repo: "user/repo" of a network of this package on the Hub.
        folder: empty folder, in which the files are created.
        revision: branch of the network.
        private: whether a new Space is private. None: the owner's default.
        progress: show progress bars.

    Raises:
        ConfigError: the package is not installed, so that its dependencies are unknown.
        HubError: the Hub refused the push, or it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    write_space(folder, repo, revision)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    with push_errors(space), progress_bars(progress):
        api = client(space)
        api.create_repo(space, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        old = [name for name in api.list_repo_files(space, repo_type="space") if name.startswith("zoo/")]
        operations: list[Any] = [CommitOperationAdd(name, folder / name) for name in sorted(names)]
        operations += [CommitOperationDelete(name) for name in old if name not in names]
        api.create_commit(space, operations, commit_message=f"Web page of {repo}", repo_type="space")


def write_space(folder: Path, repo: str, revision: str | None = None) -> None:
    """Write the files of a Space: README.md, app.py, requirements.txt and the source of ``zoo``.

    Raises:
        ConfigError: the package is not installed, so that its dependencies are unknown.
    """
    facts = {
        "title": repo.split("/")[1],
        "gradio": GRADIO,
        "python": f"{version_info.major}.{version_info.minor}",
        "repo": repo,
        "library": LIBRARY,
        "package": PACKAGE,
        "version": zoo.__version__,
    }
    name = HUB_PREFIX + repo + ("" if revision in (None, "main") else f"@{revision}")
    (folder / "README.md").write_text(README.format(**facts), encoding="utf-8")
    (folder / "app.py").write_text(APP.format(name=name), encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join([*requirements(), ""]), encoding="utf-8")
    source = Path(zoo.__file__).parent
    shutil.copytree(source, folder / "zoo", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    shutil.copyfile(packaged_index(), folder / "zoo" / packaged_index().name)
    (folder / "zoo" / "version.py").write_text(
        f'"""Version of the package that wrote this Space."""\n\n__version__ = "{zoo.__version__}"\n', encoding="utf-8"
    )
    if license_text := distribution(PACKAGE).read_text("licenses/LICENSE"):
        (folder / "LICENSE").write_text(license_text, encoding="utf-8")


def requirements() -> list[str]:
    """Return the dependencies of ``zoo`` as lines of a requirements.txt.

    Packages that affect the scores have exactly the installed version, without its local part such as "+cpu".

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        declared = distribution(PACKAGE).requires or []
    except PackageNotFoundError as error:
        raise ConfigError(f"{PACKAGE} is not installed, so its dependencies are unknown: pip install .") from error
    lines = []
    for line in declared:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        if ";" in line or name in TRAINING:  # dependencies with markers belong to extras
            continue
        lines.append(f"{name}=={version(name).partition('+')[0]}" if name in EXACT else line)
    return lines
