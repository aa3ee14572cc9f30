"""Annotation files of published data sets: finding and reading them, wherever their download was unpacked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
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


def read_table(tree: Tree, name: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV file whose first line names the columns; those of ``columns`` are filled in.

    Raises:
        DataError: a column is not there, or a row leaves it empty.
    """
    where = f"{tree.root}/{name}"
    reader = csv.DictReader(io.StringIO(tree.read(name), newline=""), skipinitialspace=True)
    header = reader.fieldnames or []
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(
            f"{where} has no column {' or '.join(map(repr, missing))}; its first line is "
            f"{','.join(header)[:80] or 'empty'!r} and must name the columns {', '.join(columns)}."
        )
    for row in reader:
        empty = [column for column in columns if not row[column]]
        if empty:
            raise DataError(f"{where}, line {reader.line_num}: {empty[0]} is empty.")
        yield reader.line_num, {column: row[column].strip() for column in columns}


def read_json(tree: Tree, name: str, kind: type) -> Any:
    """What a JSON file holds, a list or a dict as ``kind`` says.

    Raises:
        DataError: it is no JSON, or holds something else.
    """
    try:
        found = json.loads(tree.read(name))
    except json.JSONDecodeError as error:
        raise DataError(f"{tree.root}/{name} is no JSON: {error}. Unpack it again.") from error
    if not isinstance(found, kind):
        raise DataError(f"{tree.root}/{name} must hold a {kind.__name__}, and holds a {type(found).__name__}.")
    return found


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
    for line, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{file}, line {line} is empty; name a class in every line.")
        if name in names[: line - 1]:
            raise DataError(f"{file}, line {line}: {name!r} is there twice; name each class once.")
    return names
