"""Names and paths of weights on this machine and on the Hub. Importing this module does not import torch."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, urlsplit

from zoo.errors import CheckpointError, ZooError
from zoo.index import BUNDLED, Entry, Source, load_index
from zoo.settings import cache_folder
from zoo.text import printable

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"  # of a folder of this package
CHECKPOINT_SUFFIX = ".ckpt"  # of Lightning checkpoints
PUBLISHED = "published"  # subfolder of the cache for files as published
HUB = "huggingface.co"
HUB_PREFIX = "hf-hub:"  # of names of repositories on the Hub


def missing_network(name: str) -> ZooError:
    """Create the error for a network name that is neither in the index, nor a path that exists, nor on the Hub."""
    if os.sep in name or name.endswith((CHECKPOINT_SUFFIX, ".safetensors")):
        kind = "File" if name.endswith((CHECKPOINT_SUFFIX, ".safetensors")) else "Folder or file"
        return CheckpointError(f"{kind} {printable(name)} does not exist.")
    return load_index().unknown(name)


def find_weights(entry: Entry, cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the folder with an entry's converted weights, bundled or cached, or None. The files are not checked."""
    for folder in (BUNDLED / entry.name, cache_folder(cache_dir) / entry.name):
        if os.path.isfile(folder / WEIGHTS_FILE):
            return folder
    return None


def published_path(source: Source, root: Path) -> Path:
    """Return the path in the cache ``root`` of a published file that was saved by hand or with ``keep``."""
    return root / PUBLISHED / path_for(source)


def path_for(source: Source) -> Path:
    """Return the relative path under which a source's file is cached, such as ``host/path/name.pth``.

    Different URLs have different paths.
    """
    parts = urlsplit(source.url)
    if source.kind == "gdrive_file":
        names = [parts.netloc, parts.path.split("/")[3]]
    elif source.kind == "gdrive_folder":
        names = [parts.netloc, parts.path.split("/")[3], source.file or ""]
    elif source.kind == "hf":
        names = [HUB, *source.url.removeprefix("hf-hub:").split("/"), source.file or ""]
    else:
        names = [parts.netloc, *parts.path.strip("/").split("/")]
    return Path(*(_safe_name(name) for name in names))


def _safe_name(name: str) -> str:
    """Quote a component of a URL, so that it is a valid file name other than ``.`` and ``..``."""
    return quote(name, safe=" @+=,()") if name.strip(".") else name.replace(".", "%2E")


def parts_folder(target: Path) -> Path:
    """Return the folder of a download in progress. It also has the complete file until that is used."""
    return target.with_name(f"{target.name}.parts")
