"""Pages of the documentation: generated tables, links and anchors, navigation of the site, API reference."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_blocks import anchors, inline_code, links, pages, text_of
from paths import ROOT

import datamodules
import lit_modules
import zoo
from zoo.models import ARCHITECTURES

CONFIG = ROOT / "mkdocs.yml"
SITE_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")  # pages of the repository root, see docs/site_hooks.py


class _Loader(yaml.SafeLoader):
    """Loader that ignores the Python objects of mkdocs.yml."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def generator() -> Any:
    """Import docs/generate_models.py."""
    spec = importlib.util.spec_from_file_location("generate_models", ROOT / "docs" / "generate_models.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nav_pages(nav: Any) -> list[str]:
    """Return the pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav
    return [page for item in items for page in nav_pages(item)]


def test_tables_of_networks_are_those_of_the_index() -> None:
    module = generator()
    for page in module.PAGES:
        text = text_of(page)
        assert module.fill(text) == text, f"{page} differs from the index; run python docs/generate_models.py"
    names = {name for page in module.PAGES for _, name, _ in module.BLOCK.findall(text_of(page))}
    assert names == set(module.BLOCKS)


def test_changed_index_changes_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = zoo.index.load_index().path.read_text(encoding="utf-8")
    (tmp_path / "index.yaml").write_text(content.replace("top1: 76.7", "top1: 12.3"))
    monkeypatch.setenv("TEMPOZOO_INDEX", str(tmp_path / "index.yaml"))
    module = generator()
    assert "12.3 / 92.6" in module.fill(text_of("docs/models.md"))
    assert "12.3 - 77.4" in module.fill(text_of("README.md"))


def test_every_network_is_in_the_tables() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", text_of("docs/models.md"), re.MULTILINE)
    assert sorted(rows) == sorted(zoo.list_models())


@pytest.mark.parametrize("page", [page for page in pages() if page != "CHANGELOG.md"])
def test_names_of_networks_exist(page: str) -> None:
    index = zoo.index.load_index()
    names = [name for name in inline_code(page) if re.fullmatch(r"\w+\.\w+", name)]
    wrong = [name for name in names if name.partition(".")[0] in ARCHITECTURES and name not in index.entries]
    assert not [name for name in wrong if name not in index.unreleased]


def test_navigation_has_every_page_once() -> None:
    config = yaml.load(CONFIG.read_text(), _Loader)
    listed = nav_pages(config["nav"])
    existing = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted([*existing, *SITE_PAGES])


@pytest.mark.parametrize("page", pages())
def test_links_and_anchors_exist(page: str) -> None:
    broken = []
    for link in links(page):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        relative = target.resolve().relative_to(ROOT).as_posix()
        if not target.exists() or (anchor and anchor not in anchors(relative)):
            broken.append(link)
    assert not broken


def test_readme_lists_every_page() -> None:
    linked = {link.partition("#")[0] for link in links("README.md")}
    missing = {page for page in pages() if page.startswith("docs/")} - linked - {"docs/index.md"}
    assert not missing


def test_api_reference_has_every_public_name() -> None:
    listed = set(re.findall(r"^::: (\S+)$", text_of("docs/api.md"), re.MULTILINE))
    public = {f"{module.__name__}.{name}" for module in (zoo, datamodules, lit_modules) for name in module.__all__}
    assert not public - listed
    for name in listed:
        module_name, _, attribute = name.rpartition(".")
        module = importlib.import_module(module_name)
        assert (getattr(module, attribute).__doc__ or "").strip(), name


def test_links_of_the_site(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    text = "[a](docs/data.md#groups) [b](CONTRIBUTING.md) [c](https://x.org/y.md) ![d](docs/timeline.png)"
    text += " [e](zoo/index.py)"
    assert hooks.rewrite_links(text, "index.md") == (
        "[a](data.md#groups) [b](CONTRIBUTING.md) [c](https://x.org/y.md) ![d](timeline.png) [e](files/zoo/index.py)"
    )
    assert hooks.rewrite_links("[a](../README.md) [b](data.md)", "models.md") == "[a](index.md) [b](data.md)"
    code = "```python\nx = [f](docs/data.md)\n```\n"
    assert hooks.rewrite_links(code, "index.md") == code


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    api = (tmp_path / "site" / "api.html").read_text()
    assert 'id="zoo.load"' in api and 'id="lit_modules.VideoClassifier"' in api
    first = (tmp_path / "site" / "index.html").read_text()
    assert "fine-tune it on your videos" in first
    assert 'href="quickstart.html"' in first  # a link to a folder would need a web server
