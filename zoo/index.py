"""checkpoints_index.yaml -> frozen dataclasses. Unknown keys are errors."""

from __future__ import annotations

import fnmatch
import functools
import math
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from zoo.errors import ConfigError, UnknownNameError, WeightsNotFoundError, ZooError
from zoo.protocol import Protocol
from zoo.spec import ModelSpec, check_description, rename_options
from zoo.text import brief, is_printable, printable

_HERE = Path(__file__).parent
BUNDLED = _HERE / "bundled"
# what the address of each kind of source looks like; zoo.weights.download takes them apart by these
SOURCE_KINDS = {
    "gdrive_file": r"https://drive\.google\.com/file/d/[\w-]{25,}/view",
    "gdrive_folder": r"https://drive\.google\.com/drive/folders/[\w-]{25,}",
    "https": r"https://[\w.-]+/[\w./%+~-]*\.[A-Za-z]+",
    "hf": r"hf-hub:[\w.-]+/[\w.-]+(@[\w.-]+)?",
    "bundled": r"zoo/bundled/[\w.]+",
}
WITH_FILE = ("gdrive_folder", "hf")  # kinds whose address is that of many files


def index_path() -> Path:
    """The index: TEMPOZOO_INDEX, or the package's: inside it when installed from a wheel, else at the top level."""
    if own := os.environ.get("TEMPOZOO_INDEX"):
        return Path(own)
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
    """One place a published file can be had from; ``file`` names it inside a folder or repository."""

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
class License:
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
    license: License
    protocol: Protocol
    reported: Reported
    params: int
    gmacs: Gmacs
    paper: Paper
    stated: Stated | None = None
    init: bool = False
    notes: str | None = None

    @property
    def spec(self) -> ModelSpec:
        """The network as it was trained."""
        return ModelSpec(self.arch, self.options, self.protocol, self.class_names(), {"entry": self.name})

    @property
    def is_bundled(self) -> bool:
        """Whether the weights are shipped with the package."""
        return self.sources[0].kind == "bundled"

    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the logits, or None where they are not known."""
        return read_labels(self.labels) if self.labels else None


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "None": (NoneType,),
}  # fmt: skip


def _make(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a block of fields, got {brief(values)}.")
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(values) - set(known))
    required = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(required - set(values))
    for problem, names in (("unknown", unknown), ("missing", missing)):
        if names:
            raise ConfigError(f"{where}: {problem} field {printable(', '.join(names))}.")
    for name, value in values.items():
        _check_field(value, str(known[name].type), f"{where}.{name}")
    return cls(**values)


def _check_field(value: Any, annotation: str, at: str) -> None:
    """Check the type of a field that is a plain value; text must be printable, since it is printed."""
    kinds = annotation.split(" | ")
    if not set(kinds) <= set(_TYPES):
        return
    allowed = tuple(kind for name in kinds for kind in _TYPES[name])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise ConfigError(f"{at} is {brief(value)}; its type must be {' or '.join(kinds)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{at} is {value}; it must be a finite number.")
    if isinstance(value, str) and not is_printable(value):
        raise ConfigError(f"{at} is {brief(value)}; it must be one line without control characters.")


def parse_entry(name: str, block: Mapping[str, Any], papers: Mapping[str, Paper], where: str) -> Entry:
    """One block under ``models:``."""
    at = f"{where}: models.{printable(name)}"
    if not isinstance(block, Mapping):
        raise ConfigError(f"{at}: expected a block of fields, got {brief(block)}.")
    made = dict(block, name=name)
    if "licence" in made:  # the spelling of version 0.1
        made.setdefault("license", made.pop("licence"))
    arch, _, tag = name.partition(".")
    if not tag or made.get("arch") != arch:
        raise ConfigError(f"{at}: a name is architecture.tag, and arch must be {arch!r}.")
    if not isinstance(made.get("paper"), str) or made["paper"] not in papers:
        raise ConfigError(f"{at}: paper {brief(made.get('paper'))} is not one of {', '.join(papers)}.")
    made["paper"] = papers[made["paper"]]
    for key, cls in (("license", License), ("reported", Reported), ("gmacs", Gmacs)):
        made[key] = _make(cls, made.get(key), f"{at}.{key}")
    if made.get("stated") is not None:
        made["stated"] = _make(Stated, made["stated"], f"{at}.stated")
    protocol = made["protocol"] = Protocol.from_dict(made.get("protocol") or {}, f"{at}.protocol")
    for key, form in (("sha256", "[0-9a-f]{64}"), ("sha256_prefix", "[0-9a-f]{8,63}")):
        value = made.get(key)
        if value is not None and not (isinstance(value, str) and re.fullmatch(form, value)):
            raise ConfigError(f"{at}.{key} is {brief(value)}; it must be hex digits in quotes, {form[9:]} of them.")
    options, labels = made.get("options"), made.get("labels")
    if not isinstance(options, Mapping) or not {"num_classes", "num_frames"} <= set(options):
        raise ConfigError(f"{at}.options: expected a block with num_classes and num_frames, got {brief(options)}.")
    _check_field(labels, "str | None", f"{at}.labels")
    try:
        options = made["options"] = rename_options(options)
        check_description(arch, options, protocol, read_labels(labels) if labels else None)
    except (ConfigError, UnknownNameError) as error:
        raise ConfigError(f"{at}: {error}") from error
    sources = made.get("sources")
    if not isinstance(sources, list) or not sources:
        raise ConfigError(f"{at}.sources: list at least one place to get the file from.")
    made["sources"] = tuple(_make(Source, s, f"{at}.sources[{i}]") for i, s in enumerate(sources))
    for source in made["sources"]:
        _check_source(source, f"{at}.sources")
    return _make(Entry, made, at)


def _check_source(source: Source, at: str) -> None:
    if source.kind not in SOURCE_KINDS:
        raise ConfigError(f"{at}: kind {source.kind!r} is not one of {', '.join(SOURCE_KINDS)}.")
    if not re.fullmatch(SOURCE_KINDS[source.kind], source.url):
        raise ConfigError(
            f"{at}: {brief(source.url)} is no address of kind {source.kind}; see the others for its form."
        )
    if (source.file is not None) != (source.kind in WITH_FILE):
        raise ConfigError(f"{at}: file: belongs to kinds {' and '.join(WITH_FILE)}, and to these alone.")


@dataclass(frozen=True)
class Index:
    """All entries, in the order of the file; and names of networks without public weights, with what is known."""

    path: Path
    entries: Mapping[str, Entry] = field(default_factory=dict)
    unreleased: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Entry:
        if name not in self.entries:
            raise self.unknown(name)
        return self.entries[name]

    def unknown(self, name: str, listing: str = "zoo.list_models()") -> ZooError:
        """The error for a name that is not here: never released, or unknown, with near ones and what lists all."""
        if name in self.unreleased:
            return WeightsNotFoundError(f"The weights of {name} were never released: {self.unreleased[name]}")
        tags = [n for n in self.entries if n.startswith(f"{name}.")]
        hint = f"Its checkpoints: {', '.join(tags)}." if tags else f"{listing} lists all names."
        return UnknownNameError.of("model", name, self.entries, hint)

    def find(
        self,
        pattern: str = "*",
        *,
        dataset: str | None = None,
        arch: str | None = None,
        pretrained: bool | None = None,
        bundled: bool | None = None,
    ) -> list[str]:
        """List names that match all conditions; see ``zoo.list_models``."""
        return [
            name
            for name, entry in self.entries.items()
            if fnmatch.fnmatchcase(name, pattern)
            and (dataset is None or entry.dataset == dataset)
            and (arch is None or fnmatch.fnmatchcase(entry.arch, arch))
            and pretrained in (None, not entry.init)
            and bundled in (None, entry.is_bundled)
        ]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML whose keys are text, each given once in a block; otherwise one of two entries of a name would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As yaml's, whose dictionaries keep the last of several equal keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise yaml.constructor.ConstructorError(None, None, "a key is not text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} comes twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_index(path: Path) -> Index:
    """Read an index file and check every field of it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The index {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The index {path} is not UTF-8 text: {error}.") from error
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a number or date
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if (
        not isinstance(content, Mapping)
        or content.get("schema") != 1
        or set(content) - {"protocols", "unreleased"} != {"schema", "papers", "models"}
    ):
        raise ConfigError(
            f"{path}: expected schema: 1, papers:, models:, and if need be protocols: and unreleased: at the top."
        )
    shared = content.get("protocols", {})
    if not isinstance(shared, Mapping):
        raise ConfigError(f"{path}: protocols: expected a block of named protocols, got {brief(shared)}.")
    for part in ("papers", "models"):
        if not isinstance(content[part], Mapping):
            raise ConfigError(f"{path}: {part}: expected a block of names, got {brief(content[part])}.")
    for key, values in shared.items():  # entries take them by YAML alias; one that none takes is checked as well
        Protocol.from_dict(values or {}, f"{path}: protocols.{key}")
    papers = {key: _make(Paper, value, f"{path}: papers.{key}") for key, value in content["papers"].items()}
    models = {name: parse_entry(name, block, papers, str(path)) for name, block in content["models"].items()}
    _check_once(models, str(path))
    unreleased = content.get("unreleased", {})
    if not isinstance(unreleased, Mapping) or not all(isinstance(text, str) for text in unreleased.values()):
        raise ConfigError(f"{path}: unreleased: expected `name: what is known of it`, got {brief(unreleased)}.")
    if both := sorted(set(unreleased) & set(models)):
        raise ConfigError(f"{path}: {', '.join(both)} cannot be in models: and in unreleased:.")
    return Index(path, models, unreleased)


def _check_once(models: Mapping[str, Entry], where: str) -> None:
    """Refuse two trained networks of one file; image weights start several."""
    taken: dict[Source, str] = {}
    for name, entry in models.items():
        for source in () if entry.init else entry.sources:
            if source in taken:
                raise ConfigError(f"{where}: {taken[source]} and {name} name the same file, {source.url}.")
            taken[source] = name


_parsed = functools.cache(parse_index)


def load_index() -> Index:
    """The index in use."""
    return _parsed(index_path())


@functools.cache
def read_labels(name: str) -> tuple[str, ...]:
    """Class names of a label set (``zoo/labels/<name>.txt``), by class index."""
    path = _HERE / "labels" / f"{name}.txt"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        raise UnknownNameError.of("label set", name, [p.stem for p in path.parent.glob("*.txt")])
    return tuple(path.read_text(encoding="utf-8").splitlines())
