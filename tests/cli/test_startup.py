"""Start-up: commands that need no network, and the import of the packages, load no heavy modules."""

from __future__ import annotations

import ast
import importlib
import os
import pickle
import pydoc
import subprocess
import sys
from collections.abc import Sequence

import pytest
from paths import PYTHONPATH, ROOT

import zoo
from cli import COMMANDS

HEAVY = (
    "av", "gdown", "huggingface_hub", "jsonargparse", "lightning", "matplotlib", "numpy", "pandas", "pytorchvideo",
    "requests", "scipy", "sklearn", "torch", "torchmetrics", "torchvision",
)  # fmt: skip
RUN_COMMANDS = """
import sys
from cli import main
for command in {commands}:
    status = main(command)
    print("\\nRESULT", status, [name for name in {heavy} if name in sys.modules], " ".join(command))
"""
BUNDLED = "tanet_r18.motionclips8"
LAZY_PACKAGES = ("zoo", "zoo.models", "lit_modules", "datamodules")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter."""
    environment = os.environ | {"PYTHONPATH": PYTHONPATH}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


def run_commands(*commands: Sequence[str]) -> tuple[list[str], str]:
    """Run commands in one new interpreter; return a line with exit status and heavy modules for each, and stderr."""
    process = run_python(RUN_COMMANDS.format(commands=[list(command) for command in commands], heavy=HEAVY))
    return [line for line in process.stdout.splitlines() if line.startswith("RESULT")], process.stderr


def loaded_modules(code: str, names: Sequence[str]) -> str:
    """Return which of the modules ``names`` are imported after running code in a new interpreter."""
    return run_python(f"{code}\nimport sys\nprint([name for name in {names} if name in sys.modules])").stdout.strip()


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "tada2d*", "--dataset", "ssv2"],
        ["info", BUNDLED],
        ["recipes"],
        ["recipes", "finetune/folder"],
        ["cache", "list"],
        ["fit", "--help"],
        ["predict", "--help"],
        ["data", "check", "--help"],
    ],
    ids=" ".join,
)
def test_commands_without_networks_do_not_import_torch(command: list[str]) -> None:
    results, errors = run_commands(command)
    assert results == [f"RESULT 0 [] {' '.join(command)}"], errors


def test_help_of_every_command_does_not_import_torch() -> None:
    results, errors = run_commands(*([name, "--help"] for name in COMMANDS))
    assert results == [f"RESULT 0 [] {name} --help" for name in COMMANDS], errors


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["lst"], "Unknown command 'lst' (did you mean list?)"),
        (["info", "tanet_r81.motionclips8"], f"Did you mean '{BUNDLED}'"),
        (["list", "nothing*"], "No network matches 'nothing*'."),
        (["recipes", "folder"], "did you mean finetune/folder?"),
        (["download", "tanet_r81.motionclips8"], f"Did you mean '{BUNDLED}'"),
        (["convert", "file.pth", "tanet_r81.motionclips8"], f"Did you mean '{BUNDLED}'"),
        (["predict", "--form", BUNDLED, "clip.mp4"], "Unknown option --form (did you mean --from?)"),
        (["predict", "--from", "tanet_r81.motionclips8", "clip.mp4"], f"Did you mean '{BUNDLED}'"),
        (["predict", "--from", "missing.ckpt", "clip.mp4"], "File missing.ckpt does not exist."),
        (["features", "--from", "runs/lost", "--out", "x", "clip.mp4"], "Folder or file runs/lost does not exist."),
        (["export", "tanet_r81.motionclips8", "--to", "onnx"], f"Did you mean '{BUNDLED}'"),
    ],
)  # fmt: skip
def test_errors_in_names_do_not_import_torch(command: list[str], message: str) -> None:
    results, errors = run_commands(command)
    assert results == [f"RESULT 1 [] {' '.join(command)}"]
    assert message in errors


def test_index_protocols_and_architecture_names_do_not_need_torch() -> None:
    code = """
import zoo
from zoo.models import ARCHITECTURES
entry = zoo.info("tanet_r50.k400_8f")
assert entry.arch in ARCHITECTURES and entry.spec.labels and entry.protocol
"""
    assert loaded_modules(code, HEAVY) == "[]"


@pytest.mark.parametrize("package", LAZY_PACKAGES)
def test_lazy_names_agree_with_those_of_type_checkers(package: str) -> None:
    module = importlib.import_module(package)
    path = ROOT / package.replace(".", "/") / "__init__.py"
    blocks = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
    imports = [node for node in blocks[0].body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == module._MODULES
    for name, home in module._MODULES.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    assert set(module.__all__) <= set(dir(module))


def test_lazy_package_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'lod'"):
        zoo.lod  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(zoo, "_private")
    with pytest.raises(ImportError, match="cannot import name 'lod' from 'zoo'"):
        exec("from zoo import lod")


def test_submodules_are_attributes_of_the_package() -> None:
    run_python("import zoo; assert zoo.errors.ConfigError and zoo.models.ARCHITECTURES and zoo.ops.TAM")


def test_public_functions_can_be_pickled() -> None:
    for name in zoo.__all__:
        function = getattr(zoo, name)
        assert pickle.loads(pickle.dumps(function)) is function


def test_help_of_the_package_describes_its_functions() -> None:
    text = pydoc.render_doc(zoo, renderer=pydoc.plaintext)
    assert all(f"{name}(" in text for name in zoo.__all__)
