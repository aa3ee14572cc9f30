"""Groups of videos that belong in the same split: clips of one recording, person or camera."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from datamodules.annotations import shorten
from datamodules.tree import split_of
from zoo.errors import ConfigError, DataError

# Regular expressions of common names, the most specific ones first: v_Diving_g01_c02, person07, P01_03, cam2, walk_003.
PATTERNS = (
    r"_(g\d+)_",
    r"(?i)((?:person|subject|subj|actor|patient|participant|user)[_-]?\d+)",
    r"(?:^|[/_-])([psPS]\d{1,4})(?=[/_.-])",
    r"(?i)((?:session|recording|rec|camera|cam)[_-]?\d+)",
    r"(?:^|/)([^/]*?[^/\d_ -])[_ -]+(?:c|clip|part|seg|segment|chunk)?\d+(?:[_-]\d+)?(?:\.[^./]+)?$",
)
MIN_VIDEOS = 8  # names of fewer videos are not searched for groups
MIN_MATCHES = 0.95  # share of the names that a pattern of PATTERNS must match
MAX_GROUPS = 0.6  # groups per video: patterns with more have mostly groups of one video
MIN_GROUPS_PER_CLASS = 2  # otherwise the pattern finds the name of the class


class LikelyGroups(NamedTuple):
    """Groups that the names of videos suggest.

    pattern: value of ``--data.group`` that defines them.
    keys: group of each video; None for names without a match.
    """

    pattern: str
    keys: list[str | None]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile the regular expression of ``--data.group``.

    Raises:
        ConfigError: it is not a regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"--data.group {pattern!r} is not a regular expression ({error}), nor a column of the list of videos."
        ) from error


def match_group(pattern: re.Pattern[str], path: str) -> str | None:
    """Return the first group of the first match in a path, or the entire match; None without a match."""
    match = pattern.search(path)
    if match is None:
        return None
    return match[1] if pattern.groups and match[1] is not None else match[0]


def group_keys(paths: Sequence[str], pattern: str, source: str) -> list[str]:
    """Return the group of each path.

    Args:
        paths: paths of the videos, relative to their root.
        pattern: regular expression, see ``match_group``.
        source: name of the folder or list in error messages.

    Raises:
        ConfigError: ``pattern`` is not a regular expression.
        DataError: a path does not match.
    """
    compiled = compile_pattern(pattern)
    keys = []
    for path in paths:
        key = match_group(compiled, path)
        if key is None:
            raise DataError(
                f"--data.group {pattern!r} does not match {shorten(path)} of {source}. Extend the regular expression, "
                "or give the name of a column of a CSV file."
            )
        keys.append(key)
    return keys


def find_likely_groups(paths: Sequence[str]) -> LikelyGroups | None:
    """Return the groups that names of videos suggest, or None if no common pattern fits.

    Args:
        paths: paths of the videos, relative to their root.
    """
    if len(paths) < MIN_VIDEOS:
        return None
    for pattern in PATTERNS:
        compiled = re.compile(pattern)
        keys = [match_group(compiled, path) for path in paths]
        if _are_groups(paths, keys):
            return LikelyGroups(pattern, keys)
    return None


def _are_groups(paths: Sequence[str], keys: Sequence[str | None]) -> bool:
    """Return whether the matches of a pattern are plausible groups."""
    by_class: dict[str, set[str]] = defaultdict(set)
    matches = 0
    for path, key in zip(paths, keys, strict=True):
        if key is not None:
            matches += 1
            by_class[_class_folder(path)].add(key)
    groups = set().union(*by_class.values())
    if matches < MIN_MATCHES * len(paths) or not 2 <= len(groups) <= MAX_GROUPS * matches:
        return False
    sizes = sorted(map(len, by_class.values()))
    return sizes[len(sizes) // 2] >= MIN_GROUPS_PER_CLASS


def _class_folder(path: str) -> str:
    """Return the folder of a path below a split folder; "" for a file in the root."""
    folders = PurePosixPath(path).parts[:-1]
    if folders and split_of(folders[0]):
        folders = folders[1:]
    return folders[0] if folders else ""


def shared_groups(keys: Mapping[str, Sequence[str | None]]) -> dict[str, list[str]]:
    """Return the groups that are in several splits: group -> names of its splits, sorted by group.

    Args:
        keys: split -> group of each of its videos.
    """
    splits: dict[str, list[str]] = defaultdict(list)
    for split, values in keys.items():
        for key in set(values) - {None}:
            splits[str(key)].append(split)
    return {key: names for key, names in sorted(splits.items()) if len(names) > 1}
