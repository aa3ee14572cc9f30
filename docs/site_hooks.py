"""Hooks of MkDocs: README.md as the first page, links to files outside of docs/, and the chart of all networks.

Links are written for the repository. On the site, README.md and the other Markdown files of the repository root become
pages, and each other file outside of docs/ that a page links to is copied to ``files/``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from zoo.charts.page import render
from zoo.charts.points import index_points
from zoo.index import list_models

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = "README.md"
INDEX = "index.md"
ROOT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
CHART = "networks.html"
CHART_SLOT = "<!-- chart -->"  # in a page, replaced by a link to the chart
LINK = re.compile(r"(\]\()([^)\s#]+)([^)\s]*\))")
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)


def site_path(link: str, page: Path) -> str | None:
    """Return the path in the site's sources of a link to a file of the repository, or None for any other link."""
    if re.match(r"[a-z+.-]+:|/", link):
        return None
    target = Path(os.path.normpath(page.parent / link))
    if not target.is_file():
        return None
    if target == ROOT / README:
        return INDEX
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    path = target.relative_to(ROOT).as_posix()
    return path if path in ROOT_PAGES else f"files/{path}"


def source_of(page: str) -> Path:
    """Return the file of the repository that a page is made from."""
    if page == INDEX:
        return ROOT / README
    return ROOT / page if page in ROOT_PAGES else DOCS / page


def rewrite_links(text: str, page: str) -> str:
    """Replace links to files of the repository by links between files of the site."""

    def replace(match: re.Match[str]) -> str:
        path = site_path(match[2], source_of(page))
        return match[0] if path is None else f"{match[1]}{os.path.relpath(path, Path(page).parent)}{match[3]}"

    parts = FENCE.split(text)  # odd parts are code
    return "".join(part if number % 2 else LINK.sub(replace, part) for number, part in enumerate(parts))


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository root, the files outside of docs/ that pages link to, and the chart."""
    files.append(File.generated(config, CHART, content=render(index_points(list_models()))))
    for page in ROOT_PAGES:
        files.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
    pages = [file.src_uri for file in files.documentation_pages()]
    linked: set[str] = set()
    for page in pages:
        source = source_of(page)
        paths = (site_path(match[2], source) for match in LINK.finditer(source.read_text(encoding="utf-8")))
        linked |= {path for path in paths if path is not None and path.startswith("files/")}
    for path in sorted(linked):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path.removeprefix("files/"))))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Use README.md as the first page, and rewrite the links of every page."""
    path = page.file.src_uri
    text = source_of(path).read_text(encoding="utf-8") if path == INDEX else markdown
    return rewrite_links(text, path).replace(CHART_SLOT, f"[Chart with filters]({CHART})")
