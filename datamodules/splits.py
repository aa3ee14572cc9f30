"""Which videos are for training, which for validation, and which for testing, where nobody says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.loading import derived_number
from zoo.errors import DataError


def split_stratified(
    paths: Sequence[str],
    labels: np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
    names: Sequence[str],
    where: str,
) -> dict[str, np.ndarray]:
    """Split indices: each video goes where a number drawn from the seed and its path without ending says.

    So it stays there whatever other videos come or go, and when it is encoded anew or put into a shard; shares are as
    asked for on average. Where a class would have no video in a split, its largest split gives one: only in a class so
    small that this happens can others that come or go move a video, one for each split that lacks its own.

    Args:
        paths: of the videos, relative to their root.
        fractions: of each split; the first takes what the others leave.

    Raises:
        DataError: a class with fewer videos than splits.
    """
    first, *others = fractions
    splits = [*others, first]
    drawn = np.array([derived_number(seed, os.path.splitext(path)[0]) for path in paths])
    part = np.searchsorted(np.cumsum([fractions[split] for split in others]), drawn, side="right")
    for label, name in enumerate(names):
        members = np.flatnonzero(labels == label)
        if len(members) < len(splits):
            raise DataError(
                f"class {name!r} of {where} has {len(members)} video{'s' * (len(members) != 1)}, too few to split into "
                f"{', '.join(fractions)}: add videos, remove the class, or give folders or lists for the splits."
            )
        for number in range(len(splits)):
            if number not in part[members]:
                givers = members[part[members] == np.bincount(part[members]).argmax()]
                part[givers[drawn[givers].argmin()]] = number
    return {split: np.flatnonzero(part == splits.index(split)) for split in fractions}
