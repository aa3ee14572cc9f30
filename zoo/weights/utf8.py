"""File names that are not UTF-8. Linux allows them; JSON files and safetensors do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def is_utf8(text: str) -> bool:
    """Return whether ``text`` can be encoded as UTF-8. In Python, other file names have lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """Provide ``path``, or a temporary symbolic link to it if its name is not UTF-8."""
    if is_utf8(str(path)):
        yield path
        return
    with TemporaryDirectory() as folder:
        link = Path(folder) / "file"
        link.symlink_to(path.resolve())
        yield link
