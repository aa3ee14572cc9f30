"""Networks on the Hugging Face Hub: fetched from one commit of a repository, pushed in one commit."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import CheckpointError, DownloadError, HubError, UnknownNameError, WeightsNotFoundError
from zoo.hub.client import LIBRARY, LOG_IN, bars, check_token, client, fetch_errors, first_line, push_errors
from zoo.hub.hub_files import cache_file, download, list_repository, look_up, note_revision, with_retries
from zoo.settings import offline
from zoo.text import one_line
from zoo.weights.files import atomic_path
from zoo.weights.model_folder import CONFIG_FILE, WEIGHTS_FILE

log = logging.getLogger("zoo")
HUB_PREFIX = "hf-hub:"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def fetch_hub_folder(
    name: str,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    *,
    folder: str = "",
    again: bool = False,
) -> Path:
    """The local copy of ``hf-hub:user/repo[@revision]``: weights and config of one commit, and nothing else of it.

    What is cached whole is used without a network, or when the Hub does not answer.

    Args:
        name: the repository, with a branch, tag or commit.
        cache_dir: instead of the Hub's own cache, which HF_HOME moves.
        progress: show progress bars.
        folder: of the repository, which holds the two files.
        again: fetch the files even if they are cached: for one that turned out to be damaged.

    Raises:
        UnknownNameError: no such repository or revision.
        DownloadError: a gated repository, or a token that the Hub refuses.
        WeightsNotFoundError: not cached, and the network may not be used.
        CheckpointError: the repository holds no network of this package, or cannot be fetched.
    """
    repo, revision = split_name(name)
    files = [f"{folder}/{file}" if folder else file for file in (WEIGHTS_FILE, CONFIG_FILE)]
    with fetch_errors(name, repo, revision or ""):
        cache = hub_cache(cache_dir)
        cached = _cached(repo, files, revision, cache)
        if offline():
            if cached is None:
                raise WeightsNotFoundError(
                    f"{name} is not wholly in the local Hub cache, and HF_HUB_OFFLINE or TEMPOZOO_OFFLINE forbids the "
                    "network; connect once, or fetch the repository on another machine and pass its folder."
                )
            return cached / folder
        if cached is not None and not again and cached.name == revision:
            return cached / folder
        return _fetch(repo, files, revision, cache, cached, again, progress) / folder


def split_name(name: str) -> tuple[str, str | None]:
    """Repository and revision of ``hf-hub:user/repo[@revision]``."""
    repo, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if revision and (not re.fullmatch(r"\w[\w./+-]*", revision) or ".." in revision):  # it becomes a path in the cache
        raise UnknownNameError(f"{one_line(repr(revision))} is not a branch, tag or commit of {repo}.")
    return repo, revision or None


def hub_cache(cache_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of the Hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir).expanduser().resolve()


def _cached(repo: str, files: Sequence[str], revision: str | None, cache: Path) -> Path | None:
    """The cached commit with all of the files that a revision was when it was last asked for."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        paths = [
            hf_hub_download(repo, file, revision=revision, cache_dir=cache, local_files_only=True) for file in files
        ]
    except LocalEntryNotFoundError:
        return None
    return Path(paths[0]).parents[files[0].count("/")]


def _fetch(
    repo: str, files: Sequence[str], revision: str | None, cache: Path, cached: Path | None, again: bool, progress: bool
) -> Path:
    """The commit that a revision is now, with all of the files; the cached one if the Hub cannot say."""
    from huggingface_hub.errors import RevisionNotFoundError

    check_token(DownloadError)
    try:
        commit, names = with_retries(lambda: list_repository(repo, revision), None if cached is None else ())
    except RevisionNotFoundError:
        raise
    except Exception as error:  # of the client or of its transport, which it does not hide
        if cached is None or again:
            raise
        log.warning("%s: using the cached copy of it (%s), as the Hub says: %s", repo, cached, first_line(error))
        return cached
    if cached is not None and not again and cached.name == commit:
        return cached
    _check_holds(repo, files, names)
    paths = [cache_file(repo, file, commit, cache, again=again, progress=progress) for file in files]
    if revision != commit:
        # only now that all of it is here does the cache learn which commit the revision is, for a day without a network
        note_revision(repo, revision or "main", commit, cache)
    return paths[0].parents[files[0].count("/")]


def _check_holds(repo: str, wanted: Sequence[str], files: Sequence[str]) -> None:
    missing = [file for file in wanted if file not in files]
    if not missing:
        return
    pickles = [file for file in files if file.endswith(PICKLES)]
    what = f"{repo} holds no {' and no '.join(missing)}: it was not written by this package"
    if pickles and not any(file.endswith(".safetensors") for file in files):
        raise CheckpointError(
            f"{what}. Its weights are pickles ({', '.join(pickles[:4])}), which can run code and are never loaded from "
            "the Hub; ask its author for safetensors."
        )
    raise CheckpointError(f"{what} (pickles are never loaded from the Hub).")


def fetch_hub_file(name: str, file: str, folder: Path, progress: bool = True) -> Path:
    """One file of ``hf-hub:user/repo[@revision]``, whatever it holds, in a folder; for publishers' files.

    Raises:
        UnknownNameError, DownloadError, WeightsNotFoundError, DownloadError: as ``fetch_hub_folder``.
    """
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    repo, revision = split_name(name)
    if offline():
        raise WeightsNotFoundError(
            f"{name} would have to be fetched; HF_HUB_OFFLINE or TEMPOZOO_OFFLINE forbids the network."
        )
    check_token(DownloadError)
    with fetch_errors(name, repo, revision or ""):
        validate_repo_id(repo)
        try:
            remote = look_up(repo, file, revision)
        except EntryNotFoundError as error:
            raise DownloadError(f"{name} holds no {file}.") from error
        target = folder / Path(file).name
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            download(remote, temporary, progress)
        return target


# out -----------------------------------------------------------------------------------------------------------------


def push_folder(
    folder: Path,
    repo: str,
    *,
    inside: str = "",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Upload network",
    progress: bool = True,
) -> str:
    """Put a folder's files into a repository of the Hub, in one commit; nothing else in it is touched.

    Args:
        folder: all of its files are pushed, under their names in it.
        repo: "user/repo". It is made if there is none, unless for a pull request.
        inside: folder of the repository to put them in.
        private: whether to make a private repository; None as its owner's default is.
        revision: branch, made from main if there is none; of a pull request, the one it is for.
        create_pr: propose the files to a repository that one may not write to.
        message: of the commit.
        progress: show progress bars.

    Returns:
        Address of the commit or of the pull request.

    Raises:
        HubError: there are no files, it was refused, or the Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd

    names = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    if not names:
        raise HubError(f"{folder} holds no files: there is nothing to push to {repo}.")
    with push_errors(repo), bars(progress):
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
                raise HubError(f"{repo} holds a model of {info.library_name}; push to another repository.")
            if revision is not None and revision != "main" and not revision.startswith("refs/"):
                api.create_branch(repo, branch=revision, exist_ok=True)
        added = [CommitOperationAdd(f"{inside}/{name}" if inside else name, Path(folder) / name) for name in names]
        done = api.create_commit(repo, added, commit_message=message, revision=revision, create_pr=create_pr)
        return str(done.pr_url or done.commit_url)


def check_access(repo: str, *, create_pr: bool = False) -> None:
    """Raise what ``push_folder`` would for want of a token or of a right, as far as can be known without pushing.

    Raises:
        HubError: no token or a bad one, no right to write, a bad name, no network.
    """
    with push_errors(repo):
        me = client(repo).whoami()
        role = me.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise HubError(f"The token of {me['name']} may only read. To push to {repo}, {LOG_IN} with write access.")
        owner = repo.split("/")[0]
        orgs = {org["name"]: org.get("roleInOrg") for org in me.get("orgs", [])}
        if create_pr or role == "fineGrained" or owner == me["name"]:  # whose rights are not told in full
            return
        if owner not in orgs or orgs[owner] == "read":
            raise HubError(
                f"{me['name']}, whose token this is, may not write to {repo}. Push to {me['name']}/..., log in as "
                "someone who may, or propose the files with create_pr."
            )
