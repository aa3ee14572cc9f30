"""Automatic splits: stratified by class, with exact counts, and stable when videos are added or removed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.annotations import shorten
from datamodules.loading import derived_number
from zoo.errors import DataError


def split_stratified(
    paths: Sequence[str],
    labels: np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
    names: Sequence[str],
    source: str,
) -> dict[str, np.ndarray]:
    """Split the indices of videos into parts with the same share of every class.

    The videos of a class are ranked by a hash of the seed and the path without its extension, and the ranking is cut at
    the rounded cumulative fractions. Each part therefore has its exact share of a class to within one video, but no
    part is empty. When a video is added to a class or removed from it, each cut moves by at most one position of the
    ranking, so at most one other video crosses each cut: one video for two parts, two for three parts. Other classes do
    not change. A video that is re-encoded or packed into a shard stays in its part.

    Args:
        paths: paths of the videos, relative to their root.
        labels: class number of each video.
        fractions: fraction of each part; the first part gets the remaining videos, whatever its fraction.
        names: class names, by class number.
        source: name of the folder or list in error messages.

    Returns:
        The sorted indices of the videos of each part.

    Raises:
        DataError: a class has fewer videos than there are parts.
    """
    first, *others = fractions
    ranks = [derived_number(seed, os.path.splitext(path)[0]) for path in paths]
    parts: dict[str, list[np.ndarray]] = {part: [] for part in fractions}
    for label, name in enumerate(names):
        members = np.flatnonzero(labels == label).tolist()
        if len(members) < len(fractions):
            count = f"{len(members)} video{'s' * (len(members) != 1)}"
            raise DataError(
                f"class {shorten(name)} of {source} has {count}, too few to split into {', '.join(fractions)}: "
                "add videos, remove the class, or give folders or lists for the splits."
            )
        ranked = np.array(sorted(members, key=lambda video: (ranks[video], paths[video])))
        cuts = _cuts(len(members), [fractions[part] for part in others])
        for part, videos in zip((*others, first), np.split(ranked, cuts), strict=True):
            parts[part].append(videos)
    return {part: np.sort(np.concatenate(videos)) for part, videos in parts.items()}


def _cuts(count: int, shares: Sequence[float]) -> list[int]:
    """Return the positions at which to cut a ranking of ``count`` videos so that no part is empty.

    From ``count`` to ``count + 1``, each position grows by 0 or 1, because the rounded multiple of the share and both
    bounds do.
    """
    cuts: list[int] = []
    for number, share in enumerate(np.cumsum(shares)):
        lowest = cuts[-1] + 1 if cuts else 1
        highest = count - (len(shares) - number)
        cuts.append(min(max(int(count * share + 0.5), lowest), highest))
    return cuts
