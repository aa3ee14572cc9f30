"""convert(): Boundary-Matching Networks of the TAdaConv authors (alibaba-mmai-research/TAdaConv at 75b7839)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo.arguments import check_path
from zoo.errors import CheckpointError
from zoo.localization.boundary_options import GROUPS, BoundaryOptions
from zoo.localization.localizer_base import Localizer
from zoo.localization.localizer_files import build_localizer
from zoo.localization.localizer_spec import FeatureSource, LocalizerSpec
from zoo.localization.proposal_sampling import sampling_weights
from zoo.text import listing, printable
from zoo.weights.converters.rules import Rule, apply_rules
from zoo.weights.disk import sha256_of
from zoo.weights.files import read_tensors

LABEL = "action"  # of class-agnostic segments
UNKNOWN = "not specified by the publisher"
WINDOW, STRIDE = 64 / 60, 16 / 60  # seconds: clips of 32 x 2 frames at 60 frames per second, resampled to every 16th
TOLERANCE = 1e-5  # of the stored interpolation weights, which are float32
MASK = "head.sample_mask"
RULES = (
    Rule(MASK, None),
    Rule("backbone.conv_layer.*", "backbone.*"),
    Rule("head.x_1d_s.*", "start_head.*"),
    Rule("head.x_1d_e.*", "end_head.*"),
    Rule("head.x_1d_p.0.*", "proposal_conv.*"),
    Rule("head.x_3d_p.0.weight", "proposal_layer.weight", lambda tensor: tensor.flatten(2)),
    Rule("head.x_3d_p.0.bias", "proposal_layer.bias"),
    Rule("head.x_2d_p.*", "confidence_head.*"),
)


def convert(file: str | os.PathLike[str], features: FeatureSource | None = None) -> Localizer:
    """Convert a published file of the Boundary-Matching Network; write the result with ``zoo.localization.save``.

    The networks are class-agnostic: their segments have the label "action". The publisher took the classes of a segment
    from a classifier.

    Args:
        file: the publisher's file.
        features: origin of the features. The publisher did not release the features. None: unknown network, with the
            window and stride of the published configuration.

    Returns:
        The localizer in eval mode.

    Raises:
        CheckpointError: the file cannot be read, is of another network, or lacks tensors.
        ConfigError: ``features`` is invalid or has another number of values than the network reads.
    """
    check_path("file", file)
    path = Path(file)
    where = printable(str(path))
    raw = read_tensors(path)
    conversion = apply_rules(RULES, raw)
    if conversion.unknown or MASK not in raw:
        problem = f"unknown keys {listing(conversion.unknown)}" if conversion.unknown else f"no {MASK}"
        raise CheckpointError(f"{where} is not a published Boundary-Matching Network: it has {problem}.")
    options, dim = options_of(conversion.tensors, raw[MASK], where)
    check_mask(raw[MASK], options, where)
    source = features or FeatureSource(UNKNOWN, UNKNOWN, WINDOW, STRIDE, dim, UNKNOWN)
    provenance = {"file": path.name, "sha256": sha256_of(path), "size": path.stat().st_size}
    spec = LocalizerSpec(source, (LABEL,), options, provenance)
    spec.check()
    return build_localizer(spec.to_config(), conversion.tensors, where)


def options_of(tensors: Mapping[str, Tensor], mask: Tensor, where: str) -> tuple[BoundaryOptions, int]:
    """Return the options and the number of input features that the shapes of a file imply.

    Raises:
        CheckpointError: a tensor is missing, or the shapes do not belong to one network.
    """
    try:
        weight, features = tensors["proposal_layer.weight"], tensors["backbone.0.weight"]
        maps = len(tensors["confidence_head.0.weight"])
    except KeyError as error:
        raise CheckpointError(f"{where} lacks the tensor of {error}.") from error
    shapes = [tuple(tensor.shape) for tensor in (mask, weight, features)]
    if [len(shape) for shape in shapes] != [2, 3, 3] or 0 in (*shapes[0], *shapes[1]):
        raise CheckpointError(f"{where}: {MASK} and the convolutions have shapes {shapes} of another network.")
    (length, columns), (proposals, width, samples) = shapes[:2]
    durations, rest = divmod(columns, length * samples)
    if rest:
        raise CheckpointError(f"{where}: {MASK} has {columns} columns; expected a multiple of {length * samples}.")
    return BoundaryOptions(length, durations, samples, width, proposals, maps), shapes[2][1] * GROUPS


def check_mask(mask: Tensor, options: BoundaryOptions, where: str) -> None:
    """Compare the stored interpolation weights with the computed ones, which replace them.

    Raises:
        CheckpointError: they differ.
    """
    options.check()
    length, durations, samples = options.length, options.durations, options.samples
    weights = sampling_weights(length, durations, samples)
    (row, column), values = weights.indices(), weights.values()
    # the stored columns are in the order samples, durations, starts
    sample, cell = column // length, column % length
    position = sample * durations * length + row
    for index in range(length):  # one cell at a time: the dense matrix has up to 1 GB
        expected = torch.zeros(mask.shape[1], dtype=torch.float64)
        used = cell == index
        expected[position[used]] = values[used]
        if not torch.allclose(mask[index].double(), expected, rtol=0, atol=TOLERANCE):
            raise CheckpointError(
                f"{where}: {MASK} has other interpolation weights than this package computes (samples of 3 positions, "
                "from half a length before a segment to half a length after it)."
            )
