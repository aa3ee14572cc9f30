"""The code of README.md and of all pages of docs/ runs.

The Python blocks of a page run one after the other in one namespace, in a folder with the files of ``doc_files``.
Commands run in this process (``RUN``), or are checked by their own parser, which refuses unknown options. Training
commands run on ``TRAINING_PAGES``, with limits on their length. ``<!-- not run: REASON -->`` exempts the next block.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import matplotlib
import pytest
from doc_blocks import PLAIN, SHELL, Block, Command, blocks, commands, pages, text_of
from doc_files import fill_cache, named_networks, write_files, write_tiny_index
from paths import ROOT

import zoo
from cli import COMMANDS, main
from zoo.inference.predict_options import uses_trainer

MAX_NOT_RUN = 12
PAGES = [page for page in pages() if page != "CHANGELOG.md" and blocks(page)]
CODE = {page: blocks(page) for page in PAGES}
TRAINING_PAGES = ("README.md", "docs/quickstart.md")
TRAINING = ("fit", "validate", "test", "probe", "calibrate")
LIMITS = {
    "fit": ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"),
    "probe": (), "test": (), "validate": (), "calibrate": (),
}  # fmt: skip
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--data.num_workers", "0")
RUN = ("list", "info", "recipes", "predict", "features", "search")
NO_CHECK = ("cd", "curl", "export", "git", "hf", "source", "pre-commit")  # programs that are not part of this package


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory, motion_folder: Path) -> Path:
    """Return a folder with ``files``, an index and a cache of tiny networks, and a finished ``run``."""
    root = tmp_path_factory.mktemp("stand_ins")
    with pytest.MonkeyPatch.context() as patch:
        names = named_networks([*(text_of(page) for page in PAGES), *recipes()])
        patch.setenv("TEMPOZOO_INDEX", str(write_tiny_index(root / "index.yaml", names)))
        patch.setenv("TEMPOZOO_CACHE", str(root / "cache"))
        patch.setenv("TEMPOZOO_CONFIG", str(root / "config"))
        patch.setenv("TEMPOZOO_OFFLINE", "1")
        used = [name for name in names if any(is_loaded(name, block) for page in PAGES for block in CODE[page])]
        fill_cache(root, {*used, "tanet_r50.k400_8f"})
        (root / "files").mkdir()
        write_files(root / "files", motion_folder)
        patch.chdir(root / "files")
        fit = ["fit", "--config", "finetune/folder", "--out", str(root / "run"), "my_videos", "--probe", "false"]
        assert main([*fit, *LIMITS["fit"], *QUIET]) == 0
    return root


def recipes() -> list[str]:
    """Return the recipes for own videos, which name networks."""
    return [path.read_text() for path in (ROOT / "configs" / "finetune").glob("*.yaml")]


def is_loaded(name: str, block: Block) -> bool:
    """Whether a block may load the weights of a network."""
    return block.reason is None and block.language in ("python", SHELL) and name in block.text


@pytest.fixture
def workspace(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a copy of the files, with the tiny networks."""
    folder = tmp_path / "work"
    shutil.copytree(stand_ins / "files", folder)
    for variable, path in {"TEMPOZOO_INDEX": "index.yaml", "TEMPOZOO_CACHE": "cache"}.items():
        monkeypatch.setenv(variable, str(stand_ins / path))
    monkeypatch.chdir(folder)
    matplotlib.use("Agg")
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language == "python" for block in CODE[page])])
def test_python_blocks_run(page: str, workspace: Path, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(forget_registrations())
    namespace: dict[str, Any] = {}
    for block in CODE[page]:
        if block.language == "python" and block.reason is None:
            exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / page), "exec"), namespace)


def forget_registrations() -> Callable[[], None]:
    """Return a function that removes operators and architectures that are registered after this call."""
    from zoo.models import ARCHITECTURES
    from zoo.ops.operator import OPERATORS

    known = [(registry, set(registry)) for registry in (ARCHITECTURES, OPERATORS)]

    def forget() -> None:
        for registry, names in known:
            for name in set(registry) - names:
                registry.pop(name)

    return forget


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language == SHELL for block in CODE[page])])
def test_shell_blocks_run(
    page: str, workspace: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page not in TRAINING_PAGES:
        shutil.copytree(stand_ins / "run", workspace / "runs" / "doors")
    for block in CODE[page]:
        if block.language == SHELL and block.reason is None:
            for command in commands(block):
                capsys.readouterr()
                status = run(command, page, monkeypatch)
                error = capsys.readouterr().err
                assert status == 0, f"{block}: {' '.join(command)}\n{error}"


def run(command: Command, page: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run or check a command; returns its exit status."""
    program, *arguments = command
    if program == "tempozoo":
        return run_tempozoo(arguments, page, monkeypatch)
    if program == "torchrun":
        start = arguments.index("-m")
        assert arguments[start + 1] == "cli"
        return run_tempozoo(arguments[start + 2 :], page, monkeypatch)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), "the target is missing"
    elif program == "python":
        check_script(*arguments)
    elif program == "pip":
        check_requirements(arguments)
    else:
        assert program in NO_CHECK, f"{program} is an unknown program; add it to NO_CHECK, or mark the block"
    return 0


def run_tempozoo(arguments: list[str], page: str, monkeypatch: pytest.MonkeyPatch) -> int:
    name, *options = arguments
    assert name in COMMANDS, f"tempozoo {name} does not exist"
    check_network_names(options)
    trains = name in TRAINING or (name == "predict" and uses_trainer(options))
    if trains and page in TRAINING_PAGES:
        return main([*arguments, *LIMITS[name], *QUIET])
    if trains:
        return main([*arguments, "--print_config"])
    if name in RUN:
        return main(arguments)
    with monkeypatch.context() as patch:
        parsed = stop_after_parsing(patch)
        status = main(arguments)
    assert parsed or status, "the command has not parsed its arguments"
    return status


def check_network_names(options: list[str]) -> None:
    """Check that a name after ``--from`` or ``--entry`` is in the index; parsers do not check it."""
    for option, value in itertools.pairwise(options):
        if option in ("--from", "--entry") and re.fullmatch(r"\w+\.\w+", value):
            zoo.info(value)


def stop_after_parsing(patch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """Make commands exit with status 0 when their arguments are parsed; returns the list of the parsed arguments."""
    parsed: list[argparse.Namespace] = []
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *args: Any, **options: Any) -> NoReturn:
        parsed.append(original(parser, *args, **options))
        sys.exit(0)

    patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    return parsed


def check_script(path: str, *arguments: str) -> None:
    """Check that a script of the repository exists and contains the options."""
    source = (ROOT / path).read_text()
    shared = (ROOT / "benchmarks" / "timing.py").read_text() if path.startswith("benchmarks/") else ""
    for option in (argument for argument in arguments if argument.startswith("--")):
        assert f'"{option}"' in source + shared, f"{path} has no option {option}"


def check_requirements(arguments: list[str]) -> None:
    """Check that the extras of this package in a ``pip install`` exist."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for argument in arguments:
        if match := re.fullmatch(r"tempozoo\[(.*)\]", argument):
            assert set(match[1].split(",")) <= set(extras)


def test_every_block_has_a_language() -> None:
    known = ("python", SHELL, *PLAIN)
    wrong = [f"{block}: {block.language}" for page in PAGES for block in CODE[page] if block.language not in known]
    assert not wrong, f"use a fence with one of {', '.join(filter(None, known))}"


def test_blocks_without_language_contain_no_commands() -> None:
    for page in PAGES:
        for block in CODE[page]:
            if block.language in ("", "text"):
                command = re.search(r"(?m)^(tempozoo|make|pip|python|import|from) ", block.text)
                assert command is None, f"{block}: the language is missing"


def test_few_blocks_are_not_run() -> None:
    reasons = [f"{block}: {block.reason}" for page in PAGES for block in CODE[page] if block.reason is not None]
    print("\n".join(["Not run:", *reasons]))
    assert len(reasons) <= MAX_NOT_RUN, reasons
    comments = sum(len(re.findall(r"(?m)^ *<!-- not run:", text_of(page))) for page in PAGES)
    assert comments == len(reasons), "a comment <!-- not run: ... --> is not in front of a block"


def test_unknown_option_of_a_documented_command_is_an_error(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (
        ("tempozoo", "serve", "runs/doors", "--prt", "8000"),
        ("tempozoo", "fit", "--config", "finetune/folder", "my_videos", "--model.optimizer.larning_rate", "1"),
        ("tempozoo", "predict", "--from", "tanet_r50.k400_8f", "clip.mp4", "--windw", "2"),
    ):
        assert run(command, "docs/data.md", monkeypatch) != 0
