"""Videos that may be in two splits: groups that the names suggest, and videos that look almost the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from datamodules.groups import LikelyGroups, find_likely_groups, shared_groups
from datamodules.overlap import EXAMPLES, WORDS
from datamodules.tree import split_of
from zoo.text import pluralize, pluralize_range, printable

Pairs = Sequence[tuple[str, str]]


def describe_leaks(names: Sequence[str], near_duplicates: Pairs) -> list[str]:
    """Return lines about videos that are, or might be drawn, into different splits, with recommendations.

    Args:
        names: relative paths of all videos.
        near_duplicates: pairs of them that look almost the same.
    """
    groups = find_likely_groups(names)
    has_splits = len({_split(name) for name in names} - {None}) > 1
    lines = [] if groups is None else _describe_groups(names, groups, has_splits)
    if has_splits:
        return lines + _describe_pairs_across_splits(near_duplicates)
    return lines + _describe_pairs(names, near_duplicates, groups)


def _split(name: str) -> str | None:
    """Return the split of a path in a split folder."""
    folder, separator, _ = name.partition("/")
    return split_of(folder) if separator else None


def _describe_groups(names: Sequence[str], groups: LikelyGroups, has_splits: bool) -> list[str]:
    sizes = Counter(key for key in groups.keys if key is not None)
    example = printable(next(iter(sizes)))
    option = f"--data.group '{groups.pattern}'"
    if not has_splits:
        videos = pluralize_range(min(sizes.values()), max(sizes.values()), "video")
        return [
            f"The names suggest {pluralize(len(sizes), 'group')} of {videos}, such as {example}. If these are videos "
            f"of one recording, person or camera, keep each group in one split: {option}"
        ]
    by_split: dict[str, list[str | None]] = {}
    for name, key in zip(names, groups.keys, strict=True):
        by_split.setdefault(_split(name) or "other", []).append(key)
    shared = shared_groups(by_split)
    if not shared:
        return []
    key, splits = next(iter(shared.items()))
    return [
        f"{len(shared)} of {len(sizes)} groups of similar names are in several splits, such as {printable(key)} in "
        f"{' and '.join(splits)}. If these are videos of one recording, person or camera, the accuracy is too high; "
        f"merge the split folders and draw new splits with {option}"
    ]


def _describe_pairs_across_splits(pairs: Pairs) -> list[str]:
    lines = []
    order = list(WORDS)
    across: dict[tuple[str, str], dict[str, str]] = {}  # later and earlier split -> video -> one that looks the same
    for pair in pairs:
        splits = {split: name for name in pair if (split := _split(name))}
        if len(splits) == 2:
            earlier, later = sorted(splits, key=order.index)
            across.setdefault((later, earlier), {})[splits[later]] = splits[earlier]
    for (later, earlier), videos in sorted(across.items()):
        lines.append(
            f"{len(videos)} {WORDS[later]} videos look almost like {WORDS[earlier]} videos "
            f"({_examples(videos.items())}). Remove them from one of the two splits."
        )
    return lines


def _describe_pairs(names: Sequence[str], pairs: Pairs, groups: LikelyGroups | None) -> list[str]:
    if not pairs:
        return []
    videos = {name for pair in pairs for name in pair}
    text = f"{len(videos)} videos look almost like another one ({_examples(pairs)})"
    keys = {} if groups is None else dict(zip(names, groups.keys, strict=True))
    separate = [pair for pair in pairs if keys.get(pair[0]) is None or keys.get(pair[0]) != keys.get(pair[1])]
    if not separate:
        return [f"{text}; all of these pairs are in one of the groups."]
    return [
        f"{text}. An automatic split may separate them: remove copies, or list the videos in a CSV file with a column "
        "for their groups (--data.group COLUMN)."
    ]


def _examples(pairs: Iterable[tuple[str, str]]) -> str:
    shown = list(pairs)
    text = "; ".join(f"{printable(one)} = {printable(two)}" for one, two in shown[:EXAMPLES])
    return text + (", ..." if len(shown) > EXAMPLES else "")
