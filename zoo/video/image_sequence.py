"""Patterns of image files that are the frames of one video, such as ``frames/img_%05d.jpg`` or ``frames/*.jpg``."""

from __future__ import annotations

import glob
import itertools
import os
import re
from pathlib import Path

from zoo.errors import DataError
from zoo.text import printable
from zoo.video.frame_reader import FRAME_EXTENSIONS, OPTICAL_FLOW, natural_key

NUMBER = re.compile(r"%(?:0(\d{1,2}))?d")  # %d or %05d; other conversions are part of the name


def is_image_pattern(path: str) -> bool:
    """Whether a path is a pattern of image names rather than one file. A file with that literal name is preferred."""
    if "://" in path or not path.lower().endswith(FRAME_EXTENSIONS) or os.path.lexists(path):
        return False
    return glob.has_magic(path) or NUMBER.search(os.path.basename(path)) is not None


def list_images(pattern: str) -> list[str]:
    """List the files of a pattern in natural order.

    Args:
        pattern: a file name with one ``%d`` or ``%05d``, which stands for consecutive numbers from any start; or a
            shell pattern, which matches names with any numbers.

    Raises:
        DataError: no file matches, numbers are missing, or the name contains several ``%d``.
    """
    if NUMBER.search(os.path.basename(pattern)):
        return _list_numbered(Path(pattern))
    paths = [path for path in glob.glob(pattern) if os.path.isfile(path)]
    if not OPTICAL_FLOW.match(os.path.basename(pattern)):  # left out as in a folder of frames
        paths = [path for path in paths if not OPTICAL_FLOW.match(os.path.basename(path))]
    if not paths:
        raise DataError(f"No image matches {printable(pattern)}.", "missing")
    return sorted(paths, key=natural_key)


def _list_numbered(pattern: Path) -> list[str]:
    name = printable(str(pattern))
    conversion = NUMBER.search(pattern.name)
    assert conversion is not None
    if NUMBER.search(pattern.name, conversion.end()):
        raise DataError(f"{name} contains several numbers; give a pattern with one %d.")
    prefix, suffix = pattern.name[: conversion.start()], pattern.name[conversion.end() :]
    width = int(conversion[1] or 1)
    digits = re.compile(rf"{re.escape(prefix)}(\d{{{width}}}|[1-9]\d{{{width},}}){re.escape(suffix)}")
    try:
        matches = [match for entry in os.listdir(pattern.parent) if (match := digits.fullmatch(entry))]
    except OSError as error:
        raise DataError(f"The folder of {name} cannot be read ({error.strerror}).", "missing") from error
    numbers = sorted(int(match[1]) for match in matches)
    if not numbers:
        raise DataError(f"No image matches {name}.", "missing")
    gap = next(((before, after) for before, after in itertools.pairwise(numbers) if after > before + 1), None)
    if gap is not None:
        first, last = gap[0] + 1, gap[1] - 1
        missing = f"image {first} is" if first == last else f"images {first} to {last} are"
        shell_pattern = glob.escape(str(pattern.parent / prefix)) + "*" + glob.escape(suffix)
        raise DataError(
            f"{name}: {missing} missing between {numbers[0]} and {numbers[-1]}. Number the images consecutively, or "
            f"give {printable(shell_pattern)} to use the existing ones."
        )
    return [str(pattern.parent / f"{prefix}{number:0{width}d}{suffix}") for number in numbers]
