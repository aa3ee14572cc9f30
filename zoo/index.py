"""checkpoints_index.yaml -> frozen dataclasses. Unknown keys are errors."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import IndexFileError, UnknownNameError
from zoo.protocol import Protocol

_HERE = Path(__file__).parent
BUNDLED = _HERE / "bundled"
SOURCE_KINDS = ("gdrive_file", "gdrive_folder", "https", "hf", "bundled")


def index_path() -> Path:
    """The index: inside the package when installed from a wheel, at the top level of a checkout."""
    inside = _HERE / "checkpoints_index.yaml"
    return inside if inside.is_file() else _HERE.parent / "checkpoints_index.yaml"


@dataclass(frozen=True)
class Paper:
    """Where an architecture was published."""

    title: str
    venue: str
    url: str


@dataclass(frozen=True)
class Source:
    """One place a published file can be had from; ``file`` names it inside a folder."""

    kind: str
    url: str
    file: str | None = None


@dataclass(frozen=True)
class Reported:
    """Published accuracy in percent and the views it was measured with (clips x crops)."""

    top1: float | None = None
    top5: float | None = None
    views: str | None = None
    size: int | None = None
    source: str | None = None


@dataclass(frozen=True)
class Licence:
    """Of the weights and of the code they came with: the two differ."""

    weights: str
    code: str


@dataclass(frozen=True)
class Gmacs:
    """10^9 multiply-accumulates of one view, frames x height x width."""

    input: str
    value: float


@dataclass(frozen=True)
class Stated:
    """Size of a network in its publisher's own figures: 10^6 parameters, 10^9 multiply-accumulates for that input."""

    params_m: float | None
    gmacs: float | None
    input: str


@dataclass(frozen=True)
class Entry:
    """One published (or bundled) checkpoint."""

    name: str
    arch: str
    options: Mapping[str, Any]
    dataset: str
    labels: str | None
    converter: str | None
    sources: tuple[Source, ...]
    sha256: str | None
    sha256_prefix: str | None
    licence: Licence
    protocol: Protocol
    reported: Reported
    params: int
    gmacs: Gmacs
    paper: Paper
    stated: Stated | None = None
    init: bool = False
    notes: str | None = None

    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the logits, or None where they are not known."""
        return read_labels(self.labels) if self.labels else None


def _make(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise IndexFileError(f"{where}: expected a block of fields, got {values!r}.")
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(values) - set(known))
    required = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(required - set(values))
    for problem, names in (("unknown", unknown), ("missing", missing)):
        if names:
            raise IndexFileError(f"{where}: {problem} field {', '.join(names)}.")
    return cls(**values)


def parse_entry(name: str, block: Mapping[str, Any], papers: Mapping[str, Paper], where: str) -> Entry:
    """One block under ``models:``."""
    at = f"{where}: models.{name}"
    if not isinstance(block, Mapping):
        raise IndexFileError(f"{at}: expected a block of fields, got {block!r}.")
    made = dict(block, name=name)
    arch, _, tag = name.partition(".")
    if not tag or made.get("arch") != arch:
        raise IndexFileError(f"{at}: a name is architecture.tag, and arch must be {arch!r}.")
    if made.get("paper") not in papers:
        raise IndexFileError(f"{at}: paper {made.get('paper')!r} is not one of {', '.join(papers)}.")
    made["paper"] = papers[made["paper"]]
    for key, cls in (("licence", Licence), ("reported", Reported), ("gmacs", Gmacs)):
        made[key] = _make(cls, made.get(key), f"{at}.{key}")
    if made.get("stated") is not None:
        made["stated"] = _make(Stated, made["stated"], f"{at}.stated")
    protocol = made["protocol"] = Protocol.from_dict(made.get("protocol") or {}, f"{at}.protocol")
    options = made.get("options")
    if not isinstance(options, Mapping) or not {"num_classes", "num_frames"} <= set(options):
        raise IndexFileError(f"{at}.options: expected a block with num_classes and num_frames, got {options!r}.")
    if options["num_frames"] != protocol.num_frames:
        raise IndexFileError(
            f"{at}: num_frames is {options['num_frames']} in options and {protocol.num_frames} in protocol."
        )
    if not isinstance(made.get("params"), int):
        raise IndexFileError(f"{at}.params is {made.get('params')!r}; it must be a whole number.")
    labels = made.get("labels")
    if labels is not None and len(read_labels(labels)) != options["num_classes"]:
        raise IndexFileError(f"{at}.labels: {labels} has not the {options['num_classes']} classes of options.")
    sources = made.get("sources")
    if not isinstance(sources, list) or not sources:
        raise IndexFileError(f"{at}.sources: list at least one place to get the file from.")
    made["sources"] = tuple(_make(Source, s, f"{at}.sources[{i}]") for i, s in enumerate(sources))
    for source in made["sources"]:
        if source.kind not in SOURCE_KINDS:
            raise IndexFileError(f"{at}.sources: kind {source.kind!r} is not one of {', '.join(SOURCE_KINDS)}.")
    return _make(Entry, made, at)


@dataclass(frozen=True)
class Index:
    """All entries, in the order of the file."""

    path: Path
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Entry:
        if name not in self.entries:
            raise self.unknown(name)
        return self.entries[name]

    def unknown(self, name: str) -> UnknownNameError:
        """The error for a name that is not here, with near ones."""
        tags = [n for n in self.entries if n.startswith(f"{name}.")]
        hint = f"Its checkpoints: {', '.join(tags)}." if tags else "zoo.list_models() lists all names."
        return UnknownNameError.of("model", name, self.entries, hint)

    def find(self, pattern: str = "*", *, dataset: str | None = None, arch: str | None = None) -> list[str]:
        """Names that match a shell pattern, a data set and an architecture (a shell pattern as well)."""
        return [
            name
            for name, entry in self.entries.items()
            if fnmatch.fnmatchcase(name, pattern)
            and (dataset is None or entry.dataset == dataset)
            and (arch is None or fnmatch.fnmatchcase(entry.arch, arch))
        ]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which a key that comes twice in a block is an error: of two entries of a name, one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As yaml's, whose dictionaries keep the last of several."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} comes twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_index(path: Path) -> Index:
    """Read an index file and check every field of it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise IndexFileError(f"The index {path} cannot be read ({error.strerror}).") from error
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise IndexFileError(f"{path} is not valid YAML: {error}") from error
    if (
        not isinstance(content, Mapping)
        or content.get("schema") != 1
        or set(content) - {"protocols"} != {"schema", "papers", "models"}
    ):
        raise IndexFileError(f"{path}: expected schema: 1, papers:, protocols: (optional) and models: at the top.")
    shared = content.get("protocols", {})
    if not isinstance(shared, Mapping):
        raise IndexFileError(f"{path}: protocols: expected a block of named protocols, got {shared!r}.")
    for key, values in shared.items():  # entries take them by YAML alias; one that none takes is checked as well
        Protocol.from_dict(values or {}, f"{path}: protocols.{key}")
    papers = {key: _make(Paper, value, f"{path}: papers.{key}") for key, value in content["papers"].items()}
    models = {name: parse_entry(name, block, papers, str(path)) for name, block in content["models"].items()}
    return Index(path, models)


@functools.cache
def load_index() -> Index:
    """The index of this installation."""
    return parse_index(index_path())


@functools.cache
def read_labels(name: str) -> tuple[str, ...]:
    """Class names of a label set (``zoo/labels/<name>.txt``), by class index."""
    path = _HERE / "labels" / f"{name}.txt"
    if not path.is_file():
        raise UnknownNameError.of("label set", name, [p.stem for p in path.parent.glob("*.txt")])
    return tuple(path.read_text(encoding="utf-8").splitlines())
