"""Dependencies between packages, and the declared dependencies of the project."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).parent.parent


# Imports inside functions that the rule below allows: VideoNetwork.from_pretrained and push_to_hub are shorthands for
# zoo.load and zoo.push, which build on zoo.models.
SHORTHANDS = {("zoo/models/network.py", "zoo.loading"), ("zoo/models/network.py", "zoo.hub.push")}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_modules(file: Path) -> set[str]:
    """Names of all modules that a file imports, anywhere in it, except for type annotations only."""
    modules: set[str] = set()
    pending: list[ast.AST] = [ast.parse(file.read_text())]
    while pending:
        node = pending.pop()
        if is_type_checking(node):
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    return modules


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("zoo", ("zoo",)),
        ("zoo/ops", ("zoo.ops", "zoo.errors", "zoo.text")),
        ("zoo/weights/converters", ("zoo.weights.converters",)),
        ("zoo/video", ("zoo.video", "zoo.errors", "zoo.text", "zoo.protocol")),
        ("zoo/models", ("zoo.models", "zoo.ops", "zoo.errors", "zoo.text", "zoo.protocol", "zoo.spec", "zoo.lazy")),
        ("datamodules", ("datamodules", "zoo")),
        ("lit_modules", ("lit_modules", "zoo")),
    ],
)
def test_dependencies_have_one_direction(package: str, allowed: tuple[str, ...]) -> None:
    ours = ("zoo", "lit_modules", "datamodules", "cli", "benchmarks", "examples")
    for file in (ROOT / package).rglob("*.py"):
        for module in imported_modules(file):
            shorthand = (file.relative_to(ROOT).as_posix(), module) in SHORTHANDS
            if module.split(".")[0] in ours and not shorthand:
                assert any(module == m or module.startswith(f"{m}.") for m in allowed), f"{file} imports {module}"


def test_there_are_no_import_cycles() -> None:
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for package in ("zoo", "datamodules", "lit_modules")
        for file in (ROOT / package).rglob("*.py")
    }
    imports: dict[str, set[str]] = {}
    for name, file in files.items():
        imports[name] = set()
        for node in ast.parse(file.read_text()).body:  # those inside functions run later
            if isinstance(node, ast.ImportFrom) and node.module:
                submodules = {f"{node.module}.{alias.name}" for alias in node.names} & files.keys()
                imports[name] |= submodules or ({node.module} & files.keys())
    for package in ("datamodules", "lit_modules", "zoo"):  # whose __init__ imports its modules
        for modules in imports.values():
            modules.discard(package)
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for module in sorted(imports[name]):
                visit(module, [*path, name])
            done.add(name)

    for name in files:
        visit(name, [])


def test_importing_the_zoo_is_light() -> None:
    heavy = (
        "lightning", "torchvision", "pytorchvideo", "av", "huggingface_hub", "gdown", "requests", "rich", "scipy",
        "sklearn", "pandas", "matplotlib",
    )  # fmt: skip
    statements = {  # -> modules that it must not import
        "import zoo": ("torch", "numpy", "yaml", *heavy),
        "import zoo.models": ("torch", "numpy", *heavy),
        "import lit_modules, datamodules": ("torch", "numpy", *heavy),
        "from zoo import *": heavy,
    }
    for statement, modules in statements.items():
        code = f"import sys\n{statement}\nprint([m for m in {modules} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]", statement


def test_public_names() -> None:
    assert zoo.__all__ == [
        "convert", "create", "explain", "features", "info", "list_models", "load", "localize", "predict", "profile",
        "push", "read_clip", "save", "temporalize", "timeline",
    ]  # fmt: skip


def test_declared_dependencies_are_constrained() -> None:
    """Every direct dependency has its tested version in constraints.txt."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {d.split(">=")[0].split("[")[0].replace("-", "_").lower() for d in project["dependencies"]}
    lines = [
        line.split(";")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    ]
    assert declared <= {line.split("==")[0].replace("-", "_").lower() for line in lines}


def test_quick_tests_exist() -> None:
    """tests/quick.txt is generated; a renamed test would silently leave it."""
    missing = []
    for line in (ROOT / "tests" / "quick.txt").read_text().split():
        path, _, name = line.partition("::")
        tree = ast.parse((ROOT / path).read_text()) if (ROOT / path).is_file() else ast.Module([], [])
        if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            missing.append(line)
    assert not missing, f"run tests/support/select_quick.py again; quick.txt lists {missing}"


def test_test_modules_do_not_import_each_other() -> None:
    """What tests share is in tests/support, so that every test file runs alone."""
    for file in (ROOT / "tests").rglob("test_*.py"):
        shared = {module for module in imported_modules(file) if module.startswith("test_") or module == "conftest"}
        assert not shared, f"{file} imports {', '.join(shared)}"
