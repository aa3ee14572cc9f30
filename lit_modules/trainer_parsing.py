"""Split the command line of ``fit``, ``validate``, ``test``, ``predict`` and ``probe`` into options and data.

Importing this module does not import torch.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from zoo.command_line import expand_home
from zoo.errors import ConfigError

FIND_LR, FIND_BATCH_SIZE = "--find_lr", "--find_batch_size"
OWN_OPTIONS = ("--from", "--entry", "--out", "--views", "--folds", "--early_stop", "--probe", "--report", "--log")
LOCAL_PATHS = ("--out", "--ckpt_path")
SHORT_OPTIONS = {"-h": "--help", "-c": "--config"}
HELP, HELP_ALL = "--help", "--help_all"
ALLOW_UNTRAINED, SKIP_NONFINITE, COMPILE = "--allow_untrained", "--skip_nonfinite", "--compile"
PROFILE = "--profile"
SWITCHES = (ALLOW_UNTRAINED, SKIP_NONFINITE, COMPILE, PROFILE, FIND_LR, FIND_BATCH_SIZE)
FLAGS = (HELP, HELP_ALL, "--print_config", *SWITCHES)  # options without a value


@dataclass(frozen=True)
class TrainerArguments:
    """A command line: tempozoo options, positional arguments, and LightningCLI options as ``--name=value``."""

    network: str | None = None  # --from
    entry: str | None = None  # --entry
    out: str | None = None  # --out
    views: str | None = None  # --views
    folds: str | None = None  # --folds
    probe: str | None = None  # --probe
    early_stop: str | None = None  # --early_stop
    report: str | None = None  # --report
    log: str | None = None  # --log
    allow_untrained: bool = False  # --allow_untrained
    skip_nonfinite: bool = False  # --skip_nonfinite
    compile: bool = False  # --compile
    profile: bool = False  # --profile
    tuning: Sequence[str] = ()  # --find_lr, --find_batch_size
    files: Sequence[str] = ()
    options: Sequence[str] = ()

    @property
    def names(self) -> set[str]:
        """Names of the LightningCLI options, without values."""
        return {option.partition("=")[0] for option in self.options}

    @property
    def has_config(self) -> bool:
        """Whether ``--config`` is given."""
        return "--config" in self.names

    @property
    def asks_help(self) -> bool:
        """Whether LightningCLI prints help or the configuration and exits."""
        return any(name in FLAGS or name.endswith(".help") for name in self.names)

    def value_of(self, name: str) -> str | None:
        """The last value of a LightningCLI option, or None."""
        values = [option.partition("=")[2] for option in self.options if option.startswith(f"{name}=")]
        return values[-1] if values else None

    def without(self, name: str) -> TrainerArguments:
        """The arguments without a LightningCLI option."""
        return replace(self, options=[option for option in self.options if option.partition("=")[0] != name])

    def command_line(self, command: str) -> str:
        """Return the command line of these arguments."""
        own = {
            "--from": self.network,
            "--entry": self.entry,
            "--out": self.out,
            "--views": self.views,
            "--folds": self.folds,
            "--probe": self.probe,
            "--early_stop": self.early_stop,
            "--report": self.report,
            "--log": self.log,
        }
        words = [word for name, value in own.items() if value is not None for word in (name, value)]
        words += [ALLOW_UNTRAINED] * self.allow_untrained + [SKIP_NONFINITE] * self.skip_nonfinite
        words += [COMPILE] * self.compile
        words += [PROFILE] * self.profile
        words += self.tuning
        return shlex.join(["tempozoo", command, *words, *split_options(self.options), *self.files])


def split_options(options: Iterable[str]) -> list[str]:
    """``--name=value`` as two words."""
    return [word for option in options for word in option.split("=", 1)]


def parse(arguments: Sequence[str]) -> TrainerArguments:
    """Split a command line into options and positional arguments. Values of options may begin with a dash.

    Raises:
        ConfigError: a tempozoo option has no value.
    """
    own: dict[str, str] = {}
    switches: set[str] = set()
    files: list[str] = []
    options: list[str] = []
    tokens = deque(arguments)
    while tokens:
        token = tokens.popleft()
        if token == "--":
            files += tokens
            break
        if not token.startswith("-") or token == "-":
            files.append(token)
            continue
        name, equals, value = token.partition("=")
        name = SHORT_OPTIONS.get(name, name)
        if not equals and name not in FLAGS and tokens and not _is_option(tokens[0]):
            equals, value = "=", tokens.popleft()
        if equals:
            value = expand_home(value)
        if name in LOCAL_PATHS:
            _check_local(name, value)
        if name in SWITCHES:
            switches.add(name)
        elif name not in OWN_OPTIONS:
            options.append(f"{name}{equals}{value}")
        elif value:
            own[name] = value
        else:
            raise ConfigError(f"{name} needs a value.")
    return TrainerArguments(
        network=own.get("--from"),
        entry=own.get("--entry"),
        out=own.get("--out"),
        views=own.get("--views"),
        probe=own.get("--probe"),
        folds=own.get("--folds"),
        early_stop=own.get("--early_stop"),
        report=own.get("--report"),
        log=own.get("--log"),
        allow_untrained=ALLOW_UNTRAINED in switches,
        skip_nonfinite=SKIP_NONFINITE in switches,
        compile=COMPILE in switches,
        profile=PROFILE in switches,
        tuning=[name for name in (FIND_BATCH_SIZE, FIND_LR) if name in switches],
        files=files,
        options=options,
    )


def _check_local(name: str, path: str) -> None:
    """Refuse paths that Lightning (fsspec) would read as URLs."""
    mark = next((mark for mark in ("::", "://") if mark in path), None)
    if mark is not None:
        raise ConfigError(f"{name} {path} contains {mark!r}, which marks an address; give a path on this machine.")


def _is_option(token: str) -> bool:
    """Whether a word is an option rather than a value; "-1" is a value."""
    return token.startswith("--") or token.partition("=")[0] in SHORT_OPTIONS
