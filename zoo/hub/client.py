"""huggingface_hub with the user's token, optional progress bars, and the errors of this package."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from typing import Any

from zoo.errors import DownloadError, HubError, StorageError, UnknownNameError, ZooError
from zoo.settings import offline
from zoo.text import one_line

# huggingface_hub is imported in functions to keep `import zoo` fast

LIBRARY = "tempozoo"  # library_name of our model cards
CONNECTION_ERRORS = ("ConnectError", "ConnectTimeout", "ProxyError")  # of httpx, the client's transport
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens"


@contextlib.contextmanager
def download_errors(name: str, repo: str, revision: str) -> Iterator[None]:
    """Convert errors of huggingface_hub during a download to those of this package."""
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
            f"The Hub has no repository {repo!r}, or it is private. If it is private, {LOG_IN}."
        ) from error
    except HFValidationError as error:
        raise UnknownNameError(f"{repo!r} is not a repository name. Write hf-hub:user/repo[@revision].") from error
    except Exception as error:  # its transport and its Xet library raise undocumented errors
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
            raise DownloadError(f"The Hub refused the token for {name}: {LOG_IN}.") from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"No space left on the disk for {name}. Free some space, or set HF_HOME to another disk."
            ) from error
        raise DownloadError(
            f"{name} could not be downloaded ({first_line(error)}) and is not completely in the local Hub cache. Try "
            "again, or download the repository on another machine and pass its folder.",
            "unreachable" if _is_connection_error(error) else "refused",
        ) from error


def check_token(kind: type[ZooError]) -> str | None:
    """Return the user's token, or None. Raises an error of type ``kind`` if the token has invalid characters."""
    from huggingface_hub import get_token

    token = get_token()
    if token is not None and (bad := re.search("[^!-~]", token)):
        raise kind(f"HF_TOKEN has an invalid character: {bad[0]!r}. Copy it again, or {LOG_IN}.")
    return token


def client(repo: str) -> Any:
    """Return the client with the user's token, after checking the name of the repository.

    Raises:
        HubError: no token, or an invalid name without a slash. huggingface_hub raises its own error for other names.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    if "/" not in repo:
        raise HubError(f"{repo!r} is not a repository name. Write user/repo.")
    validate_repo_id(repo)
    token = check_token(HubError)
    if token is None:
        raise HubError(f"Pushing to {repo} needs a token: {LOG_IN} with write access.")
    return HfApi(token=token, library_name=LIBRARY)


@contextlib.contextmanager
def push_errors(repo: str) -> Iterator[None]:
    """Convert errors of huggingface_hub during a push to HubError."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if offline():
        raise HubError(f"Pushing to {repo} needs the network, but HF_HUB_OFFLINE or TEMPOZOO_OFFLINE is set. Unset it.")
    try:
        yield
    except ZooError:
        raise
    except HFValidationError as error:
        raise HubError(f"{repo!r} is not a repository name ({first_line(error)}). Write user/repo.") from error
    except Exception as error:  # the client, its transport and its Xet library raise undocumented errors
        cause: BaseException = error
        while cause.__cause__ is not None and not (isinstance(cause, HfHubHTTPError) or is_transport(cause)):
            cause = cause.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise HubError(_status_message(repo, cause)) from error
        if is_transport(cause):
            raise HubError(
                f"The Hub could not be reached ({first_line(cause)}). {repo} was not changed. Push again later."
            ) from error
        raise HubError(f"Pushing to {repo} failed: {' '.join(str(error).split()) or type(error).__name__}") from error


def is_transport(error: BaseException) -> bool:
    """Return whether an error comes from the client's transport."""
    return type(error).__module__.startswith("httpx")  # httpx or httpx2, depending on the client's version


def _is_connection_error(error: BaseException | None) -> bool:
    """Return whether an error, or one that it wraps, means that there was no connection."""
    while error is not None and not (is_transport(error) and type(error).__name__ in CONNECTION_ERRORS):
        error = error.__cause__ or error.__context__
    return error is not None


def _status_message(repo: str, error: Any) -> str:
    """Describe an HTTP error of the Hub, and what to do."""
    from huggingface_hub.errors import RepositoryNotFoundError

    status, detail = error.response.status_code, " ".join((error.server_message or first_line(error)).split())
    if isinstance(error, RepositoryNotFoundError) and status != 401:
        return f"The Hub has no repository {repo} that this token may read ({detail}). Check the name."
    if status == 401:
        return f"The Hub refused the token for {repo} ({detail}): {LOG_IN} with write access."
    if status in (402, 413, 507) or re.search("storage|quota", detail, re.IGNORECASE):
        return f"The Hub has no storage left for {repo}: {detail}"
    if status == 403:
        return f"This token may not write to {repo} ({detail}). Use another token or repository, or create_pr."
    if status == 429:
        return f"The Hub limits the rate of requests ({detail}). {repo} was not changed. Push again later."
    if status >= 500:
        return f"The Hub failed ({status}: {detail}). Push to {repo} again later; repeating a push is safe."
    return f"The Hub refused the push to {repo} ({status}): {detail}"


@contextlib.contextmanager
def progress_bars(visible: bool) -> Iterator[None]:
    """Hide the client's progress bars in this context, unless ``visible``."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not visible and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without a final period."""
    text = str(error).strip() or type(error).__name__
    return one_line(text.splitlines()[0], 200).rstrip(".: ")
