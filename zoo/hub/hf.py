"""Networks that users pushed to the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.errors import CheckpointError, UnknownNameError
from zoo.hub.files import CONFIG_FILE, WEIGHTS_FILE

HUB_PREFIX = "hf-hub:"


def fetch_hub_folder(name: str, cache_dir: str | os.PathLike[str] | None = None, progress: bool = True) -> Path:
    """The local copy of ``hf-hub:user/repo[@revision]``: only safetensors and config.json are ever fetched.

    Raises:
        UnknownNameError: no such repository, revision, or no access.
        CheckpointError: the repository holds no network of this package, or cannot be reached.
    """
    # imported here: it is the only use of the network in the package, and `import zoo` should be quick
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    repo, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    folder = None if cache_dir is None else Path(cache_dir)
    hidden = are_progress_bars_disabled()
    if not progress:
        disable_progress_bars()
    try:
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            path = hf_hub_download(repo, file, revision=revision or None, cache_dir=folder)
        return Path(path).parent
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{name} is neither in the local Hub cache nor can the Hub be reached; connect once, or fetch the "
            "repository on another machine and pass its folder."
        ) from error
    except RevisionNotFoundError as error:
        raise UnknownNameError(f"{repo} has no revision {revision!r} on the Hub.") from error
    except RepositoryNotFoundError as error:
        raise UnknownNameError(
            f"There is no repository {repo!r} on the Hub, or it is private: then log in with `hf auth login`."
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(
            f"{name} holds no {file}: it was not written by this package (pickles are never loaded from the Hub)."
        ) from error
    except HFValidationError as error:
        raise UnknownNameError(f"{repo!r} is not a repository name; write hf-hub:user/repo[@revision].") from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{name} could not be fetched: {error}") from error
    finally:
        if not progress and not hidden:
            enable_progress_bars()
