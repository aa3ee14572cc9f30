"""The tensors of a TorchScript archive, read without its code. CLIP's authors publish such files.

``torch.load`` refuses them with ``weights_only``, and ``torch.jit.load`` runs their code. The archive is a zip file:
``data.pkl`` describes a tree of modules, and one further part per storage has the bytes of the tensors.
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

MAX_NAMES = 100_000  # of tensors and modules; modules that share submodules can have exponentially many
MAX_DEPTH = 100
MAX_LENGTH = 1000  # of a dotted name


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive. Other zip files of PyTorch have no ``constants.pkl``."""
    try:
        with mapped(path) as content:
            return is_archive(content) and "constants.pkl" in Archive(path, content).parts
    except CheckpointError:
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript archive by attribute path, such as ``visual.conv1.weight``, on the CPU.

    They are the parameters, buffers and other tensor attributes of all modules, with their original data types, as
    views of the memory-mapped file. A tensor shared by several modules appears under each of its names.

    Raises:
        CheckpointError: the file is damaged, or needs more than tensors, numbers and text.
    """
    with mapped(path) as content:
        root = read_archive(Archive(path, content), script=True)
        if not isinstance(root, Module):
            raise ValueError("its data.pkl is not a module")
        stored: dict[str, StoredTensor] = {}
        for count, (name, value) in enumerate(_attributes(root, "", ())):
            if count >= MAX_NAMES:
                raise ValueError(f"it has more than {MAX_NAMES} tensors and modules")
            if isinstance(value, Opaque) and value.description.startswith("a tensor"):
                raise ValueError(f"{one_line(name)} is {value.description}")
            if isinstance(value, StoredTensor):
                stored[name] = value
        return {name: value.load() for name, value in stored.items()}


def _attributes(module: Module, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """Yield path and value of each attribute of a module and its submodules. ``above``: ids of the parent modules."""
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
