"""The Hub's client: with the user's token, its progress bars hidden on request, its errors in our words."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from typing import Any

from zoo.errors import DownloadError, HubError, StorageError, UnknownNameError, ZooError
from zoo.settings import offline
from zoo.text import one_line

# huggingface_hub is imported in functions: few need it, and `import zoo` should be quick

LIBRARY = "tempozoo"  # library_name of our model cards
UNCONNECTED = ("ConnectError", "ConnectTimeout", "ProxyError")  # of its transport
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens"


@contextlib.contextmanager
def fetch_errors(name: str, repo: str, revision: str) -> Iterator[None]:
    """Turn what the Hub's client raises into our errors."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except ZooError:
        raise
    except RevisionNotFoundError as error:
        raise UnknownNameError(f"{repo} has no revision {revision!r} on the Hub.") from error
    except GatedRepoError as error:
        raise DownloadError(
            f"{repo} is gated: ask for access at https://huggingface.co/{repo}, then {LOG_IN}."
        ) from error
    except RepositoryNotFoundError as error:
        raise UnknownNameError(
            f"There is no repository {repo!r} on the Hub, or it is private: then {LOG_IN}."
        ) from error
    except HFValidationError as error:
        raise UnknownNameError(f"{repo!r} is not a repository name; write hf-hub:user/repo[@revision].") from error
    except Exception as error:  # its transport and its Xet library raise what they like
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
            raise DownloadError(f"The Hub refused the token for {name}: {LOG_IN}.") from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"No space is left for {name}: make room, or set HF_HOME to another disk.") from error
        raise DownloadError(
            f"{name} could not be fetched ({first_line(error)}) and is not wholly in the local Hub cache; try again, "
            "or fetch the repository on another machine and pass its folder.",
            "unreachable" if _unconnected(error) else "refused",
        ) from error


def check_token(kind: type[ZooError]) -> str | None:
    """The user's token, None without one; an error of that kind if it cannot be sent."""
    from huggingface_hub import get_token

    token = get_token()
    if token is not None and (bad := re.search("[^!-~]", token)):
        raise kind(f"HF_TOKEN holds a character that no token has: {bad[0]!r}. Copy it again, or {LOG_IN}.")
    return token


def client(repo: str) -> Any:
    """The client, with the user's token, for a repository whose name is right."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    if "/" not in repo:
        raise HubError(f"{repo!r} is not a repository name; write user/repo.")
    validate_repo_id(repo)
    token = check_token(HubError)
    if token is None:
        raise HubError(f"Pushing to {repo} needs a token: {LOG_IN} with write access.")
    return HfApi(token=token, library_name=LIBRARY)


@contextlib.contextmanager
def push_errors(repo: str) -> Iterator[None]:
    """Turn what the Hub's client raises on the way out into HubError."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if offline():
        raise HubError(f"Pushing to {repo} needs the network, which HF_HUB_OFFLINE or TEMPOZOO_OFFLINE forbids.")
    try:
        yield
    except ZooError:
        raise
    except HFValidationError as error:
        raise HubError(f"{repo!r} is not a repository name ({first_line(error)}); write user/repo.") from error
    except Exception as error:  # the client, its transport and its Xet library raise what they like
        cause: BaseException = error
        while cause.__cause__ is not None and not (isinstance(cause, HfHubHTTPError) or is_transport(cause)):
            cause = cause.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise HubError(_refusal(repo, cause)) from error
        if is_transport(cause):
            raise HubError(
                f"The Hub could not be reached ({first_line(cause)}). {repo} is as it was; push again later."
            ) from error
        raise HubError(f"Pushing to {repo} failed: {' '.join(str(error).split()) or type(error).__name__}") from error


def is_transport(error: BaseException) -> bool:
    """Whether an error is of the client's transport."""
    return type(error).__module__.startswith("httpx")  # httpx or httpx2: the client's versions differ in it


def _unconnected(error: BaseException | None) -> bool:
    """Whether there was no connection: the client wraps what its transport says of that."""
    while error is not None and not (is_transport(error) and type(error).__name__ in UNCONNECTED):
        error = error.__cause__ or error.__context__
    return error is not None


def _refusal(repo: str, error: Any) -> str:
    """A sentence for an answer of the Hub that is not success."""
    from huggingface_hub.errors import RepositoryNotFoundError

    status, said = error.response.status_code, " ".join((error.server_message or first_line(error)).split())
    if isinstance(error, RepositoryNotFoundError) and status != 401:
        return f"There is no repository {repo} on the Hub that this token may see ({said}). Check the name."
    if status == 401:
        return f"The Hub refused the token for {repo} ({said}): {LOG_IN} with write access."
    if status in (402, 413, 507) or re.search("storage|quota", said, re.IGNORECASE):
        return f"The Hub has no room for this in {repo}: {said}"
    if status == 403:
        return f"This token may not write to {repo} ({said}). Use one that may, another repository, or create_pr."
    if status == 429:
        return f"The Hub asks to slow down ({said}). {repo} is as it was; push again later."
    if status >= 500:
        return f"The Hub failed ({status}: {said}). Push to {repo} again later; doing so twice does no harm."
    return f"The Hub refused the push to {repo} ({status}): {said}"


@contextlib.contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Hide the client's progress bars for a while, unless they are to be shown."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not shown and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def first_line(error: BaseException) -> str:
    """The beginning of an error's text, without its last full stop."""
    text = str(error).strip() or type(error).__name__
    return one_line(text.splitlines()[0], 200).rstrip(".: ")
