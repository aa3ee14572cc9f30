"""Download networks from the Hugging Face Hub, and push folders to it. Each uses a single commit."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import CheckpointError, DownloadError, HubError, UnknownNameError, WeightsNotFoundError
from zoo.hub.client import (
    LIBRARY,
    LOG_IN,
    check_token,
    client,
    download_errors,
    first_line,
    progress_bars,
    push_errors,
)
from zoo.hub.hub_files import cache_file, describe_file, download, list_commit, record_revision, with_retries
from zoo.settings import offline
from zoo.text import one_line
from zoo.weights.disk import atomic_path
from zoo.weights.locations import CONFIG_FILE, HUB_PREFIX, WEIGHTS_FILE

log = logging.getLogger("zoo")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def download_hub_folder(
    name: str,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    *,
    folder: str = "",
    force: bool = False,
) -> Path:
    """Download weights and config of ``hf-hub:user/repo[@revision]`` and return their local folder.

    Both files are of the same commit, and no others are downloaded. Cached files are used offline, and when the Hub
    does not answer.

    Args:
        name: the repository, optionally with a branch, tag or commit.
        cache_dir: replaces the Hub's own cache, whose location HF_HOME sets.
        progress: show progress bars.
        folder: subfolder of the repository with the two files.
        force: download the files even if they are cached, to replace damaged ones.

    Raises:
        UnknownNameError: no such repository or revision.
        DownloadError: the repository is gated, the Hub refuses the token, or the download failed.
        WeightsNotFoundError: not cached, and downloads are disabled.
        CheckpointError: the repository has no network of this package.
    """
    repo, revision = split_name(name)
    files = [f"{folder}/{file}" if folder else file for file in (WEIGHTS_FILE, CONFIG_FILE)]
    with download_errors(name, repo, revision or ""):
        cache = hub_cache(cache_dir)
        cached = _cached(repo, files, revision, cache)
        if offline():
            if cached is None:
                raise WeightsNotFoundError(
                    f"{name} is not completely in the local Hub cache, and HF_HUB_OFFLINE or TEMPOZOO_OFFLINE is set. "
                    "Unset it, or download the repository on another machine and pass its folder."
                )
            return cached / folder
        if cached is not None and not force and cached.name == revision:
            return cached / folder
        return _download_commit(repo, files, revision, cache, cached, force, progress) / folder


def split_name(name: str) -> tuple[str, str | None]:
    """Split ``hf-hub:user/repo[@revision]`` into repository and revision."""
    repo, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if revision and (
        not re.fullmatch(r"\w[\w./+-]*", revision) or ".." in revision
    ):  # the revision becomes a path in the cache
        raise UnknownNameError(f"{one_line(repr(revision))} is not a branch, tag or commit of {repo}.")
    return repo, revision or None


def hub_cache(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Return the folder of the Hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir).expanduser().resolve()


def _cached(repo: str, files: Sequence[str], revision: str | None, cache: Path) -> Path | None:
    """Return the folder of the commit that was last downloaded for a revision; None unless it has all files."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        paths = [
            hf_hub_download(repo, file, revision=revision, cache_dir=cache, local_files_only=True) for file in files
        ]
    except LocalEntryNotFoundError:
        return None
    return Path(paths[0]).parents[files[0].count("/")]


def _download_commit(
    repo: str, files: Sequence[str], revision: str | None, cache: Path, cached: Path | None, force: bool, progress: bool
) -> Path:
    """Return the folder of a revision's current commit with all files, or the cached one if the Hub fails."""
    from huggingface_hub.errors import RevisionNotFoundError

    check_token(DownloadError)
    try:
        commit, names = with_retries(lambda: list_commit(repo, revision), None if cached is None else ())
    except RevisionNotFoundError:
        raise
    except Exception as error:  # of the client or its transport
        if cached is None or force:
            raise
        log.warning("%s: using the cached copy (%s), because the Hub failed: %s", repo, cached, first_line(error))
        return cached
    if cached is not None and not force and cached.name == commit:
        return cached
    _check_files(repo, files, names)
    paths = [cache_file(repo, file, commit, cache, force=force, progress=progress) for file in files]
    if revision != commit:
        # after the downloads, so that the recorded commit is complete when it is needed offline
        record_revision(repo, revision or "main", commit, cache)
    return paths[0].parents[files[0].count("/")]


def _check_files(repo: str, expected: Sequence[str], files: Sequence[str]) -> None:
    missing = [file for file in expected if file not in files]
    if not missing:
        return
    pickles = [file for file in files if file.endswith(PICKLES)]
    problem = f"{repo} has no {' and no '.join(missing)}, so it was not written by this package"
    if pickles and not any(file.endswith(".safetensors") for file in files):
        raise CheckpointError(
            f"{problem}. Its weights are pickles ({', '.join(pickles[:4])}), which can run code and are never loaded "
            "from the Hub. Ask its author for safetensors."
        )
    raise CheckpointError(f"{problem} (pickles are never loaded from the Hub).")


def download_hub_file(name: str, file: str, folder: Path, progress: bool = True) -> Path:
    """Download one file of ``hf-hub:user/repo[@revision]``, in any format, into ``folder``, and return its path.

    Raises:
        UnknownNameError, DownloadError, WeightsNotFoundError: as ``download_hub_folder``.
    """
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    repo, revision = split_name(name)
    if offline():
        raise WeightsNotFoundError(f"{name} needs a download, but HF_HUB_OFFLINE or TEMPOZOO_OFFLINE is set. Unset it.")
    check_token(DownloadError)
    with download_errors(name, repo, revision or ""):
        validate_repo_id(repo)
        try:
            remote = describe_file(repo, file, revision)
        except EntryNotFoundError as error:
            raise DownloadError(f"{name} has no file {file}.") from error
        target = folder / Path(file).name
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            download(remote, temporary, progress)
        return target


# push ----------------------------------------------------------------------------------------------------------------


def push_folder(
    folder: Path,
    repo: str,
    *,
    subfolder: str = "",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Upload network",
    progress: bool = True,
) -> str:
    """Push a folder's files to a repository of the Hub in one commit. Other files in the repository are not changed.

    Args:
        folder: all of its files are pushed, with their paths relative to it.
        repo: "user/repo". It is created if it does not exist, except for a pull request.
        subfolder: folder of the repository for the files.
        private: whether a new repository is private. None: the owner's default.
        revision: branch, created from main if it does not exist. With ``create_pr``, the branch to merge into.
        create_pr: open a pull request, for repositories without write access.
        message: commit message.
        progress: show progress bars.

    Returns:
        URL of the commit or the pull request.

    Raises:
        HubError: the folder has no files, the Hub refused the push, or it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd

    names = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    if not names:
        raise HubError(f"{folder} has no files, so there is nothing to push to {repo}.")
    with push_errors(repo), progress_bars(progress):
        api = client(repo)
        if not create_pr:
            api.create_repo(repo, private=private, exist_ok=True)
            info = api.model_info(repo)
            if private is not None and bool(info.private) != private:
                raise HubError(
                    f"{repo} exists already and is {'private' if info.private else 'public'}. Change that in its "
                    "settings on the Hub, or push to another repository."
                )
            if info.library_name not in (None, LIBRARY):
                raise HubError(f"{repo} has a model of {info.library_name}. Push to another repository.")
            if revision is not None and revision != "main" and not revision.startswith("refs/"):
                api.create_branch(repo, branch=revision, exist_ok=True)
        operations = [
            CommitOperationAdd(f"{subfolder}/{name}" if subfolder else name, Path(folder) / name) for name in names
        ]
        commit = api.create_commit(repo, operations, commit_message=message, revision=revision, create_pr=create_pr)
        return str(commit.pr_url or commit.commit_url)


def check_access(repo: str, *, create_pr: bool = False) -> None:
    """Check token, permissions and name for a later ``push_folder``, as far as the Hub allows without a push.

    Raises:
        HubError: missing or invalid token, no write access, invalid name, or no network.
    """
    with push_errors(repo):
        me = client(repo).whoami()
        role = me.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise HubError(f"The token of {me['name']} is read-only. To push to {repo}, {LOG_IN} with write access.")
        owner = repo.split("/")[0]
        orgs = {org["name"]: org.get("roleInOrg") for org in me.get("orgs", [])}
        # the Hub does not list the permissions of fine-grained tokens
        if create_pr or role == "fineGrained" or owner == me["name"]:
            return
        if owner not in orgs or orgs[owner] == "read":
            raise HubError(
                f"The owner of this token, {me['name']}, may not write to {repo}. Push to {me['name']}/..., log in as "
                "a user with write access, or open a pull request with create_pr."
            )
