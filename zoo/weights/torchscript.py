"""The tensors of a TorchScript archive, read without its code: CLIP's authors publish such files.

``torch.load`` refuses them with ``weights_only`` and ``torch.jit.load`` runs what is inside. The archive is a zip whose
``data.pkl`` describes a tree of modules, with the bytes of every tensor in a part beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import CheckpointError
from zoo.text import one_line
from zoo.weights.archives import Archive
from zoo.weights.pickles import Module, Opaque, StoredTensor
from zoo.weights.torch_files import is_archive, mapped, read_archive

MAX_NAMES = 100_000  # tensors and modules: modules that hold one another twice over would have names without end
MAX_DEPTH = 100
MAX_LENGTH = 1000  # of a name with those of the modules above it


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: PyTorch's other zip files have no ``constants.pkl``."""
    try:
        with mapped(path) as content:
            return is_archive(content) and "constants.pkl" in Archive(path, content).parts
    except CheckpointError:
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Tensors of a TorchScript archive by attribute path, such as ``visual.conv1.weight``, on the CPU.

    Parameters, buffers and other tensor attributes of its modules, in their own data type, as views of the file in
    memory; numbers, text and lists are left out. A tensor that several modules share comes under each of its names.

    Raises:
        CheckpointError: damaged, or in need of anything but tensors.
    """
    with mapped(path) as content:
        root = read_archive(Archive(path, content), script=True)
        if not isinstance(root, Module):
            raise ValueError("its data.pkl is not a module")
        stored: dict[str, StoredTensor] = {}
        for count, (name, value) in enumerate(_attributes(root, "", ())):
            if count >= MAX_NAMES:
                raise ValueError(f"it names more than {MAX_NAMES} tensors and modules")
            if isinstance(value, Opaque) and value.what.startswith("a tensor"):
                raise ValueError(f"{one_line(name)} is {value.what}")
            if isinstance(value, StoredTensor):
                stored[name] = value
        return {name: value.load() for name, value in stored.items()}


def _attributes(module: Module, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """The attributes of a module and of the modules below it, by their paths."""
    if id(module) in above:
        raise ValueError(f"{one_line(prefix.rstrip('.'))} contains itself")
    if len(above) > MAX_DEPTH:
        raise ValueError(f"its modules are nested more than {MAX_DEPTH} deep")
    for name, value in module.attributes.items():
        if not isinstance(name, str):
            raise ValueError(f"an attribute's name is a {type(name).__name__}")
        if len(prefix) + len(name) > MAX_LENGTH:
            raise ValueError(f"the name {one_line(prefix + name)} is longer than {MAX_LENGTH} letters")
        yield f"{prefix}{name}", value
        if isinstance(value, Module):
            yield from _attributes(value, f"{prefix}{name}.", (*above, id(module)))
