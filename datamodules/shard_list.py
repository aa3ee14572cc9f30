"""ShardList: videos in WebDataset shards with labels."""

from __future__ import annotations

import functools
from typing import Any

from datamodules.annotations import read_classes, shorten, sorted_labels
from datamodules.base import VideoDataModule
from datamodules.records import VideoRecords
from datamodules.shards import ShardTree
from zoo.errors import DataError


class ShardList(VideoDataModule):
    """WebDataset shards with a ``shards.json`` for each split, written by `tempozoo data index`.

    The label of a video is a class name or number in its ``.cls``, ``.json`` ("label", "cls" or "class") or ``.txt``
    member. Without ``test``, the validation videos are tested.

    Args:
        train: folder or URL with the shards.json of the training videos.
        val: folder or URL with the shards.json of the validation videos.
        test: folder or URL with the shards.json of the test videos.
        classes: all classes in label order, as a text file with one name a line or a label set of the zoo
            ("kinetics400"); default: the labels of the training videos (or of the only ones), sorted.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, flip, ...
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        classes: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        given = {"train": train, "val": val, "test": test}
        self.roots = {split: str(root) for split, root in given.items() if root}
        if not self.roots:
            raise DataError("ShardList needs folders or URLs of shards; pass at least train= or test=.")
        self.root = next(iter(self.roots.values()))
        self.classes = classes

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits with shards."""
        return tuple(self.roots)

    @functools.cache  # noqa: B019, one data module a run
    def shards(self, split: str) -> ShardTree:
        """Return the shards of a split."""
        return ShardTree(self.roots[split])

    def _labels(self, split: str) -> list[str]:
        tree = self.shards(split)
        labels = tree.labels(tree.names)
        if not all(labels):
            name = tree.names[labels.index("")]
            raise DataError(f"{name} in the shards of {tree.root} has no label (a .cls, .json or .txt beside it).")
        return labels

    @functools.cached_property
    def class_names(self) -> list[str]:
        """``classes``, or the labels, sorted; numbers sort as numbers."""
        if self.classes is not None:
            return read_classes(self.classes)
        names = set(self._labels(next(iter(self.roots))))
        if len(names) < 2:
            raise DataError(f"The shards of {self.root} have {len(names)} class; at least 2 are needed.")
        return sorted_labels(names)

    def split_records(self, split: str) -> VideoRecords:
        """See the class; "predict" is the test split."""
        split = "test" if split == "predict" else split
        if split == "test" and "test" not in self.roots:
            split = "val"
        if split not in self.roots:
            raise DataError(f"ShardList has no {split} shards; pass {split}= a folder or URL.")
        labels, names = self._labels(split), self.class_names
        numbers = {name: number for number, name in enumerate(names)}
        if self.classes is not None and not any(label in numbers for label in labels):
            numbers = {str(number): number for number in range(len(names))}
        unknown = sorted(set(labels) - set(numbers))
        if unknown:
            raise DataError(
                f"The shards of {self.roots[split]} have the label {shorten(unknown[0])}, which is not a class."
            )
        tree = self.shards(split)
        return tree.records(tree.names, [numbers[label] for label in labels])
