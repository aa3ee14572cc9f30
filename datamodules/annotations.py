"""Annotation files of published data sets: finding and reading them, wherever their download was unpacked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.tree import Tree, open_tree
from zoo.errors import DataError
from zoo.index import read_labels

FOLDERS = ("", "annotations", "labels")


def find_annotations(tree: Tree, names: Sequence[str], folders: Sequence[str] = FOLDERS) -> str:
    """The relative path of the first of ``names`` that is there; the folders are looked through in order.

    Raises:
        DataError: there is none.
    """
    paths = [f"{folder}/{name}" if folder else name for folder in folders for name in names]
    for path in paths:
        if tree.exists(path):
            return path
    places = [f"{tree.root}/{folder}".rstrip("/") for folder in folders]
    raise DataError(
        f"There is no annotation file {' or '.join(names[:3])} in {' or '.join(places[:4])}. Videos without the "
        "official files are for VideoFolder or VideoList."
    )


def read_rows(tree: Tree, name: str, **options: Any) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and rows of a CSV file; ``options`` are those of ``csv.reader``. Blank lines are left out.

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


def read_table(tree: Tree, name: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV file whose first line names the columns; those of ``columns`` are filled in.

    Raises:
        DataError: a line is not CSV, a column is missing, or a row leaves it empty.
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
        empty = [column for column in columns if not cells.get(column)]
        if empty:
            raise DataError(f"{where}, line {line}: {empty[0]} is empty.")
        yield line, {column: cells[column] for column in columns}


def read_json(tree: Tree, name: str, kind: type) -> Any:
    """The content of a JSON file, a list or a dict as ``kind`` says.

    Raises:
        DataError: it is not JSON, or holds something else.
    """
    try:
        content = json.loads(tree.read(name))
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        if isinstance(error, DataError):
            raise
        raise DataError(f"{tree.root}/{name} is no JSON: {error}. Unpack it again.") from error
    if not isinstance(content, kind):
        raise DataError(f"{tree.root}/{name} must hold a {kind.__name__}, and holds a {type(content).__name__}.")
    return content


def sorted_labels(names: Iterable[str]) -> list[str]:
    """Class names in label order: sorted, as numbers if all are numbers."""
    names = list(names)
    numbers = all(name.isdecimal() and len(name) < 20 for name in names)
    return sorted(names, key=int) if numbers else sorted(names)


def shorten(value: Any, length: int = 80) -> str:
    """A value for an error message."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


def read_classes(classes: str | Path) -> list[str]:
    """Class names in label order, of a text file with one a line, or of a label set of the zoo ("kinetics400").

    Raises:
        DataError: a line before the last name is empty, two are the same, or it is no UTF-8.
        UnknownNameError: there is neither such a file nor such a label set.
    """
    file = Path(classes)
    if not file.is_file():
        return list(read_labels(str(classes)))
    names = [line.strip() for line in open_tree(file.parent).read(file.name).strip().splitlines()]
    seen: set[str] = set()
    for line, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{file}, line {line} is empty; name a class in every line.")
        if name in seen:
            raise DataError(f"{file}, line {line}: {shorten(name)} is there twice; name each class once.")
        seen.add(name)
    return names
