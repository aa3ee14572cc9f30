"""Find and read annotation files of published data sets."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.tree import Tree, open_tree
from zoo.errors import DataError
from zoo.index import read_labels

FOLDERS = ("", "annotations", "labels")


def find_annotations(tree: Tree, names: Sequence[str], folders: Sequence[str] = FOLDERS) -> str:
    """Return the relative path of the first file of ``names`` that exists; folders are searched in order.

    Raises:
        DataError: no file exists.
    """
    paths = [f"{folder}/{name}" if folder else name for folder in folders for name in names]
    for path in paths:
        if tree.exists(path):
            return path
    searched = [f"{tree.root}/{folder}".rstrip("/") for folder in folders]
    raise DataError(
        f"There is no annotation file {' or '.join(names[:3])} in {' or '.join(searched[:4])}. For videos "
        "without the official files, use VideoFolder or VideoList."
    )


def read_rows(tree: Tree, name: str, **options: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and rows of a CSV file, without blank lines; ``options`` are those of ``csv.reader``.

    Raises:
        DataError: a line is not CSV.
    """
    reader = csv.reader(io.StringIO(tree.read(name), newline=""), **options)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:  # a field of more than 131072 characters, mostly
        raise DataError(
            f"{tree.root}/{name}, line {reader.line_num}: {error}. A quote before this line may lack its second one."
        ) from error


def read_table(
    tree: Tree, name: str, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line numbers and rows of a CSV file with a header; every row has a value in each of ``columns``.

    Values of the columns in ``optional`` may be empty.

    Raises:
        DataError: a line is not CSV, a column is missing, or a value is missing.
    """
    where = f"{tree.root}/{name}"
    rows = read_rows(tree, name, skipinitialspace=True)
    _, header = next(rows, (0, []))
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(
            f"{where} has no column {' or '.join(map(repr, missing))}; its first line is "
            f"{','.join(header)[:80] or 'empty'!r} and must name the columns {', '.join(columns)}."
        )
    for line, row in rows:
        cells = dict(zip(header, map(str.strip, row), strict=False))  # a row may be shorter or longer than the header
        empty = [column for column in columns if not cells.get(column) and column not in optional]
        if empty:
            raise DataError(f"{where}, line {line}: {empty[0]} is empty.")
        yield line, {column: cells.get(column, "") for column in columns}


def read_header(tree: Tree, name: str) -> list[str]:
    """Return the names of the columns of a CSV file.

    Raises:
        DataError: the first line is not CSV.
    """
    _, header = next(read_rows(tree, name, skipinitialspace=True), (0, []))
    return header


def read_json(tree: Tree, name: str, kind: type, *, unique_keys: bool = False) -> Any:
    """Return the content of a JSON file, of type ``kind`` (list or dict).

    Args:
        unique_keys: reject objects with a repeated key, of which only the last value would remain.

    Raises:
        DataError: the file is not JSON, or has another type.
    """
    try:
        content = json.loads(tree.read(name), object_pairs_hook=_unique if unique_keys else None)
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        if isinstance(error, DataError):
            raise
        raise DataError(f"{tree.root}/{name} is not JSON: {error}. Unpack it again.") from error
    if not isinstance(content, kind):
        raise DataError(f"{tree.root}/{name} must contain a {kind.__name__}; it contains a {type(content).__name__}.")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict.

    Raises:
        ValueError: a key is repeated.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shorten(repeated)} is repeated in one object")
    return content


def sorted_labels(names: Iterable[str]) -> list[str]:
    """Sort class names, numerically if all are numbers."""
    names = list(names)
    numbers = all(name.isdecimal() and len(name) < 20 for name in names)
    return sorted(names, key=int) if numbers else sorted(names)


def shorten(value: Any, length: int = 80) -> str:
    """Shorten the representation of a value for an error message."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


def read_classes(classes: str | Path) -> list[str]:
    """Read class names in label order from a text file with one per line, or a label set of the zoo ("kinetics400").

    Raises:
        DataError: a line before the last name is empty, a name is repeated, or the file is not UTF-8.
        UnknownNameError: neither a file nor a label set has this name.
    """
    file = Path(classes)
    if not file.is_file():
        return list(read_labels(str(classes)))
    names = [line.strip() for line in open_tree(file.parent).read(file.name).strip().splitlines()]
    seen: set[str] = set()
    for line, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{file}, line {line} is empty; every line must be a class name.")
        if name in seen:
            raise DataError(f"{file}, line {line}: {shorten(name)} is there twice; name each class once.")
        seen.add(name)
    return names
