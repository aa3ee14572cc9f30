"""Automatic splits, stratified by class.

Without groups, the counts are exact, and a split is stable when videos are added or removed. With groups, the counts
are as close to the fractions as the sizes of the groups allow.
"""

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


# groups ----------------------------------------------------------------------------------------------------------


def split_grouped(
    groups: Sequence[str],
    labels: np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
    names: Sequence[str],
    source: str,
    cover: str | None = None,
) -> dict[str, np.ndarray]:
    """Split the indices of videos into parts that share no group, with a similar share of every class.

    The largest groups are assigned first, groups of equal size in an order that depends on the seed. Each group goes to
    the part whose class counts it brings closest to the fractions. Then groups are moved so that the part ``cover`` has
    every class, and the others have as many classes as possible.

    Args:
        groups: group of each video.
        labels: class number of each video, ``(n,)``, or one column for each class, ``(n, classes)``, with 0 or 1.
        fractions: fraction of each part; the first part gets the remaining videos, whatever its fraction.
        seed: seed of the order of groups of equal size.
        names: class names, by class number.
        source: name of the folder or list in error messages.
        cover: the part that must have every class, usually the training videos. If it is None, the parts are the folds
            of a cross-validation, and every class must have two groups.

    Returns:
        The sorted indices of the videos of each part.

    Raises:
        DataError: a part would be empty, or a class has too few groups for a cross-validation.
    """
    keys = sorted(set(groups))
    numbers = {key: number for number, key in enumerate(keys)}
    members = np.array([numbers[key] for key in groups])
    if len(keys) < len(fractions):
        raise DataError(_too_few_groups(len(keys), fractions, source))
    one_hot = labels if labels.ndim > 1 else np.eye(len(names), dtype=np.int64)[labels]
    counts = np.zeros((len(keys), len(names)))
    np.add.at(counts, members, one_hot)
    if cover is None:
        _check_two_groups(counts, names, source)
    _, *others = fractions
    rest = 1 - sum(fractions[part] for part in others)
    shares = np.array([max(rest, 1e-3), *(max(fractions[part], 1e-3) for part in others)])
    ranks = [derived_number(seed, key) for key in keys]
    sizes = np.bincount(members)
    order = sorted(range(len(keys)), key=lambda group: (-sizes[group], ranks[group]))
    assignment = _Assignment(counts, shares)
    for group in order:
        assignment.add_to_best(group)
    first = None if cover is None else list(fractions).index(cover)
    for part in sorted(range(len(fractions)), key=lambda part: part != first):
        assignment.cover_classes(part, order, take_last=part == first)
    parts = {part: np.flatnonzero(assignment.part[members] == number) for number, part in enumerate(fractions)}
    empty = [part for part, videos in parts.items() if not len(videos)]
    if empty:
        raise DataError(_too_few_groups(len(keys), fractions, source))
    return parts


def _check_two_groups(counts: np.ndarray, names: Sequence[str], source: str) -> None:
    """Refuse classes in a single group, which a fold of a cross-validation would validate without training on them."""
    groups = (counts > 0).sum(0)
    single = np.flatnonzero(groups == 1)
    if len(single):
        raise DataError(
            f"all videos of class {shorten(names[single[0]])} of {source} are in one group; a cross-validation needs "
            "at least two groups of every class. Add videos, or remove the class."
        )


def _too_few_groups(count: int, parts: Mapping[str, float], source: str) -> str:
    return (
        f"The {count} groups of {source} are too few to split into {', '.join(parts)}: choose smaller groups with "
        "--data.group, or give folders or lists for the splits."
    )


class _Assignment:
    """Assignment of groups to parts.

    Args:
        group_counts: videos of each class in each group, ``(groups, classes)``.
        shares: fraction of each part.

    Attributes:
        part: part of each group; -1 if it is not assigned.
        counts: videos of each class in each part, ``(parts, classes)``.
    """

    def __init__(self, group_counts: np.ndarray, shares: np.ndarray) -> None:
        self.group_counts = group_counts
        self.targets = shares[:, None] * group_counts.sum(0)
        self.part = np.full(len(group_counts), -1)
        self.counts = np.zeros_like(self.targets)

    def add_to_best(self, group: int) -> None:
        """Assign a group to the part for which ``_costs`` is lowest."""
        part = int(np.argmin(self._costs(group)))
        self.part[group] = part
        self.counts[part] += self.group_counts[group]

    def _costs(self, group: int) -> np.ndarray:
        """Return how much a group increases the deviation from the targets, for each part.

        The deviation of a part is the sum over classes of (count - target)^2 / target.
        """
        classes = np.flatnonzero(self.group_counts[group])
        added, targets = self.group_counts[group, classes], self.targets[:, classes]
        return (added * (added + 2 * (self.counts[:, classes] - targets)) / targets).sum(1)

    def cover_classes(self, part: int, order: Sequence[int], take_last: bool) -> None:
        """Move groups to a part until it has every class, where this is possible.

        Unless ``take_last`` is set, a group is moved only if its old part keeps all classes.
        """
        for label in np.flatnonzero(self.group_counts.sum(0)):
            if self.counts[part, label]:
                continue
            candidates = [
                group for group in order if self.group_counts[group, label] and (take_last or self._is_removable(group))
            ]
            if candidates:
                group = min(candidates, key=lambda group: self._costs(group)[part])
                self.counts[self.part[group]] -= self.group_counts[group]
                self.counts[part] += self.group_counts[group]
                self.part[group] = part

    def _is_removable(self, group: int) -> bool:
        """Return whether the part of a group has all of its classes without it."""
        classes = self.group_counts[group] > 0
        return bool((self.counts[self.part[group], classes] > self.group_counts[group, classes]).all())
