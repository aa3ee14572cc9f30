"""Code blocks, links and headings of the documentation, parsed as Markdown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from paths import ROOT

PARSER = MarkdownIt("commonmark").enable("table")
NOT_RUN = re.compile(r"<!-- not run: (.+) -->\s*$")
SHELL = "bash"
# languages of blocks that are not code to execute: output, equations, folders, CSV rows, configuration
PLAIN = ("", "text", "console", "csv", "yaml", "json")
Command = tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: path in the repository.
        line: number of its first line, counted from 1.
        reason: text of a comment ``<!-- not run: REASON -->`` in front of the block, or None.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"


def pages() -> list[str]:
    """Return the paths of all pages in the repository."""
    root = sorted(path.name for path in ROOT.glob("*.md"))
    return root + sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))


def parse(page: str) -> list[Token]:
    """Parse a page."""
    return PARSER.parse((ROOT / page).read_text(encoding="utf-8"))


def blocks(page: str) -> list[Block]:
    """Return the code blocks of a page, also indented ones, whose language is "indented"."""
    result: list[Block] = []
    before = ""  # content of the HTML in front of the token
    for token in parse(page):
        if token.type in ("fence", "code_block"):
            comment = NOT_RUN.search(before)
            language = token.info.strip() if token.type == "fence" else "indented"
            line = (token.map or [0])[0] + 2
            result.append(Block(page, line, language, token.content, comment[1] if comment else None))
        before = token.content if token.type == "html_block" else ""
    return result


def commands(block: Block) -> Iterator[Command]:
    """Split a shell block into the words of its commands. Comments are removed; ``&&`` separates commands."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in shlex.split(line, comments=True):
            if word == "&&":
                yield tuple(words)
                words = []
            else:
                words.append(word)
        if words:
            yield tuple(words)


def inline_code(page: str) -> list[str]:
    """Return the texts in backticks of a page."""
    children = (child for token in parse(page) for child in token.children or ())
    return [child.content for child in children if child.type == "code_inline"]


def links(page: str) -> list[str]:
    """Return the targets of links and pictures of a page."""
    children = (child for token in parse(page) for child in token.children or ())
    return [str(child.attrs["href" if child.type == "link_open" else "src"]) for child in children
            if child.type in ("link_open", "image")]  # fmt: skip


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and the site create them."""
    tokens = parse(page)
    titles = [
        "".join(child.content for child in tokens[number + 1].children or ())
        for number, token in enumerate(tokens)
        if token.type == "heading_open"
    ]
    result: set[str] = set()
    for title in titles:
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        number = 1
        unique = slug
        while unique in result:
            unique, number = f"{slug}-{number}", number + 1
        result.add(unique)
    return result


def text_of(page: str) -> str:
    """Return the text of a page."""
    return Path(ROOT / page).read_text(encoding="utf-8")
