"""load() and save() of localizers: a folder with ``model.safetensors`` and ``config.json``, or a ``.ckpt`` of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.arguments import check_path
from zoo.errors import CheckpointError, ConfigError
from zoo.index import load_index
from zoo.localization.boundary_matching import BoundaryLocalizer
from zoo.localization.boundary_options import BoundaryOptions
from zoo.localization.localizer_base import Localizer
from zoo.localization.localizer_spec import LocalizerSpec
from zoo.localization.point_model import PointLocalizer
from zoo.network_names import resolve_network
from zoo.text import listing, printable
from zoo.weights.lightning_checkpoint import read_checkpoint
from zoo.weights.locations import CHECKPOINT_SUFFIX, missing_network
from zoo.weights.model_folder import read_model, write_model


def save(model: Localizer, folder: str | os.PathLike[str]) -> Path:
    """Write a localizer to a folder as ``model.safetensors`` and ``config.json``, for ``load(folder)``.

    Returns:
        The folder.

    Raises:
        ConfigError: ``model`` is not a localizer, or ``folder`` is not a path.
        StorageError: the folder cannot be written.
    """
    check_path("folder", folder)
    if not isinstance(model, Localizer):
        raise ConfigError(f"model is a {type(model).__name__}; save() needs a localizer. Save networks with zoo.save.")
    model.spec.check()
    return write_model(Path(folder), model.state_dict(), model.spec.to_config())


def load(name: str | os.PathLike[str]) -> Localizer:
    """Load a localizer in eval mode.

    Args:
        name: folder written by ``save``, ``.ckpt`` file or folder of a run (its best checkpoint).

    Raises:
        UnknownNameError: there is no such file or folder.
        ConfigError: the file or network is not a localizer, or its config is invalid.
        CheckpointError: a file cannot be read, or its tensors do not fit the network.
    """
    check_path("name", name)
    path = Path(resolve_network(os.fspath(name)))
    if not path.exists():
        if os.fspath(name) in load_index().entries:
            raise ConfigError(
                f"{os.fspath(name)} is a classifier; localize needs a localizer, such as a run of "
                "`tempozoo fit --config localize/folder`."
            )
        raise missing_network(os.fspath(name))
    if path.suffix == CHECKPOINT_SUFFIX:
        tensors, config = read_checkpoint(path)
    else:
        tensors, config, path, _ = read_model(path)
    return build_localizer(config, tensors, str(path))


def create_localizer(spec: LocalizerSpec) -> Localizer:
    """Create the network of a spec with random weights."""
    return BoundaryLocalizer(spec) if isinstance(spec.options, BoundaryOptions) else PointLocalizer(spec)


def build_localizer(config: Any, tensors: Mapping[str, Tensor], where: str) -> Localizer:
    """Validate a config and tensors, and create the localizer.

    The network is built on the meta device, so that a config cannot allocate more memory than the file has.

    Raises:
        ConfigError: the config is invalid.
        CheckpointError: a tensor is missing, unexpected, or has another shape or a type that is not a float.
    """
    spec = LocalizerSpec.from_config(config, where)
    where = printable(where)
    with torch.device("meta"):
        network = create_localizer(spec)
    expected = network.state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    if missing or unexpected:
        parts = [f"lacks {listing(missing)}"] * bool(missing) + [f"has unknown keys {listing(unexpected)}"] * bool(
            unexpected
        )
        raise CheckpointError(f"{where} {' and '.join(parts)}; it does not fit the network of its config.")
    for key, tensor in expected.items():
        if tensors[key].shape != tensor.shape or not tensors[key].is_floating_point():
            given = f"{tensors[key].dtype} {tuple(tensors[key].shape)}"
            raise CheckpointError(f"{where}: {key} is {given}; the network of its config needs {tuple(tensor.shape)}.")
    network.load_state_dict({key: tensors[key].float() for key in expected}, assign=True)
    return network.eval().requires_grad_(True)
